// What verbs that train show while they do, and how they are asked to stop.
#pragma once

#include <atomic>
#include <chrono>

#include "train/loop.h"

namespace norma::apps {

/// From now on the first SIGINT or SIGTERM sets the flag, which asks the loop to end after its step, an evaluation at once; the second ends the process at
/// once with the exit code of an interruption. SIGPIPE is ignored: whoever read the progress may go away, the run goes on.
const std::atomic<bool>& stop_on_signal();
/// The exit code of what a signal ended, as shells give it: 130 for SIGINT (Ctrl-C), 143 for SIGTERM.
int interrupted();

/// Whether stderr is a terminal that can draw a line again: TERM is not dumb, nor empty.
bool redraws();

/// On such a terminal one line that is drawn again; elsewhere a plain line now and then. All on stderr.
class ProgressLine {
 public:
  ProgressLine();
  void show(const train::Progress& p);
  void message(const std::string& text);
  void testing(Index done, Index images);
  train::Watcher watcher();  // that shows all here; not for longer than this lives

 private:
  bool terminal_, open_ = false;
  double shown_ = -1e9;
  std::chrono::steady_clock::time_point tested_;  // when an evaluation began, or was last shown
};

/// How much of a piece of work is done, and how long the rest will take at that pace: on a terminal from the second second on, elsewhere every 10.
class WorkLine {
 public:
  explicit WorkLine(double all) : all_(all) {}
  void done(double more, const std::string& what);  // `what` is being worked at
  void clear();                                     // before something else is printed

 private:
  const double all_;
  double done_ = 0;
  bool open_ = false;
  const std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point next_ = begun_ + std::chrono::seconds(redraws() ? 1 : 10);
};

}  // namespace norma::apps
