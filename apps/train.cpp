// norma train: one training run into a run folder.
#include "apps/model_flags.h"
#include "apps/progress.h"
#include "train/loop.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma train vit [flags]

Trains a Vision Transformer and writes a run folder: config.json, metrics.jsonl (loss, accuracy, and for every
layer and head the Frobenius norm of the attention matrix, of its Jacobian and of its gradients), checkpoints, summary.json;
with --record also the attention matrices themselves.
Ctrl-C finishes the step and writes a checkpoint; --resume goes on from there, to the bit.
Exit codes: 0 done, 1 failure, 2 wrong usage, 3 diverged, 130 interrupted.
)";

}  // namespace

int train_verb(const Args& args) {
  if (args.empty()) throw UsageError("train: name the model, as in norma train vit --data fashion-mnist --out runs/a; see norma train --help");
  auto flags = read_model_flags(args, usage);
  if (!flags) return ok;
  if (!flags->words.empty()) throw UsageError(fmt::format("train: unexpected \"{}\"; see norma train --help", flags->words[0]));
  prepare(flags->config);

  ProgressLine line;
  if (const auto& c = flags->config; c.warmup_epochs > static_cast<double>(c.epochs))  // a recipe that is tried for less than its time
    line.message(fmt::format("--warmup-epochs {} is longer than the run, --epochs {}: the learning rate rises to the end and stays below --lr",
                             c.warmup_epochs, c.epochs));
  const train::Outcome outcome = train::train(flags->config, flags->resume, stop_on_signal(), line.watcher());
  if (outcome.ending == train::Ending::interrupted) {
    line.message(fmt::format("interrupted; a checkpoint is in {}, go on with --resume", flags->config.out));
    return interrupted;
  }
  if (!outcome.bundle.empty()) {
    line.message(fmt::format("stopped before this step; look again with: norma replay {}", outcome.bundle.string()));
    return diverged;
  }
  if (outcome.ending == train::Ending::diverged) {
    line.message(fmt::format("diverged: no finite step in a row of 10; a checkpoint is in {}", flags->config.out));
    return diverged;
  }
  print_result({{"run", flags->config.out}, {"attention", flags->config.attention}, {"test_accuracy", outcome.test.accuracy},
                {"test_loss", outcome.test.loss}, {"seconds", outcome.seconds}},
               flags->json);
  return ok;
}

}  // namespace norma::apps
