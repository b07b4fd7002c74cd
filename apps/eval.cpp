// norma eval: loss and accuracy of a run's newest checkpoint on the test images.
#include "apps/run_model.h"
#include "train/loop.h"

namespace norma::apps {

int eval_verb(const Args& args) {
  auto flags = read_model_flags(args, "usage: norma eval RUN [flags]\n\nLoss and accuracy of the run's newest checkpoint on the test images.\n");
  if (!flags) return ok;
  if (flags->words.size() != 1) throw UsageError("eval: name one run folder, as in norma eval runs/a");
  const RunModel run = load_run_model(flags->words[0], flags->config.threads, flags->config.data_dir);
  const train::Evaluation test =
      train::evaluate(*run.model, run.data.test, train::loader_config(run.config, run.model->config(), false));
  print_result({{"run", flags->words[0]}, {"step", run.step}, {"test_accuracy", test.accuracy}, {"test_loss", test.loss}}, flags->json);
  return ok;
}

}  // namespace norma::apps
