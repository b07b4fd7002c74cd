// Tensors as matrices, where strides allow it: the last axis is the columns, the axes before it follow on with one stride.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace norma {

/// A view [..., columns] as a matrix.
struct MatrixRows {
  Index rows = 1, columns = 0, row = 0, col = 1;  // row, col: from one to the next, in elements
};
inline std::optional<MatrixRows> as_rows(const View& x) {
  const int last = x.shape().rank() - 1;
  if (last < 0) return std::nullopt;
  MatrixRows r;
  r.columns = x.shape()[last];
  r.col = r.columns <= 1 ? 1 : x.layout.stride(last);
  for (int axis = last - 1; axis >= 0; --axis) {
    const Index size = x.shape()[axis];
    if (size == 1) continue;
    if (r.rows == 1)
      r.row = x.layout.stride(axis);
    else if (x.layout.stride(axis) != r.row * r.rows)
      return std::nullopt;
    r.rows *= size;
  }
  if (r.rows == 1) r.row = r.columns;
  return r;
}
/// The same where a row is dense; rows may lie anywhere, also upon one another.
inline std::optional<MatrixRows> dense_columns(const View& x) {
  const auto r = as_rows(x);
  return r && r->col == 1 ? r : std::nullopt;
}
/// And rows do not overlap: what products write and their epilogues read.
inline std::optional<MatrixRows> as_dense_rows(const View& x) {
  const auto r = dense_columns(x);
  return r && r->row >= r->columns ? r : std::nullopt;
}
inline bool dense_vector(const View& x) { return !x || x.shape()[-1] <= 1 || x.layout.stride(-1) == 1; }

}  // namespace norma
