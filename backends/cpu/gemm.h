// Dense matrix products on the CPU: own packed micro-kernels, with the steps a transformer needs fused into the store.
#pragma once

#include <cstdint>

namespace norma::cpu {

/// A row-major or transposed operand: element (i, j) lies at data[i * row + j * col]; one of row, col is 1 for speed, any
/// values are right.
template <class T>
struct Matrix {
  T* data;
  std::int64_t row, col;
};

/// What happens to a finished element c = sum_k a b, in this order: c += bias[j]; pre = c; c = gelu(c); c *= gelu'(gelu_pre), and
/// gelu_of_pre = gelu(gelu_pre); c += residual. Absent where null. pre, gelu_pre and residual are row-major with the leading dimension ld.
template <class T>
struct Epilogue {
  const T* bias = nullptr;
  T* pre = nullptr;
  bool gelu = false;
  const T* gelu_pre = nullptr;
  const T* residual = nullptr;
  std::int64_t ld = 0;
  T* gelu_of_pre = nullptr;  // beside gelu_pre only, by multiply-adds only
  std::int64_t ld_of_gelu = 0;
};

/// C[m, n] = A[m, k] B[k, n] (+ C when accumulate), then the epilogue. C row-major with leading dimension ldc. The order
/// of the sum over k depends on (m, n, k) alone. Parallel over fixed tiles.
template <class T>
void gemm(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const T> a, Matrix<const T> b, T* c, std::int64_t ldc,
          bool accumulate = false, const Epilogue<T>& epilogue = {});
/// C = A B, or A gelu(B) with B passing through gelu while it is packed (dW from a saved pre-activation), and
/// row_sums[i] = sum_k A[i, k] unless null: the gradients of a weight and its bias (A = dY^T) in one pass over dY.
template <class T>
void gemm_with_row_sums(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const T> a, Matrix<const T> b, bool gelu_b,
                        T* c, std::int64_t ldc, T* row_sums);
/// `count` independent products of the same sizes; operand i starts at base + offset_i (elements). Parallel over them.
template <class T>
void gemm_batched(std::int64_t count, const std::int64_t* a_offset, const std::int64_t* b_offset,
                  const std::int64_t* c_offset, std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const T> a,
                  Matrix<const T> b, T* c, std::int64_t ldc);

/// own: the fastest kernels with the error of f32 arithmetic, which under AMX multiply slices of f32 (kernels/bf16/slices.h) where the product is large
/// enough; fma: fused multiply-adds always; openblas: serial library calls over the same fixed tiles; slices: under AMX wherever there is a sum, for tests.
enum class GemmProvider { own, fma, openblas, slices };
void set_gemm_provider(GemmProvider provider);
GemmProvider gemm_provider();

}  // namespace norma::cpu
