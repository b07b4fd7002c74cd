// Row kernels (softmax, layer norm, cross-entropy) as the host calls them. Rows lie `..._row` elements apart.
#pragma once

#include "backends/cuda/kernels/table.h"
#include "core/element.h"

namespace norma::cuda {

struct SoftmaxRows {
  std::int64_t rows = 0, n = 0;
  const void *x = nullptr, *dy = nullptr;  // backward: x is the value y
  void* out = nullptr;
  std::int64_t x_row = 0, dy_row = 0, out_row = 0;
  DType dtype = DType::f32;
  bool log = false;
};
void softmax_rows(void* stream, const SoftmaxRows& r);
void softmax_backward_rows(void* stream, const SoftmaxRows& r);

/// x, y, dy, dx: dtype; weight, bias: dtype, or f32 for bf16; mean, rstd: f32, or f64 for f64.
struct NormRows {
  std::int64_t rows = 0, n = 0;
  const void *x = nullptr, *dy = nullptr, *add = nullptr, *weight = nullptr, *bias = nullptr;  // add: null, or added to dx
  void *y = nullptr, *mean = nullptr, *rstd = nullptr;  // y: dx in the backward pass
  std::int64_t x_row = 0, y_row = 0, dy_row = 0, add_row = 0;
  double eps = 0;
  DType dtype = DType::f32;
  bool rms = false;
  void* partial = nullptr;  // backward: null, or receives sums for dweight and dbias, [norm_blocks(rows), 2, n] of mean's type
};
void layer_norm_rows(void* stream, const NormRows& r);
/// dx where y is there, the sums where partial is.
void layer_norm_backward_rows(void* stream, const NormRows& r);

constexpr unsigned join_columns = 32;
struct JoinRow {
  const void* partial = nullptr;               // [blocks, 2, n]
  void *dweight = nullptr, *dbias = nullptr;   // [n], or null
  std::int64_t n = 0, blocks = 0;
  std::uint32_t first_piece = 0;
};
using JoinTable = Table<JoinRow, 84, join_columns>;
static_assert(sizeof(JoinTable) <= 4096);
/// All of f32, or of f64: sums in double, in one order.
void join_norm_rows(void* stream, const JoinTable& table, DType dtype);
/// Into how many blocks of rows the sums for dweight and dbias are cut.
constexpr std::int64_t norm_block_rows(std::int64_t rows) { return rows > 32 * 256 ? (rows + 255) / 256 : 32; }
constexpr std::int64_t norm_blocks(std::int64_t rows) {
  return (rows + norm_block_rows(rows) - 1) / norm_block_rows(rows);
}

struct CrossEntropyRows {
  std::int64_t rows = 0, n = 0;
  const void *logits = nullptr, *targets = nullptr;  // targets: i64, or `soft`: of logits' dtype
  void *loss = nullptr, *sums = nullptr;             // as those of CrossEntropy: f32, or f64 for f64
  const void* scale = nullptr;                       // of the same
  void* dlogits = nullptr;
  std::int64_t logits_row = 0, dlogits_row = 0, targets_row = 0;
  double label_smoothing = 0;
  DType dtype = DType::f32;
  bool soft = false;
};
void cross_entropy_rows(void* stream, const CrossEntropyRows& r);
void cross_entropy_backward_rows(void* stream, const CrossEntropyRows& r);

}  // namespace norma::cuda
