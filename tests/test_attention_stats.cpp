// Attention statistics: from the kernel and from the composition, against plain loops over the materialised matrix; and
// that asking for them changes nothing.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <tuple>

#include "autograd/ops.h"
#include "checks/draws.h"
#include "checks/scorings.h"

using namespace norma;
using namespace norma::checks;

namespace {

struct Setting {
  Index batch, heads, rows, keys, width;
  bool causal, masked;
  double dropout;
};

const std::vector<Setting> fixed_settings{{2, 2, 5, 5, 3, false, false, 0},    {1, 2, 4, 7, 3, true, false, 0},
                                    {2, 1, 7, 4, 2, true, true, 0.3},    {2, 1, 6, 6, 4, false, true, 0},
                                    {1, 2, 67, 67, 24, false, false, 0}, {1, 1, 70, 83, 33, true, true, 0.2},
                                    {1, 2, 130, 130, 16, true, false, 0}};

Tensor draw(const Shape& shape, std::uint64_t which, DType dtype) {
  return cast(checks::drawn(shape, {5, which}, {}, -1.2, 1.2), dtype);  // of numbers that f32 holds
}

struct Problem {
  Tensor q, k, v, c;  // c: what the output is multiplied with
  AttentionOptions options;
};

Problem problem(const Setting& s, const Scoring& scoring, DType dtype) {
  Problem p;
  p.q = draw({s.batch, s.heads, s.rows, s.width}, 1, dtype).track();
  p.k = draw({s.batch, s.heads, s.keys, s.width}, 2, dtype).track();
  p.v = draw({s.batch, s.heads, s.keys, s.width}, 3, dtype).track();
  p.c = draw({s.batch, s.heads, s.rows, s.width}, 4, dtype);
  p.options.scoring = scoring;
  p.options.causal = s.causal;
  p.options.dropout = s.dropout;
  p.options.stream = {9, 2};
  p.options.stats = full({s.batch, s.heads, attention_stats}, 123, {DType::f64});
  if (s.masked) p.options.key_mask = checks::drawn_keys(s.batch, s.keys, {});
  return p;
}

struct Run {
  Tensor out;
  Tensors gradients;
  Tensor stats;  // after the backward pass
};

Run run(const Problem& p) {
  const Tensor out = attention(p.q, p.k, p.v, p.options);
  Tensors gradients = grad(out, Tensors{p.q, p.k, p.v}, p.c);
  return {out.detach(), gradients, p.options.stats};
}

/// One row: the statistics of the visible columns added to `out`, from the definition of the full Jacobian. The weights are those of
/// `given`, or phi of the scores in double. `g`, where given: dL/da, for the statistics of the backward pass. Returns how large
/// the terms are that cancel in jac2 and grad_s2 of rows that are divided by their sum.
std::array<double, 2> add_row(std::vector<double>& out, const std::vector<double>& s, const Scoring& scoring, Index keys,
                              const std::vector<double>* given = nullptr, const std::vector<double>* g = nullptr) {
  const auto at = [&](AttentionStat stat) -> double& { return out[static_cast<std::size_t>(stat)]; };
  const std::size_t n = s.size();
  std::vector<double> a(n), d(n);
  const bool softmax = scoring.kind == Scoring::Kind::softmax, normalised = softmax || scoring.normalize;
  double total = 0, top = -HUGE_VAL;
  for (double x : s) top = std::max(top, x);
  for (std::size_t j = 0; j < n; ++j) {
    if (softmax)
      a[j] = std::exp(s[j] - top);
    else
      std::tie(a[j], d[j]) = phi(scoring, s[j], keys);
    total += a[j];
  }
  const double scale = normalised ? 1 / total : row_factor(scoring, keys, static_cast<Index>(n));
  double row = 0, jacobian = 0, entropy = 0, mean_g = 0;
  std::array<double, 2> terms{};
  for (std::size_t j = 0; j < n; ++j) a[j] = given ? (*given)[j] : a[j] * scale, d[j] *= scale;
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t k = 0; normalised && k < n; ++k) {
      const double own = j == k ? 1 : 0;
      const double e = softmax ? a[j] * (own - a[k]) : own * d[j] - a[j] * d[k];
      jacobian += e * e;
    }
    if (!normalised) jacobian += d[j] * d[j];
    if (softmax) d[j] = a[j];
    terms[0] += d[j] * d[j];
    row += a[j];
    entropy -= a[j] > 0 ? a[j] * std::log(a[j]) : 0;
    at(AttentionStat::fro2) += a[j] * a[j];
    at(AttentionStat::score_sum) += s[j];
    at(AttentionStat::score_sum2) += s[j] * s[j];
    at(AttentionStat::score_max) = std::max(at(AttentionStat::score_max), s[j]);
    at(AttentionStat::min) = std::min(at(AttentionStat::min), a[j]);
    at(AttentionStat::max) = std::max(at(AttentionStat::max), a[j]);
    at(AttentionStat::negative) += a[j] < 0;
    at(AttentionStat::small) += std::abs(a[j]) < 1e-3;
    at(AttentionStat::entries) += 1;
  }
  for (std::size_t j = 0; g && normalised && j < n; ++j) mean_g += a[j] * (*g)[j];
  for (std::size_t j = 0; g && j < n; ++j) {
    const double ds = d[j] * ((*g)[j] - mean_g);
    at(AttentionStat::grad_a2) += (*g)[j] * (*g)[j];
    at(AttentionStat::grad_s2) += ds * ds;
    terms[1] += d[j] * d[j] * ((*g)[j] * (*g)[j] + mean_g * mean_g);
  }
  at(AttentionStat::jac2) += jacobian;
  at(AttentionStat::row_sum) += row;
  at(AttentionStat::row_sum2) += row * row;
  at(AttentionStat::entropy) += normalised ? entropy : std::nan("");
  return terms;
}

