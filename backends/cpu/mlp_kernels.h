// The raw-pointer kernels under mlp.cpp: an MLP for a block of rows, so few that all that is computed between reading and writing
// activations stays in the second-level cache. Products run on AMX's tiles: of f32 cut in three slices, of bf16 as one
// (kernels/bf16/slices.h). T is the type of activations: float or Bf16Bits.
#pragma once

#include "backends/cpu/gemm_bf16_kernels.h"
#include "backends/cpu/gemm_kernels.h"

namespace norma::cpu {

/// X [rows, in] -> [rows, hidden] -> Y [rows, out]; `chunk` hidden elements are computed at a time.
struct MlpSizes {
  std::int64_t rows, in, hidden, out, chunk;
};

/// Y = gelu(X W1^T + b1) W2^T + b2 + residual, pre = X W1^T + b1; b1, b2, residual and pre may be null.
template <class T>
struct MlpBlock {
  MlpSizes sizes;
  Rows<const T> x, residual;
  Rows<T> pre, y;
  const Word *w1, *w2;  // packed: W1^T [in, hidden], W2^T [hidden, out]
  const float *b1, *b2;
  void* work;
};

/// Gradients. Those of parameters are sums over rows: written, or added to what is there where `add` (those of biases always), with room for
/// whole tiles of 32 by 32. Hidden elements [from, to), whole chunks, where dx is null; all of them else.
template <class T>
struct MlpBackwardBlock {
  MlpSizes sizes;
  Rows<const T> dy, x, pre;
  Rows<T> dx;           // null: not wanted
  const Word *w1, *w2;  // packed: W1 [hidden, in], W2 [out, hidden]
  bool add;
  Rows<float> dw1t, dw2;  // dW1^T [in, hidden], dW2 [out, hidden]; null, both: not wanted
  float *db1, *db2;       // [hidden], [out]; null: not wanted
  void* work;
  std::int64_t from, to;
};

template <class T>
struct MlpTable {
  /// Words that a column of k elements of a packed weight takes; columns are packed in panels of 32.
  std::int64_t (*packed)(std::int64_t k);
  void (*pack)(std::int64_t k, std::int64_t n, Matrix<const float> weight, Word* panels);
  void (*mlp)(const MlpBlock<T>&);
  void (*mlp_backward)(const MlpBackwardBlock<T>&);
  /// Bytes of `work` of each.
  std::int64_t (*mlp_work)(const MlpSizes&);
  std::int64_t (*mlp_backward_work)(const MlpSizes&);
};

struct MlpKernels {
  MlpTable<float> f32;
  MlpTable<Bf16Bits> bf16;
};

/// Null without AMX.
NORMA_DECLARE_BF16_KERNELS(MlpKernels* const, mlp_kernels)

}  // namespace norma::cpu
