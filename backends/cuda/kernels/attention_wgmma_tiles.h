// What the kernels of attention on wgmma share: where their tiles lie in shared memory, loading them, and products of a
// warpgroup's rows with a tile. For .cu files.
#pragma once

#include "backends/cuda/kernels/attention_mma.h"
#include "backends/cuda/kernels/attention_wgmma.h"
#include "backends/cuda/warpgroup.h"

namespace norma::cuda {

/// The block's shared memory as `layout` says, with descriptors of each tensor: of those that stay from the first of
/// the warpgroup's rows on, of those that pass in their first stage.
template <int chunks>
struct WgmmaMemory {
  WgmmaTiles layout;
  char* space;
  std::uint64_t own[2], passing[2];

  NORMA_DEVICE explicit WgmmaMemory(const WgmmaTiles& tiles) : layout(tiles) {
    space = shared_memory() + layout.padding(shared_address(shared_memory()));
    const std::uint32_t start = shared_address(space);
    const int row = static_cast<int>(thread_id()) / 128 * WgmmaTiles::group_rows;
    NORMA_UNROLL
    for (int which = 0; which < 2; ++which) {
      const auto at = [&](int offset) { return layout.descriptor(start + static_cast<std::uint32_t>(offset)); };
      own[which] = advanced(at(layout.own_offset(which)), layout.k_step(row, 0, WgmmaTiles::block_rows));
      passing[which] = at(layout.passing_offset(which));
    }
  }
  NORMA_DEVICE std::uint32_t stage(int i) const { return static_cast<std::uint32_t>(i % 2 * layout.stage_bytes()); }

  /// Starts copying rows [first, first + count) of x to `to`; zeros beyond the rows and the width. A thread's rows are at the same place of the
  /// swizzle.
  NORMA_DEVICE void fetch(const bf16* x, std::int64_t x_row, int first, int rows, int width, char* to,
                          int count) const {
    constexpr int step = WgmmaTiles::threads / static_cast<int>(RowCopies<chunks>::pieces);
    static_assert(step % 8 == 0);
    RowCopies<chunks> mine(x, x_row, first, rows, width, WgmmaTiles::threads, layout.row_bytes(),
                           [&](int row, int piece) { return to + layout.piece_offset(row, piece, count); });
    NORMA_UNROLL
    for (int i = 0; i < count; i += step) mine.next();
  }
  NORMA_DEVICE void fetch_own(int which, const bf16* x, std::int64_t x_row, int first, int rows, int width) const {
    fetch(x, x_row, first, rows, width, space + layout.own_offset(which), WgmmaTiles::block_rows);
  }
  /// Tile i of those that pass.
  NORMA_DEVICE void fetch_passing(int which, const bf16* x, std::int64_t x_row, int i, int rows, int width) const {
    fetch(x, x_row, i * layout.passing, rows, width, space + layout.passing_offset(which) + stage(i), layout.passing);
  }

  /// s = x y^T: the warpgroup's rows of own tensor `which` and tile i of passing tensor `which`. Not waited for.
  template <int fragments>
  NORMA_DEVICE void multiply_rows(int which, int i, float (&s)[fragments][4]) const {
    NORMA_UNROLL
    for (int c = 0; c < chunks; ++c)
      multiply_shared(s, advanced(own[which], layout.k_step(0, c, WgmmaTiles::block_rows)),
                      advanced(passing[which], stage(i) + layout.k_step(0, c, layout.passing)), c > 0);
  }
  /// sums += w x for the pairs w [64, 16 steps] and tile i of passing tensor `which`. Not waited for.
  template <int steps, int panels, int fragments>
  NORMA_DEVICE void add_weighted(const std::uint32_t (&w)[steps][4], int which, int i,
                                 float (&sums)[panels][fragments][4]) const {
    NORMA_UNROLL
    for (int j = 0; j < steps; ++j) NORMA_UNROLL
    for (int panel = 0; panel < panels; ++panel)
      multiply_registers(sums[panel], w[j],
                         advanced(passing[which], stage(i) + layout.n_step(panel, j, layout.passing)));
  }
};

/// The left operand that a fragment of scores becomes.
template <int fragments>
NORMA_DEVICE void pack_left(const float (&s)[fragments][4], std::uint32_t (&w)[fragments / 2][4]) {
  NORMA_UNROLL
  for (int j = 0; j < fragments / 2; ++j) NORMA_UNROLL
  for (int x = 0; x < 4; ++x) w[j][x] = pack_pair(s[2 * j + x / 2][x % 2 * 2], s[2 * j + x / 2][x % 2 * 2 + 1]);
}

/// Row g or g + 8 of the warp's sums times `factor`, as bf16.
template <int panels, int fragments>
NORMA_DEVICE void store_row(const float (&sums)[panels][fragments][4], int half, float factor, int width, bf16* row) {
  NORMA_UNROLL
  for (int panel = 0; panel < panels; ++panel)
    store_row(sums[panel], half, factor, width - panel * fragments * 8, row + panel * fragments * 8);
}

}  // namespace norma::cuda
