// The raw-pointer kernels under gemm_bf16.cpp. Packed operands are made of 32-bit words: one element of k as a float, or two as a
// pair of bf16 (the lower half comes first). `words` of them, a multiple of `unit`, make up k; what is missing at the end is zero.
#pragma once

#include "backends/cpu/gemm_bf16.h"
#include "backends/cpu/isa.h"

namespace norma::cpu {

using Word = std::uint32_t;

/// A in blocks of mr rows: word w of row i of tile t lies at data[t * tile + i * row + w / unit * col + w % unit].
struct Bf16Tiles {
  const Word* data;
  std::int64_t tile, row, col;
};

/// Whole sums of some rows and of one panel's columns, on their way to c; the epilogue's pointers stand at element (0, 0) of both.
struct Bf16Strip {
  std::int64_t m = 0, n = 0;
  const float* sums = nullptr;
  std::int64_t ld_sums = 0;
  Bf16Bits* c = nullptr;
  std::int64_t ldc = 0;
  Bf16Epilogue epilogue = {};
};

struct GemmBf16Table {
  std::int64_t mr, nr;
  std::int64_t depth;  // elements of k in a word: 1 or 2
  std::int64_t unit;   // words that `multiply` takes at a time
  /// Around calls of `multiply` on one thread; behind `leave` others may read what it wrote.
  void (*enter)();
  void (*leave)();
  /// B[k, n] -> panels of nr columns, each [words][nr], panel_step words apart, the last one padded with zeros.
  void (*pack_weight)(std::int64_t k, std::int64_t n, Matrix<const float> b, Word* panels, std::int64_t panel_step);
  void (*pack_activation)(std::int64_t k, std::int64_t n, Matrix<const Bf16Bits> b, bool gelu, Word* panels,
                          std::int64_t panel_step);
  /// A[m, k] with dense rows -> rows of `words`.
  void (*pack_rows)(std::int64_t m, std::int64_t k, Matrix<const Bf16Bits> a, Word* rows);
  /// A[m, k] with dense columns -> ceil(m / mr) tiles of mr * words, and some words behind them; adds the sums of the rows to
  /// row_sums[m] unless null.
  Bf16Tiles (*pack_columns)(std::int64_t m, std::int64_t k, Matrix<const Bf16Bits> a, Word* tiles, float* row_sums);
  /// sums[m, nr] = A panel (+ sums when accumulate). Where unit > 1, whole tiles of mr rows may be read and written.
  /// A comes by reference: loading its words at once just after storing them one by one would wait for all stores before.
  /// Meanwhile c = epilogue(sums) for the strip before, if it is not null.
  void (*multiply)(std::int64_t m, std::int64_t words, const Bf16Tiles& a, const Word* panel, float* sums, std::int64_t ld_sums,
                   bool accumulate, const Bf16Strip* before);
  void (*finish)(const Bf16Strip& strip);
};
/// What pack_columns may write behind the last tile.
constexpr std::int64_t pack_slack = 16;

struct GemmBf16Kernels {
  GemmBf16Table widened, pairs;
  const GemmBf16Table* tiles;  // null without AMX
};
NORMA_DECLARE_BF16_KERNELS(GemmBf16Kernels, gemm_bf16_kernels)

}  // namespace norma::cpu
