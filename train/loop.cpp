// The training loop. Read it top to bottom: prepare, then one pass of the `for` is one step.
#include "train/loop.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "inspect/probe.h"
#include "train/anomaly_bundle.h"
#include "train/captured_step.h"
#include "train/learner.h"
#include "train/record_folder.h"
#include "train/recorder.h"
#include "train/step_measures.h"

namespace norma::train {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// While alive, the model has the moving average of its weights, where the run keeps one.
class AveragedWeights {
 public:
  explicit AveragedWeights(Learner& run) : run_(run) {
    if (!run.ema) return;
    for (const auto& [name, values] : nn::state(run.model)) trained_.emplace_back(name, clone(values.detach()));
    nn::assign(run.model, run.ema->values());
  }
  /// Gives the model its own weights back.
  void restore() {
    if (!trained_.empty()) nn::assign(run_.model, std::exchange(trained_, {}));
  }
  ~AveragedWeights() {
    try {
      restore();
    } catch (const std::exception&) {  // while another error is on its way, which is the one to tell
    }
  }
  AveragedWeights(const AveragedWeights&) = delete;

 private:
  Learner& run_;
  nn::Named trained_;
};

constexpr const char* of_checkpoint = "remove that checkpoint, and --resume takes the one before it";

/// status.json is a view, written again at once: a damaged one is no reason not to go on.
RunStatus status_of(const RunFolder& folder, const Watcher& watcher) {
  try {
    return read_status(folder.path());
  } catch (const Error& e) {
    watcher.message(fmt::format("{}; it is made again, with the seconds from here on", e.what()));
    return {};
  }
}

/// Goes on from the folder's newest checkpoint where `resume` is set and there is one, else begins its log. `last`: the
/// step to end at. Returns how it stood with the run. All is read and checked before anything in the folder is changed.
RunStatus start_or_resume(Learner& run, RunFolder& folder, const TrainConfig& config, bool resume, Index last,
                          const Watcher& watcher) {
  if (auto found = resume ? RunFolder::load(config.out, watcher.message, RunFolder::Log::needed) : std::nullopt) {
    const std::string before = found->first.instructions, now = run.state.instructions;
    run.restore(found->first, found->second);
    if (!before.empty() && before != now)
      watcher.message(
          fmt::format("this run was trained with {} instructions so far, and goes on with {}: its bits will not be "
                      "those of a run that was not cut; "
                      "--cpu {} goes on with them, where the processor has them",
                      before, now, before));
    const Index step = run.state.step;
    const std::vector<Json> rows = folder.rows_before(run.state);
    const RunStatus status = step > 0 ? status_of(folder, watcher) : RunStatus{};
    if (step < last) {
      folder.write_config(to_json(config));  // what may differ from before, --steps say
      folder.remove_summary();
    }
    folder.rewind_metrics(run.state, rows);
    if (std::string& row = run.state.unwritten_row; !row.empty())
      folder.log(parse_row(std::exchange(row, {}), "unwritten_row of the checkpoint", of_checkpoint));
    cut_records(folder.path(), step);
    watcher.message(fmt::format("resumed from step {}{}", step,
                                step < last ? "" : fmt::format(" of {}: nothing is left to train", last)));
    return status;
  }
  if (resume) {  // stopped before its first checkpoint: from the start
    if (const auto file = folder.path() / "config.json"; is_there(file))
      run.check_begun(written_config(read_run_head(folder.path()).config, file.string()));
    folder.begin_again();
    watcher.message(fmt::format("no checkpoint in {}: starting from step 0", config.out));
  }
  cut_records(folder.path(), -1);
  folder.write_config(to_json(config));
  return {};
}

/// Whether the gradient of the newest step was finite, as its line tells: then it was too large.
bool was_too_large(const RunState& state, const RunFolder& folder) {
  std::string cut;
  std::vector<Json> rows = read_metrics(folder.path() / "metrics.jsonl", cut);
  if (!state.last_row.empty()) rows.push_back(parse_row(state.last_row, "last_row of the checkpoint", of_checkpoint));
  const auto newest = std::find_if(rows.rbegin(), rows.rend(), [](const Json& row) { return row.contains("loss"); });
  return newest != rows.rend() && (*newest)["loss"].is_number() && newest->contains("grad_norm") &&
         (*newest)["grad_norm"].is_number();
}

/// What `norma replay` needs of a step that was not taken: all is as it was before it.
Bundle bundle_of(Learner& run, const Anomaly& anomaly, const datasets::Batch& batch, const TrainConfig& config) {
  TrainConfig whole = config;
  const models::ViTConfig& shape = run.model.config();
  whole.image = shape.image, whole.channels = shape.channels, whole.classes = shape.classes;
  return {whole, run.state.step, report_of(anomaly, run.model, batch, run.state.step), batch, run.tensors()};
}

std::string without_last_newline(std::string text) {
  text.pop_back();
  return text;
}

/// What a run in training leaves in its folder: the log, checkpoints, status.json.
class RunWriter {
 public:
  RunWriter(RunFolder& folder, Learner& run, const datasets::ImageData& data, const Watcher& watcher)
      : folder_(folder), run_(run), data_(data), watcher_(watcher) {}
  /// `before`: the seconds of earlier sessions.
  void begin(double before) {
    seconds_before_ = before;
    status("");
  }
  /// Of all sessions.
  double seconds() const { return seconds_before_ + seconds_since(start_); }
  double seconds_before() const { return seconds_before_; }

