// Convolution in groups as products with the columns of its windows, which are never all in memory: for a strip of outputs and some channels the
// lines that its windows read are padded into near caches, and laid out from there as an operand of a product (kernels/window.cpp). The gradient of
// the image, where strides are 1, is such a convolution of dy with the kernels turned; that of the weight is a product of those columns with dy. All
// cuts follow from the sizes alone, but for rows of outputs, whose sums are their own.
#include <algorithm>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cut_product.h"
#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/stored_rows.h"
#include "backends/cpu/window_kernels.h"

namespace norma::cpu {
namespace {

/// One axis of a convolution: element i of the kernel reads, for output r, place r stride + first + i, or first - i where it is turned; zeros
/// outside.
struct Axis {
  Index size, outputs, kernel, stride, first;
  bool turned = false;
  Index least() const { return turned ? first - kernel + 1 : first; }
  Index shift(Index i) const { return turned ? kernel - 1 - i : i; }  // of what element i reads, from the least
};

/// Outputs [row, row + rows) x [column, column + columns) of some images: whole planes, or of one image all columns, or some of one row.
struct Strip {
  Index image, images, row, rows, column, columns;
  Index plane() const { return rows * columns; }  // outputs of an image: neighbours in a dense plane
  Index count() const { return images * plane(); }
};

/// How the windows of all images are cut into strips.
struct Windows {
  static constexpr Index most = 192;  // outputs of a strip: what is laid out of them stays in the second-level cache
  Axis lines, columns;
  Index images, at_once = 1, strip_rows = 1, strip_columns = columns.outputs;

  Windows(Axis h, Axis w, Index image_count, Index panel) : lines(h), columns(w), images(image_count) {
    if (columns.outputs > most) strip_columns = most / panel * panel;
    // Of the strips more than half as long as may be the one whose last panel is the fullest; of small planes several.
    const auto fullest = [&](Index unit, Index count) {
      Index best = 1;
      double least_waste = 1;
      for (Index n = 1; n <= count && n * unit <= most; ++n) {
        if (2 * n * unit <= most && n < count) continue;
        const double waste = 1 - static_cast<double>(n * unit) / static_cast<double>(round_up(n * unit, panel));
        if (waste <= least_waste) least_waste = waste, best = n;
      }
      return best;
    };
    strip_rows = fullest(columns.outputs, lines.outputs);
    if (strip_rows == lines.outputs && strip_columns == columns.outputs) at_once = fullest(lines.outputs * columns.outputs, images);
  }
  Index taps() const { return lines.kernel * columns.kernel; }
  Index across() const { return ceil_div(columns.outputs, strip_columns); }
  Index down() const { return ceil_div(lines.outputs, strip_rows); }
  Index strips() const { return ceil_div(images, at_once) * down() * across(); }
  Strip strip(Index i) const {
    const Index image = i / across() / down() * at_once, row = i / across() % down() * strip_rows, column = i % across() * strip_columns;
    return {image,  std::min(at_once, images - image),
            row,    std::min(strip_rows, lines.outputs - row),
            column, std::min(strip_columns, columns.outputs - column)};
  }
};

/// The lines that the windows of one strip read, in scratch memory: channel after channel, image after image, padded, columns by phases of the
/// stride.
template <class C>
class Lines {
 public:
  Lines(const Windows& w, const Strip& s)
      : w_(w), s_(s), count_((s.rows - 1) * w.lines.stride + w.lines.kernel), phases_(std::min(w.columns.stride, w.columns.kernel)),
        pitch_(s.columns + (w.columns.kernel - 1) / w.columns.stride), line_(phases_ * pitch_), channel_(s.images * count_ * line_) {
    for (Index i = 0; i < w.lines.kernel; ++i)
      for (Index j = 0; j < w.columns.kernel; ++j) {
        const Index across = w.columns.shift(j);
        offset_.push_back(w.lines.shift(i) * line_ + across % w.columns.stride * pitch_ + across / w.columns.stride);
      }
    for (Index n = 0; n < s.images; ++n)
      for (Index r = 0; r < s.rows; ++r) row_.push_back((n * count_ + r * w.lines.stride) * line_);
  }
  /// Reads channels of x and says how they lie; the memory is this task's until the next call.
  template <class T>
  WindowLines<C> read(const View& x, Index first, Index channels) const {
    constexpr Index beyond = 128;  // elements: no panel and no register is wider
    C* const lines = scratch<C>(Slot::conv_lines, channels * channel_ + beyond);
    C* to = lines;
    const Strides& strides = x.layout.strides;
    for (Index c = first; c < first + channels; ++c)
      for (Index n = s_.image; n < s_.image + s_.images; ++n)
        for (Index l = 0; l < count_; ++l, to += line_)
          read_line(x.as<const T>() + n * strides[0] + c * strides[1], s_.row * w_.lines.stride + w_.lines.least() + l, strides, to);
    std::fill_n(to, beyond, C{});
    return {lines, channels, channel_, w_.taps(), offset_.data(), s_.images * s_.rows, s_.columns, row_.data()};
  }

