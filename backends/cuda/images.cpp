// Batches of images from a set in the device's memory.
#include "backends/cuda/kernels/images.h"

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/launches.h"

namespace norma::cuda {

bool CudaBackend::cut_images(const ImageCuts& args) {
  const Shape &from = args.set.shape(), &to = args.out.shape();
  if (!is_floating(args.out.dtype) || to[0] * to[1] > launch_limit || to[2] * to[3] > launch_limit || from[1] * from[2] * from[3] > launch_limit) return false;
  const auto size = [](Index n) { return static_cast<std::int32_t>(n); };
  ImageBatch b;
  b.set = args.set.as<std::uint8_t>(), b.cuts = args.cuts.as<std::int64_t>(), b.values = args.values.as<float>();
  b.out = args.out.data, b.dtype = args.out.dtype;
  b.batch = size(to[0]), b.channels = size(to[1]), b.h = size(from[2]), b.w = size(from[3]), b.out_h = size(to[2]), b.out_w = size(to[3]);
  b.edits = reinterpret_cast<const ImageEdit*>(args.edits.as<std::int32_t>()), b.edit_count = size(args.edits.shape()[1]);
  const Scratch pixels = scratch<std::uint8_t>(b.edit_count > 0 ? 2 * to[0] * to[1] * from[2] * from[3] : 0);
  b.scratch = pixels.as<std::uint8_t>();
  cut_image_batch(stream(), b);
  return true;
}

}  // namespace norma::cuda
