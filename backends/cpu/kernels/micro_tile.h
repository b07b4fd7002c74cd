// What the micro-tiles of all products share: how large they are, and the transposition that packing needs.
#pragma once

#include <type_traits>

#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {

// Rows and vectors of a micro-tile: as many accumulators as leave registers for the vectors of B and one element of A.
// Two fused multiply-adds a cycle with a latency of four need at least eight of them.
#if defined(__AVX512F__)
constexpr int tile_rows = 8, tile_vectors = 3;
#elif defined(__AVX2__)
constexpr int tile_rows = 6, tile_vectors = 2;
#elif defined(__aarch64__)
constexpr int tile_rows = 6, tile_vectors = 4;
#else
constexpr int tile_rows = 4, tile_vectors = 2;
#endif

NORMA_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

/// x[i][j] becomes x[j][i], for w registers of w elements, by log2 w rounds of interleaving.
template <class V, int w>
NORMA_INLINE void transpose(V (&x)[w]) {
  static_assert(w == sizeof(V) / sizeof(x[0][0]));
  using Mask = std::conditional_t<sizeof(x[0][0]) == 4, I, L>;
  Mask low, high;
  for (int i = 0; i < w; ++i) {
    low[i] = i / 2 + (i % 2 ? w : 0);
    high[i] = (i + w) / 2 + (i % 2 ? w : 0);
  }
  V y[w];
#pragma GCC unroll 16
  for (int s = 1; s < w; s *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < w / 2; ++i) {
      y[2 * i] = __builtin_shuffle(x[i], x[i + w / 2], low);
      y[2 * i + 1] = __builtin_shuffle(x[i], x[i + w / 2], high);
    }
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) x[i] = y[i];
  }
}

}  // namespace norma::cpu::NORMA_ISA
