// What attention kernels share: the attention function and its slope, the gradient of a pair, statistics. For .cu files.
#pragma once

#include "backends/common/attention_stats.h"
#include "backends/cuda/kernels/attention_head.h"

namespace norma::cuda {

/// Which attention functions code is compiled for: fewer make it shorter. Polynomials are powers (Phi::monomial), of which
/// cubes are the one that matters most, or series.
enum class Family { softmax, cubes, powers, series, polynomials, all };
/// f(integral_constant of a family with no branch left in it), for what surrounds an unrolled loop.
template <bool softmax, class F>
NORMA_DEVICE void with_family(const AttentionProblem& p, F&& f) {
  if constexpr (softmax)
    f(std::integral_constant<Family, Family::softmax>{});
  else if (p.phi == Phi::monomial && p.degree == 3)
    f(std::integral_constant<Family, Family::cubes>{});
  else if (p.phi == Phi::monomial)
    f(std::integral_constant<Family, Family::powers>{});
  else
    f(std::integral_constant<Family, Family::series>{});
}
/// The same with f(family, whether `plain`): a copy of its own for pairs that are all visible and kept, which asks of none.
template <bool softmax, class F>
NORMA_DEVICE void with_family(const AttentionProblem& p, bool plain, F&& f) {
  with_family<softmax>(p, [&](auto family) { plain ? f(family, std::true_type{}) : f(family, std::false_type{}); });
}
template <Family family>
NORMA_DEVICE bool is_power(const AttentionProblem& p) {
  return family == Family::cubes || family == Family::powers || (family != Family::series && p.phi == Phi::monomial);
}
template <Family family>
NORMA_DEVICE bool is_series(const AttentionProblem& p) {
  return family == Family::series || (!is_power<family>(p) && (family == Family::polynomials || p.phi == Phi::polynomial));
}
template <Family family>
NORMA_DEVICE bool is_softmax(const AttentionProblem& p) {
  return family == Family::softmax || (family == Family::all && p.phi == Phi::softmax);
}

/// phi(s) of the functions that are no series, without row factors.
template <Family family>
NORMA_DEVICE float plain_value(const AttentionProblem& p, float s) {
  if (family != Family::all || is_power<family>(p)) {
    const std::int32_t degree = family == Family::cubes ? 3 : p.degree;
    const float s2 = s * s, low = degree % 2 ? s : s2;  // s, s^2, s s^2, s^2 s^2
    return degree > 2 ? low * s2 : low;
  }
  if (p.phi == Phi::sigmoid) return 1 / (1 + std::exp(-(s + p.bias)));
  return s < 0 ? 0 : s;  // relu; NaN stays
}
template <Family family>
NORMA_DEVICE float plain_slope(const AttentionProblem& p, float s) {
  if (family != Family::all || is_power<family>(p)) {
    const std::int32_t degree = family == Family::cubes ? 3 : p.degree;
    const float low = degree % 2 ? 1 : s;  // 1, s, s^2, s s^2
    return static_cast<float>(degree) * (degree > 2 ? low * (s * s) : low);
  }
  if (p.phi == Phi::sigmoid) return 1 / (1 + std::exp(-(s + p.bias))) / (1 + std::exp(s + p.bias));
  return s > 0 ? 1 : 0;
}

/// phi without row factors at n scores and, with `slopes`, its derivative; softmax is the caller's. A series is summed for all of
/// them together, so that each coefficient is read once and no sum waits for itself.
template <Family family, bool slopes, int n>
NORMA_DEVICE void evaluate(const AttentionProblem& p, const float (&s)[n], float (&value)[n], float (&slope)[n]) {
  if constexpr (family == Family::softmax) return;
  if (!is_series<family>(p)) {
    NORMA_UNROLL
    for (int c = 0; c < n; ++c) {
      value[c] = plain_value<family>(p, s[c]);
      if constexpr (slopes) slope[c] = plain_slope<family>(p, s[c]);
    }
    return;
  }
  const float highest = p.coefficient[p.degree];
  NORMA_UNROLL
  for (int c = 0; c < n; ++c) value[c] = highest, slope[c] = 0;
  NORMA_ROLLED
  for (int i = p.degree; i >= 1; --i) {
    const float next = p.coefficient[i - 1], steep = static_cast<float>(i) * p.coefficient[i];
    NORMA_UNROLL
    for (int c = 0; c < n; ++c) {
      if constexpr (slopes) slope[c] = std::fma(slope[c], s[c], steep);
      value[c] = std::fma(value[c], s[c], next);
    }
  }
}
/// So many pairs are taken together: enough for their sums to overlap, few enough to stay in registers.
constexpr int pairs_at_once = 8;

/// Adds phi of a tile's products of rows and keys to the sums of the thread's two rows.
template <int fragments>
NORMA_DEVICE void add_to_sums(const AttentionProblem& p, const float (&x)[fragments][4], std::uint32_t seen, float (&sum)[2]) {
  constexpr int n = pairs_at_once;
  NORMA_UNROLL
  for (int first = 0; first < 4 * fragments; first += n) {
    float s[n], value[n], unused[n];
    NORMA_UNROLL
    for (int c = 0; c < n; ++c) s[c] = x[(first + c) / 4][c % 4] * p.scale;
    evaluate<Family::polynomials, false>(p, s, value, unused);
    NORMA_UNROLL
    for (int c = 0; c < n; ++c)
      if (has_pair(seen, first + c)) sum[c % 4 / 2] += value[c];
  }
}

/// exp(x) = 2^(x log2_e). Where softmax is all that code is compiled for, exponents and shifts are of 2, and log2_e goes into factors
/// that are there anyway: what rounding that costs is lost in weights of bf16.
constexpr float log2_e = 1.44269504f;

/// What a row is multiplied by that is divided by its sum; 1 where that is 0, or so small that its inverse may be no number.
NORMA_DEVICE float inverse_of_sum(float sum) { return fabsf(sum) < __FLT_MIN__ ? 1 : 1 / sum; }

/// A row as the backward pass sees it: a = exp(s - shift) where `softmax`, else a = factor phi(s) and da/ds = slope phi'(s); delta of
/// normalised rows. The slope is the factor, but 0 where the weight is the only one of its row (Head::lone): of dA - delta rounding alone
/// would be left, over s.
struct RowState {
  union {
    float shift = 0;
    float slope;
  };
  float factor = 1, delta = 0;
  NORMA_DEVICE void divide_by(float sum, bool lone) {
    factor = inverse_of_sum(sum);
    slope = lone ? 0 : factor;
  }
};

/// The weight a of a visible pair, dA after dropout, dS.
struct PairGradient {
  float a, da, ds;
};
/// x: the products of rows and keys; y: of dO and the values; state_of(c): the row of pair c; keep_of(c): what dropout multiplies its
/// weight by.
template <Family family, int n, class State, class Keep>
NORMA_DEVICE void differentiate(const AttentionProblem& p, const float (&x)[n], const float (&y)[n], State state_of, Keep keep_of,
                                PairGradient (&g)[n]) {
  float s[n], value[n] = {}, slope[n] = {};
  const bool softmax = is_softmax<family>(p);
  NORMA_UNROLL
  for (int c = 0; c < n; ++c) s[c] = x[c] * p.scale;
  if (!softmax) evaluate<family, true>(p, s, value, slope);
  NORMA_UNROLL
  for (int c = 0; c < n; ++c) {
    const RowState& r = state_of(c);
    const float keep = keep_of(c), rest = std::fma(y[c], keep, -r.delta);
    g[c].da = y[c] * keep;
    if (softmax) {
      g[c].a = family == Family::softmax ? quick_exp2(std::fma(x[c], p.scale * log2_e, -r.shift)) : std::exp(std::fma(x[c], p.scale, -r.shift));
      g[c].ds = g[c].a * rest;
    } else {
      g[c].a = value[c] * r.factor;
      g[c].ds = rest * (slope[c] * r.slope);
    }
  }
}

/// use(c, its gradient) for each pair c = 4 n + k of a tile's fragments: x in s, y in da.
template <Family family, int fragments, class State, class Keep, class Use>
NORMA_DEVICE void each_gradient(const AttentionProblem& p, const float (&s)[fragments][4], const float (&da)[fragments][4], State state_of,
                                Keep keep_of, Use use) {
  constexpr int n = pairs_at_once;
  NORMA_UNROLL
  for (int first = 0; first < 4 * fragments; first += n) {
    float x[n], y[n];
    PairGradient g[n];
    NORMA_UNROLL
    for (int c = 0; c < n; ++c) x[c] = s[(first + c) / 4][c % 4], y[c] = da[(first + c) / 4][c % 4];
    differentiate<family>(
        p, x, y, [&](int c) -> decltype(auto) { return state_of(first + c); }, [&](int c) { return keep_of(first + c); }, g);
    NORMA_UNROLL
    for (int c = 0; c < n; ++c) use(first + c, g[c]);
  }
}

/// What a thread sees in a few pairs, in the arithmetic of the kernel, before it goes into doubles.
struct PairSums {
  float score = 0, score2 = 0, entropy = 0, score_max = -INFINITY, low = INFINITY, high = -INFINITY;
  std::int32_t negative = 0, small = 0, entries = 0;

