// Verbs that move elements, as the host calls them.
#pragma once

#include "backends/cuda/kernels/elementwise.h"
#include "backends/cuda/windows.h"

namespace norma::cuda {

/// x, index, out: out = x[index * axis_stride], x without its axis.
void gather_elements(void* stream, const Elements<3>& e, std::size_t element_bytes, std::int64_t axis_stride);

/// Operands index, x, out, and the position along the axis (no data; its offset is the position). Every element of out adds the
/// elements of x whose index names it, in their order.
struct ScatterAdd {
  Elements<4> out;
  DType dtype = DType::f32;
  std::int64_t n = 0, index_stride = 0, x_stride = 0;  // along the axis
};
void scatter_add_elements(void* stream, const ScatterAdd& s);

/// The same where all lines share one index [n]: rows of x are added to rows of out; `lines` has operands x and out.
struct IndexAdd {
  Loop<2> lines;
  const std::int64_t* index = nullptr;
  const void* x = nullptr;
  void* out = nullptr;
  DType dtype = DType::f32;
  std::int64_t n = 0, rows = 0, index_stride = 0, x_stride = 0, out_stride = 0;
};
void index_add_rows(void* stream, const IndexAdd& s);

/// *first = the smallest position of an index outside [0, limit), if that is below what stands there.
void check_indices(void* stream, const Loop<1>& loop, const std::int64_t* index, std::int64_t limit, unsigned long long* first);

/// Between images [B, C, h, w] and their windows [B, C kernel_h kernel_w, out_h out_w], all sizes up to 2^30.
struct Windows {
  WindowAxis rows, columns;
  std::int64_t images = 0, channels = 0;
  void *image = nullptr, *window = nullptr;
  std::int64_t image_stride[4] = {}, window_stride[3] = {};
  DType dtype = DType::f32;
};
void unfold_windows(void* stream, const Windows& w);
void fold_windows(void* stream, const Windows& w);

}  // namespace norma::cuda
