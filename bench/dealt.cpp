#include "bench/dealt.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "backends/cpu/parallel.h"
#include "core/error.h"

namespace norma::bench {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double sum(std::span<const double> tasks) { return std::accumulate(tasks.begin(), tasks.end(), 0.0); }

}  // namespace

double dealt_out(std::span<const double> tasks, int threads) {
  std::vector<double> busy(static_cast<std::size_t>(threads), 0.0);
  for (const double t : tasks) *std::min_element(busy.begin(), busy.end()) += t;
  return *std::max_element(busy.begin(), busy.end());
}

Dealt::Dealt() : last_(now()) {
  cpu::watch_tasks([this](std::span<const double> tasks) { take(tasks); });
}
Dealt::~Dealt() { cpu::watch_tasks({}); }

void Dealt::take(std::span<const double> tasks) {
  const double end = now();
  step_.push_back({std::max(0.0, end - last_ - sum(tasks)), {tasks.begin(), tasks.end()}});
  last_ = now();
}

void Dealt::end_step() {
  const double end = now() - last_;
  if (least_.empty()) {
    least_ = step_, least_end_ = end;
  } else {
    if (step_.size() != least_.size())
      fail("a step of {} loops came after one of {}: tasks can only be dealt out of steps that do the same",
           step_.size(), least_.size());
    for (std::size_t i = 0; i < step_.size(); ++i) {
      std::vector<double>&to = least_[i].tasks, &from = step_[i].tasks;
      if (from.size() != to.size())
        fail(
            "a loop of {} tasks came where there had been one of {}: tasks can only be dealt out of steps that do the "
            "same",
            from.size(), to.size());
      least_[i].before = std::min(least_[i].before, step_[i].before);
      for (std::size_t k = 0; k < to.size(); ++k) to[k] = std::min(to[k], from[k]);
    }
    least_end_ = std::min(least_end_, end);
  }
  step_.clear();
  last_ = now();
}

Dealt::Times Dealt::times(int threads, double loop_cost) const {
  Times t;
  t.between = least_end_, t.loops = least_.size();
  for (const Loop& loop : least_) {
    t.between += loop.before, t.alone += sum(loop.tasks);
    t.dealt += dealt_out(loop.tasks, threads) + (threads > 1 ? loop_cost : 0);
  }
  t.alone += t.between, t.dealt += t.between;
  return t;
}

}  // namespace norma::bench
