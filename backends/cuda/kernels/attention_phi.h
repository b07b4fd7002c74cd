// What attention kernels share: the attention function and its slope, which pairs are visible, dropout, statistics. For .cu files.
#pragma once

#include "backends/common/draws.h"
#include "backends/cuda/device.h"
#include "backends/cuda/kernels/attention.h"

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
template <Family family>
NORMA_DEVICE bool is_power(const AttentionProblem& p) {
  return family == Family::cubes || family == Family::powers || (family != Family::series && p.phi == Phi::monomial);
}
template <Family family>
NORMA_DEVICE bool is_softmax(const AttentionProblem& p) {
  return family == Family::softmax || (family == Family::all && p.phi == Phi::softmax);
}

/// phi(s) without row factors; softmax is the caller's.
template <Family family>
NORMA_DEVICE float phi_value(const AttentionProblem& p, float s) {
  if constexpr (family == Family::softmax) return 0;
  if (is_power<family>(p)) {
    const std::int32_t degree = family == Family::cubes ? 3 : p.degree;
    const float s2 = s * s, low = degree % 2 ? s : s2;  // s, s^2, s s^2, s^2 s^2
    return degree > 2 ? low * s2 : low;
  }
  if (family == Family::all && p.phi == Phi::sigmoid) return 1 / (1 + std::exp(-(s + p.bias)));
  if (family == Family::all && p.phi == Phi::relu) return s < 0 ? 0 : s;  // NaN stays
  float y = p.coefficient[p.degree];
  NORMA_ROLLED
  for (int i = p.degree - 1; i >= 0; --i) y = std::fma(y, s, p.coefficient[i]);
  return y;
}
template <Family family>
NORMA_DEVICE float phi_slope(const AttentionProblem& p, float s) {
  if constexpr (family == Family::softmax) return 0;
  if (is_power<family>(p)) {
    const std::int32_t degree = family == Family::cubes ? 3 : p.degree;
    const float low = degree % 2 ? 1 : s;  // 1, s, s^2, s s^2
    return static_cast<float>(degree) * (degree > 2 ? low * (s * s) : low);
  }
  if (family == Family::all && p.phi == Phi::sigmoid) return 1 / (1 + std::exp(-(s + p.bias))) / (1 + std::exp(s + p.bias));
  if (family == Family::all && p.phi == Phi::relu) return s > 0 ? 1 : 0;
  float y = 0;
  NORMA_ROLLED
  for (int i = p.degree; i >= 1; --i) y = std::fma(y, s, static_cast<float>(i) * p.coefficient[i]);
  return y;
}

/// exp(x) = 2^(x log2_e). Where softmax is all that code is compiled for, exponents and shifts are of 2, and log2_e goes into factors
/// that are there anyway: what rounding that costs is lost in weights of bf16.
constexpr float log2_e = 1.44269504f;

/// A row as the backward pass sees it: a = exp(s - shift) or factor * phi(s); delta of normalised rows.
struct RowState {
  float shift = 0, factor = 1, delta = 0;
};

/// The weight a of a visible pair, dA after dropout, dS.
struct PairGradient {
  float a, da, ds;
};
/// x: the product of the row and the key; y: of dO and the value; keep: what dropout multiplies the weight by.
template <Family family>
NORMA_DEVICE PairGradient differentiate(const AttentionProblem& p, const RowState& r, float x, float y, float keep) {
  const float da = y * keep, rest = std::fma(y, keep, -r.delta);
  if (is_softmax<family>(p)) {
    const float a = family == Family::softmax ? quick_exp2(std::fma(x, p.scale * log2_e, -r.shift)) : std::exp(std::fma(x, p.scale, -r.shift));
    return {a, da, a * rest};
  }
  const float s = x * p.scale;
  return {phi_value<family>(p, s) * r.factor, da, rest * (phi_slope<family>(p, s) * r.factor)};
}

/// One (batch, head) and what its rows see.
struct Head {
  const AttentionProblem& p;
  std::int32_t b, h;
  const std::uint8_t* mask;

