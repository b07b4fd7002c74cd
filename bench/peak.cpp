#include "bench/peak.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "backends/cpu/parallel.h"
#include "backends/cpu/peak_kernels.h"

namespace norma::bench {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double peak_of_one_run(Peak peak, int threads, std::int64_t rounds, double (*clock)()) {
  const cpu::PeakKernels& f32 = NORMA_KERNELS(peak_kernels);
  const cpu::Bf16PeakKernels& bf16 = NORMA_BF16_KERNELS(bf16_peak_kernels);
  const bool slices = peak == Peak::slices;
  if (peak != Peak::fma && !(slices ? bf16.run_slices != nullptr : bf16.run != nullptr)) return 0;
  constexpr std::int64_t pieces = 16;
  std::atomic<int> not_finite{0};  // keeps the results alive
  const double start = clock();
  cpu::parallel_tasks(pieces * threads, [&](std::int64_t) {
    const float sum = peak == Peak::fma ? f32.run(rounds)
                      : slices          ? bf16.run_slices(rounds)
                                        : bf16.run(rounds, peak == Peak::bf16_zeros);
    if (!(sum < 1e30f)) ++not_finite;
  });
  const double flops = static_cast<double>((peak == Peak::fma ? f32.flops_per_round
                                            : slices          ? bf16.slices_flops_per_round
                                                              : bf16.flops_per_round) *
                                           rounds * pieces * threads);
  return not_finite ? 0 : 1e-9 * flops / (clock() - start);
}

namespace {

/// Of runs each as short as a product: a longer one is never undisturbed on a busy machine.
double best_peak(Peak peak, int threads, std::int64_t rounds, double (*clock)()) {
  const int before = cpu::threads();
  cpu::set_threads(threads);
  double best = 0;
  for (int attempt = 0; attempt < 600; ++attempt) best = std::max(best, peak_of_one_run(peak, threads, rounds, clock));
  cpu::set_threads(before);
  return best;
}

}  // namespace

double fma_peak(int threads, double (*clock)()) { return best_peak(Peak::fma, threads, 2'000, clock); }
double bf16_peak(int threads) { return best_peak(Peak::bf16, threads, 1'000, seconds); }

double core_round_trip() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2) return 0;
  int cores[2], found = 0;
  for (int i = 0; found < 2; ++i)
    if (CPU_ISSET(i, &allowed)) cores[found++] = i;
  const auto stay = [](int core) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof one, &one);  // of the calling thread
  };
  constexpr int runs = 50, turns = 200;
  alignas(64) std::atomic<int> word{0};
  double best = 0;
  const auto play = [&](int core, int first) {  // writes every other number, and waits for those between
    stay(core);
    for (int run = 0; run < runs; ++run) {
      const double start = seconds();
      for (int i = 2 * turns * run + first; i < 2 * turns * (run + 1); i += 2) {
        while (word.load(std::memory_order_acquire) != i) {
        }
        word.store(i + 1, std::memory_order_release);
      }
      const double each = 1e9 * (seconds() - start) / turns;
      if (first == 0 && (best == 0 || each < best)) best = each;
    }
  };
  std::thread one(play, cores[0], 0),
      other(play, cores[1], 1);  // threads of their own: the callers' and the pool's go where they like
  one.join(), other.join();
  return best;
}

}  // namespace norma::bench
