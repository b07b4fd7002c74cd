// Attention backward in bf16 on tensor cores, scores computed again: one kernel owns rows (dQ), one owns keys (dK, dV), 16 a warp, so
// that nothing is added by atomics. The keys' kernel works on S^T = K Q^T, so that its fragments of A^T and dS^T are the left
// operands of dV = A^T dO and dK = dS^T Q as they stand. The rows' kernel also finds what the other needs of each row. A warp keeps its own
// left operands in registers where these hold them, since shared memory bounds the products.
#include "backends/cuda/kernels/attention_backward.h"

namespace norma::cuda {
namespace {

constexpr int tile = mma_tile;
// What the keys' kernel keeps in registers; the rows' kernel keeps both Q and dO.
constexpr bool keeps_keys(int chunks) { return chunks <= 4; }
constexpr bool keeps_values(int chunks, bool softmax) { return softmax ? chunks <= 4 : chunks <= 2; }
constexpr bool pairs = false;  // states two at a time would take the registers that hold V

/// What stays, and the two stages of what streams past.
template <int chunks>
struct Tiles {
  static constexpr int passing_rows = mma_passing(chunks), own_size = tile * mma_pitch(chunks), size = passing_rows * mma_pitch(chunks);
  bf16 *own[2], *passing[2];  // q and dout, k and v; or the other way round; passing: the first of two stages
  float* states;              // of the passing rows, two stages; the keys' kernel only
  NORMA_DEVICE explicit Tiles(char* space) {
    auto* at = reinterpret_cast<bf16*>(space);
    own[0] = at, own[1] = at + own_size, passing[0] = at + 2 * own_size, passing[1] = passing[0] + 2 * size;
    states = reinterpret_cast<float*>(passing[1] + 2 * size);
  }
};

template <int chunks, bool softmax, bool measure>
NORMA_KERNEL void NORMA_BOUNDS(mma_threads, chunks > 4 ? 2 : 3) rows_kernel(AttentionProblem p) {
  const BlockPlace place = place_of_rows(p);
  const Head head(p, place.head);
  const int warp = static_cast<int>(thread_id()) / 32, first = static_cast<int>(place.block) * tile;
  const int row = first + warp * 16 + static_cast<int>(thread_id()) % 32 / 4;  // of the thread's two, with 8 more
  const Tiles<chunks> tiles(shared_memory());
  constexpr int passing = Tiles<chunks>::passing_rows;
  const int count = (head.length_of_rows(first, tile) + passing - 1) / passing;
  const int my_end = head.length_of_rows(first + warp * 16, 16);  // of what the warp's rows see; 0 past the last row
  const auto fetch = [&](int i) {
    if (i < count) {
      const int stage = i % 2 * Tiles<chunks>::size;
      fetch_rows<chunks, passing>(head.at<bf16>(p.k), p.k.row, i * passing, p.keys, p.d, tiles.passing[0] + stage);
      fetch_rows<chunks, passing>(head.at<bf16>(p.v), p.v.row, i * passing, p.keys, p.e, tiles.passing[1] + stage);
    }
    commit_copies();
  };
  fetch_rows<chunks, tile>(head.at<bf16>(p.q), p.q.row, first, p.rows, p.d, tiles.own[0]);
  fetch_rows<chunks, tile>(head.at<bf16>(p.dout), p.dout.row, first, p.rows, p.e, tiles.own[1]);
  commit_copies();
  fetch(0);

  RowState state[2];
  start_rows<softmax>(head, row, state);
  float dq[chunks * 2][4] = {}, sum[2] = {0, 0};
  float a2 = 0, s2 = 0;
  double a2_total = 0, s2_total = 0;
  LeftRows<chunks, true> q(tiles.own[0] + warp * 16 * mma_pitch(chunks));
  LeftRows<chunks, true> dout(tiles.own[1] + warp * 16 * mma_pitch(chunks));
  wait_copies<1>();
  block_barrier();
  q.arrived(), dout.arrived();
  for (int pass = !softmax && p.normalize ? 0 : 1; pass < 2; ++pass) {
    for (int i = 0; i < count; ++i) {
      fetch(i + 1);
      wait_copies<1>();
      block_barrier();
      for (int step = 0; step < passing; step += mma_step) {
        const int at = i % 2 * Tiles<chunks>::size + step * mma_pitch(chunks), start = i * passing + step;
        if (start >= my_end) break;
        float s[mma_step / 8][4], da[mma_step / 8][4];
        multiply_rows(q, tiles.passing[0] + at, s);
        if (pass == 0) {
          sum_rows(head, row, start, s, sum);
          continue;
        }
        multiply_rows(dout, tiles.passing[1] + at, da);
        differentiate_rows<softmax, measure>(head, state, row, start, s, da, a2, s2);
        add_weighted<chunks>(s, tiles.passing[0] + at, dq);
      }
      if constexpr (measure) {
        a2_total += a2, s2_total += s2;
        a2 = s2 = 0;
      }
      block_barrier();
    }
    wait_copies<0>();
    block_barrier();
    if (pass == 0) {
      fetch(0);
      divide_by_sums(head, row, sum, state);
    }
  }
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half)
    if (leave_row(head, state, row, half)) store_row(dq, half, p.scale, p.d, head.at<bf16>(p.dq) + (row + 8 * half) * p.dq.row);
  if constexpr (measure) write_block_gradients(p, a2_total, s2_total, place);
}

template <int chunks, bool softmax>
NORMA_KERNEL void NORMA_BOUNDS(mma_threads, chunks > 4 ? 2 : 3) keys_kernel(AttentionProblem p) {
  const BlockPlace place = place_of_keys(p);
  const Head head(p, place.head);
  const int warp = static_cast<int>(thread_id()) / 32, first = static_cast<int>(place.block) * tile;
  const int key = first + warp * 16 + static_cast<int>(thread_id()) % 32 / 4;  // of the thread's two, with 8 more
  const Tiles<chunks> tiles(shared_memory());
  constexpr int passing = Tiles<chunks>::passing_rows;
  int begin = 0;  // tiles of rows before it see none of these keys
  if (p.causal && first + p.rows - p.keys > 0) begin = (first + p.rows - p.keys) / passing;
  const int end = (p.rows + passing - 1) / passing;
  PassingStates<softmax, pairs, passing> states(head, tiles.states, end);
  const auto fetch = [&](int i) {
    if (i < end) {
      const int stage = i % 2 * Tiles<chunks>::size;
      fetch_rows<chunks, passing>(head.at<bf16>(p.q), p.q.row, i * passing, p.rows, p.d, tiles.passing[0] + stage);
      fetch_rows<chunks, passing>(head.at<bf16>(p.dout), p.dout.row, i * passing, p.rows, p.e, tiles.passing[1] + stage);
      states.ask(i);
    }
    commit_copies();
  };
  fetch_rows<chunks, tile>(head.at<bf16>(p.k), p.k.row, first, p.keys, p.d, tiles.own[0]);
  fetch_rows<chunks, tile>(head.at<bf16>(p.v), p.v.row, first, p.keys, p.e, tiles.own[1]);
  commit_copies();
  float dk[chunks * 2][4] = {}, dv[chunks * 2][4] = {};
  LeftRows<chunks, keeps_keys(chunks)> k(tiles.own[0] + warp * 16 * mma_pitch(chunks));
  LeftRows<chunks, keeps_values(chunks, softmax)> v(tiles.own[1] + warp * 16 * mma_pitch(chunks));
  fetch(begin);
  states.put(begin);
  wait_copies<1>();
  block_barrier();
  k.arrived(), v.arrived();
  for (int i = begin; i < end; ++i) {
    fetch(i + 1);
    wait_copies<1>();
    block_barrier();
    for (int step = 0; step < passing; step += mma_step) {
      const int at = i % 2 * Tiles<chunks>::size + step * mma_pitch(chunks), start = i * passing + step;
      if (head.length_of_rows(start, mma_step) <= first + warp * 16) continue;  // they see none of the warp's keys
      float s[mma_step / 8][4], da[mma_step / 8][4];
      multiply_rows(k, tiles.passing[0] + at, s);
      multiply_rows(v, tiles.passing[1] + at, da);
      differentiate_keys<softmax, pairs>(head, states.of(i, step), key, start, s, da);
      add_weighted<chunks>(s, tiles.passing[1] + at, dv);
      add_weighted<chunks>(da, tiles.passing[0] + at, dk);
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
  launch(stream, attention_grid(p, p.rows, tile), mma_threads, backward_mma_bytes(chunks, 0),
         p.partial_stats ? rows_kernel<chunks, softmax, true> : rows_kernel<chunks, softmax, false>, p);
  launch(stream, attention_grid(p, p.keys, tile), mma_threads, backward_mma_bytes(chunks, mma_state_words(pairs)), keys_kernel<chunks, softmax>, p);
}

}  // namespace

void attention_backward_bf16(void* stream, const AttentionProblem& p) {
  with_width(p, [&](auto chunks, auto softmax) { run<chunks(), softmax()>(stream, p); });
}

}  // namespace norma::cuda