  NORMA_DEVICE Head(const AttentionProblem& problem, std::uint32_t index) : p(problem) {
    b = static_cast<std::int32_t>(index) / p.heads;
    h = static_cast<std::int32_t>(index) % p.heads;
    mask = p.key_mask ? p.key_mask + b * p.mask_batch : nullptr;
  }
  template <class T>
  NORMA_DEVICE T* at(const HeadTensor& x) const {
    return static_cast<T*>(x.data) + b * x.batch + h * x.head;
  }
  /// How many columns row i sees when no key mask hides any.
  NORMA_DEVICE std::int32_t length(std::int32_t i) const {
    if (!p.causal) return p.keys;
    const std::int32_t n = i + p.keys - p.rows + 1;
    return n < 0 ? 0 : n < p.keys ? n : p.keys;
  }
  /// The same of the rows [first, first + count) together; 0 where they are past the last row.
  NORMA_DEVICE std::int32_t length_of_rows(std::int32_t first, std::int32_t count) const {
    return first >= p.rows ? 0 : length(first + count < p.rows ? first + count - 1 : p.rows - 1);
  }
  NORMA_DEVICE bool visible(std::int32_t i, std::int32_t j) const {
    return i < p.rows && j < length(i) && (!mask || mask[j * p.mask_key] != 0);
  }
  /// Rows first to last see all columns below this one; 0 where that takes a look at each pair.
  NORMA_DEVICE std::int32_t seen_by_all(std::int32_t first, std::int32_t last) const {
    return mask || last >= p.rows ? 0 : length(first);  // later rows see more
  }
  NORMA_DEVICE std::int32_t visible_count(std::int32_t i) const {
    const std::int32_t n = length(i);
    if (!mask) return n;
    if (p.seen_before) return p.seen_before[std::int64_t{b} * (p.keys + 1) + n];
    std::int32_t count = 0;
    for (std::int32_t j = 0; j < n; ++j) count += mask[j * p.mask_key] != 0;
    return count;
  }
  /// What phi is multiplied by in row i.
  NORMA_DEVICE float row_factor(std::int32_t i) const {
    if (p.row_scale == RowScale::constant || i >= p.rows) return p.factor;
    const std::int32_t n = visible_count(i);
    const float count = static_cast<float>(n > 1 ? n : 1);
    return p.factor / (p.row_scale == RowScale::inverse_visible ? count : std::sqrt(count));
  }
  /// Whether dropout leaves weight (i, j); keep: what it is then multiplied by, or 0.
  NORMA_DEVICE bool kept(const RandomStream& stream, std::int32_t i, std::int32_t j) const {
    const std::uint64_t at = word_of(i, j);
    return keeps(word(stream.block(at / 4), at % 4), p.drop_below);
  }
  NORMA_DEVICE bool kept(std::int32_t i, std::int32_t j) const { return kept(p.stream.now(), i, j); }
  /// Bit 0: the same of (i, j); bit 1: of (i, j + 1), whose word is of the same block as a rule.
  NORMA_DEVICE std::uint32_t kept_pair(const RandomStream& stream, std::int32_t i, std::int32_t j) const {
    const std::uint64_t at = word_of(i, j);
    const Philox block = stream.block(at / 4);
    const std::uint32_t second = at % 4 == 3 ? stream.block(at / 4 + 1)[0] : word(block, at % 4 + 1);
    return (keeps(word(block, at % 4), p.drop_below) ? 1u : 0u) | (keeps(second, p.drop_below) ? 2u : 0u);
  }
  NORMA_DEVICE float keep(std::int32_t i, std::int32_t j) const { return kept(i, j) ? p.keep_scale : 0; }
  NORMA_DEVICE float* lse(std::int32_t i) const { return p.lse + b * p.lse_batch + h * p.lse_head + i * p.lse_row; }

 private:
  NORMA_DEVICE std::uint64_t word_of(std::int32_t i, std::int32_t j) const {
    return static_cast<std::uint64_t>(((std::int64_t{b} * p.heads + h) * p.rows + i) * p.keys + j);
  }
  /// Chosen, not indexed: an index would put the block into local memory.
  NORMA_DEVICE static std::uint32_t word(const Philox& block, std::uint64_t k) {
    const std::uint32_t low = k % 2 ? block[1] : block[0], high = k % 2 ? block[3] : block[2];
    return k / 2 ? high : low;
  }
};