/// S, A and dL/dA as the kernel computes them, [B, H, N, M]: what attention gives for values that are the unit matrix.
struct Materialised {
  std::vector<double> scores, weights, gradient;
};

Materialised materialised(const Problem& p) {
  const Index batch = p.q.size(0), heads = p.q.size(1), keys = p.k.size(2);
  std::vector<double> one(static_cast<std::size_t>(batch * heads * keys * keys));
  for (Index row = 0; row < batch * heads * keys; ++row) one[static_cast<std::size_t>(row * keys + row % keys)] = 1;
  const Tensor unit = from_values(one, {batch, heads, keys, keys}, {p.v.dtype()});
  AttentionOptions own = p.options;
  own.dropout = 0, own.stats = {};
  AttentionOptions plain = own;  // the same masks: the same order of sums
  plain.scoring = power(1, 1, Scoring::Scale::one);
  const NoGrad off;
  AttentionOptions product = plain;
  product.scale = 1;  // dO V^T, and what dropout keeps of it
  const Tensor g = dropout(attention(p.c, p.v, unit, product), p.options.dropout, *p.options.stream);
  return {attention(p.q, p.k, unit, plain).values(), attention(p.q, p.k, unit, own).values(), g.values()};
}

/// What should be reported, by loops: [B, H, statistics]. From the given matrices, or, forward alone, from q and k in double.
/// `terms`: the sizes that add_row() returns, summed, [B, H, 2].
std::vector<double> by_loops(const Setting& s, const Problem& p, const Materialised* given = nullptr, std::vector<double>* terms = nullptr) {
  const std::vector<double> q = p.q.values(), k = p.k.values();
  const std::vector<double> seen = p.options.key_mask ? p.options.key_mask.values() : std::vector<double>();
  std::vector<double> all;
  for (Index bh = 0; bh < s.batch * s.heads; ++bh) {
    std::vector<double> out(attention_stats, 0.0);
    std::array<double, 2> sizes{};
    out[static_cast<std::size_t>(AttentionStat::min)] = HUGE_VAL;
    out[static_cast<std::size_t>(AttentionStat::max)] = out[static_cast<std::size_t>(AttentionStat::score_max)] =
        -HUGE_VAL;
    for (Index i = 0; i < s.rows; ++i) {
      std::vector<double> scores, weights, g;
      for (Index j = 0; j < s.keys; ++j) {
        if (s.causal && j > i + s.keys - s.rows) continue;
        if (s.masked && seen[static_cast<std::size_t>(bh / s.heads * s.keys + j)] == 0) continue;
        if (given) {
          const auto at = static_cast<std::size_t>((bh * s.rows + i) * s.keys + j);
          scores.push_back(given->scores[at]), weights.push_back(given->weights[at]), g.push_back(given->gradient[at]);
          continue;
        }
        double dot = 0;
        for (Index x = 0; x < s.width; ++x) {
          dot += q[static_cast<std::size_t>((bh * s.rows + i) * s.width + x)] *
                 k[static_cast<std::size_t>((bh * s.keys + j) * s.width + x)];
        }
        scores.push_back(dot / std::sqrt(static_cast<double>(s.width)));
      }
      if (!scores.empty()) {
        const auto more = add_row(out, scores, p.options.scoring, s.keys, given ? &weights : nullptr, given ? &g : nullptr);
        for (std::size_t t = 0; t < 2; ++t) sizes[t] += more[t];
      } else if (p.options.scoring.kind != Scoring::Kind::softmax && !p.options.scoring.normalize) {
        out[static_cast<std::size_t>(AttentionStat::entropy)] = std::nan("");
      }
    }
    all.insert(all.end(), out.begin(), out.end());
    if (terms) terms->insert(terms->end(), sizes.begin(), sizes.end());
  }
  return all;
}

