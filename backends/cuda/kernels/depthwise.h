// Convolution with one kernel a channel, as the host calls it; the arithmetic of its windows, tested on the host.
#pragma once

#include "backends/cuda/geometry.h"
#include "core/element.h"

namespace norma::cuda {

/// One axis of an image [size] and of the outputs of a window that moves over it.
struct WindowAxis {
  std::int32_t size = 1, outputs = 1, kernel = 1, pad = 0;
  Divider stride;

  /// Where output o begins to read.
  NORMA_HD std::int32_t position(std::uint32_t o) const { return static_cast<std::int32_t>(o * stride.divisor) - pad; }

  struct Range {
    std::int32_t begin, end;
  };
  /// Those elements of the kernel that lie inside the image when its first is at `position`.
  NORMA_HD Range inside(std::int32_t position) const {
    const std::int32_t begin = position < 0 ? -position : 0, left = size - position;
    return {begin, left < kernel ? left : kernel};
  }
  /// The outputs that read element i of the image: output o by element i - position(o) of the kernel.
  NORMA_HD Range readers(std::uint32_t i) const {
    const std::int32_t last = static_cast<std::int32_t>(i) + pad;
    const std::int32_t begin = last < kernel ? 0 : static_cast<std::int32_t>(stride.divide(static_cast<std::uint32_t>(last - kernel)) + 1);
    const std::int32_t end = static_cast<std::int32_t>(stride.divide(static_cast<std::uint32_t>(last)) + 1);
    return {begin, end < outputs ? end : outputs};
  }
};

/// Element i of [images, channels, rows, columns].
struct PlanePlace {
  std::uint32_t image, channel, row, column;
};
struct Planes {
  Divider channels, rows, columns;
  NORMA_HD PlanePlace at(std::uint32_t i) const {
    const std::uint32_t line = columns.divide(i), plane = rows.divide(line), image = channels.divide(plane);
    return {image, plane - image * channels.divisor, line - plane * rows.divisor, i - line * columns.divisor};
  }
};

/// The gradient of a kernel is summed over parts of its channel's outputs (of all images), then over the parts.
constexpr std::uint32_t depthwise_part = 4096;
constexpr std::uint32_t depthwise_parts(std::uint32_t outputs) { return (outputs + depthwise_part - 1) / depthwise_part; }

struct Depthwise {
  WindowAxis rows, columns;
  std::uint32_t images = 0, channels = 0;
  const void *weight = nullptr, *bias = nullptr;  // in the wide type of `dtype`; bias: null where there is none
  void *x = nullptr, *y = nullptr;                // or their gradients: what a launch reads and what it writes
  std::int64_t x_stride[4] = {}, y_stride[4] = {}, weight_stride[2] = {}, bias_stride = 0;  // of a weight: its channel, its element
  DType dtype = DType::f32;
};
void depthwise_outputs(void* stream, const Depthwise& d);
/// x receives the gradient, y holds that of the outputs.
void depthwise_gradient(void* stream, const Depthwise& d);
/// `dweight` [channels, kernel], with weight's strides; `partial` holds depthwise_parts() x channels x kernel numbers of its type.
void depthwise_weight_gradient(void* stream, const Depthwise& d, void* partial, void* dweight);

}  // namespace norma::cuda
