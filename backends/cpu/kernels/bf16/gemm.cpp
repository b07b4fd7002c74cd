// Micro-tiles and packing of bf16 products. Both forms of a packed operand run through one source: what differs is a word, how it
// is made of elements (join) and how two of them are multiplied (add).
#include <utility>

#include "backends/cpu/gemm_bf16_kernels.h"
#include "backends/cpu/kernels/bf16/registers.h"
#include "backends/cpu/kernels/vmath.h"

namespace norma::cpu::NORMA_ISA {
namespace {

using std::int64_t;

// As many accumulators as leave registers for the vectors of B and one element of A: see kernels/gemm.cpp.
#if defined(__AVX512F__)
constexpr int tile_rows = 8, tile_vectors = 3;
#elif defined(__AVX2__)
constexpr int tile_rows = 6, tile_vectors = 2;
#elif defined(__aarch64__)
constexpr int tile_rows = 6, tile_vectors = 4;
#else
constexpr int tile_rows = 4, tile_vectors = 2;
#endif
constexpr int width = lanes<float>, tile_columns = tile_vectors * width;

/// A word is a float.
struct Widened {
  static constexpr int depth = 1;
  /// Elements as the lower halves of lanes, one for each of `depth`.
  static NORMA_INLINE U join(const U (&bits)[1]) { return bits[0] << 16; }
  static NORMA_INLINE F add(F sum, U a, U b) { return fma((F)a, (F)b, sum); }
};
/// A word is two elements of k.
struct Pairs {
  static constexpr int depth = 2;
  static NORMA_INLINE U join(const U (&bits)[2]) { return bits[0] | (bits[1] << 16); }
  static NORMA_INLINE F add(F sum, U a, U b) { return dot_pairs(sum, a, b); }
};

NORMA_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
template <class Form>
NORMA_INLINE int64_t words_of(int64_t k) {
  return (k + Form::depth - 1) / Form::depth;
}
NORMA_INLINE U load_words(const Word* p) {
  U u;
  std::memcpy(&u, p, sizeof u);
  return u;
}
NORMA_INLINE void store_words(Word* p, U u) { std::memcpy(p, &u, sizeof u); }
template <class Form>
NORMA_INLINE Word word_of(const Bf16Bits* p) {  // one word from elements side by side
  return Form::depth == 1 ? static_cast<Word>(*p) << 16 : static_cast<Word>(p[0]) | static_cast<Word>(p[1]) << 16;
}
/// MR rows by one panel.
template <class Form, int MR>
void tile(int64_t words, const Word* a, int64_t row, int64_t col, const Word* b, float* c, int64_t ldc, bool accumulate) {
  F sum[MR][tile_vectors];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < tile_vectors; ++v) sum[i][v] = F{};
#pragma GCC unroll 4
  for (; words > 0; --words) {
    U x[tile_vectors];
#pragma GCC unroll 16
    for (int v = 0; v < tile_vectors; ++v) x[v] = load_words(b + v * width);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const U y = U{} + a[i * row];
#pragma GCC unroll 16
      for (int v = 0; v < tile_vectors; ++v) sum[i][v] = Form::add(sum[i][v], y, x[v]);
    }
    a += col;
    b += tile_columns;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < tile_vectors; ++v) {
      float* p = c + i * ldc + v * width;
      store(p, accumulate ? sum[i][v] + load(p) : sum[i][v]);
    }
}

using TileFunction = void (*)(int64_t, const Word*, int64_t, int64_t, const Word*, float*, int64_t, bool);
template <class Form, int... row_counts>
TileFunction tile_of(int rows, std::integer_sequence<int, row_counts...>) {
  constexpr TileFunction functions[] = {tile<Form, row_counts + 1>...};
  return functions[rows - 1];
}

template <class Form>
void multiply(int64_t m, int64_t words, Bf16Tiles a, const Word* panel, float* sums, int64_t ld_sums, bool accumulate) {
  int64_t i = 0;
  const Word* from = a.data;
  for (; i + tile_rows <= m; i += tile_rows, from += a.tile)
    tile<Form, tile_rows>(words, from, a.row, a.col, panel, sums + i * ld_sums, ld_sums, accumulate);
  if (i < m)
    tile_of<Form>(static_cast<int>(m - i), std::make_integer_sequence<int, tile_rows>{})(
        words, from, a.row, a.col, panel, sums + i * ld_sums, ld_sums, accumulate);
}

