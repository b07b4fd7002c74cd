// Moments of phi over a normal score, the measurement on random Q and K, and the log-log fit.
#include "inspect/theory.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/random.h"

namespace norma::inspect {
namespace {

using Kind = Scoring::Kind;

double coefficient(const Scoring& s, int p) { return s.coefficient[static_cast<std::size_t>(p)]; }

/// E s^power: (power-1)!! rms^power for a Gaussian, times prod (1 + 2i/d) for a product of two vectors of d normal
/// numbers.
double moment(int power, double rms, Index width) {
  if (power % 2 == 1) return 0;
  double m = 1;
  for (int i = 0; i < power / 2; ++i) {
    m *= (2 * i + 1) * rms * rms;
    if (width > 0) m *= 1 + 2.0 * i / static_cast<double>(width);
  }
  return m;
}

/// E (sum_p c_p s^p)^2, or of the derivative.
double polynomial_square(const Scoring& s, bool derivative, double rms, Index width) {
  const int shift = derivative ? 1 : 0;
  double sum = 0;
  for (int a = shift; a <= s.degree(); ++a)
    for (int b = shift; b <= s.degree(); ++b)
      sum += coefficient(s, a) * coefficient(s, b) * (derivative ? a * b : 1) * moment(a + b - 2 * shift, rms, width);
  return sum;
}

/// E f(s)^2 over a Gaussian of s, of an f that is smooth over distances of 1 and changes within `reach` of `middle`
/// alone: Simpson's rule on both sides of that and within, so that no rms is too large for its steps.
template <class F>
double gaussian_square(F f, double rms, double middle) {
  constexpr double tails = 12, reach = 40;
  constexpr int steps = 4000;  // an even number
  const auto integral = [&](double from, double to) {
    from = std::max(from, -tails), to = std::min(to, tails);
    if (!(from < to)) return 0.0;
    const double h = (to - from) / steps;
    double sum = 0;
    for (int i = 0; i <= steps; ++i) {
      const double x = from + i * h, y = f(rms * x);
      sum += (i == 0 || i == steps ? 1 : i % 2 == 1 ? 4 : 2) * y * y * std::exp(-x * x / 2);
    }
    return sum * h / 3;
  };
  if (rms == 0) return f(0) * f(0);
  const double begin = (middle - reach) / rms, end = (middle + reach) / rms;
  return (integral(-tails, begin) + integral(begin, end) + integral(end, tails)) / std::sqrt(2 * std::numbers::pi);
}

Measured summary(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double v : values) sum += v;
  for (double v : values) squares += (v - sum / n) * (v - sum / n);
  return {sum / n, n > 1 ? std::sqrt(squares / (n - 1) / n) : std::numeric_limits<double>::quiet_NaN()};
}

}  // namespace

Bounds bounds(const Scoring& scoring, Index tokens) {
  if (tokens < 1) fail("bounds: tokens = {} must be 1 or more", tokens);
  const auto n = static_cast<double>(tokens);
  const double root = std::sqrt(n);
  if (scoring.kind == Kind::softmax) return {root, 2 * root, root / 2};
  if (scoring.normalize) return {root, {}, {}};
  const double all = n / scoring.row_divisor(n, n);  // the norm of N^2 weights that are as large as 1 lets them be
  if (scoring.kind == Kind::sigmoid) return {all, all / 4, all / 4};
  if (scoring.kind == Kind::polynomial && scoring.degree() > 1) return {};
  const double slopes = all * (scoring.kind == Kind::relu ? 1 : std::abs(coefficient(scoring, 1)));
  return {{}, slopes, slopes};
}