 private:
  template <class T>
  void read_line(const T* plane, Index line, const Strides& strides, C* to) const {
    const Index step = w_.columns.stride;
    for (Index f = 0; f < phases_; ++f, to += pitch_) {
      const Index x = s_.column * step + w_.columns.least() + f;  // of the first element
      const bool outside = line < 0 || line >= w_.lines.size;
      const Index begin = outside ? pitch_ : std::clamp<Index>(ceil_div(-x, step), 0, pitch_),
                  end = std::clamp<Index>(ceil_div(w_.columns.size - x, step), begin, pitch_);
      std::fill_n(to, begin, C{});
      if (end > begin) read_row(end - begin, plane + line * strides[2] + (x + begin * step) * strides[3], step * strides[3], to + begin);
      std::fill_n(to + end, pitch_ - end, C{});
    }
  }
  const Windows& w_;
  const Strip& s_;
  Index count_, phases_, pitch_, line_, channel_;  // lines of an image; elements
  std::vector<Index> offset_, row_;
};

template <class C>
const GemmTable<C>& multiply_adds() {
  if constexpr (sizeof(C) == 4)
    return NORMA_KERNELS(gemm_kernels).f32;
  else
    return NORMA_KERNELS(gemm_kernels).f64;
}

/// Channels whose taps are a piece of a sum: a panel of them stays in the first-level cache.
template <class C>
Index channels_at_once(Index taps) {
  return std::max<Index>(1, std::clamp<Index>(24 * 1024 / (multiply_adds<C>().nr * static_cast<Index>(sizeof(C))), 256, 384) / taps);
}

/// Memory of the pool as large as a weight, while a call lasts: scratch memory would be kept.
template <class C>
class Room {
 public:
  Room(Backend& pool, Index count) : pool_(pool), bytes_(static_cast<std::size_t>(count) * sizeof(C)), data_(static_cast<C*>(pool.allocate(bytes_))) {}
  Room(const Room&) = delete;
  ~Room() { pool_.release(data_, bytes_); }
  C* data() const { return data_; }

