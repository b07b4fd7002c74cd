// Sliding windows on the CPU: unfold copies image rows into columns, fold adds them back; parallel over images and
// channels.
#include <algorithm>

#include "backends/common/convert.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {
namespace {

/// Outputs o in [begin, end) of one axis read inside the image: 0 <= o stride + offset < size.
struct Span {
  Index begin, end;
  Span(Index outputs, Index stride, Index offset, Index size) {
    begin = offset >= 0 ? 0 : std::min(outputs, (-offset + stride - 1) / stride);
    end = offset >= size ? begin : std::clamp((size - 1 - offset) / stride + 1, begin, outputs);
  }
};

/// n elements `step` apart into places `to_step` apart.
template <class T>
void copy_line(Index n, const T* from, Index step, T* to, Index to_step) {
  if (step == 1 && to_step == 1) return std::copy_n(from, n, to), void();
  for (Index i = 0; i < n; ++i) to[i * to_step] = from[i * step];
}
template <class T>
void clear_line(Index n, T* to, Index to_step) {
  if (to_step == 1) return std::fill_n(to, n, T{}), void();
  for (Index i = 0; i < n; ++i) to[i * to_step] = T{};
}

template <class T>
void unfold_plane(const T* image, const Strides& xs, Index h, Index w, const Window& win, T* columns,
                  const Strides& cs) {
  const Index out_h = win.out_h(h), out_w = win.out_w(w);
  for (Index i = 0; i < win.kernel_h; ++i) {
    for (Index j = 0; j < win.kernel_w; ++j, columns += cs[1]) {
      const Span ys(out_h, win.stride_h, i - win.pad_h, h), inside(out_w, win.stride_w, j - win.pad_w, w);
      for (Index oy = 0; oy < out_h; ++oy) {
        T* to = columns + oy * out_w * cs[2];
        const bool row = oy >= ys.begin && oy < ys.end;
        const Index begin = row ? inside.begin : out_w, end = row ? inside.end : out_w;
        clear_line(begin, to, cs[2]);
        const T* from = image + (oy * win.stride_h - win.pad_h + i) * xs[2] + (begin * win.stride_w + j - win.pad_w) * xs[3];
        if (end > begin) copy_line(end - begin, from, win.stride_w * xs[3], to + begin * cs[2], cs[2]);
        clear_line(out_w - end, to + end * cs[2], cs[2]);
      }
    }
  }
}

/// Adds into plane[h, w], dense.
template <class A, class T>
void fold_plane(const T* columns, const Strides& cs, Index h, Index w, const Window& win, A* plane) {
  const Index out_h = win.out_h(h), out_w = win.out_w(w);
  for (Index i = 0; i < win.kernel_h; ++i) {
    for (Index j = 0; j < win.kernel_w; ++j, columns += cs[1]) {
      const Span ys(out_h, win.stride_h, i - win.pad_h, h), inside(out_w, win.stride_w, j - win.pad_w, w);
      for (Index oy = ys.begin; oy < ys.end; ++oy) {
        const T* from = columns + oy * out_w * cs[2];
        A* to = plane + (oy * win.stride_h - win.pad_h + i) * w + j - win.pad_w;
        for (Index o = inside.begin; o < inside.end; ++o) to[o * win.stride_w] += convert<A>(from[o * cs[2]]);
      }
    }
  }
}

}  // namespace

void CpuBackend::unfold(const View& x, const Window& window, const View& columns) {
  if (columns.numel() == 0) return;
  const Index channels = x.shape()[1], h = x.shape()[2], w = x.shape()[3], kernel = window.kernel_h * window.kernel_w;
  const Strides &xs = x.layout.strides, &cs = columns.layout.strides;
  visit_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const Index grain = std::max<Index>(1, task_elements / (kernel * columns.shape()[2]));
    parallel_for(x.shape()[0] * channels, grain, [&](Index begin, Index end) {
      for (Index n = begin; n < end; ++n) {
        const Index b = n / channels, c = n % channels;
        unfold_plane(x.as<const T>() + b * xs[0] + c * xs[1], xs, h, w, window,
                     columns.as<T>() + b * cs[0] + c * kernel * cs[1], cs);
      }
    });
  });
}

void CpuBackend::fold(const View& columns, const Window& window, const View& x) {
  if (x.numel() == 0) return;
  const Index channels = x.shape()[1], h = x.shape()[2], w = x.shape()[3], kernel = window.kernel_h * window.kernel_w;
  const Strides &xs = x.layout.strides, &cs = columns.layout.strides;
  visit_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Compute<T, true>;
    const Index grain = std::max<Index>(1, task_elements / (h * w));
    parallel_for(x.shape()[0] * channels, grain, [&](Index begin, Index end) {
      A* plane = scratch<A>(Slot::window_plane, h * w);
      for (Index n = begin; n < end; ++n) {
        const Index b = n / channels, c = n % channels;
        std::fill_n(plane, h * w, A{});
        fold_plane(columns.as<const T>() + b * cs[0] + c * kernel * cs[1], cs, h, w, window, plane);
        T* to = x.as<T>() + b * xs[0] + c * xs[1];
        for (Index i = 0; i < h; ++i)
          for (Index j = 0; j < w; ++j) to[i * xs[2] + j * xs[3]] = convert<T>(plane[i * w + j]);
      }
    });
  });
}

}  // namespace norma::cpu
