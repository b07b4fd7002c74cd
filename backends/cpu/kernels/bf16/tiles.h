// Products of bf16 by AMX, whose instruction multiplies 16 rows of words by 16 words of a panel. A panel of pairs lies as the instruction wants its right operand; rows of pairs, as they lie in memory, are its left one.
#pragma once

#include "backends/cpu/kernels/bf16/forms.h"
#include "backends/cpu/kernels/bf16/tile_registers.h"

#if defined(__AMX_BF16__)
namespace norma::cpu::NORMA_ISA {
namespace {

/// Four tiles of sums, so that as many are on their way as the latency of one product needs; two tiles of A, two of B.
struct Tiles : Pairs {
  static constexpr int unit = 16, rows = 32, vectors = 2;
};
/// Up to 32 rows by one panel, or, where `half`, up to 16. Rows are read and written in sixteens.
template <bool half>
NORMA_INLINE void tile_block(int64_t steps, const Word* a, int64_t row, int64_t step, const Word* b, float* c, int64_t ldc,
                             bool accumulate) {
  // The numbers of tiles are part of the instructions: 0..3 are sums, 4 and 5 lines of A, 6 and 7 columns of B.
  const int64_t a_bytes = row * sizeof(Word), c_bytes = ldc * sizeof(float);
  float* lower = c + tile_side * ldc;
  if (accumulate) {
    _tile_loadd(0, c, c_bytes);
    _tile_loadd(1, c + tile_side, c_bytes);
    if (!half) _tile_loadd(2, lower, c_bytes);
    if (!half) _tile_loadd(3, lower + tile_side, c_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  constexpr int b_bytes = columns<Tiles> * sizeof(Word);
  for (int64_t s = 0; s < steps; ++s, a += step, b += Tiles::unit * columns<Tiles>) {
    _tile_loadd(4, a, a_bytes);
    _tile_loadd(6, b, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + tile_side, b_bytes);
    _tile_dpbf16ps(1, 4, 7);
    if (half) continue;
    _tile_loadd(5, a + tile_side * row, a_bytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, c_bytes);
  _tile_stored(1, c + tile_side, c_bytes);
  if (half) return;
  _tile_stored(2, lower, c_bytes);
  _tile_stored(3, lower + tile_side, c_bytes);
}

void multiply_tiles(int64_t m, int64_t words, const Bf16Tiles& a, const Word* panel, float* sums, int64_t ld_sums,
                    bool accumulate) {
  const Word* rows = a.data;
  for (int64_t i = 0; i < m; i += Tiles::rows, rows += a.tile, sums += Tiles::rows * ld_sums) {
    if (m - i > tile_side)
      tile_block<false>(words / Tiles::unit, rows, a.row, a.col, panel, sums, ld_sums, accumulate);
    else
      tile_block<true>(words / Tiles::unit, rows, a.row, a.col, panel, sums, ld_sums, accumulate);
  }
}

/// 32 elements of k by 8 columns -> 8 rows of 16 words, transposed in quarters of registers; adds the rows' sums, four to a row,
/// to sums[2] unless null.
NORMA_INLINE void transpose_columns(const Bf16Bits* in, int64_t ld, Word* out, F* sums) {
  using V = __m512i;
  const auto quarter = [&](int64_t p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + p * ld)); };
  V x[8], y[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    x[i] = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(i)), quarter(i + 8), 1);
    x[i] = _mm512_inserti32x4(_mm512_inserti32x4(x[i], quarter(i + 16), 2), quarter(i + 24), 3);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // pairs of columns 0..3 in y[0..3], of 4..7 in y[4..7]
    y[i] = _mm512_unpacklo_epi16(x[2 * i], x[2 * i + 1]);
    y[i + 4] = _mm512_unpackhi_epi16(x[2 * i], x[2 * i + 1]);
  }
  if (sums) {
    const U ones = U{} + 0x3f803f80u;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i / 4] = dot_pairs(sums[i / 4], (U)y[i], ones);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = _mm512_unpacklo_epi32(y[2 * i], y[2 * i + 1]);
    x[2 * i + 1] = _mm512_unpackhi_epi32(y[2 * i], y[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const V first = x[i / 2 * 4 + i % 2], second = x[i / 2 * 4 + i % 2 + 2];
    _mm512_storeu_si512(out + (2 * i) * tile_side, _mm512_unpacklo_epi64(first, second));
    _mm512_storeu_si512(out + (2 * i + 1) * tile_side, _mm512_unpackhi_epi64(first, second));
  }
}

/// A's tiles lie one behind the other, a step of k after the other, each as 32 rows of 16 words.
Bf16Tiles pack_columns_as_tiles(int64_t m, int64_t k, Matrix<const Bf16Bits> a, Word* tiles, float* row_sums) {
  constexpr int64_t deep = Tiles::unit * Tiles::depth, block = Tiles::rows * Tiles::unit;
  const int64_t words = words_of<Tiles>(k);
  Word* out = tiles;
  for (int64_t i = 0; i < m; i += Tiles::rows) {
    const int64_t rows = least(Tiles::rows, m - i);
    F sums[Tiles::rows / 8][2] = {};
    for (int64_t p = 0; p < k; p += deep, out += block) {
      const Bf16Bits* in = a.data + i + p * a.col;
      int64_t ld = a.col;
      Bf16Bits edge[deep * Tiles::rows];
      if (rows < Tiles::rows || k - p < deep) {
        std::memset(edge, 0, sizeof edge);
        for (int64_t q = 0; q < least(deep, k - p); ++q)
          std::memcpy(edge + q * Tiles::rows, in + q * ld, static_cast<std::size_t>(rows) * sizeof *in);
        in = edge, ld = Tiles::rows;
      }
      for (int g = 0; g < Tiles::rows / 8; ++g)
        transpose_columns(in + g * 8, ld, out + g * 8 * tile_side, row_sums ? sums[g] : nullptr);
    }
    if (row_sums)
      for (int64_t r = 0; r < rows; ++r)
        for (int q = 0; q < 4; ++q) row_sums[i + r] += sums[r / 8][r % 8 / 4][q * 4 + r % 4];
  }
  return {tiles, Tiles::rows * words, Tiles::unit, block};
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
