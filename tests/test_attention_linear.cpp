// Attention in linear form against the quadratic one over scorings, shapes and masks; its statistics; who chooses it.
#include <cstring>

#include "backends/cpu/attention_sampled.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/packed_products.h"
#include "backends/cpu/parallel.h"
#include "checks/scorings.h"
#include "models/vit.h"
#include "tests/attention_problem.h"
#include "tests/cpu_settings.h"
#include "train/config.h"

using namespace norma;
using namespace norma::checks;
using namespace norma::test;

namespace {

std::vector<std::pair<std::string, Scoring>> polynomials() {
  std::vector<std::pair<std::string, Scoring>> all;
  for (const auto& [name, scoring] : scorings())
    if (linear_features(scoring, 2) > 0) all.emplace_back(name, scoring);
  return all;
}

/// Widths for which the monomials of degree p stay few.
Index width_for(const Scoring& scoring, Index wanted) {
  while (linear_features(scoring, wanted) == 0 || linear_features(scoring, wanted) > 3000) --wanted;
  return wanted;
}

template <class T>
void check(const std::string& name, const ProblemSizes& s, const Scoring& scoring) {
  Problem<T> p(s, scoring);
  const Results<T> quadratic = by_kernels(p, false);
  p.form = AttentionForm::linear;
  const Results<T> linear = by_kernels(p, false);
  const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;
  INFO(name << ": batch " << s.batch << ", heads " << s.heads << ", rows " << s.rows << ", keys " << s.keys << ", d " << s.d << ", e "
            << s.e << ", causal " << s.causal << ", masked " << s.masked << (sizeof(T) == 4 ? ", f32" : ", f64"));
  CHECK(error(linear.out, quadratic.out) < tolerance);
  CHECK(error(linear.dq, quadratic.dq) < tolerance);
  CHECK(error(linear.dk, quadratic.dk) < tolerance);
  CHECK(error(linear.dv, quadratic.dv) < tolerance);
}

template <class T>
void check_all(const std::string& where, const std::vector<ProblemSizes>& sizes) {
  for (const auto& [name, scoring] : polynomials())
    for (ProblemSizes s : sizes) {
      const Index d = width_for(scoring, s.d);
      if (s.e == s.d) s.e = d;
      s.d = d;
      check<T>(where + name, s, scoring);
    }
}

const std::vector<ProblemSizes> shapes = {
    {2, 3, 65, 65, 9, 9},          {1, 2, 300, 300, 16, 16, true},      {2, 1, 150, 270, 8, 20, true, true},
    {1, 2, 270, 150, 12, 5, true}, {2, 2, 131, 140, 17, 33, false, true}, {1, 1, 1, 1, 1, 1, true},
    {1, 1, 400, 260, 7, 7, true, true}};

double stat_of(const std::vector<double>& stats, Index head, AttentionStat which) {
  return stats[static_cast<std::size_t>(head * attention_stats + static_cast<Index>(which))];
}

}  // namespace

TEST_CASE("linear attention equals the quadratic form: polynomials, shapes, masks, layouts", "[attention_linear]") {
  check_all<float>("", shapes);
  check_all<double>("", shapes);
}

TEST_CASE("linear attention at widths of models and over sequences that are cut into pieces", "[attention_linear]") {
  const auto all = scorings();
  for (bool causal : {false, true}) {
    check<float>("x/n", {1, 1, 700, 700, 64, 64, causal}, all[2].second);
    check<float>("x^2/N", {1, 1, 300, 300, 64, 64, causal}, all[3].second);
    check<float>("x^2/N", {1, 1, 520, 520, 32, 32, causal, true}, all[3].second);
    check<float>("x/n, pieces", {1, 1, 4500, 4300, 6, 6, causal, true}, all[2].second);
    check<float>("x^2/N, pieces", {1, 2, 4200, 4400, 4, 5, causal}, all[3].second);
    check<double>("x^3, pieces", {1, 1, 4300, 4300, 3, 3, causal}, all[5].second);
  }
}

