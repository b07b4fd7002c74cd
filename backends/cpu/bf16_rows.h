// Rows of bf16 as floats and back, by the vector loops of CopyTable.
#pragma once

#include "backends/cpu/vector_kernels.h"
#include "core/dtype.h"

namespace norma::cpu {

/// out[rows, n] dense = in, whose rows of n dense elements are in_row apart.
inline void widen_rows(std::int64_t rows, std::int64_t n, const bf16* in, std::int64_t in_row, float* out) {
  NORMA_KERNELS(copy_kernels).bf16_to_f32(rows, n, reinterpret_cast<const std::uint16_t*>(in), in_row, out);
}

/// The reverse, rounding to nearest even.
inline void narrow_rows(std::int64_t rows, std::int64_t n, const float* in, bf16* out, std::int64_t out_row) {
  NORMA_KERNELS(copy_kernels).f32_to_bf16(rows, n, in, reinterpret_cast<std::uint16_t*>(out), out_row);
}

}  // namespace norma::cpu
