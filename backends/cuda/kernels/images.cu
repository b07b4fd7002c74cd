// Batches of images: a block works on one plane (example, channel), a thread on every so many-th of its pixels.
#include "backends/cuda/kernels/images.h"

#include "backends/cuda/device.h"

namespace norma::cuda {
namespace {

constexpr unsigned threads = 256;

template <class T>
NORMA_KERNEL void cut_kernel(ImageBatch b) {
  const std::int64_t plane = block_id().x, channel = plane % b.channels;
  const std::int64_t* cut = b.cuts + plane / b.channels * 4;
  const std::uint8_t* from = b.set + (cut[0] * b.channels + channel) * b.h * b.w;
  const std::int64_t down = cut[1], right = cut[2];
  const bool mirror = cut[3] != 0;
  const float* values = b.values + channel * 256;
  T* out = static_cast<T*>(b.out) + plane * b.out_h * b.out_w;
  const std::int32_t top = (b.out_h - b.h) / 2, left = (b.out_w - b.w) / 2, pixels = b.out_h * b.out_w;
  for (std::int32_t i = static_cast<std::int32_t>(thread_id()); i < pixels; i += static_cast<std::int32_t>(threads)) {
    const std::int32_t y = i / b.out_w - top, seen = i % b.out_w - left, x = mirror ? b.w - 1 - seen : seen;
    const std::int64_t row = y + down, column = x + right;
    const bool inside = y >= 0 && y < b.h && x >= 0 && x < b.w && row >= 0 && row < b.h && column >= 0 && column < b.w;
    out[i] = convert<T>(values[inside ? from[row * b.w + column] : 0]);
  }
}

}  // namespace

void cut_image_batch(void* stream, const ImageBatch& b) {
  const Extent grid{static_cast<unsigned>(b.batch) * static_cast<unsigned>(b.channels)};
  if (b.dtype == DType::f32) return launch(stream, grid, threads, 0, cut_kernel<float>, b);
  if (b.dtype == DType::f64) return launch(stream, grid, threads, 0, cut_kernel<double>, b);
  launch(stream, grid, threads, 0, cut_kernel<bf16>, b);
}

}  // namespace norma::cuda
