// The reference backend's reductions and products: sums in double, or i64 for integers.
#include "backends/reference/reference.h"
#include "backends/reference/walk.h"

namespace norma {

using namespace reference;

namespace {

/// The axes of x that `out` keeps as they are have size 1 here: the tuples to sum over for one output element.
Shape reduced_part(const Shape& x, const Shape& out) {
  Shape part = x;
  for (int axis = 0; axis < x.rank(); ++axis)
    if (out[axis] == x[axis]) part.set(axis, 1);
  return part;
}

Tuple sum_of(const Tuple& a, const Tuple& b) {
  Tuple sum;
  for (int axis = 0; axis < max_rank; ++axis) sum[axis] = a[axis] + b[axis];
  return sum;
}

template <class T>
void reduce_sum(const View& x, const View& out) {
  const Shape part = reduced_part(x.shape(), out.shape());
  typed(out, [&]<class Out>(Out) {
    each(out.shape(), [&](const Tuple& o) {
      Accumulator<T> sum = 0;
      each(part, [&](const Tuple& p) { sum = Binary<BinaryOp::add>{}(sum, convert<Accumulator<T>>(at<T>(x, sum_of(o, p)))); });
      at<Out>(out, o) = convert<Out>(sum);
    });
  });
}

/// max, min: the value; argmax, argmin: where along the one reduced axis.
template <ReduceOp op, class T>
void reduce_extreme(const View& x, const View& out) {
  using C = Compute<T, true>;
  const Shape part = reduced_part(x.shape(), out.shape());
  each(out.shape(), [&](const Tuple& o) {
    C best{};
    Index position = 0, best_position = 0;
    each(part, [&](const Tuple& p) {
      const C candidate = convert<C>(at<T>(x, sum_of(o, p)));
      if (position == 0 || replaces<op>(candidate, best)) {
        best = candidate;
        best_position = position;
      }
      ++position;
    });
    if constexpr (op == ReduceOp::max || op == ReduceOp::min) {
      at<T>(out, o) = convert<T>(best);
    } else {
      at<Index>(out, o) = best_position;
    }
  });
}

}  // namespace

void ReferenceBackend::reduce(ReduceOp op, const View& x, const View& out) {
  typed(x, [&]<class T>(T) {
    switch (op) {
      case ReduceOp::sum:
        return reduce_sum<T>(x, out);
      case ReduceOp::max:
        return reduce_extreme<ReduceOp::max, T>(x, out);
      case ReduceOp::min:
        return reduce_extreme<ReduceOp::min, T>(x, out);
      case ReduceOp::argmax:
        return reduce_extreme<ReduceOp::argmax, T>(x, out);
      case ReduceOp::argmin:
        return reduce_extreme<ReduceOp::argmin, T>(x, out);
      case ReduceOp::count:
        break;
    }
  });
}

void ReferenceBackend::cumsum(const View& x, int axis, const View& out) {
  typed(x, [&]<class T>(T) {
    each(x.shape().with(axis, x.shape()[axis] ? 1 : 0), [&](const Tuple& beside) {
      const Line<T> from = line<T>(x, beside, axis), to = line<T>(out, beside, axis);
      Accumulator<T> sum = 0;
      for (Index j = 0; j < x.shape()[axis]; ++j) {
        sum = Binary<BinaryOp::add>{}(sum, convert<Accumulator<T>>(from[j]));
        to[j] = convert<T>(sum);
      }
    });
  });
}

void ReferenceBackend::matmul(const View& a, const View& b, const View& out) {
  const int row = out.shape().rank() - 2, column = row + 1;
  const Index inner = a.shape()[column];
  typed(out, [&]<class T>(T) {
    each(out.shape(), [&](const Tuple& o) {
      const Line<T> x = line<T>(a, o, column), y = line<T>(b, o, row);
      Accumulator<T> sum = 0;
      for (Index k = 0; k < inner; ++k)
        sum = Binary<BinaryOp::add>{}(sum, Binary<BinaryOp::mul>{}(convert<Accumulator<T>>(x[k]), convert<Accumulator<T>>(y[k])));
      at<T>(out, o) = convert<T>(sum);
    });
  });
}

}  // namespace norma
