// Into how many blocks a product's C is cut, beyond what its sizes ask for, so that every thread has one. The sums over k, and with them the bits, are
// the same however it is cut.
#pragma once

#include <cstdint>

namespace norma::cpu {

/// Doubles rows or columns, whichever leaves blocks of C[m, n] squarer, until there are `blocks`, or blocks are down to two micro-tiles [mr, nr] a side.
inline void cut_further(std::int64_t blocks, std::int64_t m, std::int64_t n, std::int64_t mr, std::int64_t nr, std::int64_t& rows, std::int64_t& columns) {
  while (rows * columns < blocks) {
    const bool can_rows = m >= 4 * mr * rows, can_columns = n >= 4 * nr * columns;
    if (!can_rows && !can_columns) break;
    (can_rows && (!can_columns || m * columns >= n * rows) ? rows : columns) *= 2;
  }
}

}  // namespace norma::cpu
