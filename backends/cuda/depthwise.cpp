// Convolution with one kernel a channel. Declines weights that are not of the wide type, and what a launch's 31 bits cannot count.
#include "backends/cuda/kernels/depthwise.h"

#include "backends/common/views.h"
#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/launches.h"

namespace norma::cuda {
namespace {

bool fits(const View& x, const View& weight, const Window& w, const View& y) {
  Index largest = std::max({x.numel(), y.numel(), weight.numel(), w.stride_h, w.stride_w});
  for (const auto& [size, pad] : {std::pair{x.shape()[2], w.pad_h}, {x.shape()[3], w.pad_w}}) largest = std::max(largest, size + 2 * pad);
  return is_floating(x.dtype) && y.dtype == x.dtype && weight.dtype == wide_of(x.dtype) && largest <= launch_limit;
}

Depthwise problem_of(const View& x, const View& weight, const Window& w, const View& y) {
  Depthwise d;
  d.rows = window_axis(x.shape()[2], y.shape()[2], w.kernel_h, w.stride_h, w.pad_h),
  d.columns = window_axis(x.shape()[3], y.shape()[3], w.kernel_w, w.stride_w, w.pad_w);
  d.images = static_cast<std::uint32_t>(x.shape()[0]), d.channels = static_cast<std::uint32_t>(x.shape()[1]);
  d.x = x.data, d.y = y.data, d.weight = weight.data, d.dtype = x.dtype;
  for (int axis = 0; axis < 4; ++axis) d.x_stride[axis] = x.layout.stride(axis), d.y_stride[axis] = y.layout.stride(axis);
  d.weight_stride[0] = weight.layout.stride(0), d.weight_stride[1] = weight.layout.stride(2);
  return d;
}

}  // namespace

bool CudaBackend::depthwise(const View& x, const View& weight, const View& bias, const Window& window, const View& y) {
  if (!fits(x, weight, window, y) || !all_are(weight.dtype, bias)) return false;
  if (y.numel() == 0) return true;
  Depthwise d = problem_of(x, weight, window, y);
  if (bias) d.bias = bias.data, d.bias_stride = bias.layout.stride(0);
  depthwise_outputs(stream(), d);
  return true;
}

bool CudaBackend::depthwise_backward(const View& dy, const View& x, const View& weight, const Window& window, const View& dx, const View& dweight) {
  if (!fits(x, weight, window, dy) || !all_are(x.dtype, dx) || !all_are(weight.dtype, dweight)) return false;
  if (dx && dx.numel() > 0) depthwise_gradient(stream(), problem_of(dx, weight, window, dy));
  if (!dweight || dweight.numel() == 0) return true;
  if (dy.numel() == 0) return fill(0, dweight), true;
  Depthwise d = problem_of(x, dweight, window, dy);
  const Scratch partial = scratch<char>(Index{depthwise_parts(static_cast<std::uint32_t>(dy.numel() / dy.shape()[1]))} * dweight.numel() *
                                        static_cast<Index>(size_of(dweight.dtype)));
  depthwise_weight_gradient(stream(), d, partial.as<void>(), dweight.data);
  return true;
}

}  // namespace norma::cuda
