// Matrix products.
#include "autograd/dispatch.h"

namespace norma {

namespace {

Shape leading(const Shape& s) { return Shape(std::span<const Index>(s.begin(), s.end() - 2)); }

/// The batch axes of `batch` along which an operand of shape s is repeated, a bit each.
unsigned repeated(const Shape& s, const Shape& batch) {
  const int extra = batch.rank() + 2 - s.rank();
  unsigned axes = 0;
  for (int axis = 0; axis < batch.rank(); ++axis)
    if (batch[axis] != 1 && (axis < extra || s[axis - extra] == 1)) axes |= 1u << axis;
  return axes;
}

/// x[batch..., rows, columns] with the batch axes in `axes` merged into its last axis, or into its rows.
Tensor merged(const Tensor& x, unsigned axes, bool into_columns) {
  const int batch = x.rank() - 2, into = into_columns ? batch + 1 : batch, other = into_columns ? batch : batch + 1;
  std::vector<int> order;
  Shape shape;
  Index length = x.size(into);
  for (int axis = 0; axis < batch; ++axis) {
    if (axes >> axis & 1u) continue;
    order.push_back(axis), shape.append(x.size(axis));
  }
  if (into_columns) order.push_back(other), shape.append(x.size(other));
  for (int axis = 0; axis < batch; ++axis) {
    if (axes >> axis & 1u) order.push_back(axis), length *= x.size(axis);
  }
  order.push_back(into), shape.append(length);
  if (!into_columns) order.push_back(other), shape.append(x.size(other));
  return reshape(permute(x, order), shape);
}

/// The sum over the batch of left[batch..., r, s] right[batch..., s, c], down to `shape`: the gradient of an operand that the batch repeats. One product
/// over the batch and s is formed where each matrix of the batch would be larger than the two that it is made of.
Tensor product_to(const Tensor& left, const Tensor& right, const Shape& batch, const Shape& shape) {
  const unsigned axes = repeated(shape, batch);
  const Index r = left.size(-2), s = left.size(-1), c = right.size(-1);
  if (axes == 0 || r * c <= s * (r + c)) return sum_to(matmul(left, right), shape);
  const auto whole = [&](const Tensor& x) {
    Shape full = batch;
    full.append(x.size(-2)), full.append(x.size(-1));
    return expand(x, full);
  };
  return reshape(matmul(merged(whole(left), axes, true), merged(whole(right), axes, false)), shape);
}

/// Batches of matrices of equal rank >= 2 whose leading axes broadcast.
Tensor batched(const Tensor& a, const Tensor& b, const Shape& batch) {
  const auto with = [&](Index rows, Index columns) {
    Shape s = batch;
    s.append(rows);
    s.append(columns);
    return s;
  };
  const Index m = a.size(-2), k = a.size(-1), n = b.size(-1);
  Tensor y = empty(with(m, n), place_of(a));
  backend_of(a).matmul(expanded(a, with(m, k)), expanded(b, with(k, n)), y.view());
  const unsigned keep = (b.tracked() ? keep0 : 0u) | (a.tracked() ? keep1 : 0u);
  return record(y, {a, b},
                {"matmul", keep, [batch, sa = a.shape(), sb = b.shape(), second = keep & keep0 ? 1 : 0](const Ctx& c, const Tensor& g)
                           -> Tensors {
                   return {c.needs(0) ? product_to(g, transpose(c.saved(second)), batch, sa) : Tensor{},
                           c.needs(1) ? product_to(transpose(c.saved(0)), g, batch, sb) : Tensor{}};
                 }});
}

/// The broadcast of the batch axes, named in the words of matmul.
Shape broadcast_batches(const Tensor& a, const Tensor& b) {
  const Shape sa = leading(a.shape()), sb = leading(b.shape());
  for (int i = 1; i <= std::min(sa.rank(), sb.rank()); ++i) {
    if (sa[-i] != sb[-i] && sa[-i] != 1 && sb[-i] != 1) {
      fail("matmul: batch axes {} and {} do not broadcast ({} x {})", sa, sb, a.shape(), b.shape());
    }
  }
  return broadcast("matmul", sa, sb);
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  check_same_place("matmul", a, b);
  if (a.rank() == 0 || b.rank() == 0) fail("matmul: a 0-d tensor has no axis to sum over; use mul()");
  const Index k = a.size(-1), inner = b.rank() == 1 ? b.size(0) : b.size(-2);
  if (k != inner) {
    const bool turned = b.rank() > 1 && b.size(-1) == k;
    fail("matmul: inner sizes differ, {} x {}: {} and {}{}", a.shape(), b.shape(), k, inner,
         turned ? "; transpose the second?" : "");
  }
  if (a.rank() == 1) {  // a row
    const Tensor y = matmul(unsqueeze(a, 0), b);
    return b.rank() == 1 ? squeeze(y, 0) : squeeze(y, -2);
  }
  if (b.rank() == 1) return squeeze(matmul(a, unsqueeze(b, 1)), -1);
  if (a.rank() > 2 && b.rank() == 2) {  // one tall product instead of a batch that repeats b
    Shape shape = a.shape();
    shape.set(-1, b.size(-1));
    return reshape(matmul(flatten(a, 0, -2), b), shape);
  }
  return batched(a, b, broadcast_batches(a, b));
}

}  // namespace norma
