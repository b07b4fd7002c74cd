// The reference backend's verbs that move elements: indexing and sliding windows.
#include <vector>

#include "backends/reference/reference.h"
#include "backends/reference/walk.h"

namespace norma {

using namespace reference;

namespace {

/// Adds terms to elements of `out` as if each were summed in the accumulator's type and rounded once. `terms` calls
/// add(tuple, value) for each.
template <class T, class Terms>
void add_exactly(const View& out, Terms&& terms) {
  const Layout dense(out.shape());
  std::vector<Accumulator<T>> sums(static_cast<std::size_t>(out.numel()), 0);
  const View buffer{sums.data(), dense, dtype_of<Accumulator<T>>()};
  each(out.shape(), [&](const Tuple& i) { at<Accumulator<T>>(buffer, i) = convert<Accumulator<T>>(at<T>(out, i)); });
  terms([&](const Tuple& i, T value) {
    auto& sum = at<Accumulator<T>>(buffer, i);
    sum = Binary<BinaryOp::add>{}(sum, convert<Accumulator<T>>(value));
  });
  each(out.shape(), [&](const Tuple& i) { at<T>(out, i) = convert<T>(at<Accumulator<T>>(buffer, i)); });
}

Index index_at(const View& index, Index j) { return index.as<Index>()[j * index.layout.stride(0)]; }

/// f(column tuple, image tuple, whether that lies inside the image) for every element of the columns.
template <class F>
void each_window(const Shape& image, const Window& w, const Shape& columns, F&& f) {
  const Index kernel = w.kernel_h * w.kernel_w, out_w = w.out_w(image[3]);
  each(columns, [&](const Tuple& c) {
    const Index i = c[1] % kernel / w.kernel_w, j = c[1] % w.kernel_w;
    const Index y = c[2] / out_w * w.stride_h - w.pad_h + i, x = c[2] % out_w * w.stride_w - w.pad_w + j;
    const bool inside = y >= 0 && y < image[2] && x >= 0 && x < image[3];
    f(c, Tuple{c[0], c[1] / kernel, y, x}, inside);
  });
}

}  // namespace

void ReferenceBackend::gather(const View& x, int axis, const View& index, const View& out) {
  typed(out, [&]<class T>(T) {
    each(out.shape(), [&](const Tuple& i) { at<T>(out, i) = at<T>(x, with(i, axis, at<Index>(index, i))); });
  });
}

void ReferenceBackend::scatter_add(const View& x, int axis, const View& index, const View& out) {
  typed(out, [&]<class T>(T) {
    add_exactly<T>(out, [&](auto add) {
      each(index.shape(), [&](const Tuple& i) { add(with(i, axis, at<Index>(index, i)), at<T>(x, i)); });
    });
  });
}

void ReferenceBackend::index_select(const View& x, int axis, const View& index, const View& out) {
  typed(out, [&]<class T>(T) {
    each(out.shape(), [&](const Tuple& i) { at<T>(out, i) = at<T>(x, with(i, axis, index_at(index, i[axis]))); });
  });
}

void ReferenceBackend::index_add(const View& x, int axis, const View& index, const View& out) {
  typed(out, [&]<class T>(T) {
    add_exactly<T>(out, [&](auto add) {
      each(x.shape(), [&](const Tuple& i) { add(with(i, axis, index_at(index, i[axis])), at<T>(x, i)); });
    });
  });
}

Index ReferenceBackend::check_index(const View& index, Index limit) {
  Index position = 0, first = -1;
  each(index.shape(), [&](const Tuple& i) {
    const Index value = at<Index>(index, i);
    if (first < 0 && (value < 0 || value >= limit)) first = position;
    ++position;
  });
  return first;
}

void ReferenceBackend::unfold(const View& x, const Window& window, const View& columns) {
  typed(x, [&]<class T>(T) {
    each_window(x.shape(), window, columns.shape(), [&](const Tuple& column, const Tuple& pixel, bool inside) {
      at<T>(columns, column) = inside ? at<T>(x, pixel) : convert<T>(0);
    });
  });
}

void ReferenceBackend::fold(const View& columns, const Window& window, const View& x) {
  fill(0, x);
  typed(x, [&]<class T>(T) {
    add_exactly<T>(x, [&](auto add) {
      each_window(x.shape(), window, columns.shape(), [&](const Tuple& column, const Tuple& pixel, bool inside) {
        if (inside) add(pixel, at<T>(columns, column));
      });
    });
  });
}

}  // namespace norma