/// Empty if each statistic of `got` is within rtol of `wanted`, measured against the statistic itself and its absolute
/// floor.
std::string difference(const std::vector<double>& got, const std::vector<double>& wanted, double rtol, int count) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto stat = static_cast<AttentionStat>(i % attention_stats);
    if (static_cast<int>(stat) >= count) continue;
    const double entries = wanted[i - i % attention_stats + static_cast<std::size_t>(AttentionStat::entries)];
    // A sum of signed terms is as exact as its terms are large; counts may differ where a value lies on the threshold.
    double size = std::abs(wanted[i]);
    if (stat == AttentionStat::score_sum || stat == AttentionStat::row_sum) size = std::max(size, entries);
    if (stat == AttentionStat::min || stat == AttentionStat::max || stat == AttentionStat::score_max)
      size = std::max(size, 1.0);
    if (got[i] == wanted[i] || (std::isnan(got[i]) && std::isnan(wanted[i]))) continue;
    if (!(std::abs(got[i] - wanted[i]) <= rtol * size)) {
      return fmt::format("{} of head {}: {:.17g} instead of {:.17g}", name(stat), i / attention_stats, got[i], wanted[i]);
    }
  }
  return {};
}

/// Any shape, mask and dropout.
std::vector<Setting> random_settings(int count) {
  std::vector<Setting> all;
  std::uint64_t drawn = 0;
  const auto below = [&](Index n) {
    return static_cast<Index>(uniform_from(RandomStream{21, 1}.word(drawn++)) * static_cast<double>(n));
  };
  for (int i = 0; i < count; ++i) {
    const Index rows = 1 + below(90);
    all.push_back({1 + below(3), 1 + below(3), rows, below(2) ? rows : 1 + below(90), 1 + below(66), below(2) == 1, below(2) == 1,
                   below(2) ? 0.1 + 0.2 * static_cast<double>(below(4)) : 0});
  }
  return all;
}

template <class F>
void for_each_problem(DType dtype, F f, const std::vector<Setting>& settings = fixed_settings) {
  auto functions = scorings();
  functions.emplace_back("-x^2/N", power(2, -1, Scoring::Scale::inverse_keys));
  for (const auto& [name, scoring] : functions) {
    for (std::size_t i = 0; i < settings.size(); ++i) {
      const std::string wrong = f(settings[i], problem(settings[i], scoring, dtype));
      if (!wrong.empty()) FAIL_CHECK(name << ", setting " << i << ", " << norma::name(dtype) << ": " << wrong);
    }
  }
}

constexpr int forward_stats = static_cast<int>(AttentionStat::grad_a2);

}  // namespace

TEST_CASE("statistics of the composition equal those of plain loops", "[attention_stats]") {
  for_each_problem(DType::f64, [](const Setting& s, const Problem& p) {
    const NoFusion plain;
    (void)attention(p.q, p.k, p.v, p.options);
    return difference(p.options.stats.values(), by_loops(s, p), 1e-12, forward_stats);
  });
}

TEST_CASE("statistics of the kernels equal those of plain loops", "[attention_stats]") {
  for (DType dtype : {DType::f64, DType::f32}) {
    for_each_problem(dtype, [&](const Setting& s, const Problem& p) {
      (void)attention(p.q, p.k, p.v, p.options);
      // f32: a^2 of x^8 carries sixteen times the relative error of a score.
      return difference(p.options.stats.values(), by_loops(s, p), dtype == DType::f64 ? 1e-12 : 2e-5, forward_stats);
    });
  }
}

