// Convolution with one kernel a channel, without columns. A plane is padded and laid out by phases of the stride, in rows of one width, so that each
// element of the kernel reads it at one offset from the output (kernels/window.cpp); the positions between the ends of those rows are left out.
#include <algorithm>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/stored_rows.h"
#include "backends/cpu/window_kernels.h"

namespace norma::cpu {
namespace {

constexpr Index beyond = 16;  // elements that a register may read beyond an end

/// One axis of a padded image in phases of the stride: position p is element p / stride of phase p % stride.
struct Axis {
  Index size, outputs, kernel, stride, pad, phases, length;  // length: of a phase
  Axis(Index n, Index out, Index k, Index s, Index p)
      : size(n), outputs(out), kernel(k), stride(s), pad(p), phases(std::min(s, k)), length(out + (k - 1) / s) {}
  Index shift() const { return (kernel - 1) / stride; }  // the largest of an element of the kernel
  /// Elements [begin, end) of a phase lie inside the image.
  Index begin(Index phase) const { return std::min(length, pad > phase ? (pad - phase + stride - 1) / stride : 0); }
  Index end(Index phase) const { return size + pad > phase ? std::clamp((size + pad - phase - 1) / stride + 1, begin(phase), length) : begin(phase); }
  Index position(Index phase, Index i) const { return i * stride + phase - pad; }  // in the image
};

struct Plan {
  Axis rows, columns;
  Index row, plane, outputs;  // elements of a row and of a phase; from the first output to the last
  std::vector<Index> offsets;  // of each element of the kernel: where it reads, from the output
  std::vector<Index> order, first, backwards;  // the elements by phase, where each phase begins among them, and where from an input the output lies
  Plan(const View& x, const Window& w, const View& y)
      : rows(x.shape()[2], y.shape()[2], w.kernel_h, w.stride_h, w.pad_h), columns(x.shape()[3], y.shape()[3], w.kernel_w, w.stride_w, w.pad_w),
        row(columns.length), plane(rows.length * row), outputs((rows.outputs - 1) * row + columns.outputs) {
    for (Index i = 0; i < rows.kernel; ++i)
      for (Index j = 0; j < columns.kernel; ++j) offsets.push_back(phase(i, j) * plane + shift(i, j));
    for (Index f = 0; f < phases(); ++f) {
      first.push_back(static_cast<Index>(order.size()));
      for (Index i = f / columns.phases; i < rows.kernel; i += rows.stride)
        for (Index j = f % columns.phases; j < columns.kernel; j += columns.stride) order.push_back(i * columns.kernel + j), backwards.push_back(-shift(i, j));
    }
    first.push_back(static_cast<Index>(order.size()));
  }
  Index phase(Index i, Index j) const { return i % rows.stride * columns.phases + j % columns.stride; }
  Index shift(Index i, Index j) const { return i / rows.stride * row + j / columns.stride; }
  Index margin() const { return rows.shift() * row + columns.shift(); }
  Index phases() const { return rows.phases * columns.phases; }
  Index packed() const { return phases() * plane; }
  Index count() const { return static_cast<Index>(offsets.size()); }
  Index grain() const { return std::max<Index>(1, task_elements / (count() * plane)); }