Expectation expectation(const Scoring& scoring, Index tokens, double rms, Index width) {
  const auto n = static_cast<double>(tokens);
  if (scoring.kind == Kind::softmax) {
    // A row given its query: sqrt(E e^2s) / E e^s = e^(v/2) with v = rms^2 |q|^2 / d; its square averaged over chi^2_d.
    // The Jacobian diag(a) - a a^T differs from diag(a) by terms in 1/N.
    const double v = rms * rms, d = static_cast<double>(width);
    if (std::exp(4 * v) > n || (width > 0 && 2 * v >= d)) return {};
    const double fro = width > 0 ? std::pow(1 - 2 * v / d, -d / 4) : std::exp(v / 2);
    return {fro, fro};
  }
  if (width > 0 && (scoring.kind != Kind::polynomial || scoring.normalize)) return {};
  if (scoring.normalize) {
    double mean = 0;
    for (int p = 0; p <= scoring.degree(); ++p) mean += coefficient(scoring, p) * moment(p, rms, 0);
    const double fro = std::sqrt(polynomial_square(scoring, false, rms, 0)) / mean;
    if (fro > std::sqrt(n)) return {};  // no matrix of such rows has that norm: N is far from the limit of many keys
    return {fro, std::nullopt};
  }
  double value = 0, slope = 0;  // E phi^2, E phi'^2
  switch (scoring.kind) {
    case Kind::softmax: break;  // above
    case Kind::polynomial:
      value = polynomial_square(scoring, false, rms, width), slope = polynomial_square(scoring, true, rms, width);
      break;
    case Kind::relu: value = rms * rms / 2, slope = 0.5; break;
    case Kind::sigmoid: {
      const double bias = scoring.sigmoid_bias(n);
      const auto phi = [bias](double s) { return 1 / (1 + std::exp(-(s + bias))); };
      value = gaussian_square(phi, rms, -bias);
      slope = gaussian_square([&](double s) { return phi(s) * (1 - phi(s)); }, rms, -bias);
    }
  }
  const double factor = n * (1 / scoring.row_divisor(n, n));
  return {factor * std::sqrt(value), factor * std::sqrt(slope)};
}

namespace {

constexpr double spectral_passes = 150;  // what a spectral norm takes, in passes over the scores, more or less

/// The sums of the kernel over one head, `rows` queries at a time: a long one shows how far it is.
struct Sums {
  double fro2 = 0, jac2 = 0, score2 = 0, entries = 0;
};
Sums sums_of(const Tensor& q, const Tensor& k, AttentionOptions options, const std::function<void(double)>& worked) {
  constexpr Index scores_at_once = Index{1} << 26, fewest = 256;
  const Index tokens = q.size(2), rows = std::max(fewest, scores_at_once / tokens);
  const Tensor v = zeros({1, 1, tokens, 1}, place_of(q));
  Sums sums;
  for (Index from = 0; from < tokens; from += rows) {
    const Index count = std::min(rows, tokens - from);
    options.stats = zeros({1, 1, attention_stats}, {DType::f64, q.device()});
    (void)attention(slice(q, 2, from, from + count), k, v, options);
    const std::vector<double> stats = options.stats.values();
    const auto get = [&](AttentionStat which) { return stats[static_cast<std::size_t>(which)]; };
    sums.fro2 += get(AttentionStat::fro2), sums.jac2 += get(AttentionStat::jac2);
    sums.score2 += get(AttentionStat::score_sum2), sums.entries += get(AttentionStat::entries);
    if (worked) worked(static_cast<double>(count) * static_cast<double>(tokens));
  }
  return sums;
}

}  // namespace

double theory_work(const TheoryConfig& config, Index tokens) {
  const auto n = static_cast<double>(tokens);
  return n * n * static_cast<double>(config.samples) * (config.spectral ? 1 + spectral_passes : 1);
}

