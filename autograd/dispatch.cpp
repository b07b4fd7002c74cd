// Checks, allocation and backend calls shared by all ops.
#include "autograd/dispatch.h"

#include <utility>

#include "autograd/grad.h"

namespace norma {

namespace {

thread_local bool trusted = false;

}  // namespace

void check_present(std::string_view op, const Tensor& x, std::string_view what) {
  if (!x) fail("{}: {} is an empty Tensor handle", op, what);
}

void check_floating(std::string_view op, const Tensor& x, std::string_view what) {
  check_present(op, x, what);
  if (!is_floating(x.dtype())) fail("{}: needs a floating dtype, got {}; convert with cast()", op, x.dtype());
}

void check_dtype(std::string_view op, std::string_view what, const Tensor& x, DType expected) {
  check_present(op, x, what);
  if (x.dtype() != expected) fail("{}: {} must be {}, got {}; convert with cast()", op, what, expected, x.dtype());
}

void check_same_device(std::string_view op, const Tensor& a, const Tensor& b) {
  check_present(op, a);
  check_present(op, b);
  if (a.device() != b.device()) fail("{}: operands on {} and {}; move one with to()", op, name(a.device()), name(b.device()));
}

void check_same_place(std::string_view op, const Tensor& a, const Tensor& b) {
  check_same_device(op, a, b);
  if (a.dtype() != b.dtype()) fail("{}: dtypes {} and {} differ; convert with cast()", op, a.dtype(), b.dtype());
}

void check_room(std::string_view op, const Shape& shape) {
  if (shape.rank() == max_rank) fail("{}: {} has {} axes already, the most there can be; reshape() it to fewer", op, shape, max_rank);
}

int normalize_new_axis(std::string_view op, int axis, const Shape& shape) {
  check_room(op, shape);
  const int last = shape.rank();
  if (axis < -last - 1 || axis > last) fail("{}: axis {} out of range [{}, {}] for a new axis of shape {}", op, axis, -last - 1, last, shape);
  return axis < 0 ? axis + last + 1 : axis;
}

TrustIndices::TrustIndices() : before_(std::exchange(trusted, true)) {}
TrustIndices::~TrustIndices() { trusted = before_; }
bool TrustIndices::active() { return trusted; }

Index first_outside(const Tensor& index, Index limit) {
  return TrustIndices::active() ? -1 : backend_of(index).check_index(index.view(), limit);
}

Index element_at(const Tensor& integers, Index position) {
  const Layout& all = integers.layout();
  Layout element({}, {}, all.offset);
  for (int axis = all.rank() - 1; axis >= 0; position /= all.shape[axis--]) element.offset += position % all.shape[axis] * all.stride(axis);
  Index value = 0;
  backend_of(integers).download(&value, integers.with_layout(element).view().data, sizeof(value));
  return value;
}

void check_indices(std::string_view op, const Tensor& index, Index limit, std::string_view outside) {
  const Index bad = first_outside(index, limit);
  if (bad < 0) return;
  const Shape& shape = index.shape();
  std::string position;
  Index rest = bad;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    const Index i = rest % shape[axis];
    rest /= shape[axis];
    position = position.empty() ? fmt::format("{}", i) : fmt::format("{}, {}", i, position);
  }
  fail("{}: index {} at position [{}] is outside {}", op, element_at(index, bad), position, outside);
}

View expanded(const Tensor& x, const Shape& shape) {
  View v = x.view();
  if (!(v.shape() == shape)) v.layout = expand(v.layout, shape);
  return v;
}

Tensor copy_of(const Tensor& x) {
  Tensor y = empty(x.shape(), place_of(x));
  backend_of(x).copy(x.view(), y.view());
  return y;
}

Tensor run_unary(UnaryOp op, const Tensor& x, double parameter) {
  check_present(name(op), x);
  if (!has_integers(op)) check_floating(name(op), x);
  Tensor y = empty(x.shape(), place_of(x));
  backend_of(x).unary(op, x.view(), y.view(), parameter);
  return y;
}

Tensor run_binary(std::string_view op_name, BinaryOp op, const Tensor& a, const Tensor& b) {
  check_same_place(op_name, a, b);
  const Shape shape = a.shape() == b.shape() ? a.shape() : broadcast(op_name, a.shape(), b.shape());
  Tensor y = empty(shape, {is_comparison(op) ? DType::boolean : a.dtype(), a.device()});
  backend_of(a).binary(op, expanded(a, shape), expanded(b, shape), y.view());
  return y;
}

Tensor run_reduce(ReduceOp op, const Tensor& x, unsigned axes) {
  const bool index_out = op == ReduceOp::argmax || op == ReduceOp::argmin;
  const bool integer_sum = op == ReduceOp::sum && !is_floating(x.dtype());
  Shape shape = x.shape();
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (!(axes >> axis & 1u)) continue;
    if (shape[axis] == 0 && op != ReduceOp::sum) {
      fail("{}: axis {} of {} is empty and {} has no identity", name(op), axis, x.shape(), name(op));
    }
    shape.set(axis, 1);
  }
  Tensor y = empty(shape, {index_out || integer_sum ? DType::i64 : x.dtype(), x.device()});
  backend_of(x).reduce(op, x.view(), y.view());
  return y;
}

}  // namespace norma
