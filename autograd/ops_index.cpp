// Indexing by tensors of i64. Bounds are checked on the device before anything is read or written.
#include "autograd/dispatch.h"

namespace norma {

namespace {

std::string axis_text(int axis, Index size) { return fmt::format("axis {} of size {}", axis, size); }

void check_index(std::string_view op, const Tensor& x, const Tensor& index, std::string_view what = "x") {
  check_present(op, x, what);
  check_dtype(op, "the index", index, DType::i64);
  check_same_device(op, x, index);
}

/// index has x's rank and is no larger than x on the other axes.
int check_gather(std::string_view op, const Tensor& x, int axis, const Tensor& index) {
  check_index(op, x, index);
  const int a = normalize_axis(op, axis, x.shape());
  bool fits = index.rank() == x.rank();
  for (int i = 0; fits && i < x.rank(); ++i) fits = i == a || index.shape()[i] <= x.shape()[i];
  if (!fits) fail("{}: index {} must have the rank of {} and not exceed it outside axis {}", op, index.shape(), x.shape(), a);
  check_indices(op, index, x.shape()[a], axis_text(a, x.shape()[a]));
  return a;
}

/// x without the elements that an index of `shape` cannot reach on the other axes: gather and scatter want equal sizes there.
View reachable(const Tensor& x, int axis, const Shape& shape) {
  Layout layout = x.layout();
  for (int i = 0; i < layout.rank(); ++i) {
    if (i != axis && layout.shape[i] != shape[i]) layout = slice(layout, i, 0, shape[i], 1);
  }
  return x.with_layout(layout).view();
}

Tensor index_select_unchecked(const Tensor& x, int a, const Tensor& index);

/// Zeros of `shape` into which the rows of x are added: the inverse of index_select.
Tensor index_add(const Tensor& x, const Shape& shape, int a, const Tensor& index) {
  Tensor y = zeros(shape, place_of(x));
  backend_of(x).index_add(x.view(), a, index.view(), y.view());
  return record(y, {x, index}, {"index_add", keep1, [a](const Ctx& c, const Tensor& g) -> Tensors {
                                  return {index_select_unchecked(g, a, c.saved(0)), Tensor{}};
                                }});
}

Tensor index_select_unchecked(const Tensor& x, int a, const Tensor& index) {
  Tensor y = empty(x.shape().with(a, index.numel()), place_of(x));
  backend_of(x).index_select(x.view(), a, index.view(), y.view());
  return record(y, {x, index}, {"index_select", keep1, [a, shape = x.shape()](const Ctx& c, const Tensor& g) -> Tensors {
                                  return {index_add(g, shape, a, c.saved(0)), Tensor{}};
                                }});
}

Tensor gather_unchecked(const Tensor& x, int a, const Tensor& index);

/// Zeros of `shape` to which the elements of x are added: the inverse of gather.
Tensor scatter_into_zeros(const Tensor& x, const Shape& shape, int a, const Tensor& index) {
  Tensor y = zeros(shape, place_of(x));
  backend_of(x).scatter_add(x.view(), a, index.view(), reachable(y, a, index.shape()));
  return record(y, {x, index}, {"scatter_add", keep1, [a](const Ctx& c, const Tensor& g) -> Tensors {
                                  return {gather_unchecked(g, a, c.saved(0)), Tensor{}};
                                }});
}

Tensor gather_unchecked(const Tensor& x, int a, const Tensor& index) {
  Tensor y = empty(index.shape(), place_of(x));
  backend_of(x).gather(reachable(x, a, index.shape()), a, index.view(), y.view());
  return record(y, {x, index}, {"gather", keep1, [a, shape = x.shape()](const Ctx& c, const Tensor& g) -> Tensors {
                                  return {scatter_into_zeros(g, shape, a, c.saved(0)), Tensor{}};
                                }});
}

}  // namespace

Tensor gather(const Tensor& x, int axis, const Tensor& index) {
  const int a = check_gather("gather", x, axis, index);
  return gather_unchecked(x, a, index);
}

Tensor scatter_add(const Tensor& x, int axis, const Tensor& index, const Tensor& source) {
  check_same_place("scatter_add", x, source);
  const int a = check_gather("scatter_add", x, axis, index);
  if (!(source.shape() == index.shape())) {
    fail("scatter_add: the source {} must have the shape of the index {}", source.shape(), index.shape());
  }
  Tensor y = copy_of(x);
  backend_of(x).scatter_add(source.view(), a, index.view(), reachable(y, a, index.shape()));
  return record(y, {x, index, source}, {"scatter_add", keep1, [a](const Ctx& c, const Tensor& g) -> Tensors {
                                          return {g, Tensor{}, c.needs(2) ? gather_unchecked(g, a, c.saved(0)) : Tensor{}};
                                        }});
}

Tensor index_select(const Tensor& x, int axis, const Tensor& index) {
  check_index("index_select", x, index);
  const int a = normalize_axis("index_select", axis, x.shape());
  if (index.rank() != 1) fail("index_select: the index must have one axis, got {}; flatten() it, and reshape() the result", index.shape());
  check_indices("index_select", index, x.shape()[a], axis_text(a, x.shape()[a]));
  return index_select_unchecked(x, a, index);
}

Tensor embedding(const Tensor& table, const Tensor& index) {
  check_index("embedding", table, index, "the table");
  if (table.rank() != 2) fail("embedding: the table must be [rows, width], got {}", table.shape());
  check_room("embedding", index.shape());
  check_indices("embedding", index, table.size(0), fmt::format("the table of {} rows", table.size(0)));
  Shape shape = index.shape();
  shape.append(table.size(1));
  return reshape(index_select_unchecked(table, 0, reshape(index, Shape{index.numel()})), shape);
}

Tensor one_hot(const Tensor& index, Index classes, DType dtype) {
  check_dtype("one_hot", "the index", index, DType::i64);
  check_room("one_hot", index.shape());
  check_indices("one_hot", index, classes, fmt::format("{} classes", classes));
  return cast(equal(unsqueeze(index, -1), arange(classes, place_of(index))), dtype);
}

}  // namespace norma