TEST_CASE("linear attention: watching changes no bit, nor does the number of threads", "[attention_linear]") {
  const RestoreSettings restore;
  const auto all = scorings();
  for (const auto& [scoring, size] : {std::pair{all[3].second, ProblemSizes{2, 3, 165, 165, 9, 9, false, true}},
                                      {all[2].second, ProblemSizes{1, 2, 4300, 4300, 6, 6, true}},
                                      {all[2].second, ProblemSizes{1, 2, 4300, 4300, 6, 6, false}}}) {
    Problem<float> p(size, scoring);
    p.form = AttentionForm::linear;
    cpu::set_threads(1);
    const Results<float> silent = by_kernels(p, false), one = by_kernels(p, true);
    const auto same = [](const Results<float>& a, const Results<float>& b) {
      return a.out.memory == b.out.memory && a.dq.memory == b.dq.memory && a.dk.memory == b.dk.memory && a.dv.memory == b.dv.memory;
    };
    CHECK(same(silent, one));
    for (int threads : {2, 3, 8}) {
      cpu::set_threads(threads);
      const Results<float> many = by_kernels(p, true);
      CHECK(same(one, many));
      CHECK(std::memcmp(one.stats.data(), many.stats.data(), one.stats.size() * sizeof(double)) == 0);
    }
  }
}

TEST_CASE("linear attention: exact statistics", "[attention_linear]") {
  const auto all = scorings();
  for (const auto& [name, scoring] : {all[1], all[2], all[3], all[4], all[8]})
    for (const ProblemSizes& s : {ProblemSizes{2, 1, 200, 170, 5, 5, false, true}, ProblemSizes{1, 2, 300, 310, 5, 6, true, true}, ProblemSizes{1, 1, 270, 200, 4, 4, true},
                           ProblemSizes{2, 1, 40, 33, 8, 8, true}, ProblemSizes{2, 2, 40, 130, 6, 5, false, true}, ProblemSizes{1, 2, 45, 40, 5, 5, true, true}}) {
      Problem<double> p(s, scoring);
      const Results<double> wanted = by_kernels(p, true);
      p.form = AttentionForm::linear;
      const Results<double> got = by_kernels(p, true);
      const bool all_rows = s.rows <= 48;  // then the sample is everything
      INFO(name << ": rows " << s.rows << ", keys " << s.keys << ", causal " << s.causal << ", masked " << s.masked);
      for (Index head = 0; head < s.batch * s.heads; ++head)
        for (int i = 0; i < attention_stats; ++i) {
          const auto which = static_cast<AttentionStat>(i);
          using enum AttentionStat;
          const bool exact = which == fro2 || which == row_sum || which == row_sum2 || which == entries || which == entropy || which == fro2_error;
          if (!exact && !all_rows) continue;
          const double w = stat_of(wanted.stats, head, which), g = stat_of(got.stats, head, which);
          INFO("statistic " << i << ": " << g << " instead of " << w);
          if (std::isnan(w)) CHECK(std::isnan(g));
          else CHECK(g == Approx(w).epsilon(1e-10).margin(1e-10 * stat_of(wanted.stats, head, fro2)));
        }
    }
}

TEST_CASE("linear attention: estimated statistics lie within their stated error", "[attention_linear]") {
  Scoring square = power(2, 1, Scoring::Scale::inverse_keys);
  int outside = 0, heads = 0;
  double squares = 0;  // of deviations in units of their stated errors
  for (bool causal : {false, true}) {
    const ProblemSizes s{2, 8, 400, 400, 20, 8, causal};  // 210 monomials: ||A||_F is no longer taken from them
    Problem<double> p(s, square);
    const Results<double> wanted = by_kernels(p, true);
    p.form = AttentionForm::linear;
    const Results<double> got = by_kernels(p, true);
    for (Index head = 0; head < s.batch * s.heads; ++head, ++heads) {
      using enum AttentionStat;
      const auto ratio = [&](AttentionStat which) { return stat_of(got.stats, head, which) / stat_of(wanted.stats, head, which); };
      const double error = stat_of(got.stats, head, fro2_error);
      CHECK(error > 0);
      squares += std::pow((stat_of(got.stats, head, fro2) - stat_of(wanted.stats, head, fro2)) / error, 2);
      outside += std::abs(stat_of(got.stats, head, fro2) - stat_of(wanted.stats, head, fro2)) > 2 * error;
      for (AttentionStat which : {fro2, jac2, score_sum2, small, grad_a2, grad_s2}) CHECK(ratio(which) == Approx(1).epsilon(0.35));
      CHECK(stat_of(got.stats, head, AttentionStat::max) <= stat_of(wanted.stats, head, AttentionStat::max) * (1 + 1e-12));
      CHECK(stat_of(got.stats, head, AttentionStat::max) > 0);
    }
  }
  INFO(outside << " of " << heads << " heads are further than two standard errors away");
  CHECK(outside <= heads / 8);
  CAPTURE(squares / heads);
  CHECK(squares / heads > 0.5);  // 1 were exact
  CHECK(squares / heads < 1.6);
}