  /// body(packed row, the row's place in the image, elements [begin, end) of the row inside the image) for each row of each phase; the place is -1 outside.
  template <class C, class Body>
  void each_row(C* packed, Body&& body) const {
    for (Index i0 = 0; i0 < rows.phases; ++i0) {
      for (Index j0 = 0; j0 < columns.phases; ++j0) {
        const Index begin = columns.begin(j0), end = columns.end(j0);
        for (Index r = 0; r < rows.length; ++r, packed += row) {
          const bool inside = r >= rows.begin(i0) && r < rows.end(i0) && begin < end;
          body(packed, inside ? rows.position(i0, r) : -1, columns.position(j0, begin), begin, end);
        }
      }
    }
  }
  template <class C, class T>
  void pack(const T* image, const Strides& s, C* packed) const {
    each_row(packed, [&](C* to, Index line, Index from, Index begin, Index end) {
      if (line < 0) return std::fill_n(to, row, C{}), void();
      std::fill_n(to, begin, C{});
      read_row(end - begin, image + line * s[2] + from * s[3], columns.stride * s[3], to + begin);
      std::fill_n(to + end, row - end, C{});
    });
  }
  /// The elements that no window reads get 0.
  template <class C, class T>
  void unpack(const C* packed, T* image, const Strides& s) const {
    if (rows.stride > 1 || columns.stride > 1) {
      for (Index i = 0; i < rows.size; ++i)
        for (Index j = 0; j < columns.size; ++j) image[i * s[2] + j * s[3]] = T{};
    }
    each_row(packed, [&](const C* from, Index line, Index to, Index begin, Index end) {
      if (line >= 0) write_row(end - begin, from + begin, image + line * s[2] + to * s[3], columns.stride * s[3]);
    });
  }
  /// The outputs in rows `row` apart, zeros elsewhere; `to` holds a whole phase.
  template <class C, class T>
  void spread(const T* y, const Strides& s, C* to) const {
    std::fill_n(to, plane, C{});
    for (Index r = 0; r < rows.outputs; ++r) read_row(columns.outputs, y + r * s[2], s[3], to + r * row);
  }
};

/// Where the plane of image n / C and channel n % C begins.
template <class T>
T* plane_of(const View& x, Index n) {
  const Index channels = x.shape()[1];
  return x.as<T>() + n / channels * x.layout.strides[0] + n % channels * x.layout.strides[1];
}

template <class C>
const C* kernel_of(const View& weight, Index channel) {
  return weight.as<const C>() + channel * weight.layout.strides[0];
}

bool takes(const View& x, const View& weight) {
  const Index area = weight.shape()[2];
  return is_floating(x.dtype) && weight.dtype == wide_of(x.dtype) && (area == 1 || weight.layout.strides[2] == 1);
}

template <class T, class C>
void forward(const View& x, const View& weight, const View& bias, const Plan& p, const View& y) {
  const auto weigh = NORMA_KERNELS(window_kernels).of<C>().weigh;
  const Index channels = x.shape()[1];
  parallel_for(x.shape()[0] * channels, p.grain(), [&](Index begin, Index end) {
    C *packed = scratch<C>(Slot::window_plane, p.packed() + p.outputs), *sums = packed + p.packed();
    for (Index n = begin; n < end; ++n) {
      const Index channel = n % channels;
      p.pack(plane_of<const T>(x, n), x.layout.strides, packed);
      weigh(p.outputs, packed, p.count(), p.offsets.data(), kernel_of<C>(weight, channel),
            bias ? bias.as<const C>()[channel * bias.layout.strides[0]] : C{}, sums);
      T* to = plane_of<T>(y, n);
      for (Index r = 0; r < p.rows.outputs; ++r) write_row(p.columns.outputs, sums + r * p.row, to + r * y.layout.strides[2], y.layout.strides[3]);
    }
  });
}

/// The gradient of x: each phase is a sum over its elements of the kernel, backwards from the outputs.
template <class T, class C>
void backward_x(const View& dy, const View& weight, const Plan& p, const View& dx) {
  const auto weigh = NORMA_KERNELS(window_kernels).of<C>().weigh;
  const Index channels = dx.shape()[1];
  parallel_for(dx.shape()[0] * channels, p.grain(), [&](Index begin, Index end) {
    C *packed = scratch<C>(Slot::window_plane, p.packed() + p.margin() + p.plane), *outputs = packed + p.packed() + p.margin();
    std::fill_n(packed + p.packed(), p.margin(), C{});
    std::vector<C> kernel(p.offsets.size());
    for (Index n = begin; n < end; ++n) {
      p.spread(plane_of<const T>(dy, n), dy.layout.strides, outputs);
      const C* its = kernel_of<C>(weight, n % channels);
      for (std::size_t k = 0; k < kernel.size(); ++k) kernel[k] = its[p.order[k]];
      for (Index f = 0; f < p.phases(); ++f) {
        const Index from = p.first[f];
        weigh(p.plane, outputs, p.first[f + 1] - from, p.backwards.data() + from, kernel.data() + from, C{}, packed + f * p.plane);
      }
      p.unpack(packed, plane_of<T>(dx, n), dx.layout.strides);
    }
  });
}

/// The gradient of the kernels: of each channel in the order of the images.
template <class T, class C>
void backward_weight(const View& dy, const View& x, const Plan& p, const View& dweight) {
  const auto correlate = NORMA_KERNELS(window_kernels).of<C>().correlate;
  const Index channels = x.shape()[1], images = x.shape()[0];
  parallel_for(channels, std::max<Index>(1, p.grain() / std::max<Index>(1, images)), [&](Index begin, Index end) {
    C *packed = scratch<C>(Slot::window_plane, p.packed() + p.plane + 2 * beyond), *outputs = packed + p.packed() + beyond;
    std::vector<double> sums(p.offsets.size());
    for (Index channel = begin; channel < end; ++channel) {
      std::fill(sums.begin(), sums.end(), 0.0);
      for (Index image = 0; image < images; ++image) {
        const Index n = image * channels + channel;
        p.spread(plane_of<const T>(dy, n), dy.layout.strides, outputs);
        p.pack(plane_of<const T>(x, n), x.layout.strides, packed);
        correlate(p.rows.outputs, p.columns.outputs, p.row, outputs, packed, p.count(), p.offsets.data(), sums.data());
      }
      C* to = dweight.as<C>() + channel * dweight.layout.strides[0];
      for (std::size_t t = 0; t < sums.size(); ++t) to[static_cast<Index>(t) * dweight.layout.strides[2]] = static_cast<C>(sums[t]);
    }
  });
}

}  // namespace

bool CpuBackend::depthwise(const View& x, const View& weight, const View& bias, const Window& window, const View& y) {
  if (!takes(x, weight)) return false;
  if (y.numel() == 0) return true;
  const Plan p(x, window, y);
  with_types(x.dtype, [&](auto stored, auto computed) { forward<decltype(stored), decltype(computed)>(x, weight, bias, p, y); });
  return true;
}

bool CpuBackend::depthwise_backward(const View& dy, const View& x, const View& weight, const Window& window, const View& dx, const View& dweight) {
  if (!takes(x, weight) || dy.dtype != x.dtype) return false;
  const Plan p(x, window, dy);
  bool took = true;
  with_types(x.dtype, [&](auto stored, auto computed) {
    using C = decltype(computed);
    const auto all_finite = NORMA_KERNELS(window_kernels).template of<C>().all_finite;
    for (Index c = 0; dx && c < weight.shape()[0]; ++c) took &= all_finite(weight.shape()[2], kernel_of<C>(weight, c));
    if (!took) return;
    if (dx && x.numel() > 0) backward_x<decltype(stored), C>(dy, weight, p, dx);
    if (dweight) backward_weight<decltype(stored), C>(dy, x, p, dweight);
  });
  return took;
}

}  // namespace norma::cpu
