// norma train: one training run into a run folder.
#include "apps/model_flags.h"
#include "apps/progress.h"
#include "core/host_limits.h"
#include "train/loop.h"
#include "train/recorder.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma train vit [flags]

Trains a Vision Transformer and writes a run folder: config.json, metrics.jsonl (loss, accuracy, and for every
layer and head the Frobenius norm of the attention matrix, of its Jacobian and of its gradients), the same for TensorBoard,
checkpoints, status.json, and summary.json at the end; with --record also the attention matrices themselves.
Ctrl-C finishes the step and writes a checkpoint; --resume goes on from there, to the bit. Only what decides no bit may then differ: --steps,
--threads, --data-dir, --out, --checkpoint-every, --anomaly, --graph and the flight recorder's flags; and --cpu, with a message where the
instructions are not those of before, whose bits the run then leaves. config.json has what was used last.
The loss and the accuracy shown meanwhile are of the training batches, smoothed: each new one counts for a twentieth. Those of the test
images come after each epoch in metrics.jsonl, and at the end.
With --log-format json the object says how the run ended: "ending" (finished, interrupted or diverged), "message" and "step". An error is a
line on stderr alone.
Exit codes: 0 done, 1 failure, 2 wrong usage, 3 diverged, 130 interrupted (143 by SIGTERM).
)";

/// Throws where this machine has less memory than weights, gradients and optimizer alone will take, before a minute is
/// spent on filling it.
void check_memory(const train::TrainConfig& c, const models::ViTConfig& shape) {
  if (parse_device(c.device).kind == Device::Kind::cuda) return;  // its memory is another, and is filled at once
  const Index parameters = models::parameter_count(shape);  // images of one patch have hardly fewer than the data set's
  const int copies = 2 + (c.optimizer == "adamw" ? 2 : c.momentum > 0 ? 1 : 0) + (c.ema > 0 ? 1 : 0);
  const FreeMemory memory = free_host_memory();
  const double need = static_cast<double>(parameters) * copies * (c.dtype == "f64" ? 8 : 4),
               free = static_cast<double>(memory.bytes);
  if (need > free)
    fail(
        "out of memory: {:.3g} parameters, their gradients and {} need {}, {} free{}; a smaller --width or --depth "
        "needs less",
        static_cast<double>(parameters), "the state of " + c.optimizer, human_bytes(need), human_bytes(free),
        memory.limit);
}

/// All that can be known before the data set is.
void check(const ModelFlags& flags) {
  refuse_words(flags, "train");
  prepare(flags.config);
  const models::ViTConfig shape = shape_without_data(flags.config);
  check_memory(flags.config, shape);
  train::check_record(flags.config, shape);
}

}  // namespace

int train_verb(const Args& args) {
  if (args.empty())
    throw UsageError(
        "train: name the model, as in norma train vit --data fashion-mnist --out runs/a; see norma train --help");
  auto flags = read_model_flags(args, usage, {}, check);
  if (!flags) return ok;

  ProgressLine line;
  const train::Outcome outcome = train::train(flags->config, flags->resume, stop_on_signal(), line.watcher());
  const bool finished = outcome.ending == train::Ending::finished;
  std::string why;
  if (outcome.ending == train::Ending::interrupted)
    why = fmt::format("interrupted; a checkpoint is in {}, go on with --resume", flags->config.out);
  else if (!outcome.bundle.empty())
    why = fmt::format("stopped before this step; look again with: norma replay {}", outcome.bundle.string());
  else if (outcome.anomaly)
    why = fmt::format(
        "stopped before this step; a checkpoint is in {}. With room on the disk, the command with --resume --anomaly "
        "comes to this step again and saves it for norma replay",
        flags->config.out);
  else if (!finished)
    why = fmt::format(
        "diverged: steps {} to {} were skipped; a checkpoint is in {}. {}", outcome.step - outcome.skipped_in_a_row,
        outcome.step - 1, flags->config.out,
        outcome.too_large
            ? "The gradient is finite but too large for adamw in f32: begin anew with --clip 1, or with --dtype f64"
            : "Repeat the command with --resume --anomaly to learn which operation it was");
  if (!finished) line.message(why);
  nlohmann::ordered_json result = {{"run", flags->config.out}, {"attention", flags->config.attention}};
  if (flags->json)
    result.update(
        nlohmann::ordered_json{{"ending", train::name(outcome.ending)}, {"message", why}, {"step", outcome.step}});
  if (finished)
    result.update(nlohmann::ordered_json{{"test_accuracy", outcome.test.accuracy}, {"test_loss", outcome.test.loss}});
  result["seconds"] = outcome.seconds;
  if (finished || flags->json) print_result(result, flags->json);
  if (outcome.ending == train::Ending::interrupted) return interrupted();
  return finished ? ok : diverged;
}

}  // namespace norma::apps