TEST_CASE("statistics of the kernels are those of the matrices they use, over random shapes and masks", "[attention_stats]") {
  for (DType dtype : {DType::f64, DType::f32}) {
    for_each_problem(
        dtype,
        [&](const Setting& s, const Problem& p) -> std::string {
          const std::vector<double> got = run(p).stats.values();
          const Materialised matrices = materialised(p);
          std::vector<double> terms, wanted = by_loops(s, p, &matrices, &terms);
          const double rtol = dtype == DType::f64 ? 1e-12 : 1e-6;
          for (std::size_t h = 0; h < terms.size() / 2; ++h) {
            // Checked here with what cancels in them as their size, then left out below.
            const AttentionStat which[] = {AttentionStat::jac2, AttentionStat::grad_s2};
            for (std::size_t t = 0; t < 2; ++t) {
              const std::size_t i = h * attention_stats + static_cast<std::size_t>(which[t]);
              if (!(std::abs(got[i] - wanted[i]) <= rtol * terms[2 * h + t]))
                return fmt::format("{} of head {}: {:.17g} instead of {:.17g}, terms {:.17g}", name(which[t]), h, got[i], wanted[i], terms[2 * h + t]);
              wanted[i] = got[i];
            }
          }
          return difference(got, wanted, rtol, attention_stats);
        },
        random_settings(40));
  }
}

TEST_CASE("statistics of rows with negative weights, or that are divided by next to nothing", "[attention_stats]") {
  Scoring even = power(2, 1, Scoring::Scale::one), signs = power(2, -1, Scoring::Scale::one);
  signs.coefficient[0] = 0.9, even.normalize = signs.normalize = true;
  const Setting s{1, 2, 9, 41, 8, false, false, 0};
  const auto at = [](std::vector<double>& stats, std::size_t h, AttentionStat stat) -> double& { return stats[h * attention_stats + static_cast<std::size_t>(stat)]; };
  // Squares of scores of 1e-16 are hardly numbers of f32, and their squares are none.
  for (const auto& [scoring, size] : {std::pair{signs, 2.0}, {even, 1.0}, {even, 1e-10}, {even, 1e-12}, {even, 1e-16}}) {
    Problem p = problem(s, scoring, DType::f32);
    p.q = (p.q.detach() * size).track();
    std::vector<double> got = run(p).stats.values();
    const Materialised matrices = materialised(p);
    std::vector<double> wanted = by_loops(s, p, &matrices);
    for (std::size_t h = 0; h < 2; ++h) {
      CHECK((at(wanted, h, AttentionStat::negative) > 0) == (size == 2));
      for (AttentionStat cancels : {AttentionStat::jac2, AttentionStat::grad_s2}) {
        const double value = at(wanted, h, cancels);
        CHECK(std::abs(at(got, h, cancels) - value) <= 1e-5 * value);
        at(wanted, h, cancels) = at(got, h, cancels);
      }
    }
    CAPTURE(size);
    CHECK(difference(got, wanted, 1e-6, attention_stats) == "");
  }
  Problem p = problem(s, even, DType::f32);
  p.q = (p.q.detach() * 0.0).track();
  std::vector<double> got = run(p).stats.values();
  for (std::size_t h = 0; h < 2; ++h) {
    for (AttentionStat none : {AttentionStat::fro2, AttentionStat::jac2, AttentionStat::entropy, AttentionStat::min, AttentionStat::max, AttentionStat::negative})
      CHECK(at(got, h, none) == 0);
    CHECK(at(got, h, AttentionStat::small) == 9 * 41);
  }
  // The only weight of a row is 1 whatever its score, be it nearly 0.
  Scoring fourth = power(4, 1, Scoring::Scale::one);
  fourth.normalize = true;
  for (const Scoring& scoring : {even, fourth, signs}) {
    Problem alone = problem({1, 2, 9, 1, 8, false, false, 0}, scoring, DType::f32);
    alone.q = (alone.q.detach() * 1e-3).track();
    got = run(alone).stats.values();
    for (std::size_t h = 0; h < 2; ++h) CHECK(at(got, h, AttentionStat::jac2) == 0);
  }
}

