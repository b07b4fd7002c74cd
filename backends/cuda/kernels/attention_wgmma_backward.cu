// Attention backward in bf16 on wgmma, scores computed again: one kernel owns rows (dQ), one owns keys (dK, dV), as on
// mma.sync (attention_bf16_backward.cu), so that nothing is added by atomics. attention_wgmma.h says how blocks are cut.
// Compiled for sm_90a, and started only on compute capability 9.0.
#include "backends/cuda/kernels/attention_backward.h"
#include "backends/cuda/kernels/attention_wgmma_tiles.h"

namespace norma::cuda {
namespace {

constexpr int group_rows = WgmmaTiles::group_rows, block_rows = WgmmaTiles::block_rows, threads = WgmmaTiles::threads;

template <int chunks, bool softmax, bool measure>
NORMA_KERNEL void NORMA_BOUNDS(threads, 1) rows_kernel(AttentionProblem p) {
  constexpr WgmmaTiles layout = WgmmaTiles::backward_rows(chunks);
  constexpr int tile = layout.passing;
  const BlockPlace place = place_of_rows(p);
  const Head head(p, place.head);
  const WgmmaMemory<chunks> memory(layout);
  const int warp = static_cast<int>(thread_id()) / 32, first = static_cast<int>(place.block) * block_rows;
  const int mine = first + warp / 4 * group_rows;                              // the warpgroup's
  const int row = first + warp * 16 + static_cast<int>(thread_id()) % 32 / 4;  // of the thread's two, with 8 more
  const int count = (head.length_of_rows(first, block_rows) + tile - 1) / tile, end = head.length_of_rows(mine, group_rows);
  const auto fetch = [&](int i) {
    if (i < count) {
      memory.fetch_passing(0, head.at<bf16>(p.k), p.k.row, i, p.keys, p.d);
      memory.fetch_passing(1, head.at<bf16>(p.v), p.v.row, i, p.keys, p.e);
    }
    commit_copies();
  };
  memory.fetch_own(0, head.at<bf16>(p.q), p.q.row, first, p.rows, p.d);
  memory.fetch_own(1, head.at<bf16>(p.dout), p.dout.row, first, p.rows, p.e);

  RowState state[2];
  start_rows<softmax>(head, row, state);
  float dq[layout.panels()][layout.panel_columns() / 8][4] = {}, sum[2] = {0, 0};
  float a2 = 0, s2 = 0;
  double a2_total = 0, s2_total = 0;
  for (int pass = !softmax && p.normalize ? 0 : 1; pass < 2; ++pass) {
    fetch(0);
    for (int i = 0; i < count; ++i) {
      fetch(i + 1);
      wait_copies<1>();
      fence_async_proxy();
      block_barrier();
      if (i * tile < end) {  // the same for all of the warpgroup
        float s[tile / 8][4] = {}, da[tile / 8][4] = {};
        fence_products(s, da);
        memory.multiply_rows(0, i, s);
        memory.multiply_rows(1, i, da);  // unused in the first pass; under a condition of its own ptxas would add fences
        commit_products();
        wait_products<0>(s, da);
        if (pass == 0) {
          sum_rows(head, row, i * tile, s, sum);
        } else {
          differentiate_rows<softmax, measure>(head, state, row, i * tile, s, da, a2, s2);
          std::uint32_t slopes[tile / 16][4];
          pack_left(s, slopes);
          fence_products(dq, slopes);
          memory.add_weighted(slopes, 0, i, dq);
          commit_products();
          wait_products<0>(dq, slopes);
        }
        if constexpr (measure) {
          a2_total += a2, s2_total += s2;
          a2 = s2 = 0;
        }
      }
      block_barrier();
    }
    wait_copies<0>();
    block_barrier();
    if (pass == 0) divide_by_sums(head, row, sum, state);
  }
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half)
    if (leave_row(head, state, row, half)) store_row(dq, half, p.scale, p.d, head.at<bf16>(p.dq) + (row + 8 * half) * p.dq.row);
  if constexpr (measure) write_block_gradients(p, a2_total, s2_total, place);
}

template <int chunks, bool softmax>
NORMA_KERNEL void NORMA_BOUNDS(threads, 1) keys_kernel(AttentionProblem p) {
  constexpr WgmmaTiles layout = WgmmaTiles::backward_keys(chunks);
  constexpr int tile = layout.passing;
  const BlockPlace place = place_of_keys(p);
  const Head head(p, place.head);
  const WgmmaMemory<chunks> memory(layout);
  const int warp = static_cast<int>(thread_id()) / 32, first = static_cast<int>(place.block) * block_rows;
  const int mine = first + warp / 4 * group_rows;                              // the warpgroup's
  const int key = first + warp * 16 + static_cast<int>(thread_id()) % 32 / 4;  // of the thread's two, with 8 more
  // The first tile of rows that see keys from `from` on.
  const auto seen_from = [&](int from) { return p.causal && from + p.rows - p.keys > 0 ? (from + p.rows - p.keys) / tile : 0; };
  const int end = (p.rows + tile - 1) / tile, begin = seen_from(first), my_begin = mine < p.keys ? seen_from(mine) : end;
  PassingStates<softmax, softmax, tile> states(head, reinterpret_cast<float*>(memory.space + layout.state_offset()), end);
  const auto fetch = [&](int i) {
    if (i < end) {
      memory.fetch_passing(0, head.at<bf16>(p.q), p.q.row, i, p.rows, p.d);
      memory.fetch_passing(1, head.at<bf16>(p.dout), p.dout.row, i, p.rows, p.e);
      states.ask(i);
    }
    commit_copies();
  };
  memory.fetch_own(0, head.at<bf16>(p.k), p.k.row, first, p.keys, p.d);
  memory.fetch_own(1, head.at<bf16>(p.v), p.v.row, first, p.keys, p.e);
  constexpr int fragments = layout.panel_columns() / 8;
  float dk[layout.panels()][fragments][4] = {}, dv[layout.panels()][fragments][4] = {};
  fetch(begin);
  states.put(begin);
  for (int i = begin; i < end; ++i) {
    fetch(i + 1);
    wait_copies<1>();
    fence_async_proxy();
    block_barrier();
    if (i >= my_begin) {  // the same for all of the warpgroup
      float s[tile / 8][4] = {}, da[tile / 8][4] = {};
      fence_products(s, da);
      memory.multiply_rows(0, i, s);
      memory.multiply_rows(1, i, da);
      commit_products();
      wait_products<0>(s, da);
      differentiate_keys<softmax, softmax>(head, states.of(i, 0), key, i * tile, s, da);
      std::uint32_t weights[tile / 16][4], slopes[tile / 16][4];
      pack_left(s, weights);
      pack_left(da, slopes);
      fence_products(dv, dk, weights, slopes);
      memory.add_weighted(weights, 1, i, dv);
      memory.add_weighted(slopes, 0, i, dk);
      commit_products();
      wait_products<0>(dv, dk, weights, slopes);
    }
    states.put(i + 1);
    block_barrier();
  }
  wait_copies<0>();
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int to = key + 8 * half;
    if (to >= p.keys) continue;
    store_row(dk, half, p.scale, p.d, head.at<bf16>(p.dk) + to * p.dk.row);
    store_row(dv, half, 1, p.e, head.at<bf16>(p.dv) + to * p.dv.row);
  }
}

template <int chunks, bool softmax>
void run(void* stream, const AttentionProblem& p) {
  launch(stream, attention_grid(p, p.rows, block_rows), threads, WgmmaTiles::backward_rows(chunks).bytes(0),
         p.partial_stats ? rows_kernel<chunks, softmax, true> : rows_kernel<chunks, softmax, false>, p);
  launch(stream, attention_grid(p, p.keys, block_rows), threads, WgmmaTiles::backward_keys(chunks).bytes(mma_state_words(softmax)),
         keys_kernel<chunks, softmax>, p);
}
}  // namespace

void attention_backward_wgmma(void* stream, const AttentionProblem& p) {
  with_width(p, [&](auto chunks, auto softmax) { run<chunks(), softmax()>(stream, p); });
}

}  // namespace norma::cuda
