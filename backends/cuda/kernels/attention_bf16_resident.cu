// Attention backward in bf16 on tensor cores for heads that fit into shared memory: a block holds Q, K, V and dO of one head and makes dQ,
// dK and dV from one computation of the scores, five products where the kernels of attention_bf16_backward.cu make seven. Warps own keys
// and work on S^T = K Q^T, as the keys' kernel does; dS of 64 rows meets in shared memory, already rounded to bf16, and dQ = dS K is
// summed over the keys in rising order, as the rows' kernel does. So each sum has one order, that of those two kernels.
#include "backends/cuda/kernels/attention_mma.h"
#include "backends/cuda/kernels/attention_resident.h"

namespace norma::cuda {
namespace {

constexpr int group = ResidentPlan::group, tile = ResidentPlan::tile, ds_pitch = ResidentPlan::ds_pitch;

/// Starts copying rows [first, first + count) of x, by `threads`.
template <int chunks>
NORMA_DEVICE void fetch(const bf16* x, std::int64_t x_row, int first, int rows, int width, bf16* to, int count, int threads) {
  RowCopies<chunks> mine = row_copies<chunks>(x, x_row, first, rows, width, to, threads);
  while (mine.row() < count) mine.next();
}

/// A fragment of 16 keys by 16 rows as left operand: keys g, g + 8 for rows 2 t.., then the same for rows 2 t + 8...
NORMA_DEVICE void pack_left(const float (&w)[2][4], std::uint32_t (&left)[4]) {
  NORMA_UNROLL
  for (int n = 0; n < 2; ++n) left[2 * n] = pack_pair(w[n][0], w[n][1]), left[2 * n + 1] = pack_pair(w[n][2], w[n][3]);
}

/// sums += left y for the 16 rows at `y`.
template <int chunks>
NORMA_DEVICE void add_rows(const std::uint32_t (&left)[4], const bf16* y, float (&sums)[chunks * 2][4]) {
  const int lane = static_cast<int>(thread_id()) % 32;
  NORMA_UNROLL
  for (int n = 0; n < chunks * 2; n += 2) {
    std::uint32_t right[4];
    load_matrices_transposed(right, y + (lane / 8 % 2 * 8 + lane % 8) * mma_pitch(chunks) + n * 8 + lane / 16 * 8);
    mma_16x8x16(sums[n], left, right[0], right[1]);
    mma_16x8x16(sums[n + 1], left, right[2], right[3]);
  }
}

/// What each row's weights are made with, a warp 16 rows at a time. Q and K are read where rows are divided by their sums.
template <int chunks, bool softmax>
NORMA_DEVICE void find_row_states(const Head& head, const ResidentPlan& plan, const bf16* q, const bf16* k, RowState* states) {
  const AttentionProblem& p = head.p;
  const int lane = static_cast<int>(thread_id()) % 32, warp = static_cast<int>(thread_id()) / 32;
  for (int first = warp * group; first < plan.rows; first += plan.warps * group) {
    RowState state[2];
    float sum[2] = {0, 0};
    start_rows<softmax>(head, first + lane / 4, state);
    if (!softmax && p.normalize) {
      for (int key = 0; key < p.keys; key += group) {
        float s[2][4];
        multiply_rows<chunks>(q + first * mma_pitch(chunks), k + key * mma_pitch(chunks), s);
        add_to_sums(p, s, pairs_of_rows<2>(head, first + lane / 4, key), sum);
      }
      divide_by_sums(head, first + lane / 4, sum, state);
    }
    NORMA_UNROLL
    for (int half = 0; half < 2; ++half)
      if (lane % 4 == 0) states[first + lane / 4 + 8 * half] = state[half];
  }
}

/// dQ of the tile from row `first` on, from its dS.
template <int chunks>
NORMA_DEVICE void make_dq(const Head& head, const ResidentPlan& plan, int first, const bf16* ds, const bf16* k) {
  const AttentionProblem& p = head.p;
  constexpr int pitch = mma_pitch(chunks), fragments = ResidentPlan::unit_columns / 8;
  const int lane = static_cast<int>(thread_id()) % 32, warp = static_cast<int>(thread_id()) / 32;
  const int row_groups = ResidentPlan::row_groups(p.rows, first), units = row_groups * ResidentPlan::column_units(p.d);
  for (int unit = warp; unit < units; unit += plan.warps) {
    const int row = first + unit % row_groups * group, column = unit / row_groups * ResidentPlan::unit_columns;
    const int end = head.length(row + group < p.rows ? row + group - 1 : p.rows - 1);
    float sums[fragments][4] = {};
    for (int key = 0; key < end; key += group) {
      std::uint32_t left[4];
      load_matrices_transposed(left, ds + (key + lane / 16 * 8 + lane % 8) * ds_pitch + row - first + lane / 8 % 2 * 8);
      NORMA_UNROLL
      for (int n = 0; n < fragments; n += 2) {
        std::uint32_t right[4];
        load_matrices_transposed(right, k + (key + lane / 8 % 2 * 8 + lane % 8) * pitch + column + n * 8 + lane / 16 * 8);
        mma_16x8x16(sums[n], left, right[0], right[1]);
        mma_16x8x16(sums[n + 1], left, right[2], right[3]);
      }
    }
    NORMA_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int to = row + lane / 4 + 8 * half;
      if (to < p.rows) store_row(sums, half, p.scale, p.d - column, head.at<bf16>(p.dq) + to * p.dq.row + column);
    }
  }
}

template <int chunks, bool softmax, bool measure>
NORMA_KERNEL void NORMA_BOUNDS(ResidentPlan::most_warps(chunks) * 32, 1) resident_kernel(AttentionProblem p, ResidentPlan plan) {
  constexpr int pitch = mma_pitch(chunks);
  const Head head(p, block_id().x);
  const int lane = static_cast<int>(thread_id()) % 32, warp = static_cast<int>(thread_id()) / 32, threads = plan.warps * 32;
  bf16 *q = reinterpret_cast<bf16*>(shared_memory()), *dout = q + plan.dout_offset(), *k = q + plan.key_offset(), *v = q + plan.value_offset(),
       *ds = q + plan.ds_offset();
  RowState* states = reinterpret_cast<RowState*>(q + plan.state_offset());

  // The first tile of rows with all keys, then the rest, which comes while that tile is computed.
  const int early = plan.rows < tile ? plan.rows : tile;
  fetch<chunks>(head.at<bf16>(p.k), p.k.row, 0, p.keys, p.d, k, plan.keys, threads);
  fetch<chunks>(head.at<bf16>(p.v), p.v.row, 0, p.keys, p.e, v, plan.keys, threads);
  for (int first = 0, count = early; first < plan.rows; first += count, count = plan.rows - early) {
    fetch<chunks>(head.at<bf16>(p.q), p.q.row, first, p.rows, p.d, q + first * pitch, count, threads);
    fetch<chunks>(head.at<bf16>(p.dout), p.dout.row, first, p.rows, p.e, dout + first * pitch, count, threads);
    commit_copies();
  }
  if (plan.rows > early && (softmax || !p.normalize)) {
    find_row_states<chunks, softmax>(head, plan, q, k, states);
    wait_copies<1>();
  } else {
    wait_copies<0>();
    block_barrier();
    find_row_states<chunks, softmax>(head, plan, q, k, states);
  }

  const int key = warp * group;
  float dk[chunks * 2][4] = {}, dv[chunks * 2][4] = {};
  float a2 = 0, s2 = 0;
  double a2_total = 0, s2_total = 0;
  for (int first = 0; first < p.rows; first += tile) {
    if (first > 0) wait_copies<0>();
    block_barrier();  // the rows are there, and dS of the tile before has been read
    for (int step = 0; step < tile && first + step < p.rows; step += group) {
      const int row = first + step;
      if (key >= head.length_of_rows(row, group)) continue;  // they see none of the warp's keys
      float s[2][4], da[2][4];
      multiply_rows<chunks>(k + key * pitch, q + row * pitch, s);
      multiply_rows<chunks>(v + key * pitch, dout + row * pitch, da);
      const auto row_at = [&](int c) { return row + c / 4 * 8 + 2 * (lane % 4) + c % 2; };
      const bool all_seen = key + group <= head.seen_by_all(row, row + group - 1);
      const std::uint32_t seen = all_seen ? all_pairs : pairs_of_keys(head, key + lane / 4, row);
      const std::uint32_t kept = p.drop ? kept_of_keys<2>(head, key + lane / 4, row) : all_pairs;
      with_family<softmax>(p, all_seen && !p.drop, [&](auto chosen, auto is_plain) {
        constexpr bool plain = decltype(is_plain)::value;
        const auto keep_of = [&](int c) { return plain ? 1 : has_pair(kept, c) ? p.keep_scale : 0; };
        each_gradient<decltype(chosen)::value>(
            p, s, da, [&](int c) -> const RowState& { return states[row_at(c)]; }, keep_of, [&](int c, const PairGradient& pair) {
              float &x = s[c / 4][c % 4], &y = da[c / 4][c % 4];
              const bool visible = plain || has_pair(seen, c);
              x = visible ? pair.a * keep_of(c) : 0, y = visible ? pair.ds : 0;
              if constexpr (measure) {
                const float own = visible ? pair.da : 0;
                a2 = std::fma(own, own, a2), s2 = std::fma(y, y, s2);
              }
            });
      });
      std::uint32_t weights[4], slopes[4];
      pack_left(s, weights);
      pack_left(da, slopes);
      NORMA_UNROLL
      for (int i = 0; i < 4; ++i)
        *reinterpret_cast<std::uint32_t*>(ds + (key + lane / 4 + i % 2 * 8) * ds_pitch + step + i / 2 * 8 + 2 * (lane % 4)) = slopes[i];
      add_rows<chunks>(weights, dout + row * pitch, dv);
      add_rows<chunks>(slopes, q + row * pitch, dk);
    }
    if constexpr (measure) {
      a2_total += a2, s2_total += s2;
      a2 = s2 = 0;
    }
    block_barrier();
    make_dq<chunks>(head, plan, first, ds, k);
  }
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int to = key + lane / 4 + 8 * half;
    if (to >= p.keys) continue;
    store_row(dk, half, p.scale, p.d, head.at<bf16>(p.dk) + to * p.dk.row);
    store_row(dv, half, 1, p.e, head.at<bf16>(p.dv) + to * p.dv.row);
  }
  if constexpr (measure) write_block_gradients(p, a2_total, s2_total, {block_id().x, 0, 1});
}

template <int chunks, bool softmax>
void run(void* stream, const AttentionProblem& p, const ResidentPlan& plan) {
  launch(stream, {static_cast<unsigned>(p.batches * p.heads)}, static_cast<unsigned>(plan.warps) * 32, plan.bytes(sizeof(RowState)),
         p.partial_stats ? resident_kernel<chunks, softmax, true> : resident_kernel<chunks, softmax, false>, p, plan);
}

}  // namespace

bool attention_fits_resident(const AttentionProblem& p, std::size_t shared_bytes) {
  const ResidentPlan plan = resident_plan(p.rows, p.keys, p.d, p.e);
  return plan.warps > 0 && plan.bytes(sizeof(RowState)) <= shared_bytes;
}

void attention_backward_resident(void* stream, const AttentionProblem& p) {
  const ResidentPlan plan = resident_plan(p.rows, p.keys, p.d, p.e);
  with_width(p, [&](auto chunks, auto softmax) { run<chunks(), softmax()>(stream, p, plan); });
}

}  // namespace norma::cuda
