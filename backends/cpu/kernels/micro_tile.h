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

#if defined(__AVX2__) && !defined(__AVX512F__)
/// The same of 8 x 8 numbers of 32 bits, in half as many moves: those between the halves of registers come once, at the end.
template <class V>
NORMA_INLINE void transpose(V (&x)[8]) {
  static_assert(sizeof(V) == 8 * sizeof(x[0][0]));
  V y[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = __builtin_shufflevector(y[i + j], y[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      x[i + 2 * j + 1] = __builtin_shufflevector(y[i + j], y[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const V low = x[i], high = x[i + 4];
    x[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11);
    x[i + 4] = __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
#endif

}  // namespace norma::cpu::NORMA_ISA
