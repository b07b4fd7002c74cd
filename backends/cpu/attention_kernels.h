// What backends/cpu/attention.cpp hands to the attention kernels: one (batch, head) as raw pointers. Included by files that are
// compiled once per instruction set, so it holds plain data only.
#pragma once

#include <cstdint>

#include "backends/cpu/gemm_bf16.h"
#include "backends/cpu/isa.h"
#include "core/scoring.h"

namespace norma::cpu {

struct PackedProducts;

/// The element-wise function of the scores; powers are monomials with their own code.
enum class Phi : std::int32_t { softmax, power1, power2, power3, power4, polynomial, sigmoid, relu };

constexpr int polynomial_terms = Scoring::max_degree + 1;  // at most: s^0 and up

/// Up to so many keys the backward pass has whole rows at hand.
constexpr std::int64_t whole_row_keys = 320;

/// Rows that the next task reads, `lines` cache lines each, `row` bytes apart.
struct RowsAhead {
  const char* data;
  std::int64_t row, rows, lines;
};

/// The part that does not depend on the stored dtype; T is the compute type.
template <class T>
struct AttentionHead {
  std::int64_t rows, keys, d, e;
  double scale;  // S = scale q k^T

  Phi phi;
  std::int32_t degree;      // of Phi::polynomial
  double coefficient[polynomial_terms];  // of s^p; a monomial's is in `factor`
  double factor;            // of every weight, on top of row_scale
  RowScale row_scale;
  bool normalize;           // rows divided by their sum
  bool causal;              // row i sees columns j <= i + keys - rows
  double bias;              // Phi::sigmoid: added to the score
  const std::uint8_t* key_mask;  // 0 hides column j; null: none hidden
  std::int64_t key_mask_step;

  bool drop;
  std::uint32_t drop_below;  // a word of the stream below this drops the weight
  double keep_scale;         // 1 / (1 - p)
  std::uint64_t seed, stream, first_index;  // of element (0, 0) of this head

  double* stats;  // one double per AttentionStat, overwritten (backward: only the two gradients); null: not measured
  void* work;     // scratch of work_bytes(head), 64-byte aligned

  const PackedProducts* packed;  // what multiplies, where T is float; null: the kernels' own products
  RowsAhead ahead[5];            // to be asked for while this task computes, with `packed` only
  int ahead_count;
};

/// Stored is what the tensors hold: T, or bf16 where T is float. Strides count elements from one row to the next; the last axis is dense.
template <class T, class Stored = T>
struct AttentionHeadForward : AttentionHead<T> {
  const Stored *q, *k, *v;
  std::int64_t q_row, k_row, v_row;
  std::int64_t row_begin, row_end;  // the rows to compute
  Stored* out;
  std::int64_t out_row;
  T* lse;  // log-sum-exp by row (softmax), or null
  std::int64_t lse_step;
};

template <class T, class Stored = T>
struct AttentionHeadBackward : AttentionHead<T> {
  const Stored *q, *k, *v;
  std::int64_t q_row, k_row, v_row;
  const Stored *out, *dout;  // out and lse: only where rows are normalised
  bool rounded_out;          // to bf16: where a row is at hand as a whole its product with dout comes from A and dA
  const T* lse;
  std::int64_t out_row, dout_row, lse_step;
  Stored *dq, *dk, *dv;
  std::int64_t dq_row, dk_row, dv_row;
  std::int64_t key_begin, key_end;  // the keys whose dk and dv to compute; all, where rows are divided by their sum but for softmax
  T* dq_part;                       // what these keys give to dq, dense [rows, d]; null: they are all, and dq gets it
};

template <class Head>
struct AttentionKernel {
  std::int64_t (*work)(const Head&);  // bytes of scratch
  void (*run)(const Head&);
};
struct AttentionForwardKernels {
  AttentionKernel<AttentionHeadForward<float>> f32;
  AttentionKernel<AttentionHeadForward<double>> f64;
  AttentionKernel<AttentionHeadForward<float, Bf16Bits>> bf16;  // for heads with `packed`
};
struct AttentionBackwardKernels {
  AttentionKernel<AttentionHeadBackward<float>> f32;
  AttentionKernel<AttentionHeadBackward<double>> f64;
  AttentionKernel<AttentionHeadBackward<float, Bf16Bits>> bf16;
};
NORMA_DECLARE_KERNELS(AttentionForwardKernels, attention_forward_kernels)
NORMA_DECLARE_KERNELS(AttentionBackwardKernels, attention_backward_kernels)

}  // namespace norma::cpu
