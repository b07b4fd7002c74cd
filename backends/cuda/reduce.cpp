// Reductions and running sums: which axes are walked how.
#include <algorithm>

#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/kernels/reduce.h"
#include "backends/cuda/launches.h"

namespace norma::cuda {
namespace {

void check_size(const char* op, Index count) {
  if (count > launch_limit) fail("{}: {} elements in one walk; cuda takes at most {}", op, count, launch_limit);
}

template <int N>
Loop<N> merged(std::array<Layout, N> layouts) {
  std::array<Layout*, N> pointers;
  for (std::size_t k = 0; k < N; ++k) pointers[k] = &layouts[k];
  const Shape shape = coalesce(pointers);
  return loop_of<N>(shape, layouts);
}

/// The axes where out has x's size are kept, the others reduced, by the order of the axes alone, so that positions count.
Reduction reduction_of(const View& x, const View& out, Reducer op) {
  std::vector<int> kept, gone;
  for (int axis = 0; axis < x.shape().rank(); ++axis)
    (out.shape()[axis] == x.shape()[axis] ? kept : gone).push_back(axis);
  const auto part = [](const Layout& layout, const std::vector<int>& axes) {
    Layout p{};
    for (int axis : axes) p.strides[static_cast<std::size_t>(p.rank())] = layout.stride(axis), p.shape.append(layout.shape[axis]);
    return p;
  };
  Reduction r;
  const Layout kept_x = part(x.layout, kept), reduced = part(x.layout, gone);
  check_size("reduce", kept_x.shape.numel());
  check_size("reduce", reduced.shape.numel());
  r.kept = merged<2>({kept_x, part(out.layout, kept)});
  r.reduced = loop_of<1>(reduced.shape, {reduced});
  r.x = x.data, r.out = out.data, r.dtype = x.dtype, r.out_dtype = out.dtype, r.op = op;
  // Neighbouring threads should read neighbours: by thread where the innermost axis of x is kept.
  const bool inner_kept = r.kept.rank > 0 && r.kept.stride[0][r.kept.rank - 1] == 1;
  const std::uint32_t outputs = r.kept.size, n = r.reduced.size;
  r.by_thread = n <= 32 || (inner_kept && outputs >= 32);
  const std::uint32_t wanted = r.by_thread ? (1u << 16) / std::max(1u, outputs) : 1024 / std::max(1u, outputs);
  const std::uint32_t most = std::max(1u, n / (r.by_thread ? 64 : 4096));
  r.parts = std::clamp(wanted, 1u, std::min(most, 1024u));
  if (n > 0) {  // no empty part
    const std::uint32_t size = (n + r.parts - 1) / r.parts;
    r.parts = (n + size - 1) / size;
  }
  return r;
}

}  // namespace

void CudaBackend::reduce(ReduceOp op, const View& x, const View& out) {
  if (out.numel() == 0) return;
  const Reducer reducer = op == ReduceOp::sum      ? Reducer::sum
                          : op == ReduceOp::max    ? Reducer::max
                          : op == ReduceOp::min    ? Reducer::min
                          : op == ReduceOp::argmax ? Reducer::argmax
                                                   : Reducer::argmin;
  Reduction r = reduction_of(x, out, reducer);
  const Scratch partial = scratch<char>(r.parts > 1 ? Index{r.kept.size} * r.parts * static_cast<Index>(partial_bytes) : 0);
  r.partial = partial.as<void>();
  reduce_elements(stream(), r);
}

void CudaBackend::cumsum(const View& x, int axis, const View& out) {
  if (x.numel() == 0) return;
  Scan s;
  Layout from = x.layout, to = out.layout;
  from.shape.set(axis, 1), to.shape.set(axis, 1);
  check_size("cumsum", from.shape.numel());
  s.lines = merged<2>({from, to});
  s.x = x.data, s.out = out.data, s.dtype = x.dtype;
  s.n = x.shape()[axis], s.x_step = x.layout.stride(axis), s.out_step = out.layout.stride(axis);
  scan_lines(stream(), s);
}

}  // namespace norma::cuda
