// norma train: one training run into a run folder.
#include "apps/model_flags.h"
#include "apps/progress.h"
#include "backends/common/host_memory.h"
#include "train/loop.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma train vit [flags]

Trains a Vision Transformer and writes a run folder: config.json, metrics.jsonl (loss, accuracy, and for every
layer and head the Frobenius norm of the attention matrix, of its Jacobian and of its gradients), checkpoints, summary.json;
with --record also the attention matrices themselves.
Ctrl-C finishes the step and writes a checkpoint; --resume goes on from there, to the bit.
Exit codes: 0 done, 1 failure, 2 wrong usage, 3 diverged, 130 interrupted (143 by SIGTERM).
)";

/// Throws where this machine has less memory than weights, gradients and optimizer alone will take, before a minute is spent on filling it.
void check_memory(train::TrainConfig c) {
  if (parse_device(c.device).kind == Device::Kind::cuda) return;  // its memory is another, and is filled at once
  c.pad = 0;  // the data set is not known yet; with images of one patch there are hardly fewer parameters
  const Index parameters = models::parameter_count(vit_config(c, c.patch, 3, 10));
  const int copies = 2 + (c.optimizer == "adamw" ? 2 : c.momentum > 0 ? 1 : 0) + (c.ema > 0 ? 1 : 0);
  const double need = static_cast<double>(parameters) * copies * (c.dtype == "f64" ? 8 : 4), free = static_cast<double>(available_host_memory());
  if (need > free)
    fail("out of memory: {:.3g} parameters, their gradients and {} need {}, {} free; a smaller --width or --depth needs less", static_cast<double>(parameters),
         "the state of " + c.optimizer, human_bytes(need), human_bytes(free));
}

}  // namespace

int train_verb(const Args& args) {
  if (args.empty()) throw UsageError("train: name the model, as in norma train vit --data fashion-mnist --out runs/a; see norma train --help");
  auto flags = read_model_flags(args, usage);
  if (!flags) return ok;
  refuse_words(*flags, "train");
  prepare(flags->config);
  check_memory(flags->config);

  ProgressLine line;
  if (const auto& c = flags->config; c.warmup_epochs > static_cast<double>(c.epochs))  // a recipe that is tried for less than its time
    line.message(fmt::format("--warmup-epochs {} is longer than the run, --epochs {}: the learning rate rises to the end and stays below --lr",
                             c.warmup_epochs, c.epochs));
  const train::Outcome outcome = train::train(flags->config, flags->resume, stop_on_signal(), line.watcher());
  if (outcome.ending == train::Ending::interrupted) {
    line.message(fmt::format("interrupted; a checkpoint is in {}, go on with --resume", flags->config.out));
    return interrupted();
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
