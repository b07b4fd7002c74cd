// Tensors as matrices: how the products of linear layers read views of any rank.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace norma::cpu {

/// A view [..., columns] as a matrix: its leading axes follow on with one stride.
struct MatrixRows {
  Index rows = 1, columns, row = 0, col;
};

inline std::optional<MatrixRows> as_rows(const View& x) {
  MatrixRows r;
  r.columns = x.shape()[-1];
  r.col = r.columns == 1 ? 1 : x.layout.stride(-1);
  for (int i = x.shape().rank() - 1; i-- > 0;) {
    const Index size = x.shape()[i];
    if (size == 1) continue;
    if (r.rows == 1)
      r.row = x.layout.stride(i);
    else if (x.layout.stride(i) != r.row * r.rows)
      return std::nullopt;
    r.rows *= size;
  }
  if (r.rows == 1) r.row = r.columns;
  return r;
}

/// Row-major with dense columns and disjoint rows: what gemm writes and its epilogue reads.
inline std::optional<MatrixRows> as_dense_rows(const View& x) {
  const std::optional<MatrixRows> r = as_rows(x);
  if (!r || r->col != 1 || r->row < r->columns) return std::nullopt;
  return r;
}

inline bool dense_vector(const View* x) { return !x || x->shape()[-1] <= 1 || x->layout.stride(-1) == 1; }

}  // namespace norma::cpu
