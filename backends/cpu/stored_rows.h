// Rows of elements as they are stored, and as they are computed with: for what reads images of any layout.
#pragma once

#include <algorithm>
#include <type_traits>

#include "backends/common/convert.h"
#include "backends/cpu/bf16_rows.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace norma::cpu {

/// n elements `step` apart, made of and into dense rows of the compute type.
template <class C, class T>
void read_row(Index n, const T* from, Index step, C* to) {
  if constexpr (std::is_same_v<T, C>) {
    if (step == 1) return std::copy_n(from, n, to), void();
  } else if constexpr (std::is_same_v<T, bf16>) {
    if (step == 1) return widen_rows(1, n, from, n, to);
  }
  for (Index i = 0; i < n; ++i) to[i] = convert<C>(from[i * step]);
}
template <class C, class T>
void write_row(Index n, const C* from, T* to, Index step) {
  if constexpr (std::is_same_v<T, C>) {
    if (step == 1) return std::copy_n(from, n, to), void();
  } else if constexpr (std::is_same_v<T, bf16>) {
    if (step == 1) return narrow_rows(1, n, from, to, n);
  }
  for (Index i = 0; i < n; ++i) to[i * step] = convert<T>(from[i]);
}

/// body(stored type, computed type) of a floating dtype.
template <class Body>
void with_types(DType dtype, Body&& body) {
  if (dtype == DType::bf16) return body(bf16{}, float{});
  if (dtype == DType::f32) return body(float{}, float{});
  body(double{}, double{});
}

}  // namespace norma::cpu
