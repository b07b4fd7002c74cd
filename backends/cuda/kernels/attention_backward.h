// The backward pass of bf16 attention between its products, for every form on tensor cores whose tiles stream: rows'
// kernels (dQ), which also find what the keys' kernels (dK, dV) need of each row. A warp owns 16 rows or keys, a thread
// two of them, g and g + 8. For .cu files.
#pragma once

#include "backends/cuda/kernels/attention_mma.h"

namespace norma::cuda {

/// Adds phi of a tile's scores to the sums of the thread's rows.
template <int fragments>
NORMA_DEVICE void sum_rows(const Head& head, int row, int start, const float (&s)[fragments][4], float (&sum)[2]) {
  add_to_sums(head.p, s, rows_see_all<fragments>(head, row, start) ? all_pairs : pairs_of_rows<fragments>(head, row, start), sum);
}

/// dS in place of a tile's scores, from dA = dO V^T; with `measure` the squares of dA after dropout and of dS go to a2,
/// s2.
template <bool softmax, bool measure, int fragments>
NORMA_DEVICE void differentiate_rows(const Head& head, const RowState (&state)[2], int row, int start,
                                     float (&s)[fragments][4], const float (&da)[fragments][4], float& a2, float& s2) {
  const AttentionProblem& p = head.p;
  const float keep_scale = p.drop ? p.keep_scale : 1;
  const bool all_seen = rows_see_all<fragments>(head, row, start);
  const std::uint32_t seen = all_seen ? all_pairs : pairs_of_rows<fragments>(head, row, start);
  const std::uint32_t kept = p.drop ? kept_of_rows<fragments>(head, row, start) : all_pairs;
  with_family<softmax>(p, all_seen && !p.drop, [&](auto chosen, auto is_plain) {
    constexpr bool plain = decltype(is_plain)::value;
    each_gradient<decltype(chosen)::value>(
        p, s, da, [&](int c) -> const RowState& { return state[c % 4 / 2]; },
        [&](int c) { return plain ? 1 : has_pair(kept, c) ? keep_scale : 0; },
        [&](int c, const PairGradient& g) {
          const bool visible = plain || has_pair(seen, c);
          float& ds = s[c / 4][c % 4];
          ds = visible ? g.ds : 0;
          if constexpr (measure) {
            const float own = visible ? g.da : 0;
            a2 = std::fma(own, own, a2), s2 = std::fma(ds, ds, s2);
          }
        });
  });
}

/// What the keys' kernel will need of the thread's row `half`, if it is one of the problem's, which it returns.
NORMA_DEVICE bool leave_row(const Head& head, const RowState (&state)[2], int row, int half) {
  const AttentionProblem& p = head.p;
  if (row + 8 * half >= p.rows) return false;
  if (thread_id() % 4 == 0) {
    const std::int64_t at = (std::int64_t{head.b} * p.heads + head.h) * p.rows + row + 8 * half;
    p.row_delta[at] = state[half].delta;
    p.row_factor[at] = state[half].factor;
  }
  return true;
}
/// What leave_row left of a row; in place of softmax's shift the log-sum-exp, so that nothing waits for the loads.
template <bool softmax>
NORMA_DEVICE RowState left_row(const Head& head, int row) {
  const AttentionProblem& p = head.p;
  if (row >= p.rows) return {};
  const std::int64_t at = (std::int64_t{head.b} * p.heads + head.h) * p.rows + row;
  const float factor = p.row_factor[at];
  return {softmax ? *head.lse(row) : head.lone(row) ? 0 : factor, factor, p.row_delta[at]};
}

/// The states of rows that pass a keys' kernel as they lie in shared memory (mma_state_words). With `pairs` a read gives two rows.
template <bool pairs>
struct StateWords {
  static constexpr int count = mma_state_words(pairs);
  NORMA_DEVICE static void put(const RowState& x, float* to) {
    if constexpr (pairs)
      store_pack(to, Pack<float, 2>{{x.shift, x.delta}});
    else
      to[0] = x.shift, to[1] = x.factor, to[2] = x.delta;  // or the slope
  }
  /// Of row k, 0 or 1, of the two from the even one at `two` on.
  NORMA_DEVICE static RowState get(const float* two, int k) {
    RowState x;
    if constexpr (pairs) {
      const Pack<float, 4> both = load_pack<4>(two);
      x.shift = both.v[2 * k], x.delta = both.v[2 * k + 1];
    } else {
      x.shift = two[3 * k], x.factor = two[3 * k + 1], x.delta = two[3 * k + 2];
    }
    return x;
  }
};

/// A^T after dropout in place of scores S^T of the thread's keys, `key` and key + 8, and 8 * fragments rows from
/// `start` on, and dS^T in place of dA^T. `states`: of the rows from `start` on.
template <bool softmax, bool pairs, int fragments>
NORMA_DEVICE void differentiate_keys(const Head& head, const float* states, int key, int start,
                                     float (&s)[fragments][4], float (&da)[fragments][4]) {
  const AttentionProblem& p = head.p;
  const int place = 2 * (static_cast<int>(thread_id()) % 4);
  const float keep_scale = p.drop ? p.keep_scale : 1;
  const bool all_seen = ballot(key + 8 < head.seen_by_all(start, start + 8 * fragments - 1)) == 0xffffffffu;
  const std::uint32_t seen = all_seen ? all_pairs : pairs_of_keys(head, key, start);
  const std::uint32_t kept = p.drop ? kept_of_keys<fragments>(head, key, start) : all_pairs;
  with_family<softmax>(p, all_seen && !p.drop, [&](auto chosen, auto is_plain) {
    constexpr bool plain = decltype(is_plain)::value;
    const auto keep_of = [&](int c) { return plain ? 1 : has_pair(kept, c) ? keep_scale : 0; };
    each_gradient<decltype(chosen)::value>(
        p, s, da, [&](int c) { return StateWords<pairs>::get(states + (place + c / 4 * 8) * StateWords<pairs>::count, c % 2); }, keep_of,
        [&](int c, const PairGradient& g) {
          const bool visible = plain || has_pair(seen, c);
          s[c / 4][c % 4] = visible ? g.a * keep_of(c) : 0, da[c / 4][c % 4] = visible ? g.ds : 0;
        });
  });
}

/// The states of rows that pass a keys' kernel, two stages of `count` in shared memory. Those of a tile come from memory while the tile before is
/// computed: a thread asks for its row's, and puts it in place before the barrier that ends that tile.
template <bool softmax, bool pairs, int count>
class PassingStates {
 public:
  NORMA_DEVICE PassingStates(const Head& head, float* space, int end) : head_(head), space_(space), end_(end) {}
  NORMA_DEVICE void ask(int tile) {
    if (mine(tile)) next_ = left_row<softmax>(head_, tile * count + static_cast<int>(thread_id()));
  }
  NORMA_DEVICE void put(int tile) {
    if (!mine(tile)) return;
    RowState x = next_;
    if (softmax) x.shift *= log2_e;
    StateWords<pairs>::put(x, space_ + (tile % 2 * count + static_cast<int>(thread_id())) * StateWords<pairs>::count);
  }
  /// Of the row `first`, an even one, of a tile and those behind it.
  NORMA_DEVICE const float* of(int tile, int first) const { return space_ + (tile % 2 * count + first) * StateWords<pairs>::count; }

 private:
  NORMA_DEVICE bool mine(int tile) const { return tile < end_ && static_cast<int>(thread_id()) < count; }
  const Head& head_;
  float* space_;
  int end_;
  RowState next_{};
};

}  // namespace norma::cuda
