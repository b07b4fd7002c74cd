// How products are cut into blocks.
#pragma once

#include <algorithm>
#include <cstdint>

namespace norma::cpu {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t unit) { return ceil_div(a, unit) * unit; }
/// Where piece `i` of `count` of [0, size) begins, cut at multiples of `unit`.
inline std::int64_t cut(std::int64_t size, std::int64_t unit, std::int64_t count, std::int64_t i) {
  return std::min(size, ceil_div(size, unit) * i / count * unit);
}

/// Into how many blocks C is cut beyond what its sizes ask for, so that every thread has one: the sums over k, and with them the bits, are the same
/// however it is cut. Doubles rows or columns, whichever leaves blocks of C[m, n] squarer, until there are `blocks`, or blocks are down to two
/// micro-tiles [mr, nr] a side.
inline void cut_further(std::int64_t blocks, std::int64_t m, std::int64_t n, std::int64_t mr, std::int64_t nr, std::int64_t& rows, std::int64_t& columns) {
  while (rows * columns < blocks) {
    const bool can_rows = m >= 4 * mr * rows, can_columns = n >= 4 * nr * columns;
    if (!can_rows && !can_columns) break;
    (can_rows && (!can_columns || m * columns >= n * rows) ? rows : columns) *= 2;
  }
}

}  // namespace norma::cpu
