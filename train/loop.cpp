// The training loop. Read it top to bottom: prepare, then one pass of the `for` is one step.
#include "train/loop.h"

#include <chrono>
#include <cmath>

#include "inspect/probe.h"
#include "train/anomaly_bundle.h"
#include "train/prefix.h"
#include "train/record.h"
#include "train/record_folder.h"
#include "train/recorder.h"

namespace norma::train {
namespace {

constexpr Index give_up_after = 10;  // steps in a row without a finite loss and gradient

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string config_text(const TrainConfig& config) {
  // What decides the bits of a run: not where it is stored, how far it goes this time, on how many threads, or what is recorded of it.
  TrainConfig c = config;
  const TrainConfig defaults;
  c.record = defaults.record, c.record_every = defaults.record_every;
  c.record_images = defaults.record_images, c.record_limit_mib = defaults.record_limit_mib;
  c.out = c.data_dir = "";
  c.threads = c.steps = c.checkpoint_every = 0;
  c.anomaly = false;
  Options o;
  c.fields(o);
  return o.to_json().dump();
}

void check_same(const std::string& before, const std::string& now) {
  if (before == now) return;
  const Json a = Json::parse(before), b = Json::parse(now);
  const Json defaults = Json::parse(config_text({}));  // a field that a checkpoint of an earlier version lacks
  std::string differences;
  for (auto& [key, value] : b.items())
    if (a.contains(key) ? a[key] != value : value != defaults[key])
      differences += fmt::format("\n  {}: {} before, {} now", key, a.contains(key) ? a[key].dump() : "absent", value.dump());
  if (!differences.empty()) throw UsageError(fmt::format("--resume: the checkpoint was made with another configuration:{}", differences));
}

/// What training changes, and a checkpoint holds.
struct Trained {
  models::ViT model;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Ema> ema;  // null without --ema
  RunState state;

