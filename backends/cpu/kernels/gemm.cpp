// The micro-tiles of matrix products, and the packing that feeds them. One template serves float and double and every
// instruction set; the accumulators live in registers through the whole loop over k.
#include <utility>

#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/kernels/micro_tile.h"
#include "backends/cpu/kernels/prefetcher.h"
#include "backends/cpu/kernels/result_tiles.h"
#include "backends/cpu/kernels/thin_product.h"
#include "backends/cpu/kernels/vmath.h"
#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {
namespace {

using std::int64_t;

template <class T>
constexpr int tile_columns = tile_vectors* lanes<T>;

/// One vector of finished sums: n elements of it when `partial`.
template <class T, bool partial>
NORMA_INLINE void finish_vector(Vec<T> x, T* c, bool accumulate, const Epilogue<T>* e, int64_t i, int64_t j,
                                int n) {
  const auto get = [n](const T* p) { return partial ? load_n(p, n) : load(p); };
  const auto put = [n](T* p, Vec<T> v) { partial ? store_n(p, v, n) : store(p, v); };
  if (accumulate) x += get(c);
  if (e) {
    const int64_t offset = i * e->ld + j;
    if (e->bias) x += get(e->bias + j);
    if (e->pre) put(e->pre + offset, x);
    if (e->gelu) x = gelu(x);
    if (e->gelu_pre) {
      const Vec<T> pre = get(e->gelu_pre + offset);
      x *= gelu_grad(pre);
      if (e->gelu_of_pre) put(e->gelu_of_pre + i * e->ld_of_gelu + j, gelu(pre));
    }
    if (e->residual) x += get(e->residual + offset);
  }
  put(c, x);
}

/// R rows of V vectors of finished sums, side by side.
template <class T, int R, int V>
NORMA_INLINE void finish_group(const T* sum, int64_t ld_sum, T* c, int64_t ldc, bool accumulate, const Epilogue<T>* e,
                               int64_t row, int64_t j) {
  constexpr int w = lanes<T>, count = R * V;
  const auto at = [](int64_t ld, int i) { return i / V * ld + i % V * w; };
  Vec<T> x[count];
  each<count>([&](int i) { x[i] = load(sum + at(ld_sum, i)); });
  if (accumulate) each<count>([&](int i) { x[i] += load(c + at(ldc, i)); });
  if (e) {
    const int64_t ld = e->ld, offset = row * ld + j;
    if (e->bias) each<count>([&](int i) { x[i] += load(e->bias + j + i % V * w); });
    if (e->pre) each<count>([&](int i) { stream(e->pre + offset + at(ld, i), x[i]); });  // for the backward pass
    if (e->gelu) gelu(x);
    if (e->gelu_pre) {
      Vec<T> pre[count], slope[count];
      each<count>([&](int i) { pre[i] = slope[i] = load(e->gelu_pre + offset + at(ld, i)); });
      if (e->gelu_of_pre) {
        gelu_with_grad(pre, slope);
        each<count>([&](int i) { store(e->gelu_of_pre + row * e->ld_of_gelu + j + at(e->ld_of_gelu, i), pre[i]); });
      } else {
        gelu_grad(slope);
      }
      each<count>([&](int i) { x[i] *= slope[i]; });
    }
    if (e->residual) each<count>([&](int i) { x[i] += load(e->residual + offset + at(ld, i)); });
  }
  each<count>([&](int i) { store(c + at(ldc, i), x[i]); });
}

template <int n>
constexpr std::integral_constant<int, n> number;

/// In groups of six registers, as wide as micro-tiles are, or as two registers where C is. Of 16 registers two at a time: more would be spilled
/// between the steps of a gelu, and a core finds work in the next ones just as well.
template <class T>
void finish(int64_t m, int64_t n, const T* sum, int64_t ld_sum, T* c, int64_t ldc, bool accumulate,
            const Epilogue<T>* e) {
  constexpr int w = lanes<T>, V = tile_vectors, narrow_rows = register_count == 32 ? 3 : 1;
  const auto group = [&](auto rows, auto vectors, int64_t i, int64_t j) {
    finish_group<T, rows(), vectors()>(sum + i * ld_sum + j, ld_sum, c + i * ldc + j, ldc, accumulate, e, i, j);
  };
  for (int64_t i = 0; i < m;) {
    if (n == 2 * w && i + narrow_rows <= m) {
      group(number<narrow_rows>, number<2>, i, 0);
      i += narrow_rows;
      continue;
    }
    const bool pair = i + 2 <= m;
    int64_t j = 0;
    if (pair)
      for (; j + V * w <= n; j += V * w) group(number<2>, number<V>, i, j);
    const int64_t grouped = j;
    for (const int64_t stop = i + 1 + pair; i < stop; ++i) {
      const T* from = sum + i * ld_sum;
      for (j = grouped; j + w <= n; j += w)
        finish_vector<T, false>(load(from + j), c + i * ldc + j, accumulate, e, i, j, w);
      if (const int rest = static_cast<int>(n - j))
        finish_vector<T, true>(load_n(from + j, rest), c + i * ldc + j, accumulate, e, i, j, rest);
    }
  }
}

/// finish() for those who call nothing else here: what it streamed is there when it returns.
template <class T>
void finish_alone(int64_t m, int64_t n, const T* sum, int64_t ld_sum, T* c, int64_t ldc, bool accumulate, const Epilogue<T>* e) {
  finish<T>(m, n, sum, ld_sum, c, ldc, accumulate, e);
  if (e && e->pre) end_stream();
}

/// Where a micro-tile's operands lie: A by rows or by columns, whose elements are neighbours along k or across it; B in panels that are packed,
/// or as dense rows. Strides that are known leave more of a core's instructions to the multiply-adds, which it lacks when it is shared.
template <bool by_rows, bool packed>
struct Layout {
  static constexpr bool a_by_rows = by_rows, b_packed = packed;
};

/// Micro-tiles below one another, and what they share: the panel of tile_columns columns, of which n are computed.
template <class T>
struct Column {
  int64_t k;
  const T* a;
  int64_t a_tile, a_line;  // a_line: from row to row, or from column to column
  const T* b;
  int64_t b_row, n;
  T* c;
  int64_t ldc;
  bool accumulate;
  const Epilogue<T>* e;  // null: none; for the first tile, as are a, c and `wanted`
  Wanted<T, tile_columns<T>> wanted;