  /// For checkpoints; not at once, since it takes as long as some steps.
  void identify_data() {
    if (run_.state.data_hash.empty()) run_.state.data_hash = datasets::hash_of(data_.train);
    if (run_.state.test_hash.empty()) run_.state.test_hash = datasets::hash_of(data_.test);
  }
  void save() {
    identify_data();
    folder_.save(run_.state, run_.tensors());
    status("");
  }
  void try_to_save(const char* meanwhile) {
    folder_.check_held();
    try {
      save();
    } catch (const Error& e) {
      folder_.check_held();  // moved meanwhile: then nothing goes on
      watcher_.message(fmt::format("step {}: no checkpoint: {}; {}", run_.state.step, e.what(), meanwhile));
    }
  }
  /// A line of the log. A run without its log ends, and comes back with --resume.
  void append(const Json& row) {
    folder_.check_held();
    try {
      folder_.log(row);
    } catch (const Error&) {
      if (row.contains("loss")) run_.state.unwritten_row = row.dump();  // evaluations are made again
      try_to_save(folder_.has_checkpoint() ? "--resume goes on from the one before it"
                                           : "there is none before it: --resume begins again");
      throw;
    }
  }
  void status(const char* ending) { status(ending, seconds()); }
  void status(const char* ending, double seconds) {
    folder_.write_status(run_.state, ending, seconds, run_.model.config().tokens());
  }

 private:
  RunFolder& folder_;
  Learner& run_;
  const datasets::ImageData& data_;
  const Watcher& watcher_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  double seconds_before_ = 0;
};

/// The line of a step in metrics.jsonl, made behind the update and before the step counts.
Json step_row(const RunState& state, const TrainConfig& config, const RunSteps& steps, double lr,
              const StepResult& result, const Learner::Update& update, inspect::Probe& probe,
              const ParameterWatch& parameters) {
  Json row = {{"step", state.step},
              {"epoch", static_cast<double>(state.step) / static_cast<double>(steps.per_epoch)},
              {"loss", result.loss},
              {"accuracy", std::isfinite(result.loss) ? result.accuracy : std::nan("")},
              {"lr", lr},
              {"grad_norm", update.gradient_norm},
              {"skipped", state.skipped},
              {"skipped_in_a_row", state.skipped_in_a_row}};
  if (!config.penalty.empty()) row["fro"] = result.fro;
  row["attention"] = attention_json(probe);
  row["parameters"] = parameters.after_step();
  return row;
}

/// What the progress bar shows of the steps whose loss was finite.
struct Smoothed {
  double loss = std::nan(""), accuracy = std::nan("");
  void add(const StepResult& step) {
    if (!std::isfinite(step.loss)) return;
    const auto smooth = [](double& shown, double value) {
      shown = std::isfinite(shown) ? shown + 0.05 * (value - shown) : value;
    };
    smooth(loss, step.loss), smooth(accuracy, step.accuracy);
  }
};

}  // namespace

const char* name(Ending ending) {
  constexpr const char* names[] = {"finished", "interrupted", "diverged"};
  return names[static_cast<int>(ending)];
}

