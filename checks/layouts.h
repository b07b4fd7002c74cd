// The same values in other memory, and cotangents: what the tests of ops vary beside the values.
#pragma once

#include <cmath>
#include <vector>

#include "autograd/ops.h"
#include "checks/draws.h"

namespace norma::checks {

/// The distance from 1 to the next number.
inline double eps_of(DType d) { return d == DType::f64 ? 0x1p-52 : d == DType::f32 ? 0x1p-23 : 0x1p-8; }

/// A cotangent without structure: its values depend on their position alone, and every floating dtype holds them exactly.
inline Tensor cotangent(const Tensor& y) {
  std::vector<double> v = drawn(y.numel(), {77, 0}, -0.3, 0.7);
  for (double& x : v) x = std::round(128 * x) / 128;
  return from_values(v, y.shape(), place_of(y));
}

/// The same values in other memory: `layout` is filled from x, with NaN (or 99) everywhere between.
inline Tensor laid_out(const Tensor& x, const Layout& layout, Index elements) {
  const Tensor base = full({elements}, is_floating(x.dtype()) ? std::nan("") : 99, place_of(x));
  const Tensor y = base.with_layout(layout);
  copy_into(y, x);
  return y;
}

inline Tensor stepped(const Tensor& x) {  // every second element, from the second on, of every axis
  Shape large = x.shape();
  for (int axis = 0; axis < x.rank(); ++axis) large.set(axis, 2 * x.size(axis) + 1);
  Layout layout(large);
  for (int axis = 0; axis < x.rank(); ++axis) layout = slice(layout, axis, 1, x.size(axis), 2);
  return laid_out(x, layout, large.numel());
}

inline Tensor reversed(const Tensor& x) {  // negative strides on every axis
  Layout layout(x.shape());
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (x.size(axis) > 0) layout = slice(layout, axis, x.size(axis) - 1, x.size(axis), -1);
  }
  return laid_out(x, layout, x.numel());
}

inline Tensor transposed(const Tensor& x) {  // axes in memory in the opposite order
  Shape opposite;
  std::vector<int> order;
  for (int axis = x.rank() - 1; axis >= 0; --axis) opposite.append(x.size(axis)), order.push_back(axis);
  return laid_out(x, permute(Layout(opposite), order), x.numel());
}

/// The first row everywhere, by stride 0 along the first axis longer than 1.
inline Tensor expanded(const Tensor& x) {
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (x.size(axis) > 1) return x.with_layout(expand(slice(x.layout(), axis, 0, 1, 1), x.shape()));
  }
  return x;
}

inline Tensor copied(const Tensor& x) { return laid_out(x, Layout(x.shape()), x.numel()); }

}  // namespace norma::checks