  Column below(int64_t tiles) const {
    Column x = *this;
    x.a += tiles * a_tile, x.c += tiles * tile_rows * ldc, x.wanted = wanted.below(tiles * tile_rows);
    return x;
  }
};

/// `count` micro-tiles of MR rows and n <= NV registers of columns; `row`: of the first one, for the epilogue.
template <class T, class Operands, int MR, int NV = tile_vectors>
void tiles(int64_t count, const Column<T>& column, int64_t row, Prefetcher& next_rows, Prefetcher& next_panel) {
  constexpr int w = lanes<T>;
  const int64_t k = column.k, n = column.n, ldc = column.ldc, a_row = Operands::a_by_rows ? column.a_line : 1,
                a_col = Operands::a_by_rows ? 1 : column.a_line, b_row = Operands::b_packed ? tile_columns<T> : column.b_row;
  const Epilogue<T>* const e = column.e;
  // Two rows of C are asked for at a time, and k is cut at whole rounds of the loop, whose ends cost too.
  constexpr int turns = (MR + 1) / 2;
  const int64_t between = k / (turns + 1) / tile_depth * tile_depth;
  const T* a_tile = column.a;
  T* c = column.c;
  Wanted<T, tile_columns<T>> wanted = column.wanted;
  for (; count > 0; --count, row += MR, a_tile += column.a_tile, c += MR * ldc, wanted = wanted.below(MR)) {
    next_rows.turn(), next_panel.turn();
    const T *a = a_tile, *b = column.b;
    Vec<T> sum[MR][NV];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) sum[i][v] = Vec<T>{};
    for (int t = 0; t <= turns; ++t) {
      for (int r = 2 * t; r < MR && r < 2 * t + 2; ++r) wanted.turn(r);
      int64_t steps = t < turns ? between : k - turns * between;
#pragma GCC unroll tile_depth
      for (; steps > 0; --steps) {
        Vec<T> x[NV];
#pragma GCC unroll 16
        for (int v = 0; v < NV; ++v) x[v] = load(b + v * w);
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i) {
          const Vec<T> y = splat(a[i * a_row]);
#pragma GCC unroll 16
          for (int v = 0; v < NV; ++v) sum[i][v] = fma(y, x[v], sum[i][v]);
        }
        a += a_col;
        b += b_row;
      }
    }
    if (n == NV * w) {
      const auto each = [&](auto what) __attribute__((always_inline)) {
#pragma GCC unroll 16
        for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
          for (int v = 0; v < NV; ++v) what(sum[i][v], i, v * w);
      };
      if (column.accumulate) each([&](Vec<T>& x, int i, int j) { x += load(c + i * ldc + j); });
      if (e) {
        if (e->bias) each([&](Vec<T>& x, int, int j) { x += load(e->bias + j); });
        if (T* pre = e->pre) {  // for the backward pass
          pre += row * e->ld;
          each([&](Vec<T>& x, int i, int j) { stream(pre + i * e->ld + j, x); });
        }
        if (const T* residual = e->residual) {
          residual += row * e->ld;
          each([&](Vec<T>& x, int i, int j) { x += load(residual + i * e->ld + j); });
        }
      }
      each([&](Vec<T>& x, int i, int j) { store(c + i * ldc + j, x); });
      continue;
    }
    alignas(64) T buffer[MR * NV * w];
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
      for (int v = 0; v < NV; ++v) store(buffer + (i * NV + v) * w, sum[i][v]);
    Epilogue<T> here;
    if (e) here = at(*e, row, 0);
    finish<T>(MR, n, buffer, NV * w, c, ldc, column.accumulate, e ? &here : nullptr);
  }
}