TEST_CASE("statistics of a high power are those of f64 where its squares are no numbers of f32", "[attention_stats]") {
  struct Case {
    int degree;
    bool normalize;
    double size;  // of q
  };
  for (const Case& c : std::vector<Case>{{8, true, 2e-3}, {8, true, 0.02}, {6, true, 1e-3}, {4, true, 1e-5}, {4, true, 1e4}, {8, false, 2e-3}, {3, false, 1e-7}})
    for (const bool masked : {false, true}) {
      const auto measured = [&](DType dtype) {
        AttentionOptions options;
        options.scoring = power(c.degree, 1, Scoring::Scale::one), options.scoring.normalize = c.normalize, options.form = AttentionForm::quadratic;
        options.causal = masked, options.stats = zeros({1, 1, attention_stats}, {DType::f64});
        if (masked) options.key_mask = checks::drawn_keys(1, 67, {});
        const auto part = [&](std::uint64_t which, double size) { return cast(draw({1, 1, 67, 8}, which, DType::f32) * size, dtype); };
        (void)attention(part(1, c.size), part(2, 1), part(3, 1), options);
        return options.stats.values();
      };
      const std::vector<double> got = measured(DType::f32), wanted = measured(DType::f64);
      CAPTURE(c.degree, c.normalize, c.size, masked);
      for (const AttentionStat which : {AttentionStat::fro2, AttentionStat::jac2}) {
        const auto i = static_cast<std::size_t>(which);
        CHECK(wanted[i] > 0);
        CHECK(got[i] == Approx(wanted[i]).epsilon(1e-4));
      }
    }
}

TEST_CASE("the composition's Jacobian is of what the rows were divided by, where some sums have no inverse", "[attention_stats]") {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const bool masked : {false, true}) {
      Problem p = problem({1, 1, 64, 16, 4, false, masked, 0}, power(8, 1, Scoring::Scale::one), dtype);
      p.options.scoring.normalize = true;
      p.q = p.q.detach() * 2e-5;  // sums of x^8 lie around the least normal number of a float: some rows are divided by theirs, others by 1
      const auto measured = [&](double clamp) {
        p.options.clamp_fro = clamp;  // any: the composition
        (void)attention(p.q, p.k, p.v, p.options);
        return p.options.stats.values();
      };
      const std::vector<double> got = measured(1e3), wanted = measured(0);
      const auto of = [](const std::vector<double>& stats, AttentionStat which) { return stats[static_cast<std::size_t>(which)]; };
      CAPTURE(dtype, masked);
      CHECK((of(wanted, AttentionStat::row_sum) > 5 && of(wanted, AttentionStat::row_sum) < 59));
      CHECK(of(got, AttentionStat::row_sum) == Approx(of(wanted, AttentionStat::row_sum)));
      CHECK(of(got, AttentionStat::jac2) == Approx(of(wanted, AttentionStat::jac2)).epsilon(1e-4));
    }
}

TEST_CASE("a norm is a number where the squares of the weights are beyond a float", "[attention_stats]") {
  for (const bool causal : {false, true})
    for (const Index tokens : {5, 67, 700}) {
      const auto norm_of = [&](DType dtype) {
        AttentionOptions options;
        options.scoring = power(3, 1, Scoring::Scale::one), options.causal = causal, options.form = AttentionForm::quadratic;
        options.stats = zeros({1, 1, attention_stats}, {DType::f64});
        const auto part = [&](std::uint64_t which) { return cast(draw({1, 1, tokens, 8}, which, DType::f32) * 3e4, dtype); };
        (void)attention(part(1), part(2), part(3), options);
        return std::sqrt(options.stats.values()[static_cast<std::size_t>(AttentionStat::fro2)]);
      };
      const double wanted = norm_of(DType::f64);
      INFO(tokens << " tokens, causal " << causal);
      CHECK(wanted > 1e26);
      CHECK(norm_of(DType::f32) == Approx(wanted).epsilon(1e-5));
    }
}

TEST_CASE("the least and the largest weight of a function that falls are told as such", "[attention_stats]") {
  for (const int degree : {1, 3})
    for (const bool causal : {false, true}) {
      const auto extremes = [&](DType dtype) {
        const Problem p = problem({1, 1, 20, 20, 8, causal, false, 0}, power(degree, -1, Scoring::Scale::inverse_keys), dtype);
        (void)attention(p.q, p.k, p.v, p.options);
        const std::vector<double> stats = p.options.stats.values();
        return std::pair(stats[static_cast<std::size_t>(AttentionStat::min)], stats[static_cast<std::size_t>(AttentionStat::max)]);
      };
      const auto [least, largest] = extremes(DType::f32);
      const auto [wanted_least, wanted_largest] = extremes(DType::f64);
      CAPTURE(degree, causal);
      CHECK(least == Approx(wanted_least).epsilon(1e-4).margin(1e-6));
      CHECK(largest == Approx(wanted_largest).epsilon(1e-4).margin(1e-6));
    }
}

