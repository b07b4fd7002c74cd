// Operands of a product as words.
#pragma once

#include "backends/cpu/kernels/bf16/forms.h"
#include "backends/cpu/kernels/prefetcher.h"
#include "backends/cpu/kernels/vmath.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// n elements as floats, n of any size: those from n on are zero.
template <class T>
NORMA_INLINE F load_most(const T* p, int64_t n) {
  return n >= width ? load(p) : n > 0 ? load_n(p, static_cast<int>(n)) : F{};
}

/// B with dense rows, line by line of words through all panels: memory is read in its order.
template <class Form, class T, bool through_gelu>
NORMA_INLINE void pack_dense_rows(int64_t k, int64_t n, Matrix<const T> b, Word* panels, int64_t panel_step) {
  constexpr int depth = Form::depth, count = depth * Form::vectors;
  constexpr bool rounded = sizeof(T) == sizeof(Bf16Bits) && !through_gelu;
  constexpr int64_t ahead = 8;  // rows
  for (int64_t p = 0; p < words_of<Form>(k) * depth; p += depth, panels += columns<Form>) {
    Word* out = panels;
    for (int64_t j = 0; j < n; j += columns<Form>, out += panel_step) {
      if (sizeof(T) == sizeof(Bf16Bits))
        each<depth>([&](int d) { __builtin_prefetch(b.data + (p + ahead + d) * b.row + j); });
      F x[count];  // row d, vector v at v * depth + d
      each<count>([&](int i) {
        const int64_t row = p + i % depth, column = j + i / depth * width;
        x[i] = row < k ? load_most(b.data + row * b.row + column, n - column) : F{};
      });
      if (through_gelu) gelu<gelu_terms_for_bf16>(x);
      each<Form::vectors>([&](int v) {
        U bits[depth];
        each<depth>([&](int d) { bits[d] = rounded ? (U)x[v * depth + d] >> 16 : round_bits(x[v * depth + d]); });
        store_words(out + v * width, Form::join(bits));
      });
    }
  }
}

/// One panel of B whose columns are dense: W^T, in squares of words. The columns that come next are asked for in their order.
template <class Form>
NORMA_INLINE void pack_panel_columns(int64_t k, int64_t n, Matrix<const float> b, Word* out) {
  const int64_t words = words_of<Form>(k);
  for (int64_t j = 0; j < columns<Form>; j += width) {
    Prefetcher next(Matrix<const float>{b.data + (j + width) * b.col, 1, b.col}, k, width, (words + width - 1) / width);
    for (int64_t w = 0; w < words; w += width) {
      next.turn();
      U square[width];
#pragma GCC unroll 16
      for (int64_t r = 0; r < width; ++r) {
        const int64_t p = w * Form::depth, count = j + r < n ? k - p : 0;
        const float* column = b.data + (j + r) * b.col + p;
        F x[Form::depth];
        each<Form::depth>([&](int d) { x[d] = load_most(column + d * width, count - d * width); });
        square[r] = Form::round(x);
      }
      transpose(square);
      for (int64_t r = 0; r < least(width, words - w); ++r) store_words(out + (w + r) * columns<Form> + j, square[r]);
    }
  }
}

template <class Form>
void pack_weight(int64_t k, int64_t n, Matrix<const float> b, Word* panels, int64_t panel_step) {
  if (b.col == 1) return pack_dense_rows<Form, float, false>(k, n, b, panels, panel_step);
  for (int64_t j = 0; j < n; j += columns<Form>, panels += panel_step)
    pack_panel_columns<Form>(k, n - j, {b.data + j * b.col, b.row, b.col}, panels);
}

template <class Form>
void pack_activation(int64_t k, int64_t n, Matrix<const Bf16Bits> b, bool through_gelu, Word* panels, int64_t panel_step) {
  if (through_gelu)
    pack_dense_rows<Form, Bf16Bits, true>(k, n, b, panels, panel_step);
  else
    pack_dense_rows<Form, Bf16Bits, false>(k, n, b, panels, panel_step);
}

template <class Form>
void pack_rows(int64_t m, int64_t k, Matrix<const Bf16Bits> a, Word* rows) {
  const int64_t words = words_of<Form>(k);
  for (int64_t i = 0; i < m; ++i, rows += words) {
    const Bf16Bits* in = a.data + i * a.row;
    if (Form::depth == 2) {  // the first of a pair is the lower half: rows stay as they are
      for (int64_t w = k / 2; w < words; ++w) rows[w] = 0;
      std::memcpy(rows, in, static_cast<std::size_t>(k) * sizeof *in);
      continue;
    }
    int64_t p = 0;
    for (; p + width <= k; p += width) store_words(rows + p, (U)load(in + p));
    for (; p < k; ++p) rows[p] = static_cast<Word>(in[p]) << 16;
  }
}

