// The verbs over all parameters of a model as the host calls them. A launch takes a table of tensors among its arguments, so that a
// captured one needs nothing else. Tensors are cut into pieces of a fixed size; a block does one of them.
#pragma once

#include "core/element.h"

namespace norma::cuda {

constexpr std::int64_t piece_elements = 4096;
constexpr std::uint32_t pieces_of(std::int64_t n) {
  return static_cast<std::uint32_t>((n + piece_elements - 1) / piece_elements);
}

/// As many rows as a launch's 4 KiB of arguments hold. Pieces are numbered through, row by row.
template <class Row, int rows>
struct Table {
  static constexpr int capacity = rows;
  std::int32_t count = 0;
  std::uint32_t pieces = 0;
  Row row[rows];

  void add(Row r) {
    r.first_piece = pieces;
    pieces += pieces_of(r.n);
    row[count++] = r;
  }
};

struct SquaresRow {
  const void* x = nullptr;  // n dense elements
  std::int64_t n = 0;
  std::uint32_t first_piece = 0;
};
using SquaresTable = Table<SquaresRow, 144>;
/// partial[piece] = the sum of the piece's squares; out = the sum of all partial[0, count) in one order.
void sum_squares(void* stream, const SquaresTable& table, DType dtype, double* partial);
void join_squares(void* stream, const double* partial, std::int64_t count, double* out);

struct RoundingRow {
  const float* from = nullptr;  // n dense elements
  void* to = nullptr;           // bf16
  std::int64_t n = 0;
  std::uint32_t first_piece = 0;
};
using RoundingTable = Table<RoundingRow, 120>;
void round_parameters(void* stream, const RoundingTable& table);

struct AdamWRow {
  void *value = nullptr, *m = nullptr, *v = nullptr;  // n dense elements each
  const void* gradient = nullptr;
  std::int64_t n = 0;
  double decay = 0;
  std::uint32_t first_piece = 0;
  bool aligned = false;  // all four to 16 bytes
};
using AdamWTable = Table<AdamWRow, 64>;
struct AdamWRule {
  double beta1 = 0, beta2 = 0, eps = 0;
  const double *rates = nullptr, *gradient_scale = nullptr;  // on the device
};
static_assert(sizeof(SquaresTable) + sizeof(double*) <= 4096 && sizeof(RoundingTable) <= 4096 && sizeof(AdamWTable) + sizeof(AdamWRule) <= 4096);
/// f32 or f64.
void adamw_update(void* stream, const AdamWTable& table, DType dtype, const AdamWRule& rule);

}  // namespace norma::cuda
