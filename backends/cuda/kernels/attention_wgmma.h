// bf16 attention on wgmma (compute capability 9.0): how blocks are cut and where their tiles lie. Index arithmetic
// only, shared by host and kernels (attention_wgmma_forward.cu, attention_wgmma_backward.cu); tested on the host.
//
// A block of two warpgroups owns 128 rows (or keys) of one head, a warpgroup 64 of them, so that each tile that passes
// is loaded once for 128. Tiles come through two stages of asynchronous copies. What a warpgroup does with one:
//   forward         S [64, 64] = Q K^T; S becomes weights A; O [64, e] += A V
//   backward, rows  S [64, 64] = Q K^T, dA = dO V^T; both become dS; dQ [64, d] += dS K
//   backward, keys  S^T [64, r] = K Q^T, dA^T = V dO^T; they become A^T and dS^T; dV [64, e] += A^T dO, dK += dS^T Q
// Products of scores are m64n64k16 (m64n32k16 where r = 32), 2, 4 or 8 steps with widths up to 32, 64 or 128 (zeros
// stand beyond d and e), both operands in shared memory with neighbours along k. The others are m64n64k16 for each 64
// columns (m64n32k16 where d and e are up to 32), a step for 16 passing rows: the left operand is in registers, where
// the accumulator was, the right one in shared memory with neighbours along n, that is, its rows lie as they came.
// While one warpgroup works on scores, products of the other and of other blocks run.
//
// Registers of a thread, with widths up to 32, 64, 128: forward S 32, O 16, 32, 64, A 16; rows S and dA 64, dQ 16, 32,
// 64, dS 16; keys S^T and dA^T 64, 64, 32 (r = 64, 64, 32, so that they fit), dK and dV 32, 64, 128, A^T and dS^T 32,
// 32, 16; about 45 for the rest.
//
// Shared memory: a tensor lies as panels of 64 columns, a row of 128 bytes each; one panel with widths up to 64, else
// two; with widths up to 32 one of 32 columns, 64 bytes. The 16-byte pieces of a panel are swizzled over 8 rows
// (Swizzle::bytes_128, bytes_64), so that cp.async writes and wgmma reads without bank conflicts. A descriptor starts
// at a row that is a multiple of 8; steps along k are 32 bytes apart, steps along rows 16 rows. Its stride is 8 rows,
// and its leading offset of no effect: no product reaches past a panel.
//
// A thread's accumulator holds two rows, g and g + 8 of its warp's sixteen with g = lane / 4, of each 8 columns the two
// from 2 (lane % 4) on (fragment_element in matrix_descriptor.h): as those of mma.sync, so that the code between the
// products is the same.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/cuda/kernels/attention_shared.h"
#include "backends/cuda/matrix_descriptor.h"

namespace norma::cuda {

struct WgmmaPanels {
  static constexpr int group_rows = 64, groups = 2, block_rows = group_rows * groups, threads = 128 * groups;
  static constexpr int step = 16;  // k of one product

  int chunks = 4;  // the width's bucket in units of 16: 2, 4 or 8

  NORMA_HD constexpr int panels() const { return chunks > 4 ? 2 : 1; }
  NORMA_HD constexpr int panel_columns() const { return chunks < 4 ? 32 : 64; }
  NORMA_HD constexpr int row_bytes() const { return 2 * panel_columns(); }
  NORMA_HD constexpr int pattern_bytes() const { return 8 * row_bytes(); }
  NORMA_HD constexpr Swizzle swizzle() const { return chunks < 4 ? Swizzle::bytes_64 : Swizzle::bytes_128; }

  // Of a tensor of `count` rows, a multiple of 8, that starts at a multiple of pattern_bytes.
  NORMA_HD constexpr int panel_bytes(int count) const { return count * row_bytes(); }
  NORMA_HD constexpr int tensor_bytes(int count) const { return panels() * panel_bytes(count); }
  /// Where 16-byte piece `piece` of row `row` lies.
  NORMA_HD constexpr int piece_offset(int row, int piece, int count) const {
    const int pieces = row_bytes() / 16;
    const auto plain = static_cast<std::uint32_t>(row * row_bytes() + piece % pieces * 16);
    return piece / pieces * panel_bytes(count) + static_cast<int>(swizzled(plain, swizzle()));
  }
  /// Where an operand with neighbours along k starts: rows from `row` on, a multiple of 8, columns from 16 c on.
  NORMA_HD constexpr std::uint32_t k_step(int row, int c, int count) const {
    const int steps = panel_columns() / step;
    return static_cast<std::uint32_t>(c / steps * panel_bytes(count) + row * row_bytes() + c % steps * 2 * step);
  }
  /// Where an operand with neighbours along n starts: rows from 16 j on, the columns of `panel`.
  NORMA_HD constexpr std::uint32_t n_step(int panel, int j, int count) const {
    return static_cast<std::uint32_t>(panel * panel_bytes(count) + j * step * row_bytes());
  }
  /// The descriptor of a tensor at `address`.
  NORMA_HD constexpr std::uint64_t descriptor(std::uint32_t address) const {
    return MatrixDescriptor{address, 16, static_cast<std::uint32_t>(pattern_bytes()), swizzle()}.bits();
  }
  /// From `address` to a multiple of pattern_bytes; at most `most_padding`.
  NORMA_HD constexpr std::uint32_t padding(std::uint32_t address) const {
    return (0u - address) % static_cast<std::uint32_t>(pattern_bytes());
  }
  NORMA_HD constexpr int most_padding() const { return pattern_bytes() - 16; }
};

/// Bytes before each tensor, behind the padding: those that stay [block_rows], then those that pass, two stages
/// [passing] each.
struct WgmmaTiles : WgmmaPanels {
  int owned = 1, passing = mma_tile;  // tensors that stay; rows of a tile that passes

  /// Q, and K and V in passing.
  NORMA_HD static constexpr WgmmaTiles forward(int chunks) { return {{chunks}, 1, mma_tile}; }
  /// Q and dO, and K and V in passing.
  NORMA_HD static constexpr WgmmaTiles backward_rows(int chunks) { return {{chunks}, 2, mma_tile}; }
  /// K and V, and Q and dO in passing.
  NORMA_HD static constexpr WgmmaTiles backward_keys(int chunks) { return {{chunks}, 2, mma_passing(chunks)}; }

  NORMA_HD constexpr int own_offset(int which) const { return which * tensor_bytes(block_rows); }
  NORMA_HD constexpr int stage_bytes() const { return tensor_bytes(passing); }
  NORMA_HD constexpr int passing_offset(int which) const { return own_offset(owned) + which * 2 * stage_bytes(); }
  /// What a kernel keeps of each passing row, two stages of it.
  NORMA_HD constexpr int state_offset() const { return passing_offset(2); }
  constexpr std::size_t bytes(int state_words) const {
    return static_cast<std::size_t>(state_offset() + most_padding()) +
           2 * static_cast<std::size_t>(passing * state_words) * sizeof(float);
  }
};

}  // namespace norma::cuda
