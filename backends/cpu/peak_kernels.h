// The arithmetic peak of a core as a measured quantity: independent fused multiply-adds in registers, nothing else.
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

}  // namespace norma::cpu