 private:
  Backend& pool_;
  std::size_t bytes_;
  C* data_;
};

/// Where a strip of a contiguous y[B, O, oh, ow] begins in image n and channel o; its outputs are neighbours there.
template <class T>
T* outputs_of(const View& y, Index n, Index o, const Strip& s) {
  const Shape& size = y.shape();
  return y.as<T>() + ((n * size[1] + o) * size[2] + s.row) * size[3] + s.column;
}

/// y[B, groups M, oh, ow] = the products of weight[groups, M, channels of a group * taps] with the columns of x's windows, + bias[groups M].
template <class T, class C>
void correlate(const View& x, const Windows& w, Index groups, const C* weight, const View& bias, const View& y) {
  const GemmTable<C>& gemm = multiply_adds<C>();
  const WindowTable<C>& loops = NORMA_KERNELS(window_kernels).template of<C>();
  const Index channels = x.shape()[1] / groups, out = y.shape()[1] / groups, taps = w.taps(), depth = channels * taps;
  const Index at_once = channels_at_once<C>(taps), tasks = groups * w.strips();
  // Where strips are few, the channels of outputs are cut too: the bits are the same.
  const Index parts = std::clamp<Index>(2 * threads() / std::max<Index>(1, tasks), 1, ceil_div(out, 4 * gemm.mr));
  parallel_tasks(tasks * parts, [&](Index task) {
    const Index part = task % parts, group = task / parts / w.strips(), m0 = cut(out, gemm.mr, parts, part),
                m = cut(out, gemm.mr, parts, part + 1) - m0;
    if (m == 0) return;
    const Strip s = w.strip(task / parts % w.strips());
    const Index n = s.count(), o = group * out + m0;
    C* c = nullptr;
    Index ldc = y.shape()[2] * y.shape()[3];
    if constexpr (std::is_same_v<T, C>)
      if (s.images == 1) c = outputs_of<C>(y, s.image, o, s);
    const bool apart = !c;
    if (apart) c = scratch<C>(Slot::conv_sums, m * n), ldc = n;
    const Lines<C> lines(w, s);
    C* panels = scratch<C>(Slot::conv_packed, std::min(at_once, channels) * taps * round_up(n, gemm.nr) + gemm.nr);
    for (Index first = 0; first < channels; first += at_once) {
      const Index count = std::min(at_once, channels - first), k = count * taps;
      loops.lay_panels(lines.template read<T>(x, group * channels + first, count), panels);
      const C* rows = weight + (group * out + m0) * depth + first * taps;
      gemm.block(m, n, k, {rows, gemm.mr * depth, depth, 1}, gemm.packed_panels(panels, k), c, ldc, first > 0, nullptr, {});
    }
    if (const Index step = bias ? bias.layout.strides[0] : 0; bias) loops.add_bias(m, n, bias.as<const C>() + o * step, step, c, ldc);
    for (Index i = 0; apart && i < m; ++i)
      for (Index image = 0; image < s.images; ++image)
        write_row(s.plane(), c + i * ldc + image * s.plane(), outputs_of<T>(y, s.image + image, o + i, s), 1);
  });
}

template <class C>
Windows forward_windows(const Shape& x, const Shape& y, const Window& w) {
  return {{x[2], y[2], w.kernel_h, w.stride_h, -w.pad_h}, {x[3], y[3], w.kernel_w, w.stride_w, -w.pad_w}, x[0], multiply_adds<C>().nr};
}

template <class T, class C>
void forward(const Convolution& a) {
  correlate<T, C>(a.x, forward_windows<C>(a.x.shape(), a.y.shape(), a.window), a.groups, a.weight.as<const C>(), a.bias, a.y);
}

/// dx[r] = the sum over i of weight[i] dy[r + pad - i].
template <class T, class C>
void backward_x(Backend& pool, const ConvolutionBackward& a) {
  const Window& w = a.window;
  const Shape &x = a.dx.shape(), &y = a.dy.shape();
  const Index channels = x[1] / a.groups, out = y[1] / a.groups, taps = w.kernel_h * w.kernel_w;
  const Room<C> room(pool, a.weight.numel());
  C* turned = room.data();  // [groups, channels, out, taps]
  parallel_for(x[1], std::max<Index>(1, task_elements / (out * taps)), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      for (Index o = 0; o < out; ++o)
        std::copy_n(a.weight.as<const C>() + ((i / channels * out + o) * channels + i % channels) * taps, taps, turned + (i * out + o) * taps);
  });
  const Windows windows({y[2], x[2], w.kernel_h, 1, w.pad_h, true}, {y[3], x[3], w.kernel_w, 1, w.pad_w, true}, x[0], multiply_adds<C>().nr);
  correlate<T, C>(a.dy, windows, a.groups, turned, {}, a.dx);
}

/// dweight: of some channels and slices of the strips the sums over their outputs, as [groups, channels * taps, out], then the slices in order.
template <class T, class C>
void backward_weight(Backend& pool, const ConvolutionBackward& a) {
  const GemmTable<C>& gemm = multiply_adds<C>();
  const Windows w = forward_windows<C>(a.x.shape(), a.dy.shape(), a.window);
  const Index channels = a.x.shape()[1] / a.groups, out = a.dy.shape()[1] / a.groups, taps = w.taps(), at_once = channels_at_once<C>(taps);
  const Index blocks = ceil_div(channels, at_once), size = a.weight.numel(), strips = w.strips(), plane = a.dy.shape()[2] * a.dy.shape()[3];
  const Index slices = std::clamp<Index>((Index{4} << 20) / std::max<Index>(1, size), 1, std::min<Index>(8, strips));
  const Room<C> room(pool, slices * size);
  C* parts = room.data();
  parallel_tasks(slices * a.groups * blocks, [&](Index task) {
    const Index slice = task % slices, group = task / slices / blocks, first = task / slices % blocks * at_once;
    const Index count = std::min(at_once, channels - first), m = count * taps, begin = strips * slice / slices;
    C* sums = parts + slice * size + (group * channels + first) * taps * out;
    for (Index i = begin; i < strips * (slice + 1) / slices; ++i) {
      const Strip s = w.strip(i);
      const Index k = s.count(), row = round_up(k, 16) + 16;
      Matrix<const C> dy{nullptr, 1, k};  // outputs by channels
      if constexpr (std::is_same_v<T, C>)
        if (s.images == 1) dy = {outputs_of<const C>(a.dy, s.image, group * out, s), 1, plane};
      if (!dy.data) {
        C* wide = scratch<C>(Slot::conv_dy, out * k);
        dy.data = wide;
        for (Index o = 0; o < out; ++o)
          for (Index n = 0; n < s.images; ++n, wide += s.plane())
            read_row(s.plane(), outputs_of<const T>(a.dy, s.image + n, group * out + o, s), 1, wide);
      }
      C* panels = scratch<C>(Slot::conv_packed, round_up(out, gemm.nr) * k);
      gemm.pack_b(k, out, dy, false, panels);
      C* rows = scratch<C>(Slot::conv_sums, m * row);
      const Lines<C> lines(w, s);
      NORMA_KERNELS(window_kernels).template of<C>().lay_rows(lines.template read<T>(a.x, group * channels + first, count), rows, row);
      gemm.block(m, out, k, {rows, gemm.mr * row, row, 1}, gemm.packed_panels(panels, k), sums, out, i > begin, nullptr, {});
    }
  });
  const Index depth = channels * taps;
  parallel_for(a.groups * depth, std::max<Index>(1, task_elements / out), [&](Index begin, Index end) {
    gemm.combine(slices, (end - begin) * out, parts + begin * out, size, parts + begin * out);
    for (Index i = begin; i < end; ++i)
      for (Index o = 0; o < out; ++o) a.dweight.as<C>()[(i / depth * out + o) * depth + i % depth] = parts[i * out + o];
  });
}

/// Slices of f32 are multiplied faster than their columns cost, and a library is asked for whole products. Of the lines between windows far apart most
/// would be read for nothing.
bool takes(const View& x, const View& weight, const Window& w) {
  if (!is_floating(x.dtype) || weight.dtype != wide_of(x.dtype) || w.stride_h > 4 * w.kernel_h) return false;
  const GemmProvider provider = gemm_provider();
  return provider == GemmProvider::fma || (provider == GemmProvider::own && (x.dtype == DType::f64 || !NORMA_BF16_KERNELS(sliced_gemm).f32));
}

}  // namespace

bool CpuBackend::convolution(const Convolution& a) {
  if (!takes(a.x, a.weight, a.window)) return false;
  if (a.y.numel() > 0)
    with_types(a.x.dtype, [&](auto stored, auto computed) { forward<decltype(stored), decltype(computed)>(a); });
  return true;
}

bool CpuBackend::convolution_backward(const ConvolutionBackward& a) {
  if (!takes(a.x, a.weight, a.window) || a.dy.dtype != a.x.dtype) return false;
  if (a.dx && (a.window.stride_h > 1 || a.window.stride_w > 1)) return false;  // of their phases sums are short: columns are folded faster
  bool took = true;
  with_types(a.x.dtype, [&](auto stored, auto computed) {
    using C = decltype(computed);
    if (a.dx && !NORMA_KERNELS(window_kernels).template of<C>().all_finite(a.weight.numel(), a.weight.as<const C>())) return void(took = false);
    if (a.dx && a.dx.numel() > 0) backward_x<decltype(stored), C>(*this, a);
    if (a.dweight) backward_weight<decltype(stored), C>(*this, a);
  });
  return took;
}

}  // namespace norma::cpu
