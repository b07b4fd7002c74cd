#include "train/twin.h"

#include <chrono>
#include <cmath>
#include <limits>

#include "inspect/probe.h"
#include "train/learner.h"
#include "train/step.h"

namespace norma::train {
namespace {

/// Sums over pairs of tensors, from which the gap of all of them together follows.
struct Sums {
  double a = 0, b = 0, difference = 0;
  void add(const Tensor& x, const Tensor& y) {
    a += sum_of_squares(x), b += sum_of_squares(y), difference += sum_of_squares(y - x);
  }
  Gap gap() const {
    constexpr double none = std::numeric_limits<double>::quiet_NaN();
    return {a > 0 ? std::sqrt(difference / a) : none,
            a > 0 && b > 0 ? (a + b - difference) / (2 * std::sqrt(a * b)) : none};
  }
};

/// "blocks.3" of "blocks.3.attn.qkv.weight"; outside the blocks the first word.
std::string part_of(const std::string& name) {
  const std::size_t first = name.find('.');
  return name.starts_with("blocks.") ? name.substr(0, name.find('.', first + 1)) : name.substr(0, first);
}

Gaps parameter_gaps(models::ViT& a, models::ViT& b, bool gradients) {
  const NoGrad watching;
  const nn::Named left = nn::parameters(a), right = nn::parameters(b);
  std::vector<std::pair<std::string, Sums>> parts;
  for (std::size_t i = 0; i < left.size(); ++i) {
    const std::string part = part_of(left[i].first);
    if (parts.empty() || parts.back().first != part) parts.emplace_back(part, Sums{});
    const Tensor x = gradients ? left[i].second.grad() : left[i].second.detach(),
                 y = gradients ? right[i].second.grad() : right[i].second.detach();
    if (x && y) parts.back().second.add(x, y);
  }
  Gaps out;
  for (auto& [part, sums] : parts) out.emplace_back(part, sums.gap());
  return out;
}

Gaps output_gaps(inspect::Probe& a, inspect::Probe& b, Index depth) {
  const NoGrad watching;
  Gaps out;
  auto left = a.take_values(), right = b.take_values();
  for (Index i = 0; i < depth; ++i) {
    const std::string place = fmt::format("blocks.{}.out", i);
    Sums sums;
    sums.add(left.at(place).at(0), right.at(place).at(0));
    out.emplace_back(place, sums.gap());
  }
  return out;
}

Json to_json(const Gaps& gaps) {
  Json out = Json::object();
  for (auto& [place, gap] : gaps)
    out[place] = {{"distance", number_or_null(gap.distance)}, {"cosine", number_or_null(gap.cosine)}};
  return out;
}

Json to_json(const TwinStep& s) {
  auto both = [](const double(&v)[2]) { return Json{number_or_null(v[0]), number_or_null(v[1])}; };
  return {{"step", s.step},
          {"twin_loss", both(s.loss)},
          {"twin_accuracy", both(s.accuracy)},
          {"twin_grad_norm", both(s.gradient_norm)},
          {"outputs", to_json(s.outputs)},
          {"gradients", to_json(s.gradients)},
          {"weights", to_json(s.weights)}};
}

TrainConfig with_attention(TrainConfig config, const std::string& attention) {
  config.attention = attention;
  return config;
}

}  // namespace

TwinOutcome train_twin(const TrainConfig& config, const std::string& other, const std::atomic<bool>& stop,
                       const Watcher& watcher) {
  const datasets::ImageData data = datasets::load_images(config.data, config.data_dir, config.file_of("data_dir"));
  const TrainConfig configs[2] = {config, with_attention(config, other)};
  auto shape_of = [&](const TrainConfig& c) { return vit_config(c, data.train); };
  const models::ViTConfig shapes[2] = {shape_of(configs[0]), shape_of(configs[1])};
  const auto settings = loader_config(config, shapes[0], true);
  Learner left(configs[0], shapes[0], settings.place), right(configs[1], shapes[1], settings.place);
  Learner* const sides[2] = {&left, &right};
  datasets::Loader loader(data.train, settings);
  const RunSteps steps = steps_of(config, loader.batches_per_epoch());
  const ScheduleConfig schedule = schedule_of(config, steps.per_epoch);

  RunFolder folder(config.out, RunFolder::IfOccupied::fail, watcher.message);
  Json written = to_json(config);
  written["other"] = other;
  if (!data.notice.empty()) watcher.message(data.notice);
  if (const std::string notice = warmup_notice(config, steps); !notice.empty()) watcher.message(notice);

  TwinOutcome outcome;
  Index& step = outcome.step;
  const auto start = std::chrono::steady_clock::now();
  for (; step < steps.last && outcome.ending == Ending::finished; ++step) {
    if (stop) {
      outcome.ending = Ending::interrupted;
      break;
    }
    const datasets::Batch batch = loader.next();
    const bool log = step % config.log_every == 0 || step + 1 == steps.last;
    TwinStep row{.step = step, .outputs = {}, .gradients = {}, .weights = {}};
    {
      inspect::Probe probes[2] = {inspect::Probe(left.model), inspect::Probe(right.model)};
      for (int i : {0, 1}) {
        if (log) probes[i].value("blocks.*.out", inspect::keep_all());
        const StepResult result = forward_backward(sides[i]->model, batch, configs[i], step);
        row.loss[i] = result.loss, row.accuracy[i] = std::isfinite(result.loss) ? result.accuracy : std::nan("");
      }
      if (log) row.outputs = output_gaps(probes[0], probes[1], shapes[0].depth);
    }
    if (log) row.gradients = parameter_gaps(left.model, right.model, true);
    for (int i : {0, 1}) {
      const Learner::Update update = sides[i]->update(row.loss[i], learning_rate(schedule, step), config.clip);
      row.gradient_norm[i] = update.gradient_norm;
      const RunState& state = sides[i]->state;
      if (!update.taken)
        watcher.message(fmt::format("step {}, {}: {}; step skipped ({} of {})", step, configs[i].attention, update.why,
                                    state.skipped_in_a_row, give_up_after));
      if (state.skipped_in_a_row >= give_up_after) outcome.ending = Ending::diverged;
    }
    if (log) {
      row.weights = parameter_gaps(left.model, right.model, false);
      if (step == 0)
        folder.write_config(written);  // with the log, so that twins that end before it leave their folder free
      folder.log(to_json(row));
      outcome.steps.push_back(std::move(row));
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                 done = static_cast<double>(step + 1);
    watcher.progress({step + 1, steps.last, step / steps.per_epoch + 1, config.epochs, row.loss[0], row.accuracy[0],
                      2 * done * static_cast<double>(config.batch) / seconds, seconds,
                      seconds / done * static_cast<double>(steps.last - step - 1), config.attention + ", this batch"});
  }
  if (outcome.ending == Ending::finished)
    for (int i : {0, 1}) {
      if (sides[i]->ema) nn::assign(sides[i]->model, sides[i]->ema->values());
      const auto test = evaluate(sides[i]->model, data.test, loader_config(config, shapes[0], false), stop, watcher);
      if (!test) {
        outcome.ending = Ending::interrupted;
        break;
      }
      outcome.test[i] = *test;
    }
  return outcome;
}

}  // namespace norma::train
