#include "apps/progress.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "apps/verbs.h"
#include "core/terminal.h"

namespace norma::apps {
namespace {

std::atomic<bool> stop{false};
std::atomic<int> stopped_by{SIGINT};

void on_signal(int signal) {
  if (stop.exchange(true)) _exit(interrupted());
  stopped_by = signal;
}

std::string duration(double seconds) {
  const auto s = static_cast<Index>(seconds + 0.5);
  return s < 60     ? fmt::format("{} s", s)
         : s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                    : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

/// What there is to tell of a step, in at most `columns` where less of it does: a line that is longer than the
/// terminal's cannot be drawn again. That the numbers are of training batches stays.
std::string text_of(const train::Progress& p, int columns) {
  const std::string epoch = fmt::format("epoch {}/{}  ", p.epoch, p.epochs),
                    step = fmt::format("step {}/{}  training loss {:.3f}, accuracy {:.1f} % ({})", p.step, p.steps,
                                       without_sign_of_nan(p.loss), without_sign_of_nan(p.accuracy) * 100, p.what),
                    speed = fmt::format("  {:.0f} images/s", p.images_per_second),
                    left = fmt::format("  {} left", duration(p.seconds_left));
  std::string text;
  for (const std::string& next : {epoch + step + speed + left, epoch + step + left, step + left, step})
    if (text = next; static_cast<int>(text.size()) <= columns) break;
  return text;
}

}  // namespace

const std::atomic<bool>& stop_on_signal() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return stop;
}

int interrupted() { return 128 + stopped_by; }

bool redraws() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) != 0 && term && *term && std::string_view(term) != "dumb";
}

ProgressLine::ProgressLine() : terminal_(redraws()) {}

void ProgressLine::show(const train::Progress& p) {
  const bool end = p.step == p.steps;
  if (!end && p.seconds - shown_ < (terminal_ ? 0.1 : 10)) return;
  shown_ = p.seconds;
  const int columns = static_cast<int>(terminal_columns(STDERR_FILENO, 1000)) - 1;  // the last would begin a new line
  const std::string text = text_of(p, columns);
  if (!terminal_) {
    tell("{}\n", text);
  } else {
    const int room = columns - static_cast<int>(text.size()) - 1, width = room < 5 ? 0 : std::min(room, 20);
    const int done = static_cast<int>(width * p.step / std::max<Index>(p.steps, 1));
    std::string bar;
    for (int i = 0; i < width; ++i) bar += i < done ? "█" : "░";
    tell("\r\033[K{}{}{}{}", bar, width ? " " : "", text, end ? "\n" : "");
    std::fflush(stderr);
    open_ = !end;
  }
}

void ProgressLine::testing(Index done, Index images) {
  const auto now = std::chrono::steady_clock::now();
  if (done == 0) tested_ = now;
  if (terminal_ && done == images && open_) {
    tell("\r\033[K");
    open_ = false;
  }
  if (now - tested_ < std::chrono::milliseconds(terminal_ ? 500 : 10'000) || done == images) return;
  tested_ = now;
  tell("{}testing: {} of {} images{}", terminal_ ? "\r\033[K" : "", done, images, terminal_ ? "" : "\n");
  std::fflush(stderr);
  open_ = terminal_;
}

train::Watcher ProgressLine::watcher() {
  return {[this](const train::Progress& p) { show(p); }, [this](const std::string& text) { message(text); },
          [this](Index done, Index images) { testing(done, images); }};
}

void ProgressLine::message(const std::string& text) {
  tell("{}{}\n", open_ ? "\n" : "", text);
  open_ = false;
}

void WorkLine::done(double more, const std::string& what) {
  done_ += more;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  const bool again = redraws();
  next_ = now + std::chrono::milliseconds(again ? 200 : 10'000);
  const double seconds = std::chrono::duration<double>(now - begun_).count();
  tell("{}{}: {:.0f} % of all is done, {} left{}", again ? "\r\033[K" : "", what, 100 * done_ / all_,
       duration(seconds * (all_ - done_) / done_), again ? "" : "\n");
  std::fflush(stderr);
  open_ = again;
}

void WorkLine::clear() {
  if (open_) tell("\r\033[K");
  open_ = false;
}

}  // namespace norma::apps
