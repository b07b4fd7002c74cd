// Index arithmetic shared by host and device: division by constants known at run time, columns cut into blocks, and strided element loops
// as plain data.
// Made on the host (loop_of in launches.h), walked by kernels; tested on the host.
#pragma once

#include <cstdint>

#include "backends/common/functors.h"

namespace norma::cuda {

/// n / d for n < 2^31 by one multiplication (Granlund and Montgomery, PLDI 1994, figure 4.1).
struct Divider {
  std::uint32_t divisor = 1, factor = 1, shift = 0;
  Divider() = default;
  explicit Divider(std::uint32_t d) : divisor(d) {
    while ((std::uint64_t{1} << shift) < d) ++shift;
    factor = static_cast<std::uint32_t>((((std::uint64_t{1} << shift) - d) << 32) / d + 1);
  }
  NORMA_HD std::uint32_t divide(std::uint32_t n) const {
    const auto high = static_cast<std::uint32_t>(static_cast<std::uint64_t>(n) * factor >> 32);
    return (high + n) >> shift;
  }
};

/// `columns` by blocks of at most `most` threads, a thread a column: the fewest blocks, of as few warps as that takes.
struct ColumnBlocks {
  std::int64_t blocks, threads;
};
constexpr ColumnBlocks column_blocks(std::int64_t columns, std::int64_t most) {
  const std::int64_t blocks = (columns + most - 1) / most, each = blocks > 0 ? (columns + blocks - 1) / blocks : 0;
  return {blocks, (each + 31) / 32 * 32};
}

constexpr int loop_rank = 8;

/// The same index tuple in N operands: element i < size lies at offset(i, k) of operand k. The last axis is innermost.
template <int N>
struct Loop {
  std::uint32_t size = 1;  // at most 2^31 - 1: larger work is split on the host
  std::int32_t rank = 0;
  Divider axis[loop_rank];
  std::int64_t stride[N][loop_rank] = {};

  NORMA_HD void offsets(std::uint32_t i, std::int64_t (&at)[N]) const {
    for (int k = 0; k < N; ++k) at[k] = 0;
    for (int a = rank - 1; a > 0; --a) {
      const std::uint32_t next = axis[a].divide(i), index = i - next * axis[a].divisor;
      for (int k = 0; k < N; ++k) at[k] += index * stride[k][a];
      i = next;
    }
    if (rank > 0)
      for (int k = 0; k < N; ++k) at[k] += i * stride[k][0];
  }
  NORMA_HD std::int64_t offset(std::uint32_t i) const {
    std::int64_t at[N];
    offsets(i, at);
    return at[0];
  }
};

}  // namespace norma::cuda
