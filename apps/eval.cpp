// norma eval: loss and accuracy of a run's newest checkpoint on the test images.
#include "apps/progress.h"
#include "apps/run_model.h"
#include "train/loop.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma eval RUN [flags]

Loss and accuracy of the run's newest checkpoint on the test images.
)";

}  // namespace

int eval_verb(const Args& args) {
  std::string data_dir, log_format = "text";
  Index threads = 0;
  bool help = false;
  train::Options options;
  options("data_dir", data_dir, "folder to look for data sets in first");
  options("threads", threads, "CPU threads; 0: all cores");
  options("log_format", log_format, "text, or json: one object on stdout");
  options("help", help, "print this, and stop");
  const Args runs = options.read_flags(args);
  options.apply();
  if (help) {
    fmt::print("{}\n{}", usage, options.help());
    return ok;
  }
  if (runs.size() != 1) throw UsageError("eval: name one run folder, as in norma eval runs/a");
  if (log_format != "text" && log_format != "json") throw UsageError(fmt::format("--log-format: \"{}\" is unknown; there are text, json", log_format));
  check_threads(threads);
  const RunModel run = load_run_model(runs[0], threads, data_dir);
  ProgressLine line;
  const std::optional<train::Evaluation> found =
      train::evaluate(*run.model, run.data.test, train::loader_config(run.config, run.model->config(), false), stop_on_signal(), line.watcher());
  if (!found) return interrupted();
  const train::Evaluation& test = *found;
  print_result({{"run", runs[0]}, {"step", run.step}, {"test_accuracy", test.accuracy}, {"test_loss", test.loss}}, log_format == "json");
  return ok;
}

}  // namespace norma::apps
