// Asking for memory that is read next, while something is computed.
#pragma once

#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {

/// Walks over what comes next, a few lines at a time.
class Prefetcher {
 public:
  Prefetcher(const Upcoming& what, std::int64_t turns) : what_(what), share_((what.runs * what.lines + turns - 1) / turns) {}
  NORMA_INLINE void turn() {
    for (std::int64_t i = share_; i > 0 && run_ < what_.runs; --i) {
      __builtin_prefetch(what_.data + run_ * what_.stride + line_ * 64, 0, 2);
      if (++line_ == what_.lines) line_ = 0, ++run_;
    }
  }

 private:
  const Upcoming what_;
  const std::int64_t share_;
  std::int64_t run_ = 0, line_ = 0;
};

}  // namespace norma::cpu::NORMA_ISA