template <class T>
using TilesFunction = void (*)(int64_t, const Column<T>&, int64_t, Prefetcher&, Prefetcher&);

template <class T, class Operands, int... row_counts>
TilesFunction<T> tiles_of(int64_t rows, Operands, std::integer_sequence<int, row_counts...>) {
  constexpr TilesFunction<T> functions[] = {tiles<T, Operands, row_counts + 1>...};
  return functions[rows - 1];
}

/// Whole tiles of a panel that has fewer columns than others.
template <class T, class Operands, int... vectors>
TilesFunction<T> narrow_tiles(int64_t width, Operands, std::integer_sequence<int, vectors...>) {
  constexpr TilesFunction<T> functions[] = {tiles<T, Operands, tile_rows, vectors + 1>...};
  return functions[(width - 1) / lanes<T>];
}

/// An epilogue with a gelu takes longer than some products: it is computed for a strip of C at once, nr columns wide, whose sums wait
/// in the first-level cache. In every tile, its beginning and its end would each leave the arithmetic units waiting.
constexpr int64_t strip_rows = 96 / tile_rows * tile_rows;

template <class T, class Operands>
void block_of(int64_t m, int64_t n, int64_t k, Tiles<T> a, Panels<T> b, T* c, int64_t ldc, bool accumulate,
              const Epilogue<T>* e, const Upcoming<T>& upcoming) {
  constexpr int nr = tile_columns<T>;
  const int64_t a_line = Operands::a_by_rows ? a.row : a.col;
  Prefetcher next(upcoming.a, upcoming.m, upcoming.k, (m + tile_rows - 1) / tile_rows * ((n + nr - 1) / nr));
  alignas(64) T sums[strip_rows * nr];
  const bool apart = e && (e->pre || e->gelu || e->gelu_pre);
  // What goes to memory goes tile by tile: all of a strip at once would wait for it.
  const bool pre_first = apart && e->pre && !accumulate;
  for (int64_t i0 = 0; i0 < m; i0 += strip_rows)
    for (int64_t j = 0; j < n; j += nr) {
      const T* panel = b.data + j / nr * b.panel;  // stays in the first-level cache while the rows of A pass by
      const int64_t end = least(m, i0 + strip_rows), width = least(nr, n - j);
      const int64_t padded = (width + lanes<T> - 1) / lanes<T> * lanes<T>;
      Prefetcher next_panel;
      if (b.far && i0 == 0 && j + nr < n) next_panel = Prefetcher(Matrix<const T>{panel + b.panel, b.row, 1}, k, nr, (end + tile_rows - 1) / tile_rows);
      Epilogue<T> here;
      if (e) here = at(*e, i0, j);
      T* const to = c + i0 * ldc + j;
      const Wanted<T, tile_columns<T>> wanted{to, here.gelu_pre ? here.gelu_pre : here.residual, ldc, here.ld, apart};
      const Epilogue<T> early{here.bias, here.pre, false, nullptr, nullptr, here.ld};
      Column<T> column{k, a.data + i0 / tile_rows * a.tile, a.tile, a_line, panel, b.row, width, to, ldc, accumulate, e ? &here : nullptr, wanted};
      if (apart) column.c = sums, column.ldc = nr, column.accumulate = false, column.n = pre_first ? width : padded, column.e = pre_first ? &early : nullptr;
      const int64_t whole = (end - i0) / tile_rows, rest = (end - i0) % tile_rows;
      narrow_tiles<T>(width, Operands{}, std::make_integer_sequence<int, tile_vectors>{})(whole, column, 0, next, next_panel);
      if (rest)
        tiles_of<T>(rest, Operands{}, std::make_integer_sequence<int, tile_rows>{})(1, column.below(whole), whole * tile_rows, next, next_panel);
      if (!apart) continue;
      if (pre_first) here.bias = nullptr, here.pre = nullptr;
      finish<T>(end - i0, width, sums, nr, to, ldc, accumulate, &here);
    }
  if (apart && e->pre) end_stream();
}

