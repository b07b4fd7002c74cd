// Convolution with one kernel a channel, as the host calls it; the arithmetic of its planes, tested on the host.
#pragma once

#include "backends/cuda/windows.h"
#include "core/element.h"

namespace norma::cuda {

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