datasets::LoaderConfig loader_config(const TrainConfig& c, const models::ViTConfig& model, bool training) {
  datasets::LoaderConfig l;
  l.batch = training ? c.batch : 256;
  l.seed = static_cast<std::uint64_t>(c.seed);
  l.shuffle = l.drop_last = training;
  l.image = model.image;
  if (training) l.augment = {c.pad, c.flip, {c.rand_augment, c.rand_magnitude}};
  l.place = {parameter_dtype(c), parse_device(c.device)};
  return l;
}

std::optional<Evaluation> evaluate(const models::ViT& model, const datasets::ImageSet& set,
                                   datasets::LoaderConfig config, const std::atomic<bool>& stop,
                                   const Watcher& watcher) {
  NoGrad off;
  datasets::Loader loader(set, config);
  double loss = 0;
  Index correct = 0;
  for (Index i = 0; i < loader.batches_per_epoch(); ++i) {
    watcher.testing(i * config.batch, set.count);
    if (stop) return std::nullopt;
    datasets::Batch batch = loader.next();
    Tensor logits = model(batch.images);
    loss += cross_entropy(logits, batch.labels).item() * static_cast<double>(batch.labels.numel());
    correct += static_cast<Index>(count_correct(logits, batch.labels).item());
  }
  watcher.testing(set.count, set.count);
  const auto images = static_cast<double>(set.count);
  return Evaluation{loss / images, std::isfinite(loss) ? static_cast<double>(correct) / images : std::nan("")};
}

