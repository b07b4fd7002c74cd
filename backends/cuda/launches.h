// From views to the plain data of element-wise kernels.
#pragma once

#include <algorithm>
#include <array>

#include "backends/cuda/kernels/elementwise.h"
#include "core/tensor.h"

namespace norma::cuda {

/// What one launch covers at most: index arithmetic in kernels has 31 bits.
constexpr Index launch_limit = Index{1} << 30;

template <int N>
struct Operands {
  std::array<Layout, N> layouts;
  std::array<char*, N> data;
  std::array<std::size_t, N> element_bytes;
};

template <int N>
Loop<N> loop_of(const Shape& shape, const std::array<Layout, N>& layouts) {
  Loop<N> loop;
  loop.size = static_cast<std::uint32_t>(shape.numel());
  loop.rank = shape.rank();
  for (int axis = 0; axis < shape.rank(); ++axis) {
    loop.axis[axis] = Divider(static_cast<std::uint32_t>(std::max<Index>(1, shape[axis])));
    for (std::size_t k = 0; k < N; ++k) loop.stride[k][axis] = layouts[k].stride(axis);
  }
  return loop;
}

/// f(Elements<N>) for pieces of at most `limit` elements that together cover the operands once.
template <int N, class F>
void each_piece(const Operands<N>& all, Index limit, F&& f) {
  Operands<N> o = all;
  if (o.layouts[0].shape.numel() == 0) return;
  std::array<Layout*, N> pointers;
  for (std::size_t k = 0; k < N; ++k) pointers[k] = &o.layouts[k];
  const Shape shape = coalesce(pointers);
  if (shape.numel() > limit) {
    const Index half = shape[0] / 2;
    for (const auto& [start, count] : {std::pair{Index{0}, half}, {half, shape[0] - half}}) {
      Operands<N> part = o;
      for (std::size_t k = 0; k < N; ++k) {
        part.data[k] += start * o.layouts[k].stride(0) * static_cast<Index>(o.element_bytes[k]);
        part.layouts[k] = slice(o.layouts[k], 0, 0, count, 1);
      }
      each_piece<N>(part, limit, f);
    }
    return;
  }
  Elements<N> e;
  e.loop = loop_of<N>(shape, o.layouts);
  e.dense = shape.rank() <= 1;
  for (std::size_t k = 0; k < N; ++k) {
    e.data[k] = o.data[k];
    const bool aligned = reinterpret_cast<std::uintptr_t>(o.data[k]) % (4 * o.element_bytes[k]) == 0;
    e.dense = e.dense && aligned && (shape.rank() == 0 || o.layouts[k].stride(0) == 1);
  }
  f(e);
}

template <class F, class... Views>
void each_launch(F&& f, const Views&... views) {
  constexpr int n = sizeof...(Views);
  const Operands<n> operands{{views.layout...}, {static_cast<char*>(views.data)...}, {size_of(views.dtype)...}};
  each_piece<n>(operands, launch_limit, f);
}

}  // namespace norma::cuda
