// norma train: one training run into a run folder.
#include <unistd.h>

#include <csignal>

#include "apps/model_flags.h"
#include "train/loop.h"

namespace norma::apps {
namespace {

std::atomic<bool> stop{false};

void on_signal(int) {  // the first asks the loop to end after this step; the second ends at once
  if (stop.exchange(true)) _exit(interrupted);
}

std::string duration(double seconds) {
  const auto s = static_cast<Index>(seconds + 0.5);
  return s < 60 ? fmt::format("{} s", s) : s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60) : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

/// On a terminal one line that is drawn again; elsewhere a plain line now and then. All on stderr.
class ProgressLine {
 public:
  void show(const train::Progress& p) {
    const bool end = p.step == p.steps;
    if (!end && p.seconds - shown_ < (terminal_ ? 0.1 : 10)) return;
    shown_ = p.seconds;
    const std::string text = fmt::format("epoch {}/{}  step {}/{}  loss {:.4f}  accuracy {:.1f} %  {:.0f} images/s  {} left", p.epoch, p.epochs,
                                         p.step, p.steps, p.loss, p.accuracy * 100, p.images_per_second, duration(p.seconds_left));
    if (!terminal_) {
      fmt::print(stderr, "{}\n", text);
    } else {
      constexpr int width = 20;
      const int done = static_cast<int>(width * p.step / std::max<Index>(p.steps, 1));
      std::string bar;
      for (int i = 0; i < width; ++i) bar += i < done ? "█" : "░";
      fmt::print(stderr, "\r\033[K{} {}{}", bar, text, end ? "\n" : "");
      std::fflush(stderr);
      open_ = !end;
    }
  }
  void message(const std::string& text) {
    fmt::print(stderr, "{}{}\n", open_ ? "\n" : "", text);
    open_ = false;
  }

 private:
  bool terminal_ = isatty(STDERR_FILENO) != 0, open_ = false;
  double shown_ = -1e9;
};

constexpr const char* usage = R"(usage: norma train vit [flags]

Trains a Vision Transformer and writes a run folder: config.json, metrics.jsonl (loss, accuracy, and for every
layer and head the Frobenius norm of the attention matrix, of its Jacobian and of its gradients), checkpoints, summary.json;
with --record also the attention matrices themselves.
Ctrl-C finishes the step and writes a checkpoint; --resume goes on from there, to the bit.
Exit codes: 0 done, 1 failure, 2 wrong usage, 3 diverged, 130 interrupted.
)";

}  // namespace

int train_verb(const Args& args) {
  auto flags = read_model_flags(args, usage);
  if (!flags) return ok;
  if (!flags->words.empty()) throw UsageError(fmt::format("train: unexpected \"{}\"; see norma train --help", flags->words[0]));
  prepare(flags->config);

  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);

  ProgressLine line;
  const train::Outcome outcome =
      train::train(flags->config, flags->resume, stop,
                   {[&](const train::Progress& p) { line.show(p); }, [&](const std::string& m) { line.message(m); }});
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