/// R rows of V vectors, side by side; n < width elements of one vector where not `whole`.
template <int R, int V, bool whole>
NORMA_INLINE void finish_group(int n, const float* sums, int64_t ld_sums, Bf16Bits* c, int64_t ldc, const Bf16Epilogue& e,
                               int64_t offset, const float* bias) {
  constexpr int count = R * V;
  const auto at = [](int64_t ld, int i) { return i / V * ld + i % V * width; };
  const auto get = [n](const auto* p) { return whole ? load(p) : load_n(p, n); };
  const auto put = [n](Bf16Bits* p, F v) { whole ? store(p, v) : store_n(p, v, n); };
  F x[count];
  each<count>([&](int i) { x[i] = load(sums + at(ld_sums, i)); });
  if (bias) each<count>([&](int i) { x[i] += get(bias + i % V * width); });
  if (e.pre) each<count>([&](int i) { put(e.pre + offset + at(e.ld, i), x[i]); });
  if (e.gelu) gelu(x);
  if (e.gelu_pre) {
    F slope[count];
    each<count>([&](int i) { slope[i] = get(e.gelu_pre + offset + at(e.ld, i)); });
    gelu_grad(slope);
    each<count>([&](int i) { x[i] *= slope[i]; });
  }
  if (e.residual) each<count>([&](int i) { x[i] += get(e.residual + offset + at(e.ld, i)); });
  each<count>([&](int i) { put(c + at(ldc, i), x[i]); });
}

void finish(int64_t m, int64_t n, const float* sums, int64_t ld_sums, Bf16Bits* c, int64_t ldc, const Bf16Epilogue& e) {
  int64_t i = 0;
  if (n == tile_columns)
    for (; i + 2 <= m; i += 2)
      finish_group<2, tile_vectors, true>(0, sums + i * ld_sums, ld_sums, c + i * ldc, ldc, e, i * e.ld, e.bias);
  for (; i < m; ++i) {
    for (int64_t j = 0; j < n; j += width) {
      const float* bias = e.bias ? e.bias + j : nullptr;
      if (j + width <= n)
        finish_group<1, 1, true>(0, sums + i * ld_sums + j, 0, c + i * ldc + j, 0, e, i * e.ld + j, bias);
      else
        finish_group<1, 1, false>(static_cast<int>(n - j), sums + i * ld_sums + j, 0, c + i * ldc + j, 0, e, i * e.ld + j,
                                  bias);
    }
  }
}

/// The elements of one row of a panel as rounded bits; columns from n on are zero.
template <class T>
NORMA_INLINE void row_bits(const T* row, int64_t n, bool through_gelu, U (&bits)[tile_vectors]) {
  F x[tile_vectors];
  each<tile_vectors>([&](int v) {
    const int64_t rest = n - v * width;
    x[v] = rest >= width ? load(row + v * width) : rest > 0 ? load_n(row + v * width, static_cast<int>(rest)) : F{};
  });
  if (through_gelu) gelu(x);
  each<tile_vectors>([&](int v) { bits[v] = round_bits(x[v]); });
}

/// One panel of B whose rows are dense.
template <class Form, class T>
NORMA_INLINE void pack_panel_rows(int64_t k, int64_t n, Matrix<const T> b, bool through_gelu, Word* out) {
  for (int64_t p = 0; p < k; p += Form::depth, out += tile_columns) {
    U bits[Form::depth][tile_vectors] = {};
    for (int d = 0; d < Form::depth && p + d < k; ++d) row_bits(b.data + (p + d) * b.row, n, through_gelu, bits[d]);
    for (int v = 0; v < tile_vectors; ++v) {
      U parts[Form::depth];
      for (int d = 0; d < Form::depth; ++d) parts[d] = bits[d][v];
      store_words(out + v * width, Form::join(parts));
    }
  }
}

/// One panel of B whose columns are dense: W^T.
template <class Form>
NORMA_INLINE void pack_panel_columns(int64_t k, int64_t n, Matrix<const float> b, Word* out) {
  constexpr int step = Form::depth * width;  // elements that become one vector of words
  for (int64_t j = 0; j < tile_columns; ++j) {
    const float* column = b.data + j * b.col;
    for (int64_t p = 0; p < k; p += step) {
      const int64_t count = j < n ? least(step, k - p) : 0;
      Bf16Bits bits[step] = {};
      for (int d = 0; d < Form::depth; ++d) {
        const int64_t rest = count - d * width;
        if (rest >= width)
          store(bits + d * width, load(column + p + d * width));
        else if (rest > 0)
          store_n(bits + d * width, load_n(column + p + d * width, static_cast<int>(rest)), static_cast<int>(rest));
      }
      Word* to = out + p / Form::depth * tile_columns + j;
      const int64_t words = least(width, words_of<Form>(k - p));
      for (int64_t w = 0; w < words; ++w) to[w * tile_columns] = word_of<Form>(bits + w * Form::depth);
    }
  }
}

