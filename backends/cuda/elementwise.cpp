// Element-wise verbs and random draws.
#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/kernels/random.h"
#include "backends/cuda/launches.h"

namespace norma::cuda {

void CudaBackend::copy(const View& in, const View& out) {
  each_launch([&](const Elements<2>& e) { copy_elements(stream(), e, in.dtype, out.dtype); }, in, out);
}

void CudaBackend::fill(double value, const View& out) {
  each_launch([&](const Elements<1>& e) { fill_elements(stream(), e, out.dtype, value); }, out);
}

void CudaBackend::unary(UnaryOp op, const View& x, const View& out, double parameter) {
  each_launch(
      [&](const Elements<2>& e) {
        if (!unary_elements(stream(), e, x.dtype, op, parameter))
          fail("{}: cuda has it for floating dtypes only, not for {}; convert with cast()", norma::name(op), x.dtype);
      },
      x, out);
}

void CudaBackend::binary(BinaryOp op, const View& a, const View& b, const View& out) {
  each_launch([&](const Elements<3>& e) { binary_elements(stream(), e, a.dtype, op); }, a, b, out);
}

void CudaBackend::where(const View& condition, const View& a, const View& b, const View& out) {
  each_launch([&](const Elements<4>& e) { where_elements(stream(), e, out.dtype); }, condition, a, b, out);
}

bool CudaBackend::unary_backward(UnaryOp op, const View& kept, const View& dy, const View& dx) {
  if (!is_floating(kept.dtype) || dy.dtype != kept.dtype || dx.dtype != kept.dtype || !has_gradient(op)) return false;
  each_launch([&](const Elements<3>& e) { unary_gradient(stream(), e, kept.dtype, op); }, kept, dy, dx);
  return true;
}

void CudaBackend::random(RandomKind kind, RandomStream source, double p, const View& out) {
  const RandomDraw draw = kind == RandomKind::uniform ? RandomDraw::uniform
                          : kind == RandomKind::keep  ? RandomDraw::keep
                                                      : RandomDraw::normal;
  if (out.numel() > 0) draw_random(stream(), draw, source, p, out.data, out.dtype, out.numel());
}

}  // namespace norma::cuda