TEST_CASE("linear attention: what all visible pairs have alike is estimated exactly, where rows see unlike numbers of columns too", "[attention_linear]") {
  using Scale = Scoring::Scale;
  for (const auto& [masked, wide, scale] : {std::tuple{false, false, Scale::inverse_keys}, {true, false, Scale::inverse_keys}, {false, true, Scale::inverse_keys},
                                            {false, true, Scale::inverse_valid_keys}, {true, true, Scale::inverse_sqrt_valid_keys}}) {
    const Index d = wide ? 200 : 4;  // of 200 monomials ||A||_F is of the sample too
    Problem<double> p({2, 2, 400, 410, d, 4, true, masked, 0, 1e-4 / static_cast<double>(d)}, power(1, 1, scale));
    draw(p.q, 1, 1.0), draw(p.k, 2, 1.0);
    for (Index b = 0; b < 2; ++b)
      for (Index h = 0; h < 2; ++h) {
        for (Index i = 0; i < 400; ++i) p.q.at(b, h, i, 0) = -2 * static_cast<double>(d);  // every score is below 0
        for (Index j = 0; j < 410; ++j) p.k.at(b, h, j, 0) = 1;
      }
    const std::vector<double> exact = by_kernels(p, true).stats;
    p.form = AttentionForm::linear;
    const std::vector<double> stats = by_kernels(p, true).stats;
    for (Index head = 0; head < 4; ++head) {
      using enum AttentionStat;
      const double pairs = stat_of(stats, head, entries);
      CAPTURE(masked, wide, p.scoring.row_scale(), head, pairs);
      CHECK(stat_of(stats, head, small) == pairs);
      CHECK(stat_of(stats, head, negative) == pairs);
      CHECK(stat_of(stats, head, jac2) == Approx(stat_of(exact, head, jac2)).epsilon(1e-12));  // that of a line is constant
      CHECK((stat_of(stats, head, fro2_error) > 0) == wide);
      if (wide) CHECK(std::abs(stat_of(stats, head, fro2) - stat_of(exact, head, fro2)) < 4 * stat_of(stats, head, fro2_error));
      CHECK(stat_of(stats, head, fro2_error) < 0.05 * stat_of(stats, head, fro2));  // rows differ in their length, and hardly otherwise
    }
  }
}

TEST_CASE("linear attention: a norm that is taken from all rows has no error", "[attention_linear]") {
  for (const Index rows : {1, 3, 8, 11, 40}) {
    Problem<double> p({1, 1, rows, rows, 20, 20}, power(2, 1, Scoring::Scale::inverse_keys));
    p.form = AttentionForm::linear;
    CAPTURE(rows);
    CHECK(stat_of(by_kernels(p, true).stats, 0, AttentionStat::fro2_error) == 0);
    CHECK_FALSE(std::signbit(stat_of(by_kernels(p, true).stats, 0, AttentionStat::fro2_error)));  // nor has anything else
  }
}

TEST_CASE("linear attention: the error of an estimate is what the estimates of many heads miss by", "[attention_linear]") {
  constexpr Index rows = 96, heads = 4000;  // of each eighth, 12 rows, 6 are drawn
  const auto square = [](Index row) { return static_cast<double>(row % 7 * (row % 5 + 1)); };
  double exact = 0, missed = 0, missed2 = 0, stated2 = 0;
  for (Index row = 0; row < rows; ++row) exact += square(row);
  for (Index head = 0; head < heads; ++head) {
    const cpu::RowSample sample(rows, head);
    cpu::SampledSums sums{};
    for (Index i = 0; i < sample.rows().count; ++i) sums.visible[i] = sums.even[i] = 1, sums.fro2[i] = square(sample.rows().row[i]);
    sums.even_of_all = rows;
    std::vector<double> stats(attention_stats);
    sample.estimate(sums, rows, stats.data());
    const double miss = stat_of(stats, 0, AttentionStat::fro2) - exact, error = stat_of(stats, 0, AttentionStat::fro2_error);
    missed += miss / heads, missed2 += miss * miss / heads, stated2 += error * error / heads;
  }
  CHECK(std::abs(missed) < 4 * std::sqrt(missed2 / heads));
  CHECK(stated2 == Approx(missed2).epsilon(0.08));
}

