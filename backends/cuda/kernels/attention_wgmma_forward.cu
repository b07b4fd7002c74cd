// Attention forward in bf16 on wgmma: attention_wgmma.h says how. Compiled for sm_90a, and started only on compute
// capability 9.0.
#include "backends/cuda/kernels/attention_forward.h"
#include "backends/cuda/kernels/attention_wgmma_tiles.h"

namespace norma::cuda {
namespace {

static_assert(wgmma_block_rows == WgmmaTiles::block_rows);
constexpr int tile = mma_tile, rows = WgmmaTiles::block_rows, threads = WgmmaTiles::threads;

template <int chunks, bool softmax, bool measure>
NORMA_KERNEL void NORMA_BOUNDS(threads, chunks > 4 || measure ? 1 : 2) forward_kernel(AttentionProblem p) {
  constexpr WgmmaTiles layout = WgmmaTiles::forward(chunks);
  const BlockPlace place = place_of_rows(p);
  const Head head(p, place.head);
  const WgmmaMemory<chunks> memory(layout);
  const int warp = static_cast<int>(thread_id()) / 32, first = static_cast<int>(place.block) * rows;
  const bool two_passes = measure && (softmax || p.normalize);
  const int count = (head.length_of_rows(first, rows) + tile - 1) / tile;
  const int end = head.length_of_rows(first + warp / 4 * WgmmaTiles::group_rows, WgmmaTiles::group_rows);
  const auto fetch = [&](int i, bool values) {
    if (i < count) {
      memory.fetch_passing(0, head.at<bf16>(p.k), p.k.row, i, p.keys, p.d);
      if (values) memory.fetch_passing(1, head.at<bf16>(p.v), p.v.row, i, p.keys, p.e);
    }
    commit_copies();
  };
  memory.fetch_own(0, head.at<bf16>(p.q), p.q.row, first, p.rows, p.d);

  ForwardRows r(head, first + warp * 16);
  float out[layout.panels()][layout.panel_columns() / 8][4] = {};
  AttentionSums sums;
  for (int pass = two_passes ? 0 : 1; pass < 2; ++pass) {
    fetch(0, pass == 1);
    for (int i = 0; i < count; ++i) {
      fetch(i + 1, pass == 1);
      wait_copies<1>();
      fence_async_proxy();
      block_barrier();
      if (i * tile < end) {  // the same for all of the warpgroup
        float s[tile / 8][4] = {};
        fence_products(s);
        memory.multiply_rows(0, i, s);
        commit_products();
        wait_products<0>(s);
        PairSums pairs;
        float rescale[2];
        weigh<softmax, measure>(head, r, s, i * tile, two_passes && pass == 1, pass == 1, pairs, rescale);
        if constexpr (measure) sums.pairs(pairs);
        if (pass == 1) {
          std::uint32_t weights[tile / 16][4];
          pack_left(s, weights);
          if constexpr (softmax) {
            NORMA_UNROLL
            for (auto& panel : out)
              NORMA_UNROLL
              for (auto& fragment : panel)
                NORMA_UNROLL
                for (int x = 0; x < 4; ++x) fragment[x] *= rescale[x / 2];
          }
          fence_products(out, weights);
          memory.add_weighted(weights, 1, i, out);
          commit_products();
          wait_products<0>(out, weights);
        }
      }
      block_barrier();
    }
    wait_copies<0>();
    block_barrier();
    if (pass == 0)
      for (int half = 0; half < 2; ++half) r.divide_by_sum(half);
  }
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half)
    if (finish_row<softmax, measure>(head, r, half, two_passes, sums))
      store_row(out, half, r.factor[half], p.e, head.at<bf16>(p.out) + r.row[half] * p.out.row);
  if constexpr (measure)
    write_block_stats(p, sums, reinterpret_cast<double*>(shared_memory()), place);
}

template <int chunks, bool softmax>
void run(void* stream, const AttentionProblem& p) {
  launch(stream, attention_grid(p, p.rows, rows), threads, WgmmaTiles::forward(chunks).bytes(0),
         p.partial_stats ? forward_kernel<chunks, softmax, true> : forward_kernel<chunks, softmax, false>, p);
}
}  // namespace

void attention_forward_wgmma(void* stream, const AttentionProblem& p) {
  with_width(p, [&](auto chunks, auto softmax) { run<chunks(), softmax()>(stream, p); });
}

}  // namespace norma::cuda
