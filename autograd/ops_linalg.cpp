// Matrix products.
#include "autograd/dispatch.h"

namespace norma {

namespace {

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
                {"matmul", keep, [sa = a.shape(), sb = b.shape(), second = keep & keep0 ? 1 : 0](const Ctx& c, const Tensor& g)
                           -> Tensors {
                   return {c.needs(0) ? sum_to(matmul(g, transpose(c.saved(second))), sa) : Tensor{},
                           c.needs(1) ? sum_to(matmul(transpose(c.saved(0)), g), sb) : Tensor{}};
                 }});
}

Shape leading(const Shape& s) { return Shape(std::span<const Index>(s.begin(), s.end() - 2)); }

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
