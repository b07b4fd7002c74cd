// What backends/cpu/attention_linear.cpp hands to the kernels of linear-time attention: one (batch, head) as raw pointers.
// Included by files that are compiled once per instruction set, so it holds plain data only.
//
// With F(x) the monomials of x (kernels/monomials.h) and w their weights, sum_j phi(q_i.k_j) v_j = F(q_i) S, where the state
// S = sum_j w F(k_j) v_j^T has a row for each monomial. The mirror image U = sum_i w F(q_i) g_i^T, g_i = c_i dout_i, gives dK
// and dV. A state is laid out in panels of columns: `state_size` numbers.
#pragma once

#include "backends/cpu/attention_kernels.h"

namespace norma::cpu {

template <class T>
struct LinearHead {
  const T *q, *k, *v;
  std::int64_t q_row, k_row, v_row;  // elements from one row to the next; the last axis is dense
  std::int64_t rows, keys, d, e;
  double scale;                      // S = scale q k^T
  std::int32_t degree;
  double coefficient[polynomial_terms];  // of s^p
  std::int64_t features;             // monomials of all degrees with a coefficient
  const T* weights;                  // one a monomial: coefficient, scale^p and how many products of factors it stands for
  double factor;                     // of every row, on top of row_scale
  RowScale row_scale;
  bool causal;                       // row i sees columns j <= i + keys - rows
  const std::uint8_t* key_mask;      // 0 hides column j; null: none hidden
  std::int64_t key_mask_step;
  const std::int32_t* before;        // with a key mask: before[j] visible keys in [0, j)

  std::int64_t begin, end;           // the piece to work on: keys, or rows where the kernel says so
  const T* dout;                     // backward only
  std::int64_t out_row, dout_row, dq_row, dk_row, dv_row;
  T *out, *dq, *dk, *dv;
  void* work;                        // scratch of work_bytes(head), 64-byte aligned
};

/// Statistics that the monomials give exactly.
struct LinearSums {
  double fro2, row_sum, row_sum2;  // fro2 only with `norm`
  double entries;                  // visible (row, column) pairs
};

/// Rows of A that are computed to estimate the statistics of all, in groups that stand for an even share of the rows each.
struct SampledRows {
  static constexpr std::int64_t groups = 8, most = 48;
  static constexpr std::int64_t longest = 8;  // of those whose gradients are measured: rows with the largest gradient of the output
  std::int64_t count = 0;
  std::int64_t row[most];
};
/// A number for each of them; sums and extremes are over what it sees.
struct SampledSums {
  using Each = double[SampledRows::most];
  Each visible;  // `sample`: how many columns it sees
  Each even;     // and what its part of fro2 were with phi = 1: as many times the square of its factor
  double even_of_all;  // that of all rows, sampled or not
  Each fro2, jac2, score_sum, score_sum2, negative, small, min, max, score_max;  // `sample`
  Each grad_a2, grad_s2;                                                          // `sample_gradients`
};

template <class T>
struct LinearKernels {
  std::int64_t (*state_size)(const LinearHead<T>&);
  /// columns: 0, or for `measure` 1 + (norm ? features : 0).
  std::int64_t (*work_bytes)(const LinearHead<T>&, std::int64_t columns);
  void (*sum_keys)(const LinearHead<T>&, T* s);                   // s = sum over the piece of keys
  void (*sum_rows)(const LinearHead<T>&, T* u);                   // u = sum over the rows whose last column is in the piece (causal)
  void (*forward_rows)(const LinearHead<T>&, const T* s);         // a piece of rows that see all keys
  void (*forward_causal)(const LinearHead<T>&, T* s);             // rows that end in the piece; s: all earlier keys, overwritten
  void (*backward_rows)(const LinearHead<T>&, const T* s, T* u);  // dq of a piece of rows; u = their sum
  void (*backward_keys)(const LinearHead<T>&, const T* u);        // dk, dv of a piece of keys
  void (*backward_causal_rows)(const LinearHead<T>&, T* s);       // the same for dq, and what dk and dv get within chunks
  void (*backward_causal_keys)(const LinearHead<T>&, T* u);       // adds what rows of later chunks give; u: all later rows, overwritten
  LinearSums (*measure)(const LinearHead<T>&, bool norm);         // the whole head
  /// Scratch of sample_bytes(head).
  void (*sample)(const LinearHead<T>&, const SampledRows&, SampledSums&);
  void (*sample_gradients)(const LinearHead<T>&, const SampledRows&, SampledSums&);
  std::int64_t (*sample_bytes)(const LinearHead<T>&);
};
struct AttentionLinearKernels {
  LinearKernels<float> f32;
  LinearKernels<double> f64;
};
NORMA_DECLARE_KERNELS(AttentionLinearKernels, attention_linear_kernels)

}  // namespace norma::cpu
