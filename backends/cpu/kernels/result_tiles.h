// Where the sums of a product's tile go, for all kinds of tiles.
#pragma once

#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// The epilogue whose pointers stand at element (i, j) of C.
template <class T>
Epilogue<T> at(const Epilogue<T>& e, std::int64_t i, std::int64_t j) {
  const std::int64_t offset = i * e.ld + j;
  return {e.bias ? e.bias + j : nullptr,
          e.pre ? e.pre + offset : nullptr,
          e.gelu,
          e.gelu_pre ? e.gelu_pre + offset : nullptr,
          e.residual ? e.residual + offset : nullptr,
          e.ld,
          e.gelu_of_pre ? e.gelu_of_pre + i * e.ld_of_gelu + j : nullptr,
          e.ld_of_gelu};
}

/// The rows that are read or written when a tile's sums are finished: asked for one by one while these are computed. All at once they would
/// fill the first-level cache's buffers for missing lines, and the loads after them would wait.
template <class T, int columns>
struct Wanted {
  const T *c, *other;  // other: null, or what the epilogue reads
  std::int64_t ldc, ld;
  bool later;  // not right after this tile: then the second-level cache is near enough

  /// For the tile that lies so many rows below.
  NORMA_INLINE Wanted below(std::int64_t rows) const { return {c + rows * ldc, other ? other + rows * ld : nullptr, ldc, ld, later}; }
  NORMA_INLINE void turn(std::int64_t row) const {
    ask(c + row * ldc);
    if (other) ask(other + row * ld);
  }

 private:
  NORMA_INLINE void ask(const T* p) const {
    constexpr int line = 64 / sizeof(T);
#pragma GCC unroll 16
    for (int j = 0; j < columns; j += line) later ? __builtin_prefetch(p + j, 0, 2) : __builtin_prefetch(p + j);
  }
};

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
