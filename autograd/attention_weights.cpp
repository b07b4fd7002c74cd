// A = phi(S) by plain recorded ops, for every scoring and every mask. Masks multiply after phi: an additive -1e9 would
// become -1e27 under x^3. Hidden scores are set to zero first, so that what cannot be seen cannot overflow either.
#include <cmath>
#include <limits>

#include "autograd/attention.h"

namespace norma {

void check_attention_options(const char* op, const AttentionOptions& options) {
  const Scoring& scoring = options.scoring;
  if (scoring.kind == Scoring::Kind::polynomial && scoring.degree() == 0) {
    fail("{}: degree 0 of the polynomial must be 1..{}; set a coefficient of s^1 or higher", op, Scoring::max_degree);
  }
  for (int p = 0; p <= Scoring::max_degree; ++p) {
    const double c = scoring.coefficient[static_cast<std::size_t>(p)];
    if (!std::isfinite(c)) fail("{}: the coefficient of s^{} is {}; it must be finite", op, p, c);
    if (scoring.normalize && p % 2 == 1 && c != 0) {
      fail("{}: rows can be normalised for even powers only, but the coefficient of s^{} is {}", op, p, c);
    }
  }
  if (scoring.kind == Scoring::Kind::sigmoid && !std::isfinite(scoring.bias)) fail("{}: the sigmoid's bias is {}; it must be finite", op, scoring.bias);
  if (scoring.normalize && scoring.kind != Scoring::Kind::polynomial) {
    fail("{}: normalize is for polynomials; softmax rows sum to one by themselves", op);
  }
  if (!(options.dropout >= 0 && options.dropout <= 1)) fail("{}: dropout = {} must be in [0, 1]", op, options.dropout);
  if (!(options.clamp_fro >= 0 && std::isfinite(options.clamp_fro))) {
    fail("{}: clamp_fro = {} must be 0 (off) or a positive bound of ||A||_F", op, options.clamp_fro);
  }
  if (!std::isfinite(options.scale)) fail("{}: scale = {} must be finite", op, options.scale);
}

namespace fused {

void check_masks(const char* op, const AttentionOptions& options, Index batch, Index heads, Index keys, Device device) {
  const auto check = [&](const char* what, const Tensor& x, DType dtype, const Shape& shape) {
    if (!x) return;
    if (x.dtype() != dtype || x.shape() != shape) {
      fail("{}: {} is {} {}, expected {} {}", op, what, x.dtype(), x.shape(), dtype, shape);
    }
    if (!(x.device() == device)) {
      fail("{}: {} is on {}, expected {}; move it with to()", op, what, name(x.device()), name(device));
    }
  };
  check("key_mask", options.key_mask, DType::boolean, {batch, keys});
  check("stats", options.stats, DType::f64, {batch, heads, attention_stats});
}

Tensor row_scale(const Scoring& scoring, const Visible& visible, const Tensor& scores) {
  const NoGrad constant;
  if (scoring.scale == Scoring::Scale::one || scoring.normalize || scoring.kind == Scoring::Kind::softmax) return {};
  const auto keys = static_cast<double>(scores.size(3));
  const RowScale by_row = scoring.row_scale();
  if (by_row == RowScale::constant || !visible) return scalar_like(1 / scoring.row_divisor(keys, keys), scores);
  const Tensor count = maximum(visible.count(), 1);  // a row that sees nothing is zero whatever its scale
  return by_row == RowScale::inverse_visible ? reciprocal(count) : rsqrt(count);
}

Tensor divisor_of_sum(const Tensor& x, DType computed) {
  return x + cast(less(abs(x.detach()), smallest_normal(computed)), x.dtype());
}

}  // namespace fused

namespace {

using fused::divisor_of_sum;
using fused::Visible;

Visible visible_pairs(const Tensor& scores, const AttentionOptions& options) {
  const NoGrad constant;
  const Index rows = scores.size(2), keys = scores.size(3);
  Visible visible;
  if (options.causal) {
    const Place place{DType::i64, scores.device()};
    const Tensor last = unsqueeze(arange(rows, place), 1) + static_cast<double>(keys - rows);  // that row i sees
    visible.condition = greater_equal(last, unsqueeze(arange(keys, place), 0));
    visible.mask = cast(visible.condition, scores.dtype());
  }
  if (options.key_mask) {
    const Tensor seen = unsqueeze(unsqueeze(options.key_mask, 1), 1);  // [B, 1, 1, M]
    const Tensor mask = cast(seen, scores.dtype());
    visible.mask = visible.mask ? visible.mask * mask : mask;
    visible.condition = options.causal ? greater(visible.mask, scalar_like(0, visible.mask)) : seen;
  }
  return visible;
}

Tensor zero_like(const Tensor& x) { return scalar_like(0, x); }

Tensor masked_softmax(const Tensor& scores, const Visible& visible) {
  if (!visible) return softmax(scores);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Tensor top;
  {
    const NoGrad constant;
    const Tensor lowest = scalar_like(-infinity, scores);
    top = max(where(visible.condition, scores.detach(), lowest), {-1}, true);
    top = where(any(visible.condition, {-1}, true), top, zero_like(top));  // a row that sees nothing; of -inf alone NaN
  }
  const Tensor e = exp(where(visible.condition, scores - top, zero_like(scores))) * visible.mask;
  return e / divisor_of_sum(sum(e, {-1}, true), e.dtype());
}

/// Horner's rule: no powers with an exponent, so derivatives of any order stay polynomials.
Tensor polynomial(const Tensor& s, const Scoring& scoring) {
  const auto c = [&](int p) { return scoring.coefficient[static_cast<std::size_t>(p)]; };
  const int degree = scoring.degree();
  Tensor y = c(degree) == 1 ? s : s * c(degree);
  for (int p = degree - 1; p >= 0; --p) {
    if (c(p) != 0) y = y + c(p);
    if (p > 0) y = y * s;
  }
  return y;
}

Tensor elementwise(const Tensor& scores, const Visible& visible, const Scoring& scoring) {
  const Tensor s = visible ? where(visible.condition, scores, zero_like(scores)) : scores;
  Tensor a;
  switch (scoring.kind) {
    case Scoring::Kind::sigmoid: {
      const double bias = scoring.sigmoid_bias(static_cast<double>(scores.size(3)));
      a = sigmoid(bias != 0 ? s + bias : s);
      break;
    }
    case Scoring::Kind::relu:
      a = relu(s);
      break;
    case Scoring::Kind::polynomial:
      a = polynomial(s, scoring);
      break;
    case Scoring::Kind::softmax: break;  // masked_softmax
  }
  if (visible) a = a * visible.mask;
  if (scoring.normalize) return a / divisor_of_sum(sum(a, {-1}, true), a.dtype());
  const Tensor scale = fused::row_scale(scoring, visible, scores);
  return scale ? a * scale : a;
}

/// A min(1, c / ||A||_F) per batch and head, written c / max(||A||_F, c): exactly 1 inside the ball, and no 0/0 at A = 0. The norm is
/// taken in f64, where the squares of f32 cannot overflow.
Tensor clamp_frobenius(const Tensor& a, double c) {
  const Tensor length = norm(a.dtype() == DType::f64 ? a : cast(a, DType::f64), {-2, -1}, true);  // [B, H, 1, 1]
  const Tensor factor = c / maximum(length, scalar_like(c, length));
  return a * (a.dtype() == DType::f64 ? factor : cast(factor, a.dtype()));
}

}  // namespace

void check_attention_form(const char* op, const AttentionOptions& options, Index width) {
  if (options.form != AttentionForm::linear) return;
  const char* advice = "use the form auto or quadratic";
  if (options.scoring.kind != Scoring::Kind::polynomial) fail("{}: only polynomials have a linear form; {}", op, advice);
  if (options.scoring.normalize) fail("{}: there is no linear form with rows divided by their sum; {}", op, advice);
  if (options.dropout != 0) fail("{}: dropout {} acts on single weights, which the linear form does not have; {}", op, options.dropout, advice);
  if (options.clamp_fro > 0) fail("{}: clamp_fro {} needs the whole matrix, which the linear form does not have; {}", op, options.clamp_fro, advice);
  if (width > 0 && linear_features(options.scoring, width) == 0) {
    fail("{}: the linear form of degree {} needs more than {} monomials for heads of width {}; {}", op, options.scoring.degree(),
         max_linear_features, width, advice);
  }
}

Tensor attention_weights(const Tensor& scores, const AttentionOptions& options) {
  constexpr const char* op = "attention_weights";
  check_floating(op, scores);
  if (scores.rank() != 4) fail("{}: scores must be [B, H, N, M], got {}", op, scores.shape());
  check_attention_options(op, options);
  fused::check_masks(op, options, scores.size(0), scores.size(1), scores.size(3), scores.device());

  const Tensor s = fused::widen(scores);
  const Visible visible = visible_pairs(s, options);
  Tensor a;
  if (s.numel() == 0) {
    a = exp(s);
  } else if (options.scoring.kind == Scoring::Kind::softmax) {
    a = masked_softmax(s, visible);
  } else {
    a = elementwise(s, visible, options.scoring);
  }
  const Tensor phi = a;
  if (options.clamp_fro > 0) a = clamp_frobenius(phi, options.clamp_fro);
  if (options.stats) fused::measure(s, phi, a, visible, options);
  return fused::narrow(a, scores.dtype());
}

}  // namespace norma