TEST_CASE("statistics may lie in a strided view, whose neighbours stay as they are", "[attention_stats]") {
  Problem p = problem({1, 2, 4, 4, 8, false, false, 0}, power(3, 1, Scoring::Scale::inverse_keys), DType::f32);
  const Tensor wide = zeros({1, 2, attention_stats, 2}, {DType::f64});
  p.options.stats = select(wide, 3, 0);
  (void)attention(p.q, p.k, p.v, p.options);
  CHECK(select(wide, 3, 1).values() == std::vector<double>(2 * attention_stats, 0.0));
  CHECK(p.options.stats.values()[static_cast<std::size_t>(AttentionStat::entries)] == 16);
}

TEST_CASE("gradient statistics: the hooks of the composition against the gradient of A itself", "[attention_stats]") {
  for_each_problem(DType::f64, [](const Setting&, const Problem& p) -> std::string {
    const NoFusion plain;
    const Run got = run(p);
    AttentionOptions silent = p.options;
    silent.stats = {};
    const Index width = p.q.size(3);
    Tensor scores = (matmul(p.q, transpose(p.k)) / std::sqrt(static_cast<double>(width))).detach().track();
    Tensor weights = attention_weights(scores, silent).detach().track();
    const Tensor out = matmul(dropout(weights, silent.dropout, *silent.stream), p.v.detach());
    const Tensor g_weights = grad(out, Tensors{weights}, p.c)[0];
    const Tensor visible = [&] {  // where phi has any say: the weights of x^0 + ... are 1 where visible
      AttentionOptions ones_where_visible = silent;
      ones_where_visible.scoring = power(1, 1, Scoring::Scale::one);
      return attention_weights(ones(scores.shape(), {DType::f64}), ones_where_visible);
    }();
    const Tensor g_scores = grad(attention_weights(scores, silent), Tensors{scores}, g_weights)[0];
    const std::vector<double> a2 = sum(square(g_weights * visible), {2, 3}).values(),
                              s2 = sum(square(g_scores), {2, 3}).values();
    const std::vector<double> stats = got.stats.values();
    for (std::size_t i = 0; i < a2.size(); ++i) {
      const double a = stats[i * attention_stats + static_cast<std::size_t>(AttentionStat::grad_a2)];
      const double s = stats[i * attention_stats + static_cast<std::size_t>(AttentionStat::grad_s2)];
      if (!(std::abs(a - a2[i]) <= 1e-12 * a2[i])) return fmt::format("grad_a2 {} instead of {}", a, a2[i]);
      if (!(std::abs(s - s2[i]) <= 1e-11 * s2[i])) return fmt::format("grad_s2 {} instead of {}", s, s2[i]);
    }
    return {};
  });
}

TEST_CASE("statistics of the kernels, backward pass included, equal the composition's", "[attention_stats]") {
  for (DType dtype : {DType::f64, DType::f32}) {
    for_each_problem(dtype, [&](const Setting& s, const Problem& p) {
      const std::vector<double> got = run(p).stats.values();
      const NoFusion plain;
      const std::vector<double> wanted = run(problem(s, p.options.scoring, DType::f64)).stats.values();
      return difference(got, wanted, dtype == DType::f64 ? 1e-11 : 5e-5, attention_stats);
    });
  }
}

TEST_CASE("watching changes no bit", "[attention_stats]") {
  std::vector<Setting> settings = fixed_settings;
  for (const Setting& s : random_settings(20)) settings.push_back(s);
  for (DType dtype : {DType::f64, DType::f32}) {
    for_each_problem(dtype, [](const Setting&, const Problem& p) -> std::string {
      const Run watched = run(p);
      Problem silent = p;
      silent.options.stats = {};
      const Run plain = run(silent);
      if (watched.out.values() != plain.out.values()) return "the output differs";
      for (std::size_t i = 0; i < 3; ++i) {
        if (watched.gradients[i].values() != plain.gradients[i].values()) return fmt::format("gradient {} differs", i);
      }
      return {};
    }, settings);
  }
}
