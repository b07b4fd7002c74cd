// The loop that measures the multiply-add peak: enough independent chains to hide the latency, all in registers.
#include "backends/cpu/peak_kernels.h"
#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {
namespace {

constexpr int chains = 12, unroll = 4;

float run(std::int64_t rounds) {
  F x[chains];
#pragma GCC unroll 16
  for (int i = 0; i < chains; ++i) x[i] = splat(static_cast<float>(i));
  const F a = splat(0.999f), b = splat(0.001f);
  for (; rounds > 0; --rounds)
#pragma GCC unroll 4
    for (int u = 0; u < unroll; ++u)
#pragma GCC unroll 16
      for (int i = 0; i < chains; ++i) x[i] = fma(x[i], a, b);
  F sum = x[0];
#pragma GCC unroll 16
  for (int i = 1; i < chains; ++i) sum += x[i];
  return sum_lanes(sum);
}

}  // namespace

const PeakKernels peak_kernels = {run, 2 * chains* unroll* lanes<float>};

}  // namespace norma::cpu::NORMA_ISA
