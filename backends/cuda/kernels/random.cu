// Random draws: one thread makes the four numbers of one Philox block. The words are the CPU's (core/random.h,
// backends/common/draws.h).
#include "backends/cuda/kernels/random.h"

#include "backends/common/draws.h"
#include "backends/cuda/device.h"

namespace norma::cuda {
namespace {

/// packs: `out` is a multiple of 4 elements.
template <class T>
NORMA_KERNEL void draw_kernel(RandomDraw kind, RandomStream source, double p, T* out, std::int64_t count, bool packs) {
  const std::int64_t block = std::int64_t{block_id().x} * block_threads() + thread_id();
  if (4 * block >= count) return;
  const Philox words = source.now().block(static_cast<std::uint64_t>(block));
  double x[4];
  if (kind == RandomDraw::normal) {
    normal_pair(words[0], words[1], x[0], x[1]);
    normal_pair(words[2], words[3], x[2], x[3]);
  } else {
    const std::uint64_t threshold = drop_threshold(p);
    const double kept = keep_scale(p);
    NORMA_UNROLL
    for (std::size_t k = 0; k < 4; ++k)
      x[k] = kind == RandomDraw::uniform ? uniform_from(words[k]) : keeps(words[k], threshold) ? kept : 0;
  }
  Pack<T, 4> y;
  NORMA_UNROLL
  for (int k = 0; k < 4; ++k) y.v[k] = convert<T>(x[k]);
  if (packs && 4 * block + 4 <= count) return store_pack(out + 4 * block, y);
  NORMA_UNROLL
  for (int k = 0; k < 4; ++k)
    if (4 * block + k < count) out[4 * block + k] = y.v[k];
}

}  // namespace

void draw_random(void* stream, RandomDraw kind, RandomStream source, double p, void* out, DType dtype, std::int64_t count) {
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Extent grid{static_cast<unsigned>((count + 1023) / 1024)};
    const bool packs = reinterpret_cast<std::uintptr_t>(out) % sizeof(Pack<T, 4>) == 0;
    launch(stream, grid, 256, 0, draw_kernel<T>, kind, source, p, static_cast<T*>(out), count, packs);
  });
}

}  // namespace norma::cuda
