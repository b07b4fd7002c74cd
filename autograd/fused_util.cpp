// Layouts and dtypes that kernels take, and rows made small.
#include "autograd/fused_util.h"

namespace norma::fused {

Tensor centred(const Tensor& x, const Axes& axes) {
  const Tensor first = x - mean(x, axes, true);
  return first - mean(first, axes, true);
}

Tensor shift_of(const Tensor& x, int axis) {
  const NoGrad constant;
  const Tensor top = max(x, {axis}, true);
  return where(equal(abs(top), std::numeric_limits<double>::infinity()), 0, top);
}

void check_parameter(std::string_view op, std::string_view what, const Tensor& x, const Tensor& parameter) {
  if (x.dtype() != DType::bf16 || parameter.dtype() == DType::bf16) return check_same_place(op, x, parameter);
  check_same_device(op, x, parameter);
  if (parameter.dtype() != DType::f32) {
    fail("{}: {} is {}, but x is bf16; expected f32 or bf16, convert with cast()", op, what, parameter.dtype());
  }
}

Tensor dense_last(const Tensor& x) {
  const bool dense = x.rank() == 0 || x.size(-1) <= 1 || x.layout().stride(-1) == 1;
  return dense ? x : copy_of(x);
}

Tensor dense_rows(const Tensor& x) {
  if (!x) return x;
  const Tensor plain = dense_last(x);
  const Layout& layout = plain.layout();
  Index expected = plain.rank() == 0 ? 1 : plain.size(-1);  // smallest stride of the next axis outwards
  bool innermost = true;
  for (int axis = plain.rank() - 2; axis >= 0; --axis) {
    if (layout.shape[axis] == 1) continue;
    const Index stride = layout.stride(axis);
    if (innermost ? stride < expected : stride != expected) return copy_of(plain);
    expected = stride * layout.shape[axis];
    innermost = false;
  }
  return plain;
}

Tensor as_matrix(const Tensor& x) {
  const Index last = x.rank() == 0 ? 1 : x.size(-1);
  Index rows = 1;
  for (int axis = 0; axis + 1 < x.rank(); ++axis) rows *= x.size(axis);
  return reshape(x.detach(), Shape{rows, last});
}

}  // namespace norma::fused