/// What a thread sees in a few pairs, in the arithmetic of the kernel, before it goes into doubles.
struct PairSums {
  float score = 0, score2 = 0, entropy = 0, score_max = -INFINITY, low = INFINITY, high = -INFINITY;
  std::int32_t negative = 0, small = 0, entries = 0;

  /// A visible pair: score s, weight a.
  NORMA_DEVICE void add(float s, float a, float threshold, bool has_entropy) {
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
  /// A row's sums: of a, a^2, and what jac2 is made of: softmax a^3; else d^2 and, for normalised rows, a d^2, d = da/df.
  NORMA_DEVICE void row(const AttentionProblem& p, double sum, double a2, double x1, double x2) {
    at(AttentionStat::row_sum) += sum;
    at(AttentionStat::row_sum2) += sum * sum;
    at(AttentionStat::fro2) += a2;
    at(AttentionStat::jac2) += p.phi == Phi::softmax ? a2 - 2 * x1 + a2 * a2 : p.normalize ? x1 * (1 + a2) - 2 * x2 : x1;
  }
};

/// Bit c of the result: test(c), for c < count up to 32. One copy of the test.
template <class Test>
NORMA_DEVICE std::uint32_t bits_of(int count, Test test) {
  std::uint32_t bits = 0;
  NORMA_ROLLED
  for (int c = 0; c < count; ++c) bits |= (test(c) ? 1u : 0u) << c;
  return bits;
}

/// Bit c of the result: whether dropout leaves weight (row_at(c), column_at(c)); the stream's number is read once for them all.
/// Of each pair c, c + 1, c even, the second stands right of the first where `in_pairs`.
template <bool in_pairs, class Row, class Column>
NORMA_DEVICE std::uint32_t kept_bits(const Head& head, int count, Row row_at, Column column_at) {
  const RandomStream stream = head.p.stream.now();
  if constexpr (!in_pairs) return bits_of(count, [&](int c) { return head.kept(stream, row_at(c), column_at(c)); });
  std::uint32_t bits = 0;
  NORMA_ROLLED
  for (int c = 0; c < count; c += 2) bits |= head.kept_pair(stream, row_at(c), column_at(c)) << c;
  return bits;
}

NORMA_DEVICE double merge_stat(int s, double a, double b) {
  if (s == static_cast<int>(AttentionStat::min)) return Smaller{}(a, b);
  if (s == static_cast<int>(AttentionStat::max) || s == static_cast<int>(AttentionStat::score_max)) return Larger{}(a, b);
  return a + b;
}

/// The block's sums into partial_stats, by a fixed tree; `space` holds attention_stats doubles a warp. All threads call it.
NORMA_DEVICE void write_block_stats(const AttentionProblem& p, AttentionSums& mine, double* space, std::uint32_t head,
                                    std::uint32_t block, std::uint32_t blocks) {
  const unsigned t = thread_id(), warp = t / warp_size;
  block_barrier();
  NORMA_UNROLL
  for (int s = 0; s < attention_stats; ++s) {
    const double x = reduce_lanes<warp_size>(mine.total[s], [s](double a, double b) { return merge_stat(s, a, b); });
    if (t % warp_size == 0) space[warp * attention_stats + static_cast<unsigned>(s)] = x;
  }
  block_barrier();
  if (t >= attention_stats) return;
  double x = space[t];
  for (unsigned w = 1; w < block_threads() / warp_size; ++w) x = merge_stat(static_cast<int>(t), x, space[w * attention_stats + t]);
  p.partial_stats[(std::int64_t{head} * blocks + block) * attention_stats + t] = x;
}

/// The same of a backward pass, from the start of shared memory on: the sums of the squared gradients of weights and of scores.
NORMA_DEVICE void write_block_gradients(const AttentionProblem& p, double a2, double s2, std::uint32_t head, std::uint32_t block,
                                        std::uint32_t blocks) {
  AttentionSums sums;
  sums.at(AttentionStat::grad_a2) = a2, sums.at(AttentionStat::grad_s2) = s2;
  write_block_stats(p, sums, reinterpret_cast<double*>(shared_memory()), head, block, blocks);
}

}  // namespace norma::cuda