template <class Form>
void pack_weight(int64_t k, int64_t n, Matrix<const float> b, Word* panels, int64_t panel_step) {
  for (int64_t j = 0; j < n; j += tile_columns, panels += panel_step) {
    const Matrix<const float> here{b.data + j * b.col, b.row, b.col};
    if (b.col == 1)
      pack_panel_rows<Form>(k, n - j, here, false, panels);
    else
      pack_panel_columns<Form>(k, n - j, here, panels);
  }
}

template <class Form>
void pack_activation(int64_t k, int64_t n, Matrix<const Bf16Bits> b, bool through_gelu, Word* panels, int64_t panel_step) {
  for (int64_t j = 0; j < n; j += tile_columns, panels += panel_step) {
    const Matrix<const Bf16Bits> here{b.data + j, b.row, 1};
    if (through_gelu)
      pack_panel_rows<Form>(k, n - j, here, true, panels);
    else
      pack_panel_rows<Form>(k, n - j, here, false, panels);
  }
}

template <class Form>
void pack_rows(int64_t m, int64_t k, Matrix<const Bf16Bits> a, Word* rows) {
  const int64_t words = words_of<Form>(k);
  for (int64_t i = 0; i < m; ++i, rows += words) {
    const Bf16Bits* in = a.data + i * a.row;
    if (Form::depth == 2) {
      if (k > 0) rows[words - 1] = 0;
      std::memcpy(rows, in, static_cast<std::size_t>(k) * sizeof *in);  // the first of a pair is the lower half
      continue;
    }
    int64_t p = 0;
    for (; p + width <= k; p += width) store_words(rows + p, (U)load(in + p));
    for (; p < k; ++p) rows[p] = word_of<Widened>(in + p);
  }
}

/// Whole registers are written where only mr words are wanted: the next line overwrites the rest.
template <class Form>
void pack_columns(int64_t m, int64_t k, Matrix<const Bf16Bits> a, Word* tiles, float* row_sums) {
  static_assert(width <= 16 && tile_rows <= 16);
  const int64_t words = words_of<Form>(k);
  for (int64_t i = 0; i < m; i += tile_rows) {
    Word* out = tiles + i * words;
    const Bf16Bits* in = a.data + i;
    const int64_t rows = least(tile_rows, m - i);
    constexpr int registers = (tile_rows + width - 1) / width;
    F sums[registers] = {};
    for (int64_t p = 0; p < k; p += Form::depth, out += tile_rows) {
      for (int v = 0; v < registers; ++v) {
        U bits[Form::depth] = {};
        for (int d = 0; d < Form::depth && p + d < k; ++d) {
          const Bf16Bits* line = in + (p + d) * a.col + v * width;
          const int64_t rest = m - i - v * width;
          const F x = rest >= width ? load(line) : rest > 0 ? load_n(line, static_cast<int>(rest)) : F{};
          sums[v] += x;
          bits[d] = (U)x >> 16;
        }
        store_words(out + v * width, Form::join(bits));
      }
    }
    if (row_sums)
      for (int64_t r = 0; r < rows; ++r) row_sums[i + r] += sums[r / width][r % width];
  }
}

void add_up(int64_t count, int64_t size, const float* parts, int64_t step, float* out) {
  int64_t i = 0;
  for (; i + width <= size; i += width) {
    F x = load(parts + i);
    for (int64_t p = 1; p < count; ++p) x += load(parts + p * step + i);
    store(out + i, x);
  }
  for (; i < size; ++i) {
    float x = parts[i];
    for (int64_t p = 1; p < count; ++p) x += parts[p * step + i];
    out[i] = x;
  }
}

template <class Form>
constexpr GemmBf16Table table = {tile_rows,       tile_columns,    Form::depth,        pack_weight<Form>, pack_activation<Form>,
                                 pack_rows<Form>, pack_columns<Form>, multiply<Form>, finish,            add_up};

#if defined(__AVX512BF16__)
constexpr Bf16Form faster = Bf16Form::pairs;
#else
constexpr Bf16Form faster = Bf16Form::widened;
#endif

}  // namespace

const GemmBf16Kernels gemm_bf16_kernels = {table<Widened>, table<Pairs>, faster};

}  // namespace norma::cpu::NORMA_ISA
