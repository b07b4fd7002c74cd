// The attention function as data: what turns scores S = Q K^T / sqrt(d) into weights A = phi(S).
// Data only; nn/scoring.h parses and prints it, autograd/attention_weights.cpp gives its composition, backends run it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace norma {

/// What a row's weights are multiplied by that is not the same for all rows: 1, 1 / sqrt(n) or 1 / n, where n of its columns are visible.
enum class RowScale : std::int32_t { constant, inverse_sqrt_visible, inverse_visible };

struct Scoring {
  enum class Kind : std::uint8_t {
    softmax,     // rows of exp(s) / sum exp(s)
    polynomial,  // sum_p coefficient[p] s^p, element-wise (arXiv 2410.18613)
    sigmoid,     // 1 / (1 + exp(-(s + bias)))
    relu,        // max(s, 0)
  };
  /// What the element-wise kinds are multiplied by. `keys` is N, the number of columns; `valid_keys` counts, per row, those
  /// that no mask hides.
  enum class Scale : std::uint8_t { one, inverse_sqrt_keys, inverse_keys, inverse_sqrt_valid_keys, inverse_valid_keys };

  static constexpr int max_degree = 8;
  Kind kind = Kind::softmax;
  std::array<double, max_degree + 1> coefficient{};  // polynomial: coefficient of s^p
  Scale scale = Scale::one;
  bool normalize = false;  // divide each row by its sum; even polynomials only
  double bias = 0;         // sigmoid: added to the score ...
  bool bias_minus_log_keys = false;  // ... and -log N where set
  bool operator==(const Scoring&) const = default;
  int degree() const {
    for (int p = max_degree; p > 0; --p) if (coefficient[p] != 0) return p;
    return 0;
  }
  /// The only non-zero term is coefficient[degree()].
  bool monomial() const {
    for (int p = 0; p < degree(); ++p) if (coefficient[p] != 0) return false;
    return true;
  }
  /// `scale` in two parts: what all weights are divided by where rows have N keys, and what differs between rows.
  double divisor(double keys) const { return scale == Scale::inverse_sqrt_keys ? std::sqrt(keys) : scale == Scale::inverse_keys ? keys : 1; }
  RowScale row_scale() const {
    return scale == Scale::inverse_sqrt_valid_keys ? RowScale::inverse_sqrt_visible
           : scale == Scale::inverse_valid_keys    ? RowScale::inverse_visible
                                                   : RowScale::constant;
  }
  /// Both parts together, in a row that sees `visible` of N keys.
  double row_divisor(double keys, double visible) const {
    const RowScale by_row = row_scale();
    return by_row == RowScale::constant ? divisor(keys) : by_row == RowScale::inverse_visible ? visible : std::sqrt(visible);
  }
  /// What the sigmoid adds to scores of N keys.
  double sigmoid_bias(double keys) const { return bias - (bias_minus_log_keys ? std::log(keys) : 0.0); }
};

/// How attention is computed; the result is the same up to rounding. Linear time takes polynomials through their monomials:
/// phi(q.k) = <w F(q), F(k)>, so that A V = F(Q) (w F(K)^T V) and the matrix A is never formed. See docs/linear-attention.md.
enum class AttentionForm : std::uint8_t {
  automatic,  // whichever was measured to be cheaper at these sizes
  quadratic,
  linear,
};

/// How many monomials F has for rows of d numbers: sum over the non-zero coefficients of C(d + p - 1, p). 0 where there is no
/// linear form (not a polynomial, rows divided by their sum) and where F would have more than max_linear_features.
constexpr std::int64_t max_linear_features = 16384;
inline std::int64_t linear_features(const Scoring& s, std::int64_t d) {
  if (s.kind != Scoring::Kind::polynomial || s.normalize) return 0;
  std::int64_t all = 0, of_degree = 1;
  for (int p = 0; p <= s.degree(); ++p) {
    if (p > 0) of_degree = of_degree * (d + p - 1) / p;
    if (of_degree > max_linear_features) return 0;
    if (s.coefficient[static_cast<std::size_t>(p)] != 0) all += of_degree;
  }
  return all <= max_linear_features ? all : 0;
}

/// What the attention kernels report per (batch, head), from the pass that computes the output: see `Backend::attention`.
/// Sums run over the rows and the visible columns of A (before dropout). Each has the rule by which those of two parts of A
/// are merged (backends/common/attention_stats.h).
#define NORMA_ATTENTION_STATS(X)                                                                                              \
  X(fro2, sum)        /* sum a^2 = ||A||_F^2 */                                                                               \
  X(jac2, sum)        /* sum over rows of ||da/ds||_F^2: softmax sum a^2 - 2 sum a^3 + (sum a^2)^2, undivided sum phi'^2 */   \
  X(score_sum, sum) X(score_sum2, sum) X(score_max, max)                                                                      \
  X(row_sum, sum) X(row_sum2, sum)  /* of the sums of A's rows: first and second moment */                                    \
  X(min, min) X(max, max) X(negative, sum)  /* extreme weights; how many are below zero */                                    \
  X(small, sum)       /* how many |a| lie below small_weight */                                                               \
  X(entropy, sum)     /* sum over rows of -sum a log a, for softmax and row-normalised weights; NaN otherwise */              \
  X(entries, sum)     /* how many (row, column) pairs are visible */                                                          \
  X(grad_a2, sum) X(grad_s2, sum)  /* filled by the backward pass: ||dL/dA||_F^2 and ||dL/dS||_F^2 */                         \
  X(fro2_error, sum)  /* standard error of fro2 where the linear form estimates it; 0: exact; -0: it alone */
#define NORMA_ENUM(word, ...) word,
enum class AttentionStat : std::uint8_t { NORMA_ATTENTION_STATS(NORMA_ENUM) count };
#undef NORMA_ENUM
std::string_view name(AttentionStat s);
constexpr int attention_stats = static_cast<int>(AttentionStat::count);
constexpr double small_weight = 1e-3;

}  // namespace norma
