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

/// The element of a view at an index tuple.
template <class T>
T& at(const View& view, const Tuple& index) {
  Index offset = 0;
  for (int axis = 0; axis < view.layout.rank(); ++axis) offset += index[axis] * view.layout.stride(axis);
  return view.as<T>()[offset];
}

inline Tuple with(Tuple index, int axis, Index value) {
  index[axis] = value;
  return index;
}

/// f(T{}) with a value of the view's element type.
template <class F>
void typed(const View& view, F&& f) {
  visit_dtype(view.dtype, [&](auto tag) { f(typename decltype(tag)::type{}); });
}

}  // namespace norma::reference
