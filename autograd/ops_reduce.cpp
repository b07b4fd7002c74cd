// Reductions and their derivatives.
#include <algorithm>
#include <limits>

#include "autograd/dispatch.h"
#include "autograd/fused_util.h"

namespace norma {

using fused::narrow;
using fused::widen;  // what is made of several operations rounds bf16 once, at its end

namespace {

/// The axes of one reduction: a bit each, and the shape with them kept and dropped.
struct Reduced {
  unsigned axes = 0;
  Shape kept, dropped;
  Index count = 1;  // elements that make one output

  Reduced(std::string_view op, const Tensor& x, const Axes& list) {
    check_present(op, x);
    if (list.empty()) axes = (1u << x.rank()) - 1;
    for (auto given = list.begin(); given != list.end(); ++given) {
      const unsigned bit = 1u << normalize_axis(op, *given, x.shape());
      if (axes & bit) twice(op, *std::find_if(list.begin(), given, [&](int a) { return (a - *given) % x.rank() == 0; }), *given, x.shape());
      axes |= bit;
    }
    kept = x.shape();
    for (int axis = 0; axis < x.rank(); ++axis) {
      if (axes >> axis & 1u) {
        if (__builtin_mul_overflow(count, x.shape()[axis], &count)) count = std::numeric_limits<Index>::max();  // of an empty tensor
        kept.set(axis, 1);
      } else {
        dropped.append(x.shape()[axis]);
      }
    }
  }
  [[noreturn]] static void twice(std::string_view op, int first, int again, const Shape& shape) {
    if (first == again) fail("{}: axis {} of {} is given twice", op, first, shape);
    fail("{}: the axes {} and {} of {} are the same", op, first, again, shape);
  }
  const Shape& shape(bool keep_dims) const { return keep_dims ? kept : dropped; }
  double freedom(int correction) const { return std::max(0.0, static_cast<double>(count) - correction); }
};

/// 1 / length, and 0 at the origin, where a length has no derivative.
Tensor inverse_length(const Tensor& length) {
  const Tensor zero = scalar_like(0, length), origin = equal(length, zero);
  return where(origin, zero, reciprocal(where(origin, scalar_like(1, length), length)));
}

Tensor with_shape(const Tensor& fresh, const Shape& shape) { return fresh.with_layout(Layout(shape)); }

Tensor extremum(ReduceOp op, const Tensor& x, const Axes& axes, bool keep_dims) {
  const Reduced r(name(op), x, axes);
  return record(with_shape(run_reduce(op, x, r.axes), r.shape(keep_dims)), {x},
                {name(op).data(), keep0 | keep_output, [r](const Ctx& c, const Tensor& g) -> Tensors {
                   const Tensor x0 = c.saved(0), hit = cast(equal(x0, reshape(c.saved(1), r.kept)), x0.dtype());
                   const Tensor ties = run_reduce(ReduceOp::sum, hit, r.axes);
                   return {hit * (reshape(g, r.kept) / ties)};
                 }});
}

Tensor position(ReduceOp op, const Tensor& x, int axis, bool keep_dims) {
  const Reduced r(name(op), x, axis);
  return with_shape(run_reduce(op, x, r.axes), r.shape(keep_dims));
}

}  // namespace

Tensor sum(const Tensor& x, const Axes& axes, bool keep_dims) {
  const Reduced r("sum", x, axes);
  return record(with_shape(run_reduce(ReduceOp::sum, x, r.axes), r.shape(keep_dims)), {x},
                {"sum", keep_nothing, [kept = r.kept, shape = x.shape()](const Ctx&, const Tensor& g) -> Tensors {
                   return {expand(reshape(g, kept), shape)};
                 }});
}

Tensor mean(const Tensor& x, const Axes& axes, bool keep_dims) {
  check_floating("mean", x);
  const Reduced r("mean", x, axes);  // first: its messages are of a mean, those of sum() are not
  return narrow(sum(widen(x), axes, keep_dims) * (1.0 / static_cast<double>(r.count)), x.dtype());
}

Tensor max(const Tensor& x, const Axes& axes, bool keep_dims) { return extremum(ReduceOp::max, x, axes, keep_dims); }
Tensor min(const Tensor& x, const Axes& axes, bool keep_dims) { return extremum(ReduceOp::min, x, axes, keep_dims); }

Tensor var(const Tensor& x, const Axes& axes, bool keep_dims, int correction) {
  check_floating("var", x);
  const double freedom = Reduced("var", x, axes).freedom(correction);
  return narrow(sum(square(fused::centred(widen(x), axes)), axes, keep_dims) / freedom, x.dtype());
}

Tensor stddev(const Tensor& x, const Axes& axes, bool keep_dims, int correction) {
  check_floating("stddev", x);
  if (x.dtype() == DType::bf16) return narrow(stddev(widen(x), axes, keep_dims, correction), x.dtype());
  const Reduced r("stddev", x, axes);
  Tensor y;
  {
    NoGrad off;
    y = sqrt(var(x, axes, keep_dims, correction));
  }
  const double freedom = r.freedom(correction);
  return record(y, {x}, {"stddev", keep0 | keep_output, [axes, freedom, kept = r.kept](const Ctx& c, const Tensor& g) -> Tensors {
                           return {fused::centred(c.saved(0), axes) * reshape(g * inverse_length(c.saved(1)) * (1 / freedom), kept)};
                         }});
}

Tensor any(const Tensor& x, const Axes& axes, bool keep_dims) {
  const Reduced checked("any", x, axes);
  return not_equal(sum(x.dtype() == DType::boolean ? x : logical_not(logical_not(x)), axes, keep_dims), 0);
}

Tensor all(const Tensor& x, const Axes& axes, bool keep_dims) {
  const Reduced checked("all", x, axes);
  return equal(sum(logical_not(x), axes, keep_dims), 0);
}

Tensor norm(const Tensor& x, const Axes& axes, bool keep_dims) {
  check_floating("norm", x);
  if (x.dtype() == DType::bf16) return narrow(norm(widen(x), axes, keep_dims), x.dtype());
  const Reduced r("norm", x, axes);
  Tensor y;
  {
    NoGrad off;
    y = sqrt(sum(square(x), axes, keep_dims));
  }
  return record(y, {x}, {"norm", keep0 | keep_output, [kept = r.kept](const Ctx& c, const Tensor& g) -> Tensors {
                           return {c.saved(0) * reshape(g * inverse_length(c.saved(1)), kept)};
                         }});
}

Tensor logsumexp(const Tensor& x, int axis, bool keep_dims) {
  check_floating("logsumexp", x);
  if (x.dtype() == DType::bf16) return narrow(logsumexp(widen(x), axis, keep_dims), x.dtype());
  const Reduced r("logsumexp", x, {axis});
  Tensor y;
  {
    NoGrad off;
    const Tensor shift = r.count ? fused::shift_of(x, axis) : zeros(r.kept, place_of(x));
    y = reshape(log(sum(exp(x - shift), {axis}, true)) + shift, r.shape(keep_dims));
  }
  return record(y, {x}, {"logsumexp", keep0, [axis, kept = r.kept](const Ctx& c, const Tensor& g) -> Tensors {
                           return {softmax(c.saved(0), axis) * reshape(g, kept)};  // not exp(x - y): a large y is rounded
                         }});
}

Tensor argmax(const Tensor& x, int axis, bool keep_dims) { return position(ReduceOp::argmax, x, axis, keep_dims); }
Tensor argmin(const Tensor& x, int axis, bool keep_dims) { return position(ReduceOp::argmin, x, axis, keep_dims); }

Tensor cumsum(const Tensor& x, int axis) {
  check_present("cumsum", x);
  const int a = normalize_axis("cumsum", axis, x.shape());
  const Tensor in = is_floating(x.dtype()) ? x : cast(x, DType::i64);
  Tensor y = empty(in.shape(), place_of(in));
  backend_of(in).cumsum(in.view(), a, y.view());
  return record(y, {in}, {"cumsum", keep_nothing, [a](const Ctx&, const Tensor& g) -> Tensors {
                            return {flip(cumsum(flip(g, a), a), a)};
                          }});
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  check_present("sum_to", x);
  if (x.shape() == shape) return x;
  const int extra = x.rank() - shape.rank();
  bool fits = extra >= 0;
  unsigned axes = 0;
  for (int axis = 0; fits && axis < x.rank(); ++axis) {
    const Index to = axis < extra ? 1 : shape[axis - extra];
    if (axis < extra || to != x.shape()[axis]) axes |= 1u << axis;
    fits = to == 1 || to == x.shape()[axis];
  }
  if (!fits) fail("sum_to: {} does not broadcast to {}", shape, x.shape());
  return record(with_shape(run_reduce(ReduceOp::sum, x, axes), shape), {x},
                {"sum_to", keep_nothing, [from = x.shape()](const Ctx&, const Tensor& g) -> Tensors {
                   return {expand(g, from)};
                 }});
}

}  // namespace norma
