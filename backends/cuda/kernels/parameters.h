// The verbs over all parameters of a model as the host calls them.
#pragma once

#include "backends/cuda/kernels/table.h"
#include "core/element.h"

namespace norma::cuda {

constexpr std::int64_t piece_elements = 4096;

struct SquaresRow {
  const void* x = nullptr;  // n dense elements
  std::int64_t n = 0;
  std::uint32_t first_piece = 0;
};
using SquaresTable = Table<SquaresRow, 144, piece_elements>;
/// partial[piece] = the sum of the piece's squares; out = the sum of all partial[0, count) in one order.
void sum_squares(void* stream, const SquaresTable& table, DType dtype, double* partial);
void join_squares(void* stream, const double* partial, std::int64_t count, double* out);

/// scale = min(clip / root of squares, 1), or 1 where clip is 0; NaN where squares or loss (f32 or f64) is not finite.
void scale_gradients(void* stream, const double* squares, const void* loss, DType loss_dtype, double clip, double* scale);

struct PairRow {
  const void* from = nullptr;  // n dense elements
  void* to = nullptr;          // as many
  std::int64_t n = 0;
  std::uint32_t first_piece = 0;
};
using PairTable = Table<PairRow, 126, piece_elements>;
/// to (bf16) = from (f32), rounded.
void round_parameters(void* stream, const PairTable& table);
/// to = averaged(to, from) of backends/common/average.h: f32, f64 or bf16.
void step_averages(void* stream, const PairTable& table, DType dtype, double decay);

struct AdamWRow {
  void *value = nullptr, *m = nullptr, *v = nullptr;  // n dense elements each
  const void* gradient = nullptr;
  std::int64_t n = 0;
  double decay = 0;
  std::uint32_t first_piece = 0;
  bool aligned = false;  // all four to 16 bytes
};
using AdamWTable = Table<AdamWRow, 64, piece_elements>;
struct AdamWRule {
  double beta1 = 0, beta2 = 0, eps = 0;
  const double *rates = nullptr, *gradient_scale = nullptr;  // on the device
};
static_assert(sizeof(SquaresTable) + sizeof(double*) <= 4096 && sizeof(PairTable) + sizeof(double) <= 4096 && sizeof(AdamWTable) + sizeof(AdamWRule) <= 4096);
/// f32 or f64.
void adamw_update(void* stream, const AdamWTable& table, DType dtype, const AdamWRule& rule);

}  // namespace norma::cuda
