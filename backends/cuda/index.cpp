// Indexing and sliding windows.
#include "backends/cuda/kernels/index.h"

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/launches.h"

namespace norma::cuda {
namespace {

View without_axis(View v, int axis, Index size) {  // `size` times the same element along it
  v.layout.shape.set(axis, size);
  v.layout.strides[static_cast<std::size_t>(axis)] = 0;
  return v;
}

/// index [n] as if each line of `shape` had its own copy.
View along(const View& index, int axis, const Shape& shape) {
  View v = index;
  v.layout = Layout(shape, Strides{}, 0);
  v.layout.strides[static_cast<std::size_t>(axis)] = index.layout.stride(0);
  return v;
}

Windows windows_of(const View& image, const Window& window, const View& columns) {
  const Shape& shape = image.shape();
  for (const Index size : {shape[0], shape[1], shape[2] + 2 * window.pad_h, shape[3] + 2 * window.pad_w, window.stride_h, window.stride_w})
    if (size > launch_limit) fail("unfold: size {} is beyond what cuda takes, {}", size, launch_limit);
  Windows w;
  w.rows = window_axis(shape[2], window.out_h(shape[2]), window.kernel_h, window.stride_h, window.pad_h);
  w.columns = window_axis(shape[3], window.out_w(shape[3]), window.kernel_w, window.stride_w, window.pad_w);
  w.images = shape[0], w.channels = shape[1];
  w.image = image.data, w.window = columns.data, w.dtype = image.dtype;
  for (int axis = 0; axis < 4; ++axis) w.image_stride[axis] = image.layout.stride(axis);
  for (int axis = 0; axis < 3; ++axis) w.window_stride[axis] = columns.layout.stride(axis);
  return w;
}

}  // namespace

void CudaBackend::gather(const View& x, int axis, const View& index, const View& out) {
  const View lines = without_axis(x, axis, out.shape()[axis]);
  each_launch([&](const Elements<3>& e) { gather_elements(stream(), e, size_of(x.dtype), x.layout.stride(axis)); }, lines, index,
              out);
}

void CudaBackend::index_select(const View& x, int axis, const View& index, const View& out) {
  gather(x, axis, along(index, axis, out.shape()), out);
}

void CudaBackend::scatter_add(const View& x, int axis, const View& index, const View& out) {
  if (x.numel() == 0) return;
  const Index length = out.shape()[axis];
  View position{nullptr, Layout(out.shape(), Strides{}, 0), DType::u8};
  position.layout.strides[static_cast<std::size_t>(axis)] = 1;
  ScatterAdd s;
  s.dtype = x.dtype, s.n = x.shape()[axis], s.index_stride = index.layout.stride(axis), s.x_stride = x.layout.stride(axis);
  each_launch(
      [&](const Elements<4>& e) {
        s.out = e;
        scatter_add_elements(stream(), s);
      },
      without_axis(index, axis, length), without_axis(x, axis, length), out, position);
}

void CudaBackend::index_add(const View& x, int axis, const View& index, const View& out) {
  if (x.numel() == 0) return;
  Operands<2> lines{{x.layout, out.layout}, {static_cast<char*>(x.data), static_cast<char*>(out.data)},
                    {size_of(x.dtype), size_of(out.dtype)}};
  for (Layout& layout : lines.layouts) layout.shape.set(axis, 1);
  IndexAdd s;
  s.index = index.as<std::int64_t>(), s.dtype = x.dtype;
  s.n = index.numel(), s.rows = out.shape()[axis], s.index_stride = index.layout.stride(0);
  s.x_stride = x.layout.stride(axis), s.out_stride = out.layout.stride(axis);
  each_piece<2>(lines, 65535 * 128, [&](const Elements<2>& e) {
    s.lines = e.loop, s.x = e.data[0], s.out = e.data[1];
    index_add_rows(stream(), s);
  });
}

Index CudaBackend::check_index(const View& index, Index limit) {
  if (index.numel() == 0) return -1;
  if (index.numel() > launch_limit) fail("check_index: {} indices; cuda takes at most {}", index.numel(), launch_limit);
  const Scratch first = scratch<Index>(1);
  const View none{first.as<void>(), Layout(Shape{}), DType::i64};
  fill(-1, none);  // the largest of unsigned numbers
  check_indices(stream(), loop_of<1>(index.shape(), {index.layout}), index.as<std::int64_t>(), limit,
                first.as<unsigned long long>());
  Index position;
  download(&position, first.as<Index>(), sizeof position);
  return position;
}

void CudaBackend::unfold(const View& x, const Window& window, const View& columns) {
  if (columns.numel() > 0) unfold_windows(stream(), windows_of(x, window, columns));
}

void CudaBackend::fold(const View& columns, const Window& window, const View& x) {
  if (x.numel() > 0) fold_windows(stream(), windows_of(x, window, columns));
}

}  // namespace norma::cuda
