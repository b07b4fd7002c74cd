// Operands on their way from memory while others are multiplied or packed.
#pragma once

#include "backends/cpu/gemm.h"
#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// Asks for what is read next, a few lines at a time: x[rows, columns], where it is dense in one direction.
class Prefetcher {
 public:
  Prefetcher() = default;
  template <class T>
  Prefetcher(Matrix<const T> x, std::int64_t rows, std::int64_t columns, std::int64_t turns) : data_(reinterpret_cast<const char*>(x.data)) {
    constexpr std::int64_t size = sizeof(T);
    if (x.col == 1)
      runs_ = rows, lines_ = (columns * size + 63) / 64, stride_ = x.row * size;
    else if (x.row == 1)
      runs_ = columns, lines_ = (rows * size + 63) / 64, stride_ = x.col * size;
    share_ = turns > 0 ? (runs_ * lines_ + turns - 1) / turns : 0;
  }
  NORMA_INLINE void turn() {
    for (std::int64_t i = share_; i > 0 && run_ < runs_; --i) {
      __builtin_prefetch(data_ + run_ * stride_ + line_ * 64, 0, 2);
      if (++line_ == lines_) line_ = 0, ++run_;
    }
  }

 private:
  const char* data_ = nullptr;
  std::int64_t runs_ = 0, lines_ = 0, stride_ = 0, share_ = 0, run_ = 0, line_ = 0;
};

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
