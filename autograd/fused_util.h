// What the fused ops share: layouts their kernels take and the type they compute in. Knows nothing of any one op.
#pragma once

#include "autograd/dispatch.h"

namespace norma::fused {

/// bf16 is a storage type: compositions compute in f32 and round once at the end.
inline Tensor widen(const Tensor& x) { return x.dtype() == wide_of(x.dtype()) ? x : cast(x, wide_of(x.dtype())); }
inline Tensor narrow(const Tensor& x, DType d) { return x.dtype() == d ? x : cast(x, d); }

/// A parameter has the dtype of the activation x; with x in bf16 it may be f32 (mixed precision: see core/backend.h).
void check_parameter(std::string_view op, std::string_view what, const Tensor& x, const Tensor& parameter);

/// For a kernel to read: x itself, or a copy outside the graph where its last axis is not dense.
Tensor dense_last(const Tensor& x);
/// The same, and the leading axes collapse to rows that do not overlap. An empty handle stays one.
Tensor dense_rows(const Tensor& x);
/// Outside the graph as [rows, last]: a view where strides allow it.
Tensor as_matrix(const Tensor& x);

}  // namespace norma::fused
