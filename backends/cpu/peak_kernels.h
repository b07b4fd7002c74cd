// The arithmetic peak of a core as a measured quantity: independent fused multiply-adds in registers, nothing else; and
// that of products of bf16.
#pragma once

#include <cstdint>

#include "backends/cpu/isa.h"

namespace norma::cpu {

struct PeakKernels {
  /// Runs `rounds` rounds of f32 multiply-adds and returns a value that depends on all of them.
  float (*run)(std::int64_t rounds);
  std::int64_t flops_per_round;
};
NORMA_DECLARE_KERNELS(PeakKernels, peak_kernels)

struct Bf16PeakKernels {
  /// The same with products of bf16, of tiles or of pairs, on numbers of order one or on zeros. Null where the instruction
  /// set has neither.
  float (*run)(std::int64_t rounds, bool zeros);
  std::int64_t flops_per_round;
  /// Products of f32 in slices (kernels/bf16/slices.h) with all that they read and write in the first-level cache. Null but for AMX.
  float (*run_slices)(std::int64_t rounds);
  std::int64_t slices_flops_per_round;  // of f32
};
NORMA_DECLARE_BF16_KERNELS(Bf16PeakKernels, bf16_peak_kernels)

}  // namespace norma::cpu
