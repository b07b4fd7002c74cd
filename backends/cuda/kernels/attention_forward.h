// The forward pass of bf16 attention between its two products, for every form on tensor cores: what a thread knows of
// its rows, and how the scores in its fragments become weights. A warp owns 16 rows; keys come in tiles.
// For .cu files.
#pragma once

#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"

namespace norma::cuda {

/// What a thread knows of its two rows, g and g + 8 of sixteen that the warp owns.
struct ForwardRows {
  int row[2];
  float top[2], sum[2], factor[2];
  float row_sum[2], a2[2], x1[2], x2[2];  // for the statistics

  ForwardRows() = default;
  /// `first`: the first of the sixteen.
  NORMA_DEVICE ForwardRows(const Head& head, int first) {
    NORMA_UNROLL
    for (int half = 0; half < 2; ++half) {
      row[half] = first + static_cast<int>(thread_id()) % 32 / 4 + 8 * half;
      top[half] = -INFINITY, sum[half] = 0;
      factor[half] = head.row_factor(row[half]);
      row_sum[half] = a2[half] = x1[half] = x2[half] = 0;
    }
  }
  /// The row is divided by its sum from here on.
  NORMA_DEVICE void divide_by_sum(int half) { factor[half] = inverse_of_sum(sum[half]); }
};

/// The scores of a tile, fragments of 16 x 8 by key, turned into unnormalised weights in place.
template <bool softmax, bool measure, int fragments>
NORMA_DEVICE void weigh(const Head& head, ForwardRows& r, float (&s)[fragments][4], int start, bool settled, bool last_pass,
                        PairSums& pairs, float (&rescale)[2]) {
  constexpr int count = 2 * fragments;  // a row's that a thread has
  const AttentionProblem& p = head.p;
  const bool normalised = softmax || p.normalize;
  const bool all_seen = rows_see_all<fragments>(head, r.row[0], start);
  const std::uint32_t seen = all_seen ? all_pairs : pairs_of_rows<fragments>(head, r.row[0], start);
  const auto hidden = [&](int half, int c) { return (seen >> (16 * half + c) & 1) == 0; };
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float shift = 0;
    rescale[half] = 1;
    if constexpr (softmax) {
      shift = r.top[half];
      if (!settled) {
        const auto higher = [](float a, float b) { return std::fmax(a, b); };  // a NaN reaches the weights by itself
        float high = r.top[half];
        if (all_seen && p.scale > 0) {
          float x = s[0][2 * half];
          NORMA_UNROLL
          for (int c = 1; c < count; ++c) x = higher(x, s[c / 2][2 * half + c % 2]);
          high = higher(high, x * p.scale);
        } else {
          NORMA_UNROLL
          for (int c = 0; c < count; ++c)
            if (!hidden(half, c)) high = higher(high, s[c / 2][2 * half + c % 2] * p.scale);
        }
        shift = reduce_lanes<4>(high, higher);
        rescale[half] = r.top[half] == shift ? 1 : std::exp(r.top[half] - shift);
        r.sum[half] *= rescale[half];
        r.top[half] = shift;
      }
    }
    const float shift2 = shift * log2_e;
    const auto weigh_all = [&](auto chosen) {
      constexpr Family family = decltype(chosen)::value;
      constexpr int at_once = count < pairs_at_once ? count : pairs_at_once;
      NORMA_UNROLL
      for (int first = 0; first < count; first += at_once) {
        float score[at_once], value[at_once], steep[at_once];
        NORMA_UNROLL
        for (int c = 0; c < at_once; ++c) score[c] = s[(first + c) / 2][2 * half + c % 2] * p.scale;
        evaluate<family, measure>(p, score, value, steep);
        NORMA_UNROLL
        for (int c = 0; c < at_once; ++c) {
          float& x = s[(first + c) / 2][2 * half + c % 2];
          const float f = softmax ? quick_exp2(std::fma(x, p.scale * log2_e, -shift2)) : value[c];
          if constexpr (measure) {
            if (last_pass && !hidden(half, first + c)) {
              const float a = f * r.factor[half], slope = softmax ? 0 : steep[c] * r.factor[half];
              const float a2 = a * a, slope2 = slope * slope;
              pairs.add(score[c], a, normalised);
              r.row_sum[half] += a, r.a2[half] += a2;
              r.x1[half] = softmax ? std::fma(a2, a, r.x1[half]) : r.x1[half] + slope2;
              r.x2[half] = std::fma(a, slope2, r.x2[half]);
            }
          }
          x = f;
        }
      }
    };
    if constexpr (measure)  // two copies of the loop would not fit into registers
      weigh_all(std::integral_constant<Family, softmax ? Family::softmax : Family::polynomials>{});
    else
      with_family<softmax>(p, weigh_all);
  }
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half) {
    if (!all_seen) {
      NORMA_UNROLL
      for (int c = 0; c < count; ++c)
        if (hidden(half, c)) s[c / 2][2 * half + c % 2] = 0;
    }
    if (normalised && !settled) {
      float part = 0;
      NORMA_UNROLL
      for (int c = 0; c < count; ++c) part += s[c / 2][2 * half + c % 2];
      r.sum[half] += reduce_lanes<4>(part, Plus{});
    }
  }
  if (p.drop && last_pass) {
    const std::uint32_t kept = kept_of_rows<fragments>(head, r.row[0], start);
    NORMA_UNROLL
    for (int c = 0; c < 4 * fragments; ++c) s[c / 4][c % 4] *= has_pair(kept, c) ? p.keep_scale : 0;
  }
}

/// What is left of the thread's row `half` when all tiles have passed: its statistics, the factor to store it with, its
/// log-sum-exp. Whether the row is one of the problem's.
template <bool softmax, bool measure>
NORMA_DEVICE bool finish_row(const Head& head, ForwardRows& r, int half, bool two_passes, AttentionSums& sums) {
  const AttentionProblem& p = head.p;
  const bool leads = thread_id() % 4 == 0;
  if constexpr (measure) {
    const float r0 = reduce_lanes<4>(r.row_sum[half], Plus{}), r1 = reduce_lanes<4>(r.a2[half], Plus{});
    const float r2 = reduce_lanes<4>(r.x1[half], Plus{}), r3 = reduce_lanes<4>(r.x2[half], Plus{});
    if (leads && r.row[half] < p.rows) sums.row(p, head.lone(r.row[half]), r0, r1, r2, r3);
  }
  if (r.row[half] >= p.rows) return false;
  if ((softmax || p.normalize) && !two_passes) r.divide_by_sum(half);
  if (softmax && p.lse && leads) *head.lse(r.row[half]) = r.top[half] + std::log(r.sum[half]);
  return true;
}

}  // namespace norma::cuda
