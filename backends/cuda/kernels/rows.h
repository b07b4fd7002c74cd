// One row, one team of threads: a warp for short rows, a block for long ones. For .cu files.
#pragma once

#include "backends/cuda/device.h"

namespace norma::cuda {

constexpr std::int64_t short_row = 1024;
constexpr unsigned row_threads = 128;

template <bool wide>
struct RowTeam {
  static constexpr unsigned size = wide ? row_threads : warp_size;
  static constexpr unsigned per_block = row_threads / size;
  std::int64_t row;
  unsigned lane;
  bool active;

  NORMA_DEVICE explicit RowTeam(std::int64_t rows) {
    row = std::int64_t{block_id().x} * per_block + thread_id() / size;
    lane = thread_id() % size;
    active = row < rows;
    if (!active) row = rows - 1;  // computes along, writes nothing: all lanes reach the exchanges
  }
  /// op over the team, the same tree always; every thread receives it.
  template <class C, class Op>
  NORMA_DEVICE C reduce(C x, Op op) const {
    x = reduce_lanes<warp_size>(x, op);
    if constexpr (wide) {
      C* space = reinterpret_cast<C*>(shared_memory());
      block_barrier();  // the space may still be read
      if (thread_id() % warp_size == 0) space[thread_id() / warp_size] = x;
      block_barrier();
      x = space[0];
      for (unsigned w = 1; w < row_threads / warp_size; ++w) x = op(x, space[w]);
    }
    return x;
  }
};

/// to[j] = f(j) for all j < n. Some elements are computed before the first is stored, without a branch between them: a compiler that cannot
/// know that what f reads is not what is written would let each load wait for the store before it.
template <bool wide, class T, class F>
NORMA_DEVICE void write_row(const RowTeam<wide>& team, std::int64_t n, T* to, F&& f) {
  constexpr int at_once = 8;
  std::int64_t j = team.lane;
  for (; j + (at_once - 1) * team.size < n; j += at_once * team.size) {
    T some[at_once];
    NORMA_UNROLL
    for (int k = 0; k < at_once; ++k) some[k] = f(j + k * team.size);
    NORMA_UNROLL
    for (int k = 0; k < at_once; ++k) to[j + k * team.size] = some[k];
  }
  NORMA_ROLLED
  for (; j < n; j += team.size) to[j] = f(j);
}

/// A short row in the registers of a warp: a lane has 4 neighbours of every 128 elements. Of rows of a multiple of 4 elements, at most 128 packs.
template <class T, int packs>
struct RowPart {
  Pack<T, 4> pack[packs];

  /// The first of pack k's places in the row.
  NORMA_DEVICE static std::int64_t place(unsigned lane, int k) { return 4 * (lane + warp_size * static_cast<unsigned>(k)); }
  /// Zeros beyond the row. `aligned`: 4 elements may move by one access; else the same ones move one by one.
  NORMA_DEVICE void load(const T* row, std::int64_t n, unsigned lane, bool aligned) {
    NORMA_UNROLL
    for (int k = 0; k < packs; ++k) {
      pack[k] = {};
      if (place(lane, k) >= n) continue;
      if (aligned) {
        pack[k] = load_pack<4>(row + place(lane, k));
      } else {
        NORMA_UNROLL
        for (int i = 0; i < 4; ++i) pack[k].v[i] = row[place(lane, k) + i];
      }
    }
  }
  NORMA_DEVICE void store(T* row, std::int64_t n, unsigned lane, bool aligned) const {
    NORMA_UNROLL
    for (int k = 0; k < packs; ++k) {
      if (place(lane, k) >= n) continue;
      if (aligned) {
        store_pack(row + place(lane, k), pack[k]);
      } else {
        NORMA_UNROLL
        for (int i = 0; i < 4; ++i) row[place(lane, k) + i] = pack[k].v[i];
      }
    }
  }
};
/// Whether rows of n elements, by their number alone, are taken so; f(integral_constant of the packs that hold them).
constexpr bool in_parts(std::int64_t n) { return n % 4 == 0 && n > 0 && n <= short_row; }
template <class F>
void with_packs(std::int64_t n, F&& f) {
  if (n <= 256) return f(std::integral_constant<int, 2>{});
  if (n <= 512) return f(std::integral_constant<int, 4>{});
  if (n <= 768) return f(std::integral_constant<int, 6>{});
  f(std::integral_constant<int, 8>{});
}

/// Launches kernel_narrow or kernel_wide over rows of n elements.
template <class Kernel, class Args>
void launch_rows(Stream stream, std::int64_t rows, std::int64_t n, Kernel kernel_narrow, Kernel kernel_wide, const Args& args) {
  if (rows == 0) return;
  const bool wide = n > short_row;
  const unsigned per_block = wide ? 1 : row_threads / warp_size;
  launch(stream, {static_cast<unsigned>((rows + per_block - 1) / per_block)}, row_threads,
         wide ? row_threads / warp_size * sizeof(double) : 0, wide ? kernel_wide : kernel_narrow, args);
}

}  // namespace norma::cuda
