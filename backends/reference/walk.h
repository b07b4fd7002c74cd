// Walking over all index tuples of a shape, and the elements at them.
#pragma once

#include <utility>

#include "backends/common/convert.h"
#include "core/tensor.h"

namespace norma::reference {

using Tuple = Strides;  // one index per axis

/// f(tuple) for every index tuple, in row-major order. A 0-d shape has one; an empty one none.
template <class F>
void each(const Shape& shape, F&& f) {
  Tuple index{};
  for (Index left = shape.numel(); left > 0; --left) {
    f(std::as_const(index));
    for (int axis = shape.rank() - 1; axis >= 0 && ++index[axis] == shape[axis]; --axis) index[axis] = 0;
  }
}

/// Where in a view's memory the element at an index tuple lies.
inline Index offset(const View& view, const Tuple& index) {
  Index sum = 0;
  for (int axis = 0; axis < view.layout.rank(); ++axis) sum += index[axis] * view.layout.stride(axis);
  return sum;
}
/// The element itself.
template <class T>
T& at(const View& view, const Tuple& index) {
  return view.as<T>()[offset(view, index)];
}

inline Tuple with(Tuple index, int axis, Index value) {
  index[axis] = value;
  return index;
}

/// The elements of a view along one axis, beside an index tuple.
template <class T>
struct Line {
  T* data;
  Index first, step;
  T& operator[](Index i) const { return data[first + i * step]; }
};
template <class T>
Line<T> line(const View& view, const Tuple& index, int axis) {
  return {view.as<T>(), offset(view, with(index, axis, 0)), view.layout.stride(axis)};
}

/// f(T{}) with a value of the view's element type.
template <class F>
void typed(const View& view, F&& f) {
  visit_dtype(view.dtype, [&](auto tag) { f(typename decltype(tag)::type{}); });
}

}  // namespace norma::reference
