// What fused verbs ask of the views and options they are given. Operands that are absent pass.
#pragma once

#include "backends/common/rows.h"
#include "core/backend.h"

namespace norma {

bool all_are(DType dtype, const auto&... views) { return ((!views || views.dtype == dtype) && ...); }
bool all_dense(const auto&... views) { return ((!views || views.layout.contiguous()) && ...); }
bool all_dense_rows(DType dtype, const auto&... views) { return ((!views || (views.dtype == dtype && as_dense_rows(views))) && ...); }
/// Whether the rows of x[B, H, tokens, width] are dense; the other axes may lie anywhere.
inline bool heads_have_dense_rows(const View& x) { return x.shape()[3] == 1 || x.layout.stride(3) == 1; }
/// Where head (b, h) of it begins.
template <class T>
T* head_of(const View& x, Index b, Index h) {
  return static_cast<T*>(x.data) + b * x.layout.stride(0) + h * x.layout.stride(1);
}

/// What kernels of attention are written for, whatever the function of the scores.
inline bool options_fit(const Attention& a) {
  if (!all_are(DType::f64, a.stats) || !all_dense(a.stats) || !all_are(DType::boolean, a.key_mask)) return false;
  if (a.scoring.normalize && a.scoring.kind != Scoring::Kind::polynomial) return false;
  return a.dropout >= 0 && a.dropout < 1;
}
/// Whether the forward pass left what the backward pass of rows that sum to one needs: out, and softmax's row_lse.
inline bool saved_rows_fit(const AttentionBackward& a) {
  const bool softmax = a.scoring.kind == Scoring::Kind::softmax;
  if (softmax && (!a.row_lse || a.row_lse.dtype != wide_of(a.q.dtype))) return false;
  return !(softmax || a.scoring.normalize) || (a.out && a.out.dtype == a.q.dtype && heads_have_dense_rows(a.out));
}

}  // namespace norma
