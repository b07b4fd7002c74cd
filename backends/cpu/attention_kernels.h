// What backends/cpu/attention.cpp hands to the attention kernels: one (batch, head) as raw pointers. Included by files that are
// compiled once per instruction set, so it holds plain data only.
#pragma once

#include <cstdint>

#include "backends/cpu/isa.h"

namespace norma::cpu {

struct TileProducts;

/// The element-wise function of the scores; powers are monomials with their own code.
enum class Phi : std::int32_t { softmax, power1, power2, power3, power4, polynomial, sigmoid, relu };
enum class RowScale : std::int32_t { constant, inverse_sqrt_visible, inverse_visible };

/// Strides count elements from one row to the next; the last axis is dense.
template <class T>
struct AttentionHead {
  const T *q, *k, *v;
  std::int64_t q_row, k_row, v_row;
  std::int64_t rows, keys, d, e;
  double scale;  // S = scale q k^T

  Phi phi;
  std::int32_t degree;      // of Phi::polynomial
  double coefficient[9];    // of s^p; a monomial's is in `factor`
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
  double small;   // threshold of |a|
  void* work;     // scratch of work_bytes(head), 64-byte aligned

  const TileProducts* tiles;  // what multiplies, f32 only; null: the kernels' own products
  bool from_bf16;             // q, k, v and dout were bf16
  bool keys_in_blocks;        // forward with tiles: not all keys at once; only where nothing is carried along a row
};

template <class T>
struct AttentionHeadForward : AttentionHead<T> {
  std::int64_t row_begin, row_end;  // the rows to compute
  T* out;
  std::int64_t out_row;
  T* lse;  // log-sum-exp by row (softmax), or null
  std::int64_t lse_step;
};

template <class T>
struct AttentionHeadBackward : AttentionHead<T> {
  const T *out, *dout, *lse;  // out and lse: only where rows are normalised
  std::int64_t out_row, dout_row, lse_step;
  T *dq, *dk, *dv;
  std::int64_t dq_row, dk_row, dv_row;
};

struct AttentionForwardKernels {
  std::int64_t (*work_f32)(const AttentionHeadForward<float>&);  // bytes of scratch
  std::int64_t (*work_f64)(const AttentionHeadForward<double>&);
  void (*f32)(const AttentionHeadForward<float>&);
  void (*f64)(const AttentionHeadForward<double>&);
};
struct AttentionBackwardKernels {
  std::int64_t (*work_f32)(const AttentionHeadBackward<float>&);
  std::int64_t (*work_f64)(const AttentionHeadBackward<double>&);
  void (*f32)(const AttentionHeadBackward<float>&);
  void (*f64)(const AttentionHeadBackward<double>&);
};
NORMA_DECLARE_KERNELS(AttentionForwardKernels, attention_forward_kernels)
NORMA_DECLARE_KERNELS(AttentionBackwardKernels, attention_backward_kernels)

}  // namespace norma::cpu
