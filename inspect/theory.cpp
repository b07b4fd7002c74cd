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

/// Sums over a row of weights a_j = phi(s_j) / sum phi(s), in expectation: of a^2, a^3, and (sum a^2)^2.
struct RowSums {
  double squares = 0, cubes = 0, square2 = 0;
};
struct Node {
  double log_phi, weight;
};
constexpr double log_step = 0.3;  // of a trapezoidal rule in log t or log phi; see row_sums
constexpr double tails = 9;       // standard deviations

/// With 1/Z^m = integral of t^(m-1) e^(-tZ) / (m-1)! dt the scores of a row part:
/// E sum_j phi_j^m / Z^m = N int t^(m-1)/(m-1)! E[phi^m e^(-t phi)] E[e^(-t phi)]^(N-1) dt,
/// by the trapezoidal rule in u = log t. Its integrand is made of e^(mx) exp(-e^x), whose Fourier transform Gamma(m +
/// iw) is below 1e-9 of its peak at w = 2 pi / log_step. Nodes: the distribution of log phi, in rising order.
RowSums row_sums(const std::vector<Node>& nodes, double n) {
  constexpr double nothing = -40, all = 4;  // e^x of phi's share is 0 below, exp(-e^x) above
  std::vector<double> below = {0};          // weights up to each node
  for (const Node& node : nodes) below.push_back(below.back() + node.weight);
  RowSums sums;
  std::size_t first = nodes.size();  // that is not `nothing`; u rises, so it falls
  for (double u = -std::log(n) - nodes.back().log_phi - 20; u < all - nodes.front().log_phi; u += log_step) {
    while (first > 0 && nodes[first - 1].log_phi + u > nothing) --first;
    double rest = below[first], second = 0, third = 0, fourth = 0;
    for (std::size_t j = first; j < nodes.size() && nodes[j].log_phi + u < all; ++j) {
      const double e = std::exp(nodes[j].log_phi + u), left = nodes[j].weight * std::exp(-e);
      rest += left, second += e * e * left, third += e * e * e * left, fourth += e * e * e * e * left;
    }
    rest /= below.back(), second /= below.back(), third /= below.back(), fourth /= below.back();
    const double others = n * log_step * std::pow(rest, n - 1);
    sums.squares += second * others, sums.cubes += third / 2 * others, sums.square2 += fourth / 6 * others;
    if (n > 1) sums.square2 += n * (n - 1) * log_step * second * second / 6 * std::pow(rest, n - 2);
  }
  return sums;
}

/// log phi and its distribution for scores of N(0, rms^2).
std::vector<Node> nodes_of(const Scoring& scoring, double rms) {
  std::vector<Node> nodes;
  if (scoring.kind == Kind::softmax) {
    const double step = std::min(0.5, log_step / rms);
    for (double z = -tails; z < tails; z += step) nodes.push_back({rms * z, std::exp(-z * z / 2)});
    return nodes;
  }
  // Even powers: by x = log |s / rms|, down to where next to no score lies, each term by its logarithm, which is never
  // 0 or inf.
  constexpr double least = -40;
  for (double x = least; x < std::log(tails); x += log_step / scoring.degree()) {
    std::vector<double> terms;
    for (int p = 0; p <= scoring.degree(); p += 2)
      if (coefficient(scoring, p) > 0) terms.push_back(std::log(coefficient(scoring, p)) + p * (std::log(rms) + x));
    const double largest = *std::max_element(terms.begin(), terms.end());
    double sum = 0;
    for (const double term : terms) sum += std::exp(term - largest);
    nodes.push_back({largest + std::log(sum), std::exp(x - std::exp(2 * x) / 2)});
  }
  return nodes;
}

/// The same of scores q k / sqrt d: given q they are normal, with rms sqrt(y) times as large, y = |q|^2 / d of chi^2_d
/// / d; by the trapezoidal rule in log y.
RowSums row_sums(const Scoring& scoring, double n, double rms, Index width) {
  if (width == 0) return row_sums(nodes_of(scoring, rms), n);
  const double d = static_cast<double>(width), step = std::min(log_step, std::sqrt(2 / d) / 2);
  RowSums sums;
  double weights = 0;
  for (const double direction : {-1, 1})
    for (int i = direction < 0 ? 1 : 0;; ++i) {
      const double x = direction * i * step, log_weight = d / 2 * (x - std::expm1(x));
      if (log_weight < -37) break;
      const RowSums at = row_sums(nodes_of(scoring, rms * std::exp(x / 2)), n);
      const double weight = std::exp(log_weight);
      weights += weight;
      sums.squares += weight * at.squares, sums.cubes += weight * at.cubes, sums.square2 += weight * at.square2;
    }
  return {sums.squares / weights, sums.cubes / weights, sums.square2 / weights};
}

Measured summary(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double v : values) sum += v;
  for (double v : values) squares += (v - sum / n) * (v - sum / n);
  return {sum / n, n > 1 ? std::sqrt(squares / (n - 1) / n) : std::numeric_limits<double>::quiet_NaN()};
}

void check_tokens(const char* what, Index tokens) {
  if (tokens < 1) fail("{}: tokens = {} must be 1 or more", what, tokens);
}

}  // namespace

Bounds bounds(const Scoring& scoring, Index tokens) {
  check_tokens("bounds", tokens);
  const auto n = static_cast<double>(tokens);
  const double root = std::sqrt(n);
  if (scoring.normalize) return {root, {}, {}};
  const double all = n / scoring.row_divisor(n, n);  // the norm of N^2 weights that are as large as 1 lets them be
  switch (scoring.kind) {
    case Kind::softmax: return {root, 2 * root, root / 2};
    case Kind::sigmoid: return {all, all / 4, all / 4};
    case Kind::relu: return {{}, all, all};
    case Kind::polynomial: {
      if (scoring.degree() > 1) break;
      const double slopes = all * std::abs(coefficient(scoring, 1));
      return {{}, slopes, slopes};
    }
  }
  return {};
}

Expectation expectation(const Scoring& scoring, Index tokens, double rms, Index width) {
  check_tokens("expectation", tokens);
  if (!(rms >= 0) || !std::isfinite(rms)) fail("expectation: rms = {} of the scores must be 0 or more", rms);
  if (width < 0) fail("expectation: width = {} must be 0 or more", width);
  const auto n = static_cast<double>(tokens);
  const bool softmax = scoring.kind == Kind::softmax;
  if (softmax || scoring.normalize) {
    constexpr double most_rms = 100;  // the work grows with it
    if (!(rms > 0 && rms <= most_rms)) return {};
    const RowSums row = row_sums(scoring, n, rms, width);
    const double jacobian2 = row.squares - 2 * row.cubes + row.square2;  // of diag(a) - a a^T
    return {std::sqrt(n * row.squares),
            softmax ? std::optional(std::sqrt(std::max(0.0, n * jacobian2))) : std::nullopt};
  }
  if (width > 0 && scoring.kind != Kind::polynomial) return {};
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
  check_tokens("theory", tokens);
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
