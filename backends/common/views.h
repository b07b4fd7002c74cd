// What fused verbs ask of the views they are given. Operands that are absent (null) pass.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "core/tensor.h"

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

}  // namespace norma
