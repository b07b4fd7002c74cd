// A loop whose tasks add to one sum without order, and each to a number of its own, which is no race. Under the preset tsan the test `race` expects
// ThreadSanitizer to name the first and not the second: what backends/cpu/parallel.cpp tells it must not hide races.
#include <cstdio>
#include <vector>

#include "backends/cpu/parallel.h"

namespace {

void add_to_own(std::vector<double>& sums) {
  norma::cpu::parallel_tasks(64, [&](std::int64_t i) {
    for (int k = 0; k < 50000; ++k) sums[static_cast<std::size_t>(i)] += 0.5 * k;
  });
}

double add_to_shared(const std::vector<double>& sums) {
  double total = 0;
  norma::cpu::parallel_tasks(64, [&](std::int64_t i) {
    for (int k = 0; k < 50000; ++k) total += sums[static_cast<std::size_t>(i)];
  });
  return total;
}

}  // namespace

int main() {
  norma::cpu::set_threads(2);
  std::vector<double> sums(64);
  add_to_own(sums);
  double expected = 0;
  for (const double s : sums) expected += s;  // after the loop: ordered
  std::puts("no race so far");
  std::fflush(stdout);
  std::printf("%g, in order %g\n", add_to_shared(sums), expected);
}