TEST_CASE("linear attention: gradients of a few rows, as of the class token, are measured as they are", "[attention_linear]") {
  const ProblemSizes s{2, 2, 400, 400, 6, 6};
  for (const Index others : {0, 1}) {  // whether other rows have a gradient, a hundredth of those
    Problem<double> p(s, power(3, 1, Scoring::Scale::inverse_keys));
    for (Index b = 0; b < s.batch; ++b)
      for (Index h = 0; h < s.heads; ++h)
        for (Index i = 0; i < s.rows; ++i)
          for (Index c = 0; c < s.e; ++c)
            if (i != 0 && i != 1 && i != 399) p.dout.at(b, h, i, c) *= 0.01 * static_cast<double>(others);
    const Results<double> wanted = by_kernels(p, true);
    p.form = AttentionForm::linear;
    const Results<double> got = by_kernels(p, true);
    for (Index head = 0; head < s.batch * s.heads; ++head)
      for (const AttentionStat which : {AttentionStat::grad_a2, AttentionStat::grad_s2})
        CHECK(stat_of(got.stats, head, which) == Approx(stat_of(wanted.stats, head, which)).epsilon(others ? 0.02 : 1e-10));
    p.dout.at(1, 0, 200, 3) = std::nan("");  // a row that is no number is among those that are measured
    const Results<double> broken = by_kernels(p, true);
    for (Index head = 0; head < s.batch * s.heads; ++head) CHECK(std::isnan(stat_of(broken.stats, head, AttentionStat::grad_a2)) == (head == 2));
  }
}

TEST_CASE("linear attention is chosen by sizes and dtype alone, and keys that a mask hides may hold anything", "[attention_linear]") {
  const Scoring line = power(1, 1, Scoring::Scale::inverse_keys);
  const auto same = [](const Results<float>& a, const Results<float>& b) { return a.out.memory == b.out.memory && a.dk.memory == b.dk.memory; };
  const auto by = [](Problem<float>& p, AttentionForm form, bool stats) {
    p.form = form;
    return by_kernels(p, stats);
  };
  for (bool stats : {false, true}) {
    Problem<float> small({1, 1, 64, 64, 32, 32}, line), large({1, 1, 1024, 1024, 32, 32}, line), dropped({1, 1, 1024, 1024, 32, 32, false, false, 0.1}, line);
    CHECK(same(by(small, AttentionForm::automatic, stats), by(small, AttentionForm::quadratic, stats)));
    CHECK(same(by(large, AttentionForm::automatic, stats), by(large, AttentionForm::linear, stats)));
    CHECK(same(by(dropped, AttentionForm::automatic, stats), by(dropped, AttentionForm::quadratic, stats)));
    Problem<float> square({1, 1, 1024, 1024, 8, 8}, power(2, 1, Scoring::Scale::inverse_keys));
    CHECK(same(by(square, AttentionForm::automatic, stats), by(square, AttentionForm::linear, stats)));
    CHECK_FALSE(same(by(square, AttentionForm::automatic, stats), by(square, AttentionForm::quadratic, stats)));
  }
  // On bf16 the matrix is the quicker one up to more keys where it is multiplied on tiles or by pairs.
  Problem<bf16> between({1, 1, 350, 350, 32, 32, true}, line);
  const auto by_form = [&](AttentionForm form) {
    between.form = form;
    return by_kernels(between, false).out.memory;
  };
  const auto equal = [](const std::vector<bf16>& a, const std::vector<bf16>& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16)) == 0; };
  const bool packed = cpu::own_products(true) != nullptr;
  CHECK(equal(by_form(AttentionForm::automatic), by_form(packed ? AttentionForm::quadratic : AttentionForm::linear)));
  if (packed) CHECK_FALSE(equal(by_form(AttentionForm::quadratic), by_form(AttentionForm::linear)));  // without, all digits of a bf16 agree

  Problem<float> p({1, 2, 150, 150, 6, 6, true, true}, power(2, 1, Scoring::Scale::inverse_valid_keys));
  p.form = AttentionForm::linear;
  const Results<float> clean = by_kernels(p, false);
  for (Index j = 0; j < p.size.keys; ++j)
    if (!p.seen[static_cast<std::size_t>(j)])
      for (Index h = 0; h < p.size.heads; ++h) p.k.at(0, h, j, 1) = p.v.at(0, h, j, 2) = std::nanf("");
  const Results<float> dirty = by_kernels(p, false);
  CHECK(same(clean, dirty));
  p.v.at(0, 1, 149, 3) = std::nanf("");  // the last key: visible to the last row alone, and there it shows
  p.seen[149] = 1;
  const Results<float> bad = by_kernels(p, false);
  CHECK(std::isnan(bad.out.at(0, 1, 149, 3)));
  CHECK_FALSE(std::isnan(bad.out.at(0, 1, 140, 3)));  // of another register tile
}

