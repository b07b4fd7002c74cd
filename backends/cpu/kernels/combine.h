// What the lanes of each of eight registers combine to: sums and extremes of eight rows at a time, which take a
// fraction of eight reductions one by one.
#pragma once

#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {
namespace {

constexpr int row_slots = 8;  // rows of a tile, rounded up for reductions

// Lanes are moved by the compiler's own shuffles: they work within 16-byte pieces here, which is cheap on every
// processor.
typedef float Piece __attribute__((vector_size(16)));
#if defined(__AVX512F__)
#define NORMA_IN_PIECES(x, y, a, b, c, d)                                                                           \
  __builtin_shufflevector(x, y, a, b, c, d, (a) + 4, (b) + 4, (c) + 4, (d) + 4, (a) + 8, (b) + 8, (c) + 8, (d) + 8, \
                          (a) + 12, (b) + 12, (c) + 12, (d) + 12)
#elif defined(__AVX2__)
#define NORMA_IN_PIECES(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d, (a) + 4, (b) + 4, (c) + 4, (d) + 4)
#else
#define NORMA_IN_PIECES(x, y, a, b, c, d) __builtin_shufflevector(x, y, a, b, c, d)
#endif

/// out[r] = x[r]'s lanes combined by `op`, for row_slots registers, always by the same tree.
template <class Op>
NORMA_INLINE void combine_each(const F* x, float* out, Op op) {
  constexpr int n = lanes<float>;
  auto four = [&](const F* y) __attribute__((always_inline)) {  // piece by piece: element r combines y[r]'s piece
    const F ab = op(NORMA_IN_PIECES(y[0], y[1], 0, 1, n, n + 1), NORMA_IN_PIECES(y[0], y[1], 2, 3, n + 2, n + 3));
    const F cd = op(NORMA_IN_PIECES(y[2], y[3], 0, 1, n, n + 1), NORMA_IN_PIECES(y[2], y[3], 2, 3, n + 2, n + 3));
    const F all = op(NORMA_IN_PIECES(ab, cd, 0, 2, n, n + 2), NORMA_IN_PIECES(ab, cd, 1, 3, n + 1, n + 3));
    Piece piece[n / 4];
    __builtin_memcpy(piece, &all, sizeof all);
    for (int g = n / 4; g > 1; g /= 2)
      for (int i = 0; i < g / 2; ++i) piece[i] = op(piece[i], piece[i + g / 2]);
    return piece[0];
  };
  const Piece low = four(x), high = four(x + 4);
  __builtin_memcpy(out, &low, sizeof low);
  __builtin_memcpy(out + 4, &high, sizeof high);
}
template <class Op>
NORMA_INLINE void combine_each(const D* x, double* out, Op op) {
  for (int r = 0; r < row_slots; ++r) {
    double y[lanes<double>];
    __builtin_memcpy(y, x + r, sizeof y);
    for (int w = lanes<double> / 2; w > 0; w /= 2)
      for (int i = 0; i < w; ++i) y[i] = op(y[i], y[i + w]);
    out[r] = y[0];
  }
}
struct Plus {
  template <class V>
  NORMA_INLINE V operator()(V a, V b) const {
    return a + b;
  }
};
struct Larger {
  template <class V>
  NORMA_INLINE V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};
struct Smaller {
  template <class V>
  NORMA_INLINE V operator()(V a, V b) const {
    return a < b ? a : b;
  }
};

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
