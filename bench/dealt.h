// What a step would take on more threads than the machine has cores: its tasks run one after the other on one thread, are timed, and are dealt out.
#pragma once

#include <span>
#include <vector>

namespace norma::bench {

/// Seconds until all tasks are done, given in their order to whichever of `threads` is free first.
double dealt_out(std::span<const double> tasks, int threads);

/// Watches the loops of steps that do the same (cpu::watch_tasks), from its construction to its end. Of each task, and of what lies between two
/// loops, the least of all steps counts, which other programs on the machine disturb least.
class Dealt {
 public:
  Dealt();
  ~Dealt();
  Dealt(const Dealt&) = delete;
  Dealt& operator=(const Dealt&) = delete;

  /// Between two steps, and after the last. Throws Error if the step had other loops than the one before.
  void end_step();

  struct Times {
    double alone = 0;    // of all tasks, and what lies between loops, one after the other
    double between = 0;  // of what lies between loops
    double dealt = 0;    // `between`, and all loops dealt out
    std::size_t loops = 0;
  };
  /// Caches and memory that cores share, and their clocks, are not in it; `loop_cost` of each loop is, where there are more threads than one.
  Times times(int threads, double loop_cost) const;

 private:
  struct Loop {
    double before;  // seconds since the last loop ended
    std::vector<double> tasks;
  };
  void take(std::span<const double> tasks);

  std::vector<Loop> step_, least_;
  double last_ = 0, end_ = 0, least_end_ = 0;  // when the last loop ended; what came after it
};

}  // namespace norma::bench
