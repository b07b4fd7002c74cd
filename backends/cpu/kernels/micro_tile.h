// What the micro-tiles of all products share: how large they are, and the transposition that packing needs.
#pragma once

#include <utility>

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

// Steps of k in one round of a tile's loop, whose own instructions a core lacks when it is shared.
constexpr int tile_depth = register_count == 32 ? 4 : 8;

NORMA_INLINE std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

/// Elements of a and b in turn, from their first halves; `upper`: from their second ones.
template <bool upper, class V, int... i>
NORMA_INLINE V interleave(V a, V b, std::integer_sequence<int, i...>) {
  constexpr int w = sizeof...(i);
  return __builtin_shufflevector(a, b, ((i + upper * w) / 2 + (i % 2 ? w : 0))...);
}

/// x[i][j] becomes x[j][i], for w registers of w elements, by log2 w rounds of interleaving.
template <class V, int w>
NORMA_INLINE void transpose(V (&x)[w]) {
  static_assert(w == sizeof(V) / sizeof(x[0][0]));
  constexpr auto each_element = std::make_integer_sequence<int, w>();
  V y[w];
#pragma GCC unroll 16
  for (int s = 1; s < w; s *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < w / 2; ++i) {
      y[2 * i] = interleave<false>(x[i], x[i + w / 2], each_element);
      y[2 * i + 1] = interleave<true>(x[i], x[i + w / 2], each_element);
    }
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) x[i] = y[i];
  }
}

}  // namespace norma::cpu::NORMA_ISA
