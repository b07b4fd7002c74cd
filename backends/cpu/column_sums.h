// The gradient of a bias where no product gives it beside that of its weight.
#pragma once

#include <algorithm>

#include "backends/common/rows.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {

/// sums[j] = sum over the rows of x[., j], in T: blocks of rows side by side, then their sums in order.
template <class T, class Stored>
void sum_rows(const Stored* x, const MatrixRows& r, T* sums) {
  constexpr Index block = 256;
  const Index blocks = std::max<Index>(1, (r.rows + block - 1) / block);
  T* part = scratch<T>(Slot::column_sums, blocks * r.columns);
  parallel_tasks(blocks, [&](Index i) {
    T* mine = part + i * r.columns;
    std::fill_n(mine, r.columns, T{0});
    for (Index row = i * block; row < std::min(r.rows, (i + 1) * block); ++row)
      for (Index j = 0; j < r.columns; ++j) mine[j] += static_cast<T>(x[row * r.row + j * r.col]);
  });
  std::copy_n(part, r.columns, sums);
  for (Index i = 1; i < blocks; ++i)
    for (Index j = 0; j < r.columns; ++j) sums[j] += part[i * r.columns + j];
}

}  // namespace norma::cpu