  nn::Named tensors() {
    nn::Named all = with_prefix("model/", nn::parameters(model));
    for (auto& row : with_prefix("optimizer/", optimizer->state())) all.push_back(row);
    if (ema)
      for (auto& row : with_prefix("ema/", ema->values())) all.push_back(row);
    return all;
  }
  void restore(const RunState& saved, const nn::Named& tensors) {
    check_same(saved.config, state.config);
    if (saved.data_hash != state.data_hash)
      throw UsageError(fmt::format("--resume: the checkpoint was made with data set {:.12}, this one is {:.12}", saved.data_hash,
                                   state.data_hash));
    state = saved;
    nn::assign(model, without_prefix("model/", tensors));
    optimizer->load(without_prefix("optimizer/", tensors));
    if (ema) ema->load(without_prefix("ema/", tensors));
  }
};

/// Goes on from the folder's newest checkpoint where `resume` is set and there is one, else begins its log.
void start_or_resume(Trained& run, RunFolder& folder, const TrainConfig& config, bool resume, const Watcher& watcher) {
  if (auto found = resume ? RunFolder::load(config.out, watcher.message) : std::nullopt) {
    run.restore(found->first, found->second);
    folder.rewind_metrics(run.state);
    cut_records(folder.path(), run.state.step);
    watcher.message(fmt::format("resumed from step {}", run.state.step));
    return;
  }
  if (resume) {  // stopped before its first checkpoint: from the start
    watcher.message(fmt::format("no checkpoint in {}: starting from step 0", config.out));
    std::filesystem::remove(folder.path() / "metrics.jsonl");
  }
  cut_records(folder.path(), -1);
  Options fields;
  TrainConfig copy = config;
  copy.fields(fields);
  folder.write_config(fields.to_json());
}

/// Tells what `--anomaly` found and saves what `norma replay` needs. The step is not taken: all is as it was before it.
std::filesystem::path save_anomaly(Trained& run, const Anomaly& anomaly, const datasets::Batch& batch, const TrainConfig& config,
                                   const RunFolder& folder, const Watcher& watcher) {
  TrainConfig whole = config;
  const models::ViTConfig& shape = run.model.config();
  whole.image = shape.image, whole.channels = shape.channels, whole.classes = shape.classes;
  const Json report = report_of(anomaly, run.model, batch, run.state.step);
  std::string told = report_text(report);
  told.pop_back();
  watcher.message(told);
  return write_bundle(folder.path(), {whole, run.state.step, report, batch, run.tensors()});
}

}  // namespace

datasets::LoaderConfig loader_config(const TrainConfig& c, const models::ViTConfig& model, bool training) {
  datasets::LoaderConfig l;
  l.batch = training ? c.batch : 256;
  l.seed = static_cast<std::uint64_t>(c.seed);
  l.shuffle = l.drop_last = training;
  l.image = model.image;
  if (training) l.augment = {c.pad, c.flip};
  l.place = {parse_dtype(c.dtype), parse_device(c.device)};
  return l;
}

Evaluation evaluate(const models::ViT& model, const datasets::ImageSet& set, datasets::LoaderConfig config) {
  NoGrad off;
  datasets::Loader loader(set, config);
  double loss = 0;
  Index correct = 0;
  for (Index i = 0; i < loader.batches_per_epoch(); ++i) {
    datasets::Batch batch = loader.next();
    Tensor logits = model(batch.images);
    loss += cross_entropy(logits, batch.labels).item() * static_cast<double>(batch.labels.numel());
    correct += count_correct(logits, batch.labels);
  }
  return {loss / static_cast<double>(set.count), static_cast<double>(correct) / static_cast<double>(set.count)};
}

Outcome train(const TrainConfig& config, bool resume, const std::atomic<bool>& stop, const Watcher& watcher) {
  const datasets::ImageData data = datasets::load_images(config.data, config.data_dir);
  const models::ViTConfig shape = vit_config(config, data.train.height, data.train.channels, data.train.classes);
  const auto loader_settings = loader_config(config, shape, true);
  Trained run{models::ViT(shape, static_cast<std::uint64_t>(config.seed), loader_settings.place), nullptr, nullptr,
              {.config = config_text(config), .data_hash = data.train.hash}};
  auto& [model, optimizer, ema, state] = run;
  optimizer = Optimizer::make(
      {.kind = config.optimizer, .lr = config.lr, .weight_decay = config.weight_decay, .momentum = config.momentum}, model);
  if (config.ema > 0) ema = std::make_unique<Ema>(model, config.ema);
  datasets::Loader loader(data.train, loader_settings);

  const Index per_epoch = loader.batches_per_epoch(), total = config.epochs * per_epoch;
  const Index last = config.steps ? std::min(config.steps, total) : total;
  const ScheduleConfig schedule{.kind = config.schedule, .lr = config.lr, .min_lr = config.min_lr,
                                .warmup_steps = std::llround(config.warmup_epochs * static_cast<double>(per_epoch)),
                                .total_steps = total};

  std::optional<FlightRecorder> recorder;
  if (!config.record.empty()) recorder.emplace(model, config, data.test, loader_config(config, shape, false), last);
  RunFolder folder(config.out, resume);
  start_or_resume(run, folder, config, resume, watcher);
  if (recorder) watcher.message(recorder->announcement());
  loader.seek(static_cast<std::uint64_t>(state.step / per_epoch), state.step % per_epoch);

  Outcome outcome;
  const auto start = std::chrono::steady_clock::now();
  const Index first = state.step;
  double shown_loss = 0, shown_accuracy = 0;
  while (state.step < last) {
    if (stop) {
      outcome.ending = Ending::interrupted;
      break;
    }
    if (recorder) recorder->before_step(state.step);
    datasets::Batch batch = loader.next();
    const bool log = state.step % config.log_every == 0 || state.step + 1 == total;
    inspect::Probe probe(model);
    if (log) probe.attention("blocks.*.attn.stats");

    const StepResult result = forward_backward(model, batch, config, state.step);
    const double loss_value = result.loss, accuracy = result.accuracy;
    if (result.anomaly) {  // the step is not taken: the checkpoint and the bundle hold the state before it
      outcome.bundle = save_anomaly(run, *result.anomaly, batch, config, folder, watcher);
      outcome.ending = Ending::diverged;
      break;
    }
    const double norm = gradient_norm(model), lr = learning_rate(schedule, state.step);
    const bool finite = std::isfinite(loss_value) && std::isfinite(norm);
    std::optional<ParameterWatch> parameters;
    if (log) parameters.emplace(model);
    if (finite) {
      optimizer->step(lr, config.clip > 0 && norm > config.clip ? config.clip / norm : 1);
      if (ema) ema->update(model);
      state.skipped_in_a_row = 0;
    } else {
      nn::zero_grad(model);
      ++state.skipped;
      ++state.skipped_in_a_row;
      watcher.message(fmt::format("step {}: the {} is not finite; step skipped ({} of {})", state.step,
                                  std::isfinite(loss_value) ? "gradient" : "loss", state.skipped_in_a_row, give_up_after));
    }
    if (log) {
      Json row = {{"step", state.step}, {"epoch", static_cast<double>(state.step) / static_cast<double>(per_epoch)},
                  {"loss", loss_value}, {"accuracy", accuracy}, {"lr", lr}, {"grad_norm", norm}, {"skipped", state.skipped}};
      if (!config.penalty.empty()) row["fro"] = result.fro;
      row["attention"] = attention_json(probe);
      row["parameters"] = parameters->after_step();
      folder.log(row);
    }
    ++state.step;

    const double weight = state.step == first + 1 ? 1 : 0.05;
    shown_loss += weight * (loss_value - shown_loss);
    shown_accuracy += weight * (accuracy - shown_accuracy);
    const double seconds = seconds_since(start), done = static_cast<double>(state.step - first);
    watcher.progress({state.step, last, (state.step - 1) / per_epoch + 1, config.epochs, shown_loss, shown_accuracy,
                      done * static_cast<double>(config.batch) / seconds, seconds,
                      seconds / done * static_cast<double>(last - state.step)});
    if (state.skipped_in_a_row >= give_up_after) {
      outcome.ending = Ending::diverged;
      break;
    }
    if (state.step % per_epoch == 0) {
      const Evaluation test = evaluate(model, data.test, loader_config(config, shape, false));
      folder.log({{"step", state.step}, {"epoch", static_cast<double>(state.step / per_epoch)},
                  {"test_loss", test.loss}, {"test_accuracy", test.accuracy}});
      outcome.test = test;
    }
    if (config.checkpoint_every && state.step % config.checkpoint_every == 0) folder.save(state, run.tensors());
  }
  folder.save(state, run.tensors());
  if (recorder && outcome.ending != Ending::interrupted) recorder->record(state.step);
  outcome.seconds = seconds_since(start);
  if (outcome.ending != Ending::finished) return outcome;

  // The last epoch's evaluation is this one, unless the averaged weights take over or the run was complete before.
  if (ema) nn::assign(model, ema->values());
  if (ema || state.step == first || state.step % per_epoch != 0)
    outcome.test = evaluate(model, data.test, loader_config(config, shape, false));
  folder.write_summary({{"steps", state.step}, {"test_loss", outcome.test.loss}, {"test_accuracy", outcome.test.accuracy},
                        {"skipped", state.skipped}, {"parameters", nn::parameter_count(model)}, {"seconds", outcome.seconds},
                        {"tokens", shape.tokens()}});
  return outcome;
}

}  // namespace norma::train
