// Attention statistics from the materialised matrices: the oracle of those that kernels report, and what the
// composition delivers where a backend declines. Everything in f64.
#include <limits>

#include "autograd/attention.h"
#include "autograd/sweep.h"

namespace norma::fused {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

void put(const Tensor& stats, AttentionStat which, const Tensor& value) {
  copy_into(select(stats, 2, static_cast<Index>(which)), value);
}
void put(const Tensor& stats, AttentionStat which, double value) {
  fill(select(stats, 2, static_cast<Index>(which)), value);
}

Tensor total(const Tensor& x) { return sum(x, {-2, -1}); }
Tensor rows(const Tensor& x) { return sum(x, {-1}, true); }
Tensor as_f64(const Tensor& x) { return x.dtype() == DType::f64 ? x : cast(x, DType::f64); }

/// phi'(s), before masks; normalised rows: of the polynomial alone. Softmax has none: its rows have a Jacobian.
Tensor slope(const Tensor& s, const Scoring& scoring) {
  switch (scoring.kind) {
    case Scoring::Kind::relu: return step(s);
    case Scoring::Kind::sigmoid: {
      const Tensor a = sigmoid(s + scoring.sigmoid_bias(static_cast<double>(s.size(3))));
      return a * (1.0 - a);
    }
    case Scoring::Kind::softmax:
    case Scoring::Kind::polynomial: break;
  }
  Tensor y = zeros({}, place_of(s));
  for (int p = scoring.degree(); p >= 1; --p) y = y * s + p * scoring.coefficient[static_cast<std::size_t>(p)];
  return expand(y, s.shape());
}

/// phi itself summed over each row, before it is divided by that.
Tensor row_sums_of_phi(const Tensor& s, const Tensor& mask, const Scoring& scoring) {
  Tensor y = zeros({}, place_of(s));
  for (int p = scoring.degree(); p >= 0; --p) y = y * s + scoring.coefficient[static_cast<std::size_t>(p)];
  return rows(y * mask);
}

/// Per (batch, head) the sum over rows of the squared norm of d a / d s; a was computed in `computed`.
Tensor jacobian2(const Tensor& s, const Tensor& a, const Tensor& mask, const Visible& visible, const Scoring& scoring, DType computed) {
  const Tensor a2 = square(a), row_a2 = rows(a2);
  if (scoring.kind == Scoring::Kind::softmax) {
    return total(row_a2 - 2.0 * rows(a2 * a) + square(row_a2));
  }
  const Tensor scale = row_scale(scoring, visible, s);
  const Tensor d = slope(s, scoring) * mask, d2 = square(scale ? d * as_f64(scale) : d);
  if (!scoring.normalize) return total(d2);
  // a_j = f_j / Z: d a_j / d s_k = (f'_j [j = k] - a_j f'_k) / Z
  const Tensor row_d2 = rows(d2);
  return total((row_d2 - 2.0 * rows(a * d2) + row_a2 * row_d2) / square(divisor_of_sum(row_sums_of_phi(s, mask, scoring), computed)));
}

void measure_forward(const Tensor& scores, const Tensor& phi, const Tensor& weights, const Visible& visible,
                     const AttentionOptions& options) {
  using enum AttentionStat;
  const Tensor& out = options.stats;
  const Scoring& scoring = options.scoring;
  // Clamped rows do not sum to one.
  const bool has_entropy = (scoring.kind == Scoring::Kind::softmax || scoring.normalize) && options.clamp_fro == 0;
  fill(out, 0);
  put(out, score_max, -infinity), put(out, AttentionStat::max, -infinity), put(out, AttentionStat::min, infinity);
  if (!has_entropy) put(out, entropy, std::numeric_limits<double>::quiet_NaN());
  if (scores.numel() == 0) return;

  const Tensor raw = as_f64(scores), a = as_f64(weights);
  const Tensor one = ones({}, place_of(a)), zero = zeros({}, place_of(a));
  const Tensor mask = expand(visible ? as_f64(visible.mask) : one, a.shape());
  const Tensor seen = visible ? visible.condition : greater(mask, zero);
  const auto extreme = [&](const Tensor& x, double nothing) { return where(seen, x, scalar_like(nothing, x)); };
  const Tensor s = where(seen, raw, zero);
  const Tensor row_sums = rows(a);

  put(out, fro2, total(square(a)));
  put(out, jac2, jacobian2(s, as_f64(phi), mask, visible, scoring, phi.dtype()));
  put(out, score_sum, total(s));
  put(out, score_sum2, total(square(s)));
  put(out, score_max, norma::max(extreme(raw, -infinity), {-2, -1}));
  put(out, row_sum, total(row_sums));
  put(out, row_sum2, total(square(row_sums)));
  put(out, AttentionStat::min, norma::min(extreme(a, infinity), {-2, -1}));
  put(out, AttentionStat::max, norma::max(extreme(a, -infinity), {-2, -1}));
  put(out, negative, total(as_f64(less(a, zero))));
  put(out, small, total(as_f64(less(abs(a), scalar_like(small_weight, a))) * mask));
  put(out, entries, total(mask));
  if (has_entropy) put(out, entropy, total(-(a * log(where(greater(a, zero), a, one)))));
}

Tensor& met(const Tensor& stats, AttentionStat which) { return SweepScope::kept(stats.storage().get(), static_cast<int>(which)); }

/// Writes the squared norm of the gradient that reaches x in a sweep, over the visible pairs: with what reached the x of later
/// compositions before. Which of them is the last that a sweep meets: the one that was formed in it, or in the forward pass.
void measure_gradient(const Tensor& x, const Visible& visible, const Tensor& stats, AttentionStat which) {
  if (!grad_enabled() || !x.tracked()) return;
  on_gradient(x, [visible, stats, which, formed = SweepScope::number()](const Tensor& g) {
    const NoGrad constant;
    Tensor wide = as_f64(g.detach());
    if (visible) wide = where(visible.condition, wide, scalar_like(0, wide));
    Tensor& before = met(stats, which);
    if (before) wide = before + wide;
    const bool last = formed == 0 || formed == SweepScope::number();
    before = last ? Tensor() : wide;
    put(stats, which, total(square(wide)));
  });
}

}  // namespace

void measure(const Tensor& scores, const Tensor& phi, const Tensor& weights, const Visible& visible, const AttentionOptions& options) {
  {
    const NoGrad constant;
    measure_forward(scores.detach(), phi.detach(), weights.detach(), visible, options);
  }
  measure_gradient(weights, visible, options.stats, AttentionStat::grad_a2);
  measure_gradient(scores, visible, options.stats, AttentionStat::grad_s2);
}

bool met_gradients(const Tensor& stats) { return met(stats, AttentionStat::grad_a2) || met(stats, AttentionStat::grad_s2); }

}  // namespace norma::fused