  /// A visible pair: score s, weight a.
  NORMA_DEVICE void add(float s, float a, bool has_entropy) {
    constexpr float threshold = small_weight;
    score += s, score2 = std::fma(s, s, score2);
    score_max = Larger{}(s, score_max), low = Smaller{}(a, low), high = Larger{}(a, high);
    negative += a < 0, small += std::fabs(a) < threshold, entries += 1;
    if (has_entropy && a > 0) entropy = std::fma(-a, std::log(a), entropy);
  }
};

/// One thread's share of the statistics of a block.
struct AttentionSums {
  double total[attention_stats];
  NORMA_DEVICE AttentionSums() {
    for (int s = 0; s < attention_stats; ++s) total[s] = 0;
    at(AttentionStat::score_max) = at(AttentionStat::max) = -INFINITY;
    at(AttentionStat::min) = INFINITY;
  }
  NORMA_DEVICE double& at(AttentionStat s) { return total[static_cast<int>(s)]; }
  NORMA_DEVICE void pairs(const PairSums& x) {
    at(AttentionStat::score_sum) += x.score;
    at(AttentionStat::score_sum2) += x.score2;
    at(AttentionStat::entropy) += x.entropy;
    at(AttentionStat::score_max) = Larger{}(static_cast<double>(x.score_max), at(AttentionStat::score_max));
    at(AttentionStat::min) = Smaller{}(static_cast<double>(x.low), at(AttentionStat::min));
    at(AttentionStat::max) = Larger{}(static_cast<double>(x.high), at(AttentionStat::max));
    at(AttentionStat::negative) += x.negative;
    at(AttentionStat::small) += x.small;
    at(AttentionStat::entries) += x.entries;
  }
  /// A row's sums: of a, a^2, and what jac2 is made of: softmax a^3; else d^2 and, for normalised rows, a d^2, d = da/df. Nothing where it is `lone`.
  NORMA_DEVICE void row(const AttentionProblem& p, bool lone, double sum, double a2, double x1, double x2) {
    at(AttentionStat::row_sum) += sum;
    at(AttentionStat::row_sum2) += sum * sum;
    at(AttentionStat::fro2) += a2;
    if (lone) return;
    at(AttentionStat::jac2) += p.phi == Phi::softmax ? a2 - 2 * x1 + a2 * a2 : p.normalize ? x1 * (1 + a2) - 2 * x2 : x1;
  }
};

/// The block's sums into partial_stats, by a fixed tree; `space` holds attention_stats doubles a warp. All threads call it.
NORMA_DEVICE void write_block_stats(const AttentionProblem& p, AttentionSums& mine, double* space, const BlockPlace& place) {
  const unsigned t = thread_id(), warp = t / warp_size;
  block_barrier();
  NORMA_UNROLL
  for (int s = 0; s < attention_stats; ++s) {
    const double x = reduce_lanes<warp_size>(mine.total[s], [s](double a, double b) { return merged(static_cast<AttentionStat>(s), a, b); });
    if (t % warp_size == 0) space[warp * attention_stats + static_cast<unsigned>(s)] = x;
  }
  block_barrier();
  if (t >= attention_stats) return;
  double x = space[t];
  for (unsigned w = 1; w < block_threads() / warp_size; ++w) x = merged(static_cast<AttentionStat>(t), x, space[w * attention_stats + t]);
  p.partial_stats[(std::int64_t{place.head} * place.blocks + place.block) * attention_stats + t] = x;
}

/// The same of a backward pass, from the start of shared memory on: the sums of the squared gradients of weights and of scores.
NORMA_DEVICE void write_block_gradients(const AttentionProblem& p, double a2, double s2, const BlockPlace& place) {
  AttentionSums sums;
  sums.at(AttentionStat::grad_a2) = a2, sums.at(AttentionStat::grad_s2) = s2;
  write_block_stats(p, sums, reinterpret_cast<double*>(shared_memory()), place);
}

}  // namespace norma::cuda
