// Products of a row or two, as of a token that is generated: B is read once, where it lies. Packed, all of it would be written and read again
// for a few multiply-adds an element.
#pragma once

#include <type_traits>

#include "backends/cpu/kernels/micro_tile.h"
#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// Most rows of A: their sums stay in registers beside a square of B.
constexpr int thin_rows = register_count == 32 ? 4 : 2;
/// How many columns of B are taken at a time: as many as a processor follows through memory.
template <class T>
constexpr int thin_columns = lanes<T> < 16 ? 16 : lanes<T>;

/// sums[R, thin_columns] = A[R, k] B[k, n], n <= thin_columns, each over k in order, as micro-tiles sum. Columns of B lie `col` apart, a column's
/// elements side by side; beyond n there are copies of the last column. Rows of sums lie `ld` apart.
template <class T, int R, bool whole>
void thin_by_columns(std::int64_t n, std::int64_t k, const T* a, std::int64_t a_row, const T* b, std::int64_t col, T* sums, std::int64_t ld) {
  constexpr int w = lanes<T>, vectors = thin_columns<T> / w;
  const auto column = [&](int j) { return b + (whole ? j : least(j, n - 1)) * col; };
  Vec<T> sum[vectors][R] = {};
  const auto square = [&](int v, std::int64_t p) __attribute__((always_inline)) {
    Vec<T> x[w];
#pragma GCC unroll 16
    for (int i = 0; i < w; ++i) x[i] = load(column(v * w + i) + p);
    transpose(x);
#pragma GCC unroll 16
    for (int q = 0; q < w; ++q)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[v][r] = fma(splat(a[r * a_row + p + q]), x[q], sum[v][r]);
  };
  // A line of memory is used up before the next columns': of columns a power of two apart few stay in the first cache.
  constexpr int line = 64 / static_cast<int>(sizeof(T));
  std::int64_t p = 0;
  for (; p + line <= k; p += line)
    for (int v = 0; v < vectors; ++v)
#pragma GCC unroll 4
      for (int q = 0; q < line; q += w) square(v, p + q);
  for (; p + w <= k; p += w)
    for (int v = 0; v < vectors; ++v) square(v, p);
  for (; p < k; ++p)
    for (int v = 0; v < vectors; ++v) {
      Vec<T> x{};
      for (int i = 0; i < w; ++i) x[i] = column(v * w + i)[p];
      for (int r = 0; r < R; ++r) sum[v][r] = fma(splat(a[r * a_row + p]), x, sum[v][r]);
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < vectors; ++v) store(sums + r * ld + v * w, sum[v][r]);
}

/// Of m rows, 1 <= m <= thin_rows.
template <class T>
void thin_by_columns(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t a_row, const T* b, std::int64_t col, T* sums, std::int64_t ld) {
  const auto of = [&](auto rows) {
    constexpr int R = decltype(rows)::value;
    n == thin_columns<T> ? thin_by_columns<T, R, true>(n, k, a, a_row, b, col, sums, ld) : thin_by_columns<T, R, false>(n, k, a, a_row, b, col, sums, ld);
  };
  if (m == 1) return of(std::integral_constant<int, 1>{});
  if (m == 2) return of(std::integral_constant<int, 2>{});
  if constexpr (thin_rows == 4) m == 3 ? of(std::integral_constant<int, 3>{}) : of(std::integral_constant<int, 4>{});
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
