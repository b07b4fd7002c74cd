// What the fused ops share: layouts their kernels take, the type they compute in, rows made small. Knows nothing of any one op.
#pragma once

#include <limits>

#include "autograd/dispatch.h"

namespace norma::fused {

/// bf16 is a storage type: compositions compute in f32 and round once at the end.
inline Tensor widen(const Tensor& x) { return x.dtype() == wide_of(x.dtype()) ? x : cast(x, wide_of(x.dtype())); }
inline Tensor narrow(const Tensor& x, DType d) { return x.dtype() == d ? x : cast(x, d); }

/// The smallest number of a wide dtype whose inverse is surely one.
inline double smallest_normal(DType wide) {
  return wide == DType::f64 ? std::numeric_limits<double>::min() : static_cast<double>(std::numeric_limits<float>::min());
}

/// x less its mean over the axes. The mean is taken twice, since a large one is rounded by more than the deviations from it may be.
Tensor centred(const Tensor& x, const Axes& axes);

/// What exponents along the axis are shifted by, a constant: the largest number, kept, and 0 where that is infinite.
Tensor shift_of(const Tensor& x, int axis);

/// A parameter has the dtype of the activation x; with x in bf16 it may be f32 (mixed precision: see core/verbs.h).
void check_parameter(std::string_view op, std::string_view what, const Tensor& x, const Tensor& parameter);

/// For a kernel to read: x itself, or a copy outside the graph where its last axis is not dense.
Tensor dense_last(const Tensor& x);
/// The same, and the leading axes collapse to rows that do not overlap. An empty handle stays one.
Tensor dense_rows(const Tensor& x);
/// Outside the graph as [rows, last]: a view where strides allow it.
Tensor as_matrix(const Tensor& x);

}  // namespace norma::fused