template <class T>
void block(int64_t m, int64_t n, int64_t k, Tiles<T> a, Panels<T> b, T* c, int64_t ldc, bool accumulate, const Epilogue<T>* e,
           const Upcoming<T>& upcoming) {
  const auto go = [&](auto operands) { block_of<T, decltype(operands)>(m, n, k, a, b, c, ldc, accumulate, e, upcoming); };
  const bool packed = b.row == tile_columns<T>;
  if (a.row == 1)
    packed ? go(Layout<false, true>{}) : go(Layout<false, false>{});
  else
    packed ? go(Layout<true, true>{}) : go(Layout<true, false>{});
}

/// W x W elements, W = lanes: out[j * out_row + i] = in[i * in_row + j].
template <class T>
NORMA_INLINE void transpose_square(const T* in, int64_t in_row, T* out, int64_t out_row) {
  constexpr int w = lanes<T>;
  Vec<T> x[w];
#pragma GCC unroll 16
  for (int i = 0; i < w; ++i) x[i] = load(in + i * in_row);
  transpose(x);
#pragma GCC unroll 16
  for (int i = 0; i < w; ++i) store(out + i * out_row, x[i]);
}

/// Packs columns [j, j + n) of one panel, n <= nr. Weights come from memory, each line whole but in an order that no prefetcher follows: what is
/// packed next is asked for in the order in which it lies there, into the second-level cache.
template <class T>
void pack_panel(int64_t k, int64_t n, Matrix<const T> b, T* out) {
  constexpr int w = lanes<T>, nr = tile_columns<T>;
  if (b.col == 1 && n == nr) {
    constexpr int64_t ahead = 48;
    for (int64_t p = 0; p < k; ++p)
#pragma GCC unroll 16
      for (int v = 0; v < tile_vectors; ++v) {
        const T* from = b.data + p * b.row + v * w;
        __builtin_prefetch(from + ahead * b.row, 0, 2);
        store(out + p * nr + v * w, load(from));
      }
    return;
  }
  const int64_t whole = b.row == 1 && n == nr ? k / w * w : 0;
  for (int v = 0; v < tile_vectors && whole > 0; ++v) {
    const T* from = b.data + v * w * b.col;
    Prefetcher next(Matrix<const T>{from + w * b.col, 1, b.col}, whole, w, whole / w);
    for (int64_t p = 0; p < whole; p += w) {
      next.turn();
      transpose_square(from + p, b.col, out + p * nr + v * w, nr);
    }
  }
  for (int64_t p = whole; p < k; ++p) {
    for (int64_t j = 0; j < n; ++j) out[p * nr + j] = b.data[p * b.row + j * b.col];
    for (int64_t j = n; j < nr; ++j) out[p * nr + j] = 0;
  }
}

template <class T>
void pack_b(int64_t k, int64_t n, Matrix<const T> b, bool through_gelu, T* panels) {
  constexpr int w = lanes<T>, nr = tile_columns<T>;
  for (int64_t j = 0; j < n; j += nr) {
    T* panel = panels + j * k;
    pack_panel<T>(k, least(nr, n - j), {b.data + j * b.col, b.row, b.col}, panel);
    if (through_gelu)  // of the padding too: gelu(0) = 0
      for (int64_t x = 0; x < k * nr; x += nr) {
        Vec<T> y[tile_vectors];
        each<tile_vectors>([&](int v) { y[v] = load(panel + x + v * w); });
        gelu(y);
        each<tile_vectors>([&](int v) { store(panel + x + v * w, y[v]); });
      }
  }
}