TEST_CASE("linear attention on every instruction set of this processor", "[attention_linear]") {
  for_each_isa([](const std::string& isa) {
    check_all<float>(isa + ": ", {{1, 2, 150, 150, 11, 11, true}, {1, 1, 100, 90, 6, 7, false, true}});
    check_all<double>(isa + ": ", {{1, 1, 150, 150, 5, 5, true}});
  });
}

TEST_CASE("--attention-form: what it accepts, and a ViT computes the same in either form", "[attention_linear]") {
  train::TrainConfig c;
  c.width = 12, c.heads = 3, c.depth = 2, c.patch = 4, c.attention = "x/N", c.attention_form = "linear", c.init_std = 0.3;
  const auto said = [&](const std::string& text) {
    std::string answer = "nothing";
    try {
      train::vit_config(c, 16, 1, 3);
    } catch (const train::UsageError& error) {
      answer = error.what();
    }
    CHECK(answer == text);
  };
  models::ViTConfig linear = train::vit_config(c, 16, 1, 3), quadratic = linear;
  quadratic.form = AttentionForm::quadratic;
  const Tensor images = randn({2, 1, 16, 16}, {5, 1});
  const std::vector<double> a = models::ViT(linear, 1)(images).values(), b = models::ViT(quadratic, 1)(images).values();
  CHECK(a != b);  // other roundings
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == Approx(b[i]).margin(1e-5));

  c.attention = "softmax";
  said("vit: only polynomials have a linear form; use the form auto or quadratic");
  c.attention = "x/N", c.dropout = 0.1;
  said("vit: dropout 0.1 acts on single weights, which the linear form does not have; use the form auto or quadratic");
  c.dropout = 0, c.clamp = "fro:2";
  said("vit: clamp_fro 2 needs the whole matrix, which the linear form does not have; use the form auto or quadratic");
  c.clamp.clear(), c.attention_form = "fast";
  said("attention form \"fast\" is unknown; there are auto, quadratic, linear");
}

TEST_CASE("linear attention remembers no weights of monomials of another call", "[attention_linear]") {
  const Scoring square = power(2, 1, Scoring::Scale::inverse_keys);
  Scoring both = square;
  both.coefficient[2] = 0.5;  // as many monomials
  const ProblemSizes own{1, 1, 40, 50, 5, 4}, scaled{1, 1, 40, 50, 5, 4, false, false, 0, 0.9};
  for (int round = 0; round < 2; ++round) {
    check<double>("x^2/N", own, square);
    check<double>("0.5 x^2/N", own, both);
    check<double>("0.5 x^2/N, own scale", scaled, both);
  }
}

TEST_CASE("linear attention on bf16 has the statistics of the same numbers in f32", "[attention_linear]") {
  const ProblemSizes size{2, 2, 90, 100, 6, 5, true, true};
  const Scoring cubic = power(3, 1, Scoring::Scale::inverse_sqrt_valid_keys);
  Problem<bf16> narrow(size, cubic);
  Problem<float> wide(size, cubic);
  narrow.form = wide.form = AttentionForm::linear;
  const auto same = [](Placed<float>& to, const Placed<bf16>& from) {
    for (std::size_t i = 0; i < to.memory.size(); ++i) to.memory[i] = static_cast<float>(from.memory[i]);
  };
  same(wide.q, narrow.q), same(wide.k, narrow.k), same(wide.v, narrow.v), same(wide.dout, narrow.dout);
  const Results<bf16> got = by_kernels(narrow, true);
  const Results<float> wanted = by_kernels(wide, true);
  REQUIRE(got.stats.size() == wanted.stats.size());
  CHECK(std::memcmp(got.stats.data(), wanted.stats.data(), wanted.stats.size() * sizeof(double)) == 0);
  CHECK(stat_of(got.stats, 3, AttentionStat::grad_s2) > 0);
}
