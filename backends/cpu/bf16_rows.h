// Rows of bf16 as floats and back, by the vector loops of CopyTable.
#pragma once

#include "backends/cpu/vector_kernels.h"
#include "core/dtype.h"

namespace norma::cpu {

/// out[rows, n] dense = in, whose rows of n dense elements are in_row apart.
inline void widen_rows(std::int64_t rows, std::int64_t n, const bf16* in, std::int64_t in_row, float* out) {
  const auto widen = NORMA_KERNELS(copy_kernels).bf16_to_f32;
  const auto* from = reinterpret_cast<const std::uint16_t*>(in);
  if (in_row == n) return widen(rows * n, from, out);
  for (std::int64_t i = 0; i < rows; ++i) widen(n, from + i * in_row, out + i * n);
}

/// The reverse, rounding to nearest even.
inline void narrow_rows(std::int64_t rows, std::int64_t n, const float* in, bf16* out, std::int64_t out_row) {
  const auto narrow = NORMA_KERNELS(copy_kernels).f32_to_bf16;
  auto* to = reinterpret_cast<std::uint16_t*>(out);
  if (out_row == n) return narrow(rows * n, in, to);
  for (std::int64_t i = 0; i < rows; ++i) narrow(n, in + i * n, to + i * out_row);
}

}  // namespace norma::cpu