/// sums[i] += sum over k of a packed tile's row i: four interleaved sums, then their tree.
template <class T>
void add_lines(int64_t k, const T* packed, int64_t rows, T* sums) {
  constexpr int mr = tile_rows;
  T part[4][mr] = {};
  int64_t p = 0;
  for (; p + 4 <= k; p += 4)
    for (int q = 0; q < 4; ++q)
      for (int i = 0; i < mr; ++i) part[q][i] += packed[(p + q) * mr + i];
  for (; p < k; ++p)
    for (int i = 0; i < mr; ++i) part[0][i] += packed[p * mr + i];
  for (int64_t i = 0; i < rows; ++i) sums[i] += (part[0][i] + part[1][i]) + (part[2][i] + part[3][i]);
}

/// `count` tiles of tile_rows rows side by side, whose rows are A's columns as they lie: a line of A is touched once.
template <class T, int count>
NORMA_INLINE void pack_columns(int64_t k, const T* a, int64_t col, T* tiles) {
  constexpr int mr = tile_rows;
  for (int64_t p = 0; p < k; ++p)
#pragma GCC unroll 4
    for (int t = 0; t < count; ++t) std::memcpy(tiles + (t * k + p) * mr, a + p * col + t * mr, mr * sizeof(T));
}

template <class T>
void pack_a(int64_t m, int64_t k, Matrix<const T> a, T* tiles, T* row_sums) {
  constexpr int mr = tile_rows;
  const auto sum = [&](int64_t i) {
    if (row_sums) add_lines<T>(k, tiles + i * k, least(mr, m - i), row_sums + i);
  };
  int64_t i = 0;
  if (a.row == 1) {
    for (; i + 2 * mr <= m; i += 2 * mr) pack_columns<T, 2>(k, a.data + i, a.col, tiles + i * k), sum(i), sum(i + mr);
    for (; i + mr <= m; i += mr) pack_columns<T, 1>(k, a.data + i, a.col, tiles + i * k), sum(i);
  }
  for (; i < m; i += mr) {
    T* out = tiles + i * k;
    const T* in = a.data + i * a.row;
    const int64_t rows = least(mr, m - i);
    for (int64_t p = 0; p < k; ++p) {
      for (int64_t r = 0; r < rows; ++r) out[p * mr + r] = in[r * a.row + p * a.col];
      for (int64_t r = rows; r < mr; ++r) out[p * mr + r] = 0;
    }
    sum(i);
  }
}

template <class T>
void combine(int64_t count, int64_t size, const T* parts, int64_t step, T* out) {
  constexpr int w = lanes<T>;
  int64_t i = 0;
  for (; i + w <= size; i += w) {
    Vec<T> x = load(parts + i);
    for (int64_t p = 1; p < count; ++p) x += load(parts + p * step + i);
    store(out + i, x);
  }
  for (; i < size; ++i) {
    T x = parts[i];
    for (int64_t p = 1; p < count; ++p) x += parts[p * step + i];
    out[i] = x;
  }
}

template <class T>
void add_rows(int64_t m, int64_t n, const T* x, int64_t row, T* sums) {
  constexpr int w = lanes<T>;
  int64_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) {
    Vec<T> total[4];
    each<4>([&](int v) { total[v] = load(sums + j + v * w); });
    for (int64_t i = 0; i < m; ++i) each<4>([&](int v) { total[v] += load(x + i * row + j + v * w); });
    each<4>([&](int v) { store(sums + j + v * w, total[v]); });
  }
  for (; j < n; ++j)
    for (int64_t i = 0; i < m; ++i) sums[j] += x[i * row + j];
}

