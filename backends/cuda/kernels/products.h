// What goes around matrix products, as the host calls it.
#pragma once

#include "backends/cuda/geometry.h"
#include "core/element.h"

namespace norma::cuda {

/// y[rows, n] holds X W^T; pre = y + bias; y = gelu(pre) or pre, + residual.
struct Epilogue {
  std::int64_t rows = 0, n = 0, y_row = 0, residual_row = 0, pre_row = 0;
  void *y = nullptr, *pre = nullptr;
  const void *bias = nullptr, *residual = nullptr;
  DType dtype = DType::f32, bias_dtype = DType::f32;  // bias: dtype, or f32 for bf16
  bool gelu = false;
};
void finish_linear(void* stream, const Epilogue& e);

/// out = a b for integers, wrapping: one thread an element; `out` has operands a (at its row), b (at its column), out.
struct IntegerProduct {
  Loop<3> out;
  const void *a = nullptr, *b = nullptr;
  void* c = nullptr;
  DType dtype = DType::i64;
  std::int64_t k = 0, a_step = 0, b_step = 0;
};
void multiply_integers(void* stream, const IntegerProduct& p);

}  // namespace norma::cuda
