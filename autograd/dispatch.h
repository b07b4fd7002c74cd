// What every op does around its kernel: checks with their messages, allocation of the output, broadcasting, the call of the
// device's verb. Nothing here records but alias().
#pragma once

#include <string_view>

#include "autograd/ops.h"

namespace norma {

inline Backend& backend_of(const Tensor& x) { return backend(x.device()); }

// ---- checks ---------------------------------------------------------------------------------------------------------
void check_present(std::string_view op, const Tensor& x, std::string_view what = "an operand");  // not an empty handle
void check_floating(std::string_view op, const Tensor& x, std::string_view what = "an operand");
void check_dtype(std::string_view op, std::string_view what, const Tensor& x, DType expected);
void check_same_device(std::string_view op, const Tensor& a, const Tensor& b);
/// Same device and dtype.
void check_same_place(std::string_view op, const Tensor& a, const Tensor& b);
/// A shape that is to get one more axis has room for it.
void check_room(std::string_view op, const Shape& shape);
/// Which of them that will be; negative ones count from the end.
int normalize_new_axis(std::string_view op, int axis, const Shape& shape);
/// Position of the first element of an i64 tensor outside [0, limit), or -1; also -1 under TrustIndices.
Index first_outside(const Tensor& index, Index limit);
/// The element of an i64 tensor at a row-major position, which a double may not hold.
Index element_at(const Tensor& integers, Index position);
/// Every element of an i64 tensor lies in [0, limit); `outside` ends the message: "axis 1 of size 5".
void check_indices(std::string_view op, const Tensor& index, Index limit, std::string_view outside);

/// The elements of x as a tensor of its own, with a node of its own where x is tracked: what a view is that changes nothing.
Tensor alias(const Tensor& x);

// ---- calls ----------------------------------------------------------------------------------------------------------
/// x as a kernel sees it when it is broadcast to `shape`, which fits.
View expanded(const Tensor& x, const Shape& shape);
Tensor copy_of(const Tensor& x);  // contiguous
Tensor run_unary(UnaryOp op, const Tensor& x, double parameter = 0);
Tensor run_binary(std::string_view op_name, BinaryOp op, const Tensor& a, const Tensor& b);
/// Reduces the axes whose bit is set, keeping them with size 1. Sums of integers and bools are i64.
Tensor run_reduce(ReduceOp op, const Tensor& x, unsigned axes);

}  // namespace norma
