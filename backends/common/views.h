// What fused verbs ask of the views and options they are given. Operands that are absent (null) pass.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "core/backend.h"

namespace norma {

inline bool all_are(DType dtype, std::initializer_list<const View*> views) {
  return std::all_of(views.begin(), views.end(), [&](const View* v) { return !v || v->dtype == dtype; });
}
inline bool all_dense(std::initializer_list<const View*> views) {
  return std::all_of(views.begin(), views.end(), [](const View* v) { return !v || v->layout.contiguous(); });
}
/// Whether the rows of x[B, H, tokens, width] are dense; the other axes may lie anywhere.
inline bool heads_have_dense_rows(const View& x) { return x.shape()[3] == 1 || x.layout.stride(3) == 1; }
/// Where head (b, h) of it begins.
template <class T>
T* head_of(const View& x, Index b, Index h) {
  return static_cast<T*>(x.data) + b * x.layout.stride(0) + h * x.layout.stride(1);
}

/// What kernels of attention are written for, whatever the function of the scores.
inline bool options_fit(const Attention& a) {
  if (a.stats && (a.stats->dtype != DType::f64 || !a.stats->layout.contiguous())) return false;
  if (a.key_mask && a.key_mask->dtype != DType::boolean) return false;
  if (a.scoring.normalize && a.scoring.kind != Scoring::Kind::polynomial) return false;
  return a.dropout >= 0 && a.dropout < 1;
}
/// Whether the forward pass left what the backward pass of rows that sum to one needs: out, and softmax's row_lse.
inline bool saved_rows_fit(const AttentionBackward& a) {
  const bool softmax = a.scoring.kind == Scoring::Kind::softmax;
  if (softmax && (!a.row_lse.data || a.row_lse.dtype != wide_of(a.q.dtype))) return false;
  return !(softmax || a.scoring.normalize) || (a.out.data && a.out.dtype == a.q.dtype && heads_have_dense_rows(a.out));
}

}  // namespace norma
