// The backward pass of attention with a whole head in shared memory: how a block is cut. Index arithmetic only, shared by the host, which
// chooses by it, and the kernel (attention_bf16_resident.cu); tested on the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/common/functors.h"
#include "backends/cuda/kernels/attention_shared.h"

namespace norma::cuda {

/// A block owns one head. A warp owns a group of 16 keys, of which it keeps dK and dV in registers while the rows pass in tiles of 64; a
/// tile's dS meets in shared memory as [keys, 64], and units of 16 rows by 32 columns of dQ are made from it, a warp a unit.
struct ResidentPlan {
  static constexpr std::int32_t group = 16, tile = 64, unit_columns = 32;
  static constexpr std::int32_t ds_pitch = tile + 8;  // elements: 8 rows lie in different banks
  static constexpr std::int32_t most_rows = 256;
  /// Of a block: so many leave each of its threads the registers that dK and dV of these widths take.
  static constexpr std::int32_t most_warps(std::int32_t chunks) { return chunks > 4 ? 8 : 16; }

  std::int32_t rows = 0, keys = 0;  // in shared memory: multiples of 16, zeros beyond the problem's
  std::int32_t chunks = 4;          // the width's bucket in units of 16: 2, 4 or 8
  std::int32_t warps = 0;           // as many as groups of keys

  NORMA_HD std::int32_t pitch() const { return chunks * 16 + 8; }
  /// Elements before each tensor: Q, dO, K, V, then dS; the rows' states follow at state_offset().
  NORMA_HD std::int32_t dout_offset() const { return rows * pitch(); }
  NORMA_HD std::int32_t key_offset() const { return 2 * rows * pitch(); }
  NORMA_HD std::int32_t value_offset() const { return key_offset() + keys * pitch(); }
  NORMA_HD std::int32_t ds_offset() const { return value_offset() + keys * pitch(); }
  NORMA_HD std::int32_t state_offset() const { return ds_offset() + keys * ds_pitch; }
  /// Units of dQ in the tile of rows from `first` on, of a problem with `problem_rows` rows and width d.
  NORMA_HD static std::int32_t row_groups(std::int32_t problem_rows, std::int32_t first) {
    const std::int32_t left = problem_rows - first;
    return ((left < tile ? left : tile) + group - 1) / group;
  }
  NORMA_HD static std::int32_t column_units(std::int32_t d) { return (d + unit_columns - 1) / unit_columns; }

  std::size_t bytes(std::size_t state_bytes) const {
    return 2 * static_cast<std::size_t>(state_offset()) + static_cast<std::size_t>(rows) * state_bytes;
  }
};

/// The plan for a head of `rows` by `keys` with widths d and e; no warps where registers or the grid do not allow one.
inline ResidentPlan resident_plan(std::int32_t rows, std::int32_t keys, std::int32_t d, std::int32_t e) {
  ResidentPlan plan;
  const auto padded = [](std::int32_t n) { return (n + ResidentPlan::group - 1) / ResidentPlan::group * ResidentPlan::group; };
  plan.rows = padded(rows), plan.keys = padded(keys);
  plan.chunks = mma_chunks(d, e);
  const std::int32_t groups = plan.keys / ResidentPlan::group;
  if (rows <= ResidentPlan::most_rows && groups <= ResidentPlan::most_warps(plan.chunks)) plan.warps = groups;
  return plan;
}

}  // namespace norma::cuda
