// What norm.cpp and norm_bf16.cpp share: rows as tasks, and how their gradients are summed over blocks of rows.
#pragma once

#include <algorithm>
#include <array>

#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"
#include "core/backend.h"

namespace norma::cpu {

inline Index rows_per_task(Index n) { return std::max<Index>(1, task_elements / std::max<Index>(1, n)); }

/// part(first, count, dweight, dbias) for blocks of rows, a number of blocks that depends on the sizes alone; the last two point to
/// this block's own sums, or to nothing. They are then added up over the blocks in order.
template <class T, class Part>
void sum_over_blocks(const LayerNormBackward& args, Index row_count, Index n, Part&& part) {
  constexpr Index max_blocks = 64;
  const Index wanted = (args.dweight ? 1 : 0) + (args.dbias ? 1 : 0);
  const Index block = wanted ? std::max(rows_per_task(n), (row_count + max_blocks - 1) / max_blocks) : rows_per_task(n);
  const Index blocks = (row_count + block - 1) / block;
  T* sums = wanted ? scratch<T>(Slot::norm_sums, blocks * wanted * n) : nullptr;
  parallel_tasks(blocks, [&](Index i) {
    T* mine = sums + i * wanted * n;
    std::fill_n(mine, wanted * n, T(0));
    part(i * block, std::min(block, row_count - i * block), args.dweight ? mine : nullptr,
         args.dbias ? mine + (wanted - 1) * n : nullptr);
  });
  const auto combine = [&](const View& out, Index offset) {
    if (!out) return;
    std::array<double, 256> total;
    for (Index j = 0; j < n; j += 256) {
      const Index width = std::min<Index>(256, n - j);
      total.fill(0);
      NORMA_KERNELS(reduce_kernels).of<T>().add_rows(blocks, width, sums + offset + j, wanted * n, total.data());
      for (Index k = 0; k < width; ++k) out.as<T>()[j + k] = static_cast<T>(total[static_cast<std::size_t>(k)]);
    }
  };
  combine(args.dweight, 0);
  combine(args.dbias, (wanted - 1) * n);
}

}  // namespace norma::cpu
