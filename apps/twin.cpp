// norma twin: two attention functions from the same weights on the same batches, and where they part.
#include "train/twin.h"

#include <cmath>

#include "apps/model_flags.h"
#include "apps/progress.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma twin vit [--other FUNCTION] [flags]

Trains two models in lock-step that differ in their attention function alone (--attention and --other): same initial
weights, same batches, same dropout. Logs, and shows at the end, how far their block outputs, gradients and weights are
apart: the distance ||b - a|| as a share of ||a||. Outputs and gradients are those of a step, weights those behind its
update. The last block's output is what the head reads: with --pool cls the class token alone. The flags below hold for
both; what is of one run, --resume, checkpoints, --anomaly and --record, is not here: train each side by itself with
norma train. How it ended is told as norma train tells it. The loss and the accuracy shown meanwhile are those of
--attention on the step's training batch.
)";

/// At most `count` of the logged steps, evenly spaced, the first and the last among them.
std::vector<std::size_t> columns(std::size_t steps, std::size_t count) {
  std::vector<std::size_t> out;
  for (std::size_t i = 0; i < std::min(steps, count); ++i)
    out.push_back(steps <= count ? i : i * (steps - 1) / (count - 1));
  return out;
}

void print_table(const char* what, const std::vector<train::TwinStep>& steps, train::Gaps train::TwinStep::*gaps) {
  const std::vector<std::size_t> shown = columns(steps.size(), 7);
  fmt::print("\n{:<20}", what);
  for (std::size_t c : shown) fmt::print(" {:>11}", fmt::format("step {}", steps[c].step));
  fmt::print("\n");
  const train::Gaps& first = steps[0].*gaps;
  for (std::size_t r = 0; r < first.size(); ++r) {
    fmt::print("{:<20}", first[r].first);
    for (std::size_t c : shown) {
      const double distance = (steps[c].*gaps)[r].second.distance;
      fmt::print(" {:>11}", std::isfinite(distance) ? fmt::format("{:.3g}", distance) : "-");
    }
    fmt::print("\n");
  }
}

}  // namespace

int twin_verb(const Args& args) {
  if (args.empty())
    throw UsageError(
        "twin: name the model, as in norma twin vit --data fashion-mnist --out runs/twin; see norma twin --help");
  std::string other = "x^3/sqrt(N)";
  auto flags = read_model_flags(
      args, usage,
      {"other", "Model", "Data", "Optimization", "out", "seed", "threads", "device", "dtype", "gemm", "cpu",
       "log_every"},
      [&](const ModelFlags& given) {
        refuse_words(given, "twin");
        prepare(given.config);
        train::TrainConfig twin = given.config;
        shape_without_data(twin);
        twin.attention = other;
        shape_without_data(twin);
      },
      {},
      [&](train::Options& options) {
        options.group("Twins");
        options("other", other, "the other attention function");
      });
  if (!flags) return ok;
  flags->config.anomaly = false, flags->config.record.clear();  // a config file may hold them

  ProgressLine line;
  const train::TwinOutcome outcome = train::train_twin(flags->config, other, stop_on_signal(), line.watcher());
  const std::string& attention = flags->config.attention;
  if (!outcome.steps.empty() && !flags->json) {
    fmt::print("distance of {} from {}, as a share of its norm\n", other, attention);
    print_table("block outputs", outcome.steps, &train::TwinStep::outputs);
    print_table("gradients", outcome.steps, &train::TwinStep::gradients);
    print_table("weights", outcome.steps, &train::TwinStep::weights);
    fmt::print("\nall logged steps, with cosines: {}/metrics.jsonl\n", flags->config.out);
  }
  const bool finished = outcome.ending == train::Ending::finished;
  const std::string why =
      finished ? ""
      : outcome.ending == train::Ending::interrupted
          ? "interrupted; the log holds the steps so far"
          : fmt::format("diverged: {} steps in a row were skipped on one side", train::give_up_after);
  if (!finished) line.message(why);
  if (finished && !flags->json) fmt::print("\n");
  nlohmann::ordered_json result = {{"run", flags->config.out}, {"attention", attention}};
  if (flags->json)
    result.update(
        nlohmann::ordered_json{{"ending", train::name(outcome.ending)}, {"message", why}, {"step", outcome.step}});
  if (finished)
    result.update(
        nlohmann::ordered_json{{"test_accuracy", outcome.test[0].accuracy}, {"test_loss", outcome.test[0].loss}});
  result["other"] = other;
  if (finished)
    result.update(nlohmann::ordered_json{{"other_test_accuracy", outcome.test[1].accuracy},
                                         {"other_test_loss", outcome.test[1].loss}});
  if (finished || flags->json) print_result(result, flags->json);
  if (outcome.ending == train::Ending::interrupted) return interrupted();
  return finished ? ok : diverged;
}

}  // namespace norma::apps