#if defined(__AVX512F__)
constexpr int64_t wide = 3 * width;  // columns: eight tiles of six

/// Six words from word `first` of low and high on; `most`: whatever follows may be overwritten.
template <int first>
NORMA_INLINE void store_six(Word* to, U low, U high, bool most) {
  const __m256i six = _mm512_castsi512_si256(_mm512_alignr_epi32((__m512i)high, (__m512i)low, first));
  most ? _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), six) : _mm256_mask_storeu_epi32(to, 0x3f, six);
}
/// `wide` columns of A, row by row in the order of memory, to eight tiles; the sums of the columns are added to row_sums unless null.
template <class Form>
NORMA_INLINE void pack_wide_columns(int64_t k, const Bf16Bits* in, int64_t row, Word* tiles, int64_t tile, float* row_sums) {
  constexpr int64_t ahead = 16;  // rows
  F sums[3] = {};
  for (int64_t p = 0; p < k; p += 2, in += 2 * row, tiles += Form::rows) {
    each<4>([&](int i) { __builtin_prefetch(in + (ahead + i / 2) * row + i % 2 * (wide - 1)); });
    U w[3];
    each<3>([&](int v) {
      const Bf16Bits* x = in + v * width;
      const U bits[2] = {(U)load(x) >> 16, p + 1 < k ? (U)load(x + row) >> 16 : U{}};
      w[v] = Form::join(bits);
      sums[v] = dot_pairs(sums[v], w[v], U{} + 0x3f803f80u);  // with ones
    });
    const bool most = p + 2 < k;
    store_six<0>(tiles, w[0], w[1], most);
    store_six<6>(tiles + tile, w[0], w[1], most);
    store_six<12>(tiles + 2 * tile, w[0], w[1], most);
    store_six<2>(tiles + 3 * tile, w[1], w[2], most);
    store_six<8>(tiles + 4 * tile, w[1], w[2], most);
    store_six<14>(tiles + 5 * tile, w[1], w[2], most);
    store_six<4>(tiles + 6 * tile, w[2], w[2], most);
    store_six<10>(tiles + 7 * tile, w[2], w[2], most);
  }
  if (row_sums) each<3>([&](int v) { store(row_sums + v * width, load(row_sums + v * width) + sums[v]); });
}
#endif

/// Whole registers are written where only Form::rows words are wanted: the next line overwrites the rest.
template <class Form>
Bf16Tiles pack_columns(int64_t m, int64_t k, Matrix<const Bf16Bits> a, Word* tiles, float* row_sums) {
  constexpr int rows = Form::rows;
  static_assert(width <= 16 && rows <= 16);
  const int64_t words = words_of<Form>(k);
  int64_t i = 0;
#if defined(__AVX512F__)
  constexpr bool by_pairs = Form::depth == 2 && rows == 6;
  if constexpr (by_pairs)
    for (; i + wide <= m; i += wide) pack_wide_columns<Form>(k, a.data + i, a.col, tiles + i * words, rows * words, row_sums ? row_sums + i : nullptr);
#endif
  for (; i < m; i += rows) {
    Word* out = tiles + i * words;
    const Bf16Bits* in = a.data + i;
    constexpr int registers = (rows + width - 1) / width;
    F sums[registers] = {};
    for (int64_t p = 0; p < k; p += Form::depth, out += rows) {
      for (int v = 0; v < registers; ++v) {
        U bits[Form::depth] = {};
        for (int d = 0; d < Form::depth && p + d < k; ++d) {
          const F x = load_most(in + (p + d) * a.col + v * width, m - i - v * width);
#if defined(__AVX512F__)
          if constexpr (!by_pairs)
#endif
            sums[v] += x;
          bits[d] = (U)x >> 16;
        }
        const U w = Form::join(bits);
#if defined(__AVX512F__)
        // As pack_wide_columns sums: which columns are left over follows from the number of threads, and their bits must not.
        if constexpr (by_pairs) sums[v] = dot_pairs(sums[v], w, U{} + 0x3f803f80u);
#endif
        store_words(out + v * width, w);
      }
    }
    if (row_sums)
      for (int64_t r = 0; r < least(rows, m - i); ++r) row_sums[i + r] += sums[r / width][r % width];
  }
  return {tiles, rows * words, 1, rows};
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
