// norma eval: loss and accuracy of a run's newest checkpoint on the test images.
#include <cmath>

#include "apps/progress.h"
#include "apps/run_model.h"
#include "train/loop.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma eval RUN|CHECKPOINT [flags]

Loss and accuracy of the run's newest checkpoint, or of the one that is named, on the test images.
)";

}  // namespace

int eval_verb(const Args& args) {
  std::string data_dir;
  Index threads = 0;
  bool initial = false;
  train::Options options;
  options("initial", initial, "the weights the run started from, step 0, instead of its newest checkpoint");
  options("data_dir", data_dir,
          "folder of the images, or of data sets; without it they are read where norma data says");
  options("threads", threads, "CPU threads; 0: all cores");
  const auto given = read_given(options, args, usage);
  if (!given) return ok;
  const auto& [runs, json] = *given;
  if (runs.size() != 1) throw UsageError("eval: name one run folder, as in norma eval runs/a");
  check_threads(threads);
  const RunModel run = load_run_model(runs[0], threads, data_dir, {.initial = initial});
  ProgressLine line;
  if (!run.data.notice.empty()) line.message(run.data.notice);
  const std::optional<train::Evaluation> test =
      train::evaluate(*run.model, run.data.test, train::loader_config(run.config, run.model->config(), false),
                      stop_on_signal(), line.watcher());
  nlohmann::ordered_json result = {{"run", runs[0]}, {"step", run.step}};
  if (json) result["ending"] = train::name(test ? train::Ending::finished : train::Ending::interrupted);
  if (test) result.update(nlohmann::ordered_json{{"test_accuracy", test->accuracy}, {"test_loss", test->loss}});
  if (!test)
    line.message("interrupted before all test images were seen");
  else if (!std::isfinite(test->loss))
    line.message("the model's outputs are not finite, so that it names no class");
  if (test || json) print_result(result, json);
  if (!test) return interrupted();
  return ok;
}

}  // namespace norma::apps