Outcome train(const TrainConfig& config, bool resume, const std::atomic<bool>& stop, const Watcher& watcher) {
  const datasets::ImageData data = datasets::load_images(config.data, config.data_dir, config.file_of("data_dir"));
  const models::ViTConfig shape = vit_config(config, data.train);
  const auto loader_settings = loader_config(config, shape, true);
  Learner run(config, shape, loader_settings.place);
  RunState& state = run.state;
  datasets::Loader loader(data.train, loader_settings);

  const RunSteps steps = steps_of(config, loader.batches_per_epoch());
  const ScheduleConfig schedule = schedule_of(config, steps.per_epoch);

  std::optional<FlightRecorder> recorder;
  if (!config.record.empty())
    recorder.emplace(run.model, config, data.test, loader_config(config, shape, false), steps.last);
  Dispensable with_records(watcher.message,
                           "the run goes on without this record, and further ones that cannot be written");
  RunFolder folder(config.out, resume ? RunFolder::IfOccupied::resume : RunFolder::IfOccupied::fail_suggest_resume,
                   watcher.message);
  RunWriter writer(folder, run, data, watcher);
  if (resume) writer.identify_data();
  const RunStatus before = start_or_resume(run, folder, config, resume, steps.last, watcher);
  writer.begin(before.seconds);
  if (!data.notice.empty()) watcher.message(data.notice);
  if (const std::string notice = ema_notice(config, steps); state.step == 0 && !notice.empty()) watcher.message(notice);
  if (const std::string notice = warmup_notice(config, steps); state.step == 0 && !notice.empty())
    watcher.message(notice);
  if (recorder) watcher.message(recorder->announcement());
  loader.seek(static_cast<std::uint64_t>(state.step / steps.per_epoch), state.step % steps.per_epoch);

  const auto captured = CapturedStep::make(run, config, data.train);

  Outcome outcome;
  const auto test = [&] {  // whether it came to its end
    AveragedWeights averaged(run);
    const auto found = evaluate(run.model, data.test, loader_config(config, shape, false), stop, watcher);
    averaged.restore();
    if (found)
      outcome.test = *found;
    else
      outcome.ending = Ending::interrupted;
    return found.has_value();
  };
  const auto test_epoch = [&] {
    if (state.step % steps.per_epoch != 0 || state.tested == state.step || !test()) return;
    writer.append({{"step", state.step},
                   {"epoch", static_cast<double>(state.step / steps.per_epoch)},
                   {"test_loss", outcome.test.loss},
                   {"test_accuracy", outcome.test.accuracy}});
    state.tested = state.step;
  };
  const auto begun = std::chrono::steady_clock::now();
  const Index first = state.step;
  Smoothed shown;
  std::optional<datasets::Batch> ahead;  // made while a captured step ran
  std::optional<Bundle> anomaly;
  // Killed behind its last checkpoint, before it could say so: it has diverged.
  if (state.skipped_in_a_row >= give_up_after && before.ending.empty() && !config.anomaly)
    outcome.ending = Ending::diverged, outcome.too_large = was_too_large(state, folder);
  else
    test_epoch();  // of a run that was stopped within it
  while (state.step < steps.last && outcome.ending == Ending::finished) {
    if (stop) {
      outcome.ending = Ending::interrupted;
      break;
    }
    folder.check_held();
    if (recorder) with_records([&] { recorder->before_step(state.step); });
    const datasets::Batch batch = ahead ? std::move(*std::exchange(ahead, std::nullopt)) : loader.next();
    const bool log = state.step % config.log_every == 0 || state.step + 1 == steps.total,
               may_end = state.step + 1 == steps.last || state.skipped_in_a_row + 1 >= give_up_after,
               measured = log || may_end;
    inspect::Probe probe(run.model);
    if (measured) probe.attention("blocks.*.attn.stats");

    const double lr = learning_rate(schedule, state.step);
    StepResult result;
    Learner::Update update;
    std::optional<ParameterWatch> parameters;
    if (captured && !measured && state.step > first) {
      std::tie(result, update) = captured->take(batch, state.step, lr, [&] {
        if (state.step + 1 < steps.last) ahead = loader.next();
      });
    } else {
      result = forward_backward(run.model, batch, config, state.step);
      if (result.anomaly) {  // the step is not taken: the checkpoint and the bundle hold the state before it
        anomaly = bundle_of(run, *result.anomaly, batch, config);
        watcher.message(without_last_newline(report_text(anomaly->report)));
        outcome.ending = Ending::diverged, outcome.anomaly = true;
        break;
      }
      if (measured) parameters.emplace(run.model);
      update = run.update(result.loss, lr, config.clip);
    }
    if (!update.taken)
      watcher.message(fmt::format("step {}: {}; step skipped ({} of {})", state.step, update.why,
                                  state.skipped_in_a_row, give_up_after));
    const bool given_up = state.skipped_in_a_row >= give_up_after;
    state.last_row.clear();  // the run has gone on behind it
    Json row;
    if (log || given_up || state.step + 1 == steps.last) {
      row = step_row(state, config, steps, lr, result, update, probe, *parameters);
      if (!log) state.last_row = row.dump();  // of the step that --steps, or one skipped too many, ends with
    }
    ++state.step;
    if (log) writer.append(row);

    shown.add(result);
    const double seconds = seconds_since(begun), done = static_cast<double>(state.step - first);
    watcher.progress({state.step, steps.last, (state.step - 1) / steps.per_epoch + 1, config.epochs, shown.loss,
                      shown.accuracy, done * static_cast<double>(config.batch) / seconds, seconds,
                      seconds / done * static_cast<double>(steps.last - state.step), "smoothed"});
    if (given_up) {
      outcome.ending = Ending::diverged, outcome.too_large = update.too_large;
      break;
    }
    test_epoch();
    if (config.checkpoint_every && state.step % config.checkpoint_every == 0 && state.step < steps.last)
      writer.try_to_save("training goes on, and the next is tried when it is due");
  }
  writer.save();
  // Behind the checkpoint, so that --resume takes it back, and in it, so that a run which ends there has it: the same
  // lines however it was cut.
  if (!state.last_row.empty()) folder.log(parse_row(state.last_row, "last_row of the checkpoint", of_checkpoint));
  if (anomaly)  // behind the checkpoint: where there is room for one of them, the run can go on
    Dispensable(watcher.message, "norma replay cannot look at this step")(
        [&] { outcome.bundle = write_bundle(folder.path(), *anomaly); });
  if (recorder && outcome.ending != Ending::interrupted) with_records([&] { recorder->record(state.step); });
  // The last epoch's evaluation is this one, unless the run was complete before.
  if (outcome.ending == Ending::finished && (state.step == first || state.step % steps.per_epoch != 0)) test();
  outcome.step = state.step;
  outcome.skipped_in_a_row = state.skipped_in_a_row;
  outcome.seconds = state.step > first ? writer.seconds() : writer.seconds_before();
  writer.status(name(outcome.ending), outcome.seconds);
  if (outcome.ending != Ending::finished) return outcome;
  folder.write_summary({{"steps", state.step},
                        {"test_loss", outcome.test.loss},
                        {"test_accuracy", outcome.test.accuracy},
                        {"skipped", state.skipped},
                        {"parameters", nn::parameter_count(run.model)},
                        {"seconds", outcome.seconds},
                        {"tokens", shape.tokens()}});
  return outcome;
}

}  // namespace norma::train
