// Products of bf16 by AMX, whose instruction multiplies 16 rows of words by 16 words of a panel. A panel of pairs lies as the instruction wants its right
// operand; rows of pairs, as they lie in memory, are its left one.
#pragma once

#include "backends/cpu/kernels/bf16/epilogue.h"
#include "backends/cpu/kernels/bf16/tile_registers.h"
#include "backends/cpu/kernels/bf16/turning.h"

#if defined(NORMA_AMX)
namespace norma::cpu::NORMA_ISA {
namespace {

/// Four tiles of sums, so that as many are on their way as the latency of one product needs; two tiles of A, two of B.
struct Tiles : Pairs {
  static constexpr int unit = 16, rows = 32, vectors = 2;
};
/// The epilogue of the strip before, pairs of rows in each of so many steps of k.
struct Finishing {
  const Bf16Strip& strip;
  int64_t share, next = 0;
  Finishing(const Bf16Strip& s, int64_t steps) : strip(s), share((s.m + 2 * steps - 1) / (2 * steps) * 2) {}
  NORMA_INLINE void step() {
    const int64_t stop = least(strip.m, next + share);
    if (next < stop) finish_rows<Tiles::vectors>(strip, next, stop);
    next = stop;
  }
};

/// Up to 32 rows by one panel, or, where `half`, up to 16. Rows are read and written in sixteens; `past`: A past the first-level cache, where
/// both operands do not fit, so that the panel stays.
template <bool half, bool past, class Aside>
void tile_block(int64_t steps, const Word* a, int64_t row, int64_t step, const Word* b, float* c, int64_t ldc,
                bool accumulate, Aside& aside) {
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
    aside.step();
    if (past)
      _tile_stream_loadd(4, a, a_bytes);
    else
      _tile_loadd(4, a, a_bytes);
    _tile_loadd(6, b, b_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + tile_side, b_bytes);
    _tile_dpbf16ps(1, 4, 7);
    if (half) continue;
    if (past)
      _tile_stream_loadd(5, a + tile_side * row, a_bytes);
    else
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

template <class Aside>
void multiply_tiles(int64_t m, int64_t words, const Bf16Tiles& a, const Word* panel, float* sums, int64_t ld_sums,
                    bool accumulate, Aside& aside) {
  const Word* rows = a.data;
  const int64_t steps = words / Tiles::unit;
  const bool past = steps > 8;
  for (int64_t i = 0; i < m; i += Tiles::rows, rows += a.tile, sums += Tiles::rows * ld_sums) {
    const bool half = m - i <= tile_side;
    const auto block = half ? past ? tile_block<true, true, Aside> : tile_block<true, false, Aside>
                            : past ? tile_block<false, true, Aside> : tile_block<false, false, Aside>;
    block(steps, rows, a.row, a.col, panel, sums, ld_sums, accumulate, aside);
  }
}
void multiply_tiles(int64_t m, int64_t words, const Bf16Tiles& a, const Word* panel, float* sums, int64_t ld_sums,
                    bool accumulate, const Bf16Strip* before) {
  const int64_t turns = (m + Tiles::rows - 1) / Tiles::rows * words / Tiles::unit;
  if (before && turns > 0) {
    Finishing finishing(*before, turns);
    multiply_tiles(m, words, a, panel, sums, ld_sums, accumulate, finishing);
  } else {
    NothingAside nothing;
    if (before) finish<Tiles::vectors>(*before);
    multiply_tiles(m, words, a, panel, sums, ld_sums, accumulate, nothing);
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
