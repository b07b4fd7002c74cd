#include "bench/peak.h"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "backends/cpu/parallel.h"
#include "backends/cpu/peak_kernels.h"

namespace norma::bench {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double fma_peak(int threads, double (*clock)()) {
  const cpu::PeakKernels& kernels = NORMA_KERNELS(peak_kernels);
  const int before = cpu::threads();
  cpu::set_threads(threads);
  constexpr std::int64_t rounds = 2'000, pieces = 16;
  std::atomic<int> not_finite{0};  // keeps the results alive
  double best = 0;
  for (int attempt = 0; attempt < 600; ++attempt) {  // each as short as a product: a longer one is never undisturbed on a busy machine
    const double start = clock();
    cpu::parallel_tasks(pieces * threads, [&](std::int64_t) {
      if (!(kernels.run(rounds) < 1e30f)) ++not_finite;
    });
    const double flops = static_cast<double>(kernels.flops_per_round) * rounds * pieces * threads;
    best = std::max(best, flops / (clock() - start));
  }
  cpu::set_threads(before);
  return not_finite ? 0 : best * 1e-9;
}

}  // namespace norma::bench
