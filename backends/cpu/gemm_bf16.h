// Matrix products of mixed precision (core/verbs.h): bf16 by bf16, summed in f32. What gemm.h is for f32 and f64.
#pragma once

#include <cstdint>
#include <string_view>

#include "backends/cpu/gemm.h"

namespace norma::cpu {

using Bf16Bits = std::uint16_t;  // a bf16 where only its bits matter

/// As Epilogue, with activations in bf16. Everything up to the store is f32.
struct Bf16Epilogue {
  const float* bias = nullptr;
  Bf16Bits* pre = nullptr;
  bool gelu = false;
  const Bf16Bits* gelu_pre = nullptr;
  const Bf16Bits* residual = nullptr;
  std::int64_t ld = 0;
};

/// C[m, n] = A[m, k] B[k, n], then the epilogue: Y = X W^T and dX = dY W. A has dense rows; one of B's strides is 1. B is rounded
/// to bf16. Parallel over fixed tiles, as all here; the order of sums depends on (m, n, k) alone.
void gemm_bf16(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const Bf16Bits> a, Matrix<const float> b, Bf16Bits* c,
               std::int64_t ldc, const Bf16Epilogue& epilogue);
/// C = A B, or A gelu(B) with gelu(B) rounded to bf16, and row_sums[i] = sum_k A[i, k] unless null: dW = dY^T X and the
/// gradient of the bias. A's columns are dense (it is a transpose), B's rows.
void gemm_bf16_long(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const Bf16Bits> a, Matrix<const Bf16Bits> b,
                    bool gelu_b, float* c, std::int64_t ldc, float* row_sums);

/// How operands lie in registers: as floats under fused multiply-adds; as pairs of bf16 under a dot product of pairs, which
/// processors without AVX-512-BF16 only imitate; or as tiles of pairs under AMX's product of tiles, which only it has.
enum class Bf16Form { widened, pairs, tiles };
std::string_view name(Bf16Form form);
/// Whether the active instruction set has it.
bool has(Bf16Form form);
/// The fastest one of the active instruction set, unless a test forces one.
Bf16Form bf16_form();
/// Forces a form that the active instruction set has.
class ForceBf16Form {
 public:
  explicit ForceBf16Form(Bf16Form form);
  ~ForceBf16Form();
  ForceBf16Form(const ForceBf16Form&) = delete;
};

}  // namespace norma::cpu
