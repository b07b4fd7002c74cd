// The product of two packed operands of bf16 (pairs.h) by dot products of pairs in vector registers, where there are no tiles.
#pragma once

#include "backends/cpu/kernels/bf16/pairs.h"
#include "backends/cpu/kernels/combine.h"

#if defined(__AVX512BF16__)
namespace norma::cpu::NORMA_ISA {
namespace {

/// Eight rows by three registers are as many sums as leave registers for what is multiplied; eight rows are half a square.
constexpr int pair_rows = 8, pair_vectors = 3;

/// The squares of one line, or of 16 columns, from step to step.
NORMA_INLINE const Word* square_at(Packed x, int64_t line) {
  return x.words + line / side * x.tile + line / tile_side % 2 * square;
}

/// c = A B (+ c where `add`): `rows` rows by `vectors` registers of columns, from `words` words of k on.
template <int rows, int vectors>
void pair_tile(int64_t words, const Word* a, const Word* const (&columns)[pair_vectors], float* c, int64_t ld, bool add) {
  F sum[rows][vectors];
  const Word* b[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) b[v] = columns[v];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sum[i][v] = F{};
  const auto multiply = [&](int w) __attribute__((always_inline)) {
    U x[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) x[v] = load_words(b[v] + w * tile_side);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const U y = U{} + a[i * tile_side + w];
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[i][v] = dot_pairs(sum[i][v], y, x[v]);
    }
  };
  for (; words >= tile_side; words -= tile_side, a += slice_words) {
#pragma GCC unroll 16
    for (int w = 0; w < tile_side; ++w) multiply(w);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) b[v] += slice_words;
  }
  for (int w = 0; w < words; ++w) multiply(w);
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      float* p = c + i * ld + v * width;
      store(p, add ? sum[i][v] + load(p) : sum[i][v]);
    }
}

using PairTile = void (*)(int64_t, const Word*, const Word* const (&)[pair_vectors], float*, int64_t, bool);
template <int vectors, int... row_counts>
PairTile pair_tile_of(int rows, std::integer_sequence<int, row_counts...>) {
  constexpr PairTile functions[] = {pair_tile<row_counts + 1, vectors>...};
  return functions[rows - 1];
}
NORMA_INLINE PairTile pair_tile_of(int rows, int64_t vectors) {
  constexpr std::make_integer_sequence<int, pair_rows> counts;
  return vectors == 3 ? pair_tile_of<3>(rows, counts) : vectors == 2 ? pair_tile_of<2>(rows, counts) : pair_tile_of<1>(rows, counts);
}

/// One column, by dot products of rows along k: a register of columns would be almost empty. `column`: its word of each word of k.
inline void pair_column(int64_t m, int64_t words, Packed a, const Word* column, float* to, int64_t ld, bool add) {
  static_assert(pair_rows == row_slots);
  constexpr int64_t most = 1024;  // words at a time
  alignas(64) Word along[most];
  for (int64_t from = 0; from == 0 || from < words; from += most, add = true) {  // once where k is 0: the sum of nothing
    const int64_t steps = (least(most, words - from) + tile_side - 1) / tile_side;
    for (int64_t w = 0; w < steps * tile_side; ++w) along[w] = column[(from + w) / tile_side * slice_words + w % tile_side * tile_side];
    for (int64_t i = 0; i < m; i += pair_rows) {
      const Word* rows = square_at(a, i) + i % tile_side * tile_side + from / tile_side * slice_words;
      F sum[pair_rows] = {};
      for (int64_t s = 0; s < steps; ++s) {
        const U y = load_words(along + s * tile_side);
        each<pair_rows>([&](int r) { sum[r] = dot_pairs(sum[r], load_words(rows + s * slice_words + r * tile_side), y); });
      }
      float total[pair_rows];
      combine_each(sum, total, Plus{});
      for (int64_t r = 0; r < least(pair_rows, m - i); ++r) {
        float* p = to + (i + r) * ld;
        F x{};
        x[0] = total[r];
        store(p, add ? x + load(p) : x);
      }
    }
  }
}

/// to[m, n] = A B (+ to where `add`), over the first k elements, written in whole registers.
inline void pair_product(int64_t m, int64_t n, int64_t k, Packed a, Packed b, float* to, int64_t ld, bool add) {
  constexpr int64_t most = 256 / 2;  // words: so many of some columns stay in the first-level cache while rows pass by
  const int64_t words = (k + 1) / 2;
  for (int64_t j = 0; j < n;) {
    if (n - j == 1) return pair_column(m, words, a, square_at(b, j) + j % tile_side, to + j, ld, add);
    const int64_t left = (n - j - (n % width == 1) + width - 1) / width, vectors = left == 4 ? 2 : least(left, pair_vectors);
    const PairTile whole = pair_tile_of(pair_rows, vectors);
    int64_t from = 0;
    do {
      const int64_t count = least(most, words - from), skipped = from / tile_side * slice_words;
      const Word* columns[pair_vectors] = {};
      for (int64_t v = 0; v < vectors; ++v) columns[v] = square_at(b, j + v * width) + skipped;
      for (int64_t i = 0; i < m; i += pair_rows) {
        const Word* rows = square_at(a, i) + i % tile_side * tile_side + skipped;
        const int64_t here = least(pair_rows, m - i);
        (here == pair_rows ? whole : pair_tile_of(static_cast<int>(here), vectors))(count, rows, columns, to + i * ld + j, ld, add || from > 0);
      }
      from += count;
    } while (from < words);
    j += vectors * width;
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
