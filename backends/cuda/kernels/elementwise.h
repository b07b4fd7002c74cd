// Element-wise kernels as the host calls them: plain data, no tensors.
#pragma once

#include "backends/cuda/geometry.h"
#include "core/element.h"

namespace norma::cuda {

/// The operands of an element-wise kernel; the output is the last.
template <int N>
struct Elements {
  Loop<N> loop;
  void* data[N] = {};
  bool dense = false;  // all strides 1, all addresses multiples of 4 elements
};

void copy_elements(void* stream, const Elements<2>& e, DType from, DType to);
void fill_elements(void* stream, const Elements<1>& e, DType dtype, double value);
/// Integers only for the ops that have an integer meaning; others: `false`, nothing done.
bool unary_elements(void* stream, const Elements<2>& e, DType dtype, UnaryOp op, double parameter);
void binary_elements(void* stream, const Elements<3>& e, DType dtype, BinaryOp op);
/// condition, a, b -> out
void where_elements(void* stream, const Elements<4>& e, DType dtype);
/// Whether unary_gradient() has the op.
bool has_gradient(UnaryOp op);
/// v, dy -> dx = dy op'(x), v as in Backend::unary_backward; f32, f64 or bf16
void unary_gradient(void* stream, const Elements<3>& e, DType dtype, UnaryOp op);
/// x, dy -> gelu(x), dx: x is read once. dx may be dy.
void gelu_with_gradient(void* stream, const Elements<4>& e, DType dtype);

}  // namespace norma::cuda