template <class T>
NORMA_INLINE T multiply_add(T a, T b, T c) {
#if defined(__FMA__) || defined(__aarch64__)
  if constexpr (sizeof(T) == 4)
    return __builtin_fmaf(a, b, c);
  else
    return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

/// One product whose rows of B are dense, by registers of columns.
template <class T>
void small_rows(int64_t m, int64_t n, int64_t k, const T* a, int64_t a_row, int64_t a_col, const T* b, int64_t b_row, T* c, int64_t ldc) {
  constexpr int w = lanes<T>;
  for (int64_t i = 0; i < m; ++i) {
    const T* x = a + i * a_row;
    const auto columns = [&](int64_t j, auto get, auto put) __attribute__((always_inline)) {
      Vec<T> sum = {};
      for (int64_t p = 0; p < k; ++p) sum = fma(splat(x[p * a_col]), get(b + p * b_row + j), sum);
      put(c + i * ldc + j, sum);
    };
    int64_t j = 0;
    for (; j + 4 * w <= n; j += 4 * w) {
      Vec<T> sum[4] = {};
      for (int64_t p = 0; p < k; ++p) each<4>([&](int v) { sum[v] = fma(splat(x[p * a_col]), load(b + p * b_row + j + v * w), sum[v]); });
      each<4>([&](int v) { store(c + i * ldc + j + v * w, sum[v]); });
    }
    for (; j + w <= n; j += w) columns(j, [](const T* p) { return load(p); }, [](T* p, Vec<T> v) { store(p, v); });
    if (const int rest = static_cast<int>(n - j))
      columns(j, [rest](const T* p) { return load_n(p, rest); }, [rest](T* p, Vec<T> v) { store_n(p, v, rest); });
  }
}

/// Several products take turns: the sum of one waits for its last multiply-add.
template <class T>
void small_products_of(int64_t count, const int64_t* a_offset, const int64_t* b_offset, const int64_t* c_offset, int64_t m, int64_t n, int64_t k,
                       Matrix<const T> a, Matrix<const T> b, T* c, int64_t ldc) {
  if (b.col == 1 && n >= lanes<T> / 2) {
    for (int64_t i = 0; i < count; ++i)
      small_rows<T>(m, n, k, a.data + a_offset[i], a.row, a.col, b.data + b_offset[i], b.row, c + c_offset[i], ldc);
    return;
  }
  constexpr int turns = 8;
  for (int64_t first = 0; first < count; first += turns) {
    const T *left[turns], *right[turns];
    T* out[turns];
    each<turns>([&](int t) {  // past the end, the last product again
      const int64_t i = least(first + t, count - 1);
      left[t] = a.data + a_offset[i], right[t] = b.data + b_offset[i], out[t] = c + c_offset[i];
    });
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        T sum[turns] = {};
        for (int64_t p = 0; p < k; ++p)
          each<turns>([&](int t) { sum[t] = multiply_add(left[t][i * a.row + p * a.col], right[t][p * b.row + j * b.col], sum[t]); });
        each<turns>([&](int t) { out[t][i * ldc + j] = sum[t]; });
      }
  }
}

template <class T>
void thin(int64_t m, int64_t n, int64_t k, Matrix<const T> a, Matrix<const T> b, T* c, int64_t ldc, bool accumulate, const Epilogue<T>* e) {
  constexpr int64_t most = 4 * lanes<T> > thin_columns<T> ? 4 * lanes<T> : thin_columns<T>;
  alignas(64) T sums[thin_rows * most];
  const int64_t strip = b.row == 1 ? thin_columns<T> : most;
  for (int64_t j = 0; j < n; j += strip) {
    const int64_t width = least(strip, n - j);
    b.row == 1 ? thin_by_columns<T>(m, width, k, a.data, a.row, b.data + j * b.col, b.col, sums, most)
               : small_rows<T>(m, width, k, a.data, a.row, a.col, b.data + j, b.row, sums, most);
    const Epilogue<T> here = e ? at(*e, 0, j) : Epilogue<T>();
    finish_alone<T>(m, width, sums, most, c + j, ldc, accumulate, e ? &here : nullptr);
  }
}

template <class T>
constexpr GemmTable<T> make_table() {
  return {tile_rows, tile_columns<T>, 16, false, pack_b<T>, pack_a<T>, block<T>, thin_rows, thin<T>, finish_alone<T>, combine<T>, add_rows<T>};
}

}  // namespace

const GemmKernels gemm_kernels = {make_table<float>(), make_table<double>()};
const SmallProducts small_products = {small_products_of<float>, small_products_of<double>};

}  // namespace norma::cpu::NORMA_ISA
