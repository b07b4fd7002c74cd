// The arithmetic of windows that move over images, and of elements of more axes than a launch's 31 bits count, shared by host and device; tested
// on the host.
#pragma once

#include <algorithm>
#include <array>

#include "backends/cuda/geometry.h"

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
inline WindowAxis window_axis(std::int64_t size, std::int64_t outputs, std::int64_t kernel, std::int64_t stride, std::int64_t pad) {
  WindowAxis a;
  a.size = static_cast<std::int32_t>(size), a.outputs = static_cast<std::int32_t>(outputs), a.kernel = static_cast<std::int32_t>(kernel);
  a.pad = static_cast<std::int32_t>(pad), a.stride = Divider(static_cast<std::uint32_t>(stride));
  return a;
}

/// `count` elements of a dense tensor of n axes, each of at most 2^30, from that at `start` on; the last axis is innermost.
template <int n>
struct Run {
  std::uint32_t count = 0, start[n] = {};
  Divider axis[n];

  NORMA_HD void at(std::uint32_t i, std::uint32_t (&index)[n]) const {
    for (int a = n - 1; a > 0; --a) {
      const std::uint32_t place = start[a] + i;  // below 2^31, as neither is above 2^30
      i = axis[a].divide(place);
      index[a] = place - i * axis[a].divisor;
    }
    index[0] = start[0] + i;
  }
};
/// f(Run) of at most `limit` elements each, up to 2^30, which together cover a tensor of these sizes once.
template <std::size_t n, class F>
void each_run(const std::array<std::int64_t, n>& sizes, std::int64_t limit, F&& f) {
  Run<static_cast<int>(n)> run;
  std::int64_t all = 1;
  for (std::size_t a = 0; a < n; ++a) all *= sizes[a], run.axis[a] = Divider(static_cast<std::uint32_t>(std::max<std::int64_t>(1, sizes[a])));
  for (std::int64_t first = 0; first < all; first += limit) {
    std::int64_t rest = first;
    for (std::size_t a = n; a-- > 0; rest /= sizes[a]) run.start[a] = static_cast<std::uint32_t>(rest % sizes[a]);
    run.count = static_cast<std::uint32_t>(std::min(limit, all - first));
    f(run);
  }
}

}  // namespace norma::cuda
