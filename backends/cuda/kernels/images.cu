// Batches of images. Without edits a block works on one plane (example, channel), with edits on one example, between two buffers; a thread
// on every so many-th of the pixels.
#include "backends/cuda/kernels/images.h"

#include "backends/cuda/device.h"

namespace norma::cuda {
namespace {

constexpr std::int32_t threads = 256;

/// What the window of an example shows at (y, seen) of a channel.
NORMA_DEVICE std::uint8_t cut_byte(const ImageBatch& b, const std::int64_t* cut, std::int32_t channel, std::int32_t y, std::int32_t seen) {
  const std::int64_t row = y + cut[1], column = (cut[3] != 0 ? b.w - 1 - seen : seen) + cut[2];
  const bool inside = row >= 0 && row < b.h && column >= 0 && column < b.w;
  return inside ? b.set[((cut[0] * b.channels + channel) * b.h + row) * b.w + column] : std::uint8_t{0};
}

/// Of one channel: byte_at(y, x) normalised, in the middle of black.
template <class T, class F>
NORMA_DEVICE void write_plane(const ImageBatch& b, std::int64_t plane, F&& byte_at) {
  const float* values = b.values + plane % b.channels * 256;
  T* out = static_cast<T*>(b.out) + plane * b.out_h * b.out_w;
  const std::int32_t top = (b.out_h - b.h) / 2, left = (b.out_w - b.w) / 2, pixels = b.out_h * b.out_w;
  for (auto i = static_cast<std::int32_t>(thread_id()); i < pixels; i += threads) {
    const std::int32_t y = i / b.out_w - top, x = i % b.out_w - left;
    out[i] = convert<T>(values[y >= 0 && y < b.h && x >= 0 && x < b.w ? byte_at(y, x) : 0]);
  }
}

template <class T>
NORMA_KERNEL void cut_kernel(ImageBatch b) {
  const std::int64_t plane = block_id().x;
  const std::int64_t* cut = b.cuts + plane / b.channels * 4;
  write_plane<T>(b, plane, [&](std::int32_t y, std::int32_t x) { return cut_byte(b, cut, static_cast<std::int32_t>(plane % b.channels), y, x); });
}

/// An edit by table. counts and table: 256 each, in shared memory.
NORMA_DEVICE void map_bytes(const ImageEdit& edit, std::int32_t channels, std::int32_t pixels, std::uint8_t* image, std::uint32_t* counts,
                            std::uint8_t* table) {
  const auto t = static_cast<std::int32_t>(thread_id());
  const bool of_grey = edit.kind == ImageEdit::contrast;
  for (std::int32_t c = 0; c < channels; ++c) {
    std::uint8_t* plane = image + c * pixels;
    if (c == 0 || !of_grey) {
      counts[t] = 0;
      block_barrier();
      for (std::int32_t i = t; i < pixels; i += threads) atomic_add(counts + (of_grey ? grey_of(image, channels, pixels, i) : plane[i]), 1u);
      block_barrier();
      fill_table(edit, counts, static_cast<std::uint32_t>(pixels), t, t + 1, table);
      block_barrier();
    }
    for (std::int32_t i = t; i < pixels; i += threads) plane[i] = table[plane[i]];
  }
}

template <class T>
NORMA_KERNEL void edit_kernel(ImageBatch b) {
  const std::int64_t example = block_id().x;
  const std::int64_t* cut = b.cuts + example * 4;
  const std::int32_t pixels = b.h * b.w, all = b.channels * pixels, t = static_cast<std::int32_t>(thread_id());
  std::uint8_t *image = b.scratch + example * 2 * all, *next = image + all;
  auto* counts = reinterpret_cast<std::uint32_t*>(shared_memory());
  for (std::int32_t i = t; i < all; i += threads) image[i] = cut_byte(b, cut, i / pixels, i % pixels / b.w, i % b.w);
  block_barrier();
  for (std::int32_t k = 0; k < b.edit_count; ++k) {
    const ImageEdit edit = b.edits[example * b.edit_count + k];
    if (edit.kind == ImageEdit::keep) continue;
    if (by_table(edit)) {
      map_bytes(edit, b.channels, pixels, image, counts, reinterpret_cast<std::uint8_t*>(counts + 256));
    } else {
      for (std::int32_t i = t; i < all; i += threads) {
        const std::int32_t at = i % pixels, y = at / b.w, x = at % b.w;
        const std::uint8_t* plane = image + (i - at);
        if (edit.kind == ImageEdit::warp) {
          const std::int32_t from = shown_at(edit, b.h, b.w, y, x);
          next[i] = from < 0 ? std::uint8_t{0} : plane[from];
        } else {
          next[i] = blended(image[i], edit.kind == ImageEdit::color ? grey_of(image, b.channels, pixels, at) : smoothed(plane, b.h, b.w, y, x), edit.n[0]);
        }
      }
      std::uint8_t* edited = next;
      next = image, image = edited;
    }
    block_barrier();
  }
  for (std::int32_t c = 0; c < b.channels; ++c)
    write_plane<T>(b, example * b.channels + c, [&](std::int32_t y, std::int32_t x) { return image[(c * b.h + y) * b.w + x]; });
}

template <class T>
void cut_batch(void* stream, const ImageBatch& b) {
  const auto examples = static_cast<unsigned>(b.batch);
  if (b.edit_count > 0) return launch(stream, {examples}, threads, 256 * (sizeof(std::uint32_t) + 1), edit_kernel<T>, b);
  launch(stream, {examples * static_cast<unsigned>(b.channels)}, threads, 0, cut_kernel<T>, b);
}

}  // namespace

void cut_image_batch(void* stream, const ImageBatch& b) {
  if (b.dtype == DType::f32) return cut_batch<float>(stream, b);
  if (b.dtype == DType::f64) return cut_batch<double>(stream, b);
  cut_batch<bf16>(stream, b);
}

}  // namespace norma::cuda