TheoryPoint measure_theory(const TheoryConfig& config, Index tokens) {
  if (tokens < 1) fail("theory: tokens = {} must be 1 or more", tokens);
  if (config.width < 1) fail("theory: width = {} must be 1 or more", config.width);
  if (config.samples < 1) fail("theory: samples = {} must be 1 or more", config.samples);
  if (!(config.rms > 0) || !std::isfinite(config.rms))
    fail("theory: rms = {} of the scores must be more than 0", config.rms);
  if (config.place.dtype != DType::f32 && config.place.dtype != DType::f64)
    fail("theory: dtype is {}; there are f32 and f64", config.place.dtype);

  const NoGrad off;
  std::vector<double> fro, jacobian, norm, stable;
  double squares = 0, entries = 0;
  Index unconverged = 0;
  for (Index sample = 0; sample < config.samples; ++sample) {
    const auto normal = [&](std::uint64_t which) {
      const std::uint64_t stream =
          stream_id(static_cast<std::uint64_t>(tokens), static_cast<std::uint64_t>(sample), which);
      return randn({1, 1, tokens, config.width}, {config.seed, stream}, config.place);
    };
    const Tensor q = normal(1), k = normal(2);
    AttentionOptions options;
    options.scoring = config.scoring;
    options.scale = config.rms / std::sqrt(static_cast<double>(config.width));
    options.form = AttentionForm::quadratic;  // all statistics exactly
    const Sums sums = sums_of(q, k, options, config.worked);
    fro.push_back(std::sqrt(sums.fro2));
    jacobian.push_back(std::sqrt(sums.jac2));
    squares += sums.score2, entries += sums.entries;
    if (!config.spectral) continue;
    const Spectral s = spectral(q, k, options);
    unconverged += !s.converged[0] && std::isfinite(s.norm[0]);
    norm.push_back(s.norm[0]), stable.push_back(s.stable_rank[0]);
    if (config.worked) config.worked(spectral_passes * static_cast<double>(tokens) * static_cast<double>(tokens));
  }
  TheoryPoint point{tokens, summary(fro), summary(jacobian), {}, {}, std::sqrt(squares / entries), unconverged};
  if (config.spectral) point.norm = summary(norm), point.stable_rank = summary(stable);
  return point;
}

std::optional<PowerLaw> fit_power_law(const std::vector<double>& n, const std::vector<double>& y,
                                      const std::vector<double>& y_error) {
  const std::size_t count = n.size();
  if (count != y.size()) fail("fit_power_law: {} values of N, {} measured values", count, y.size());
  if (!y_error.empty() && count != y_error.size())
    fail("fit_power_law: {} measured values, {} errors of them", count, y_error.size());
  std::vector<double> u, w;
  for (std::size_t i = 0; i < count; ++i) {
    if (!(n[i] > 0 && y[i] > 0 && std::isfinite(n[i]) && std::isfinite(y[i]))) return std::nullopt;
    u.push_back(std::log(n[i])), w.push_back(std::log(y[i]));
  }
  double mu = 0, mw = 0, uu = 0, uw = 0;
  for (std::size_t i = 0; i < count; ++i)
    mu += u[i] / static_cast<double>(count), mw += w[i] / static_cast<double>(count);
  for (std::size_t i = 0; i < count; ++i) uu += (u[i] - mu) * (u[i] - mu), uw += (u[i] - mu) * (w[i] - mw);
  if (count < 2 || !(uu > 1e-18)) return std::nullopt;
  PowerLaw law{uw / uu, 0, std::nullopt};
  law.factor = std::exp(mw - law.exponent * mu);

  double scatter = 0, carried = 0;  // squares of the two errors
  for (std::size_t i = 0; i < count; ++i) {
    const double miss = w[i] - mw - law.exponent * (u[i] - mu);
    scatter += miss * miss / uu;
    if (!y_error.empty()) carried += std::pow((u[i] - mu) / uu * y_error[i] / y[i], 2);
  }
  if (count > 2) law.error = std::sqrt(scatter / static_cast<double>(count - 2));
  if (!y_error.empty() && std::isfinite(carried)) law.error = std::max(law.error.value_or(0), std::sqrt(carried));
  return law;
}

}  // namespace norma::inspect
