// Bounds, expectations and fits against numbers worked out by hand, the measurement against them, and `norma theory` as a user meets it.
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>

#include <nlohmann/json.hpp>

#include "inspect/theory.h"
#include "nn/scoring.h"
#include "tests/program.h"

using namespace norma;
using namespace norma::inspect;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::StartsWith;

namespace {

TheoryConfig config_of(const std::string& scoring, Index width = 64) {
  TheoryConfig c;
  c.scoring = nn::parse_scoring(scoring), c.width = width, c.place = {DType::f64};
  return c;
}

}  // namespace

TEST_CASE("expectations are the paper's constants", "[theory]") {
  const double root = 14;  // N = 196
  // (2p-1)!! = 1, 3, 15, 105; p^2 (2p-3)!! = 1, 4, 27, 240
  const double values[] = {1, 3, 15, 105}, slopes[] = {1, 4, 27, 240};
  for (int p = 1; p <= 4; ++p) {
    const Scoring scoring = nn::parse_scoring("x^" + std::to_string(p) + "/sqrt(N)");
    const Expectation e = expectation(scoring, 196);
    CHECK(*e.fro == Approx(root * std::sqrt(values[p - 1])));
    CHECK(*e.jacobian == Approx(root * std::sqrt(slopes[p - 1])));
    CHECK(*expectation(nn::parse_scoring("x^" + std::to_string(p)), 196).fro == Approx(196 * std::sqrt(values[p - 1])));
    const Expectation smaller = expectation(scoring, 196, 0.5);
    CHECK(*smaller.fro == Approx(*e.fro * std::pow(0.5, p)));
    CHECK(*smaller.jacobian == Approx(*e.jacobian * std::pow(0.5, p - 1)));
  }
  // With a width: E s^6 = 15 (1 + 2/8)(1 + 4/8).
  CHECK(*expectation(nn::parse_scoring("x^3"), 10, 1, 8).fro == Approx(10 * std::sqrt(15 * 1.25 * 1.5)));
  // (1 + x)^2 = 1 + 2x + x^2, so E = 1 + 1; its derivative is 1.
  CHECK(*expectation(nn::parse_scoring("1 + x"), 10).fro == Approx(10 * std::sqrt(2.0)));
  CHECK(*expectation(nn::parse_scoring("1 + x"), 10).jacobian == Approx(10));
  CHECK(expectation(nn::parse_scoring("x^2/sum(x^2)"), 64).fro);
  CHECK(*expectation(nn::parse_scoring("x^2/sum(x^2)"), 2).fro == Approx(std::sqrt(1.5)));  // cos^4 + sin^4 of an angle is 3/4 on average
  CHECK(*expectation(nn::parse_scoring("relu/N"), 50, 2).fro == Approx(std::sqrt(2.0)));
  CHECK(*expectation(nn::parse_scoring("relu/N"), 50, 2).jacobian == Approx(std::sqrt(0.5)));
  // sigmoid at rms 0: 1/2, slope 1/4
  CHECK(*expectation(nn::parse_scoring("sigmoid"), 8, 1e-9).fro == Approx(4));
  CHECK(*expectation(nn::parse_scoring("sigmoid"), 8, 1e-9).jacobian == Approx(2));
  // Rows that sum to one, of many tokens: sqrt(E phi^2) / E phi. x^2: sqrt 3 / 1; softmax: e / sqrt e.
  constexpr Index many = 1 << 20;
  CHECK(*expectation(nn::parse_scoring("x^2/sum(x^2)"), many).fro == Approx(std::sqrt(3.0)));
  CHECK_FALSE(expectation(nn::parse_scoring("x^2/sum(x^2)"), many).jacobian);
  CHECK(*expectation({}, many).fro == Approx(std::exp(0.5)));
  CHECK(*expectation({}, many, 1, 1000000).fro == Approx(std::exp(0.5)).epsilon(1e-5));
}

TEST_CASE("bounds: softmax has all three, rows that sum to one have the first, sigmoids theirs, and slopes are bounded of those, relu and lines", "[theory]") {
  const Bounds softmax = bounds({}, 196);
  CHECK(*softmax.fro == Approx(14));
  CHECK(*softmax.jacobian == Approx(28));
  CHECK(*softmax.jacobian_sharp == Approx(7));
  const Bounds normalized = bounds(nn::parse_scoring("x^2/sum(x^2)"), 196);
  CHECK(*normalized.fro == Approx(14));
  CHECK_FALSE(normalized.jacobian);
  const Bounds cubic = bounds(nn::parse_scoring("x^3/sqrt(N)"), 196);
  CHECK_FALSE(cubic.fro);
  CHECK_FALSE(cubic.jacobian_sharp);
  CHECK(*bounds({}, 1).fro == 1);
  // N over the divisor; a quarter of it
  for (const auto& [text, fro] : {std::pair{"sigmoid", 196.0}, {"sigmoid/sqrt(N)", 14.0}, {"sigmoid/N", 1.0}, {"sigmoid(x - log(N))/sqrt(n)", 14.0}, {"sigmoid(x + 5)", 196.0}}) {
    const Bounds sigmoid = bounds(nn::parse_scoring(text), 196);
    CAPTURE(text);
    CHECK(*sigmoid.fro == Approx(fro));
    CHECK((*sigmoid.jacobian == Approx(fro / 4) && *sigmoid.jacobian_sharp == Approx(fro / 4)));
  }
  for (const auto& [text, slopes] : {std::pair{"relu", 196.0}, {"relu/sqrt(N)", 14.0}, {"x", 196.0}, {"x/14", 14.0}, {"3 - 0.5x", 98.0}, {"x/N", 1.0}}) {
    const Bounds line = bounds(nn::parse_scoring(text), 196);
    CAPTURE(text);
    CHECK_FALSE(line.fro);
    CHECK((*line.jacobian == Approx(slopes) && *line.jacobian_sharp == Approx(slopes)));
  }
  for (const Index none : {0, -4}) CHECK_THROWS_WITH(bounds({}, none), fmt::format("bounds: tokens = {} must be 1 or more", none));
  Scoring another = nn::parse_scoring("relu");
  another.kind = static_cast<Scoring::Kind>(200);  // of which nothing is known here
  const Bounds none = bounds(another, 196);
  CHECK((!none.fro && !none.jacobian && !none.jacobian_sharp));
}

TEST_CASE("expectation names what is out of range", "[theory]") {
  for (const char* text : {"softmax", "x^2/sum(x^2)", "x^3", "relu/N", "sigmoid"}) {
    const Scoring scoring = nn::parse_scoring(text);
    CAPTURE(text);
    CHECK_THROWS_WITH(expectation(scoring, 0), "expectation: tokens = 0 must be 1 or more");
    CHECK_THROWS_WITH(expectation(scoring, 8, -1), "expectation: rms = -1 of the scores must be 0 or more");
    CHECK_THROWS_WITH(expectation(scoring, 8, INFINITY), "expectation: rms = inf of the scores must be 0 or more");
    CHECK_THROWS_WITH(expectation(scoring, 8, NAN), "expectation: rms = nan of the scores must be 0 or more");
    CHECK_THROWS_WITH(expectation(scoring, 8, 1, -2), "expectation: width = -2 must be 0 or more");
  }
  CHECK(*expectation(nn::parse_scoring("sigmoid"), 8, 0).fro == Approx(4));  // all scores 0
}

TEST_CASE("the sharp bound of softmax's Jacobian is reached, and nothing passes it", "[theory]") {
  // Every query looks at two keys alike and at no other: rows (1/2, 1/2, 0, ...), each Jacobian of norm 1/2.
  const Index n = 16;
  std::vector<double> keys(static_cast<std::size_t>(n), -1000.0);
  keys[3] = keys[9] = 1000;
  AttentionOptions options;
  options.stats = zeros({1, 1, attention_stats}, {DType::f64});
  const Tensor q = ones({1, 1, n, 1}, {DType::f64});
  (void)attention(q, from_values(keys, {1, 1, n, 1}, {DType::f64}), q, options);
  const std::vector<double> stats = options.stats.values();
  CHECK(std::sqrt(stats[static_cast<std::size_t>(AttentionStat::jac2)]) == Approx(*bounds({}, n).jacobian_sharp).epsilon(1e-12));
  for (double rms : {0.1, 1.0, 3.0, 10.0, 100.0}) {
    TheoryConfig c = config_of("softmax", 16);
    c.rms = rms;
    const TheoryPoint p = measure_theory(c, 48);
    CHECK(p.jacobian.mean <= *bounds({}, 48).jacobian_sharp * (1 + 1e-12));
    CHECK(p.fro.mean <= *bounds({}, 48).fro * (1 + 1e-12));
    CHECK(p.fro.mean >= 1 - 1e-12);  // uniform rows
  }
}

TEST_CASE("no size of the scores takes a sigmoid, relu or a line past its bounds, and some reach them", "[theory]") {
  for (const auto& [text, reaches_fro] : {std::pair{"sigmoid/sqrt(N)", true}, {"sigmoid(x - log(N))", true}, {"sigmoid(x - 2)/n", true}, {"relu/sqrt(N)", false}, {"0.5x/N", false}}) {
    TheoryConfig c = config_of(text, 16);
    const Bounds b = bounds(c.scoring, 48);
    for (double rms : {1e-3, 1.0, 10.0, 1e4}) {
      c.rms = rms;
      const TheoryPoint p = measure_theory(c, 48);
      CAPTURE(text, rms, p.fro.mean, p.jacobian.mean);
      if (b.fro) CHECK(p.fro.mean <= *b.fro * (1 + 1e-12));
      CHECK(p.jacobian.mean <= *b.jacobian * (1 + 1e-12));
    }
    // q k = 0, moved to where the slope is largest, and scores that are all large.
    AttentionOptions options;
    options.scoring = c.scoring;
    const auto measured = [&](double score, AttentionStat which) {
      options.stats = zeros({1, 1, attention_stats}, {DType::f64});
      const Tensor q = ones({1, 1, 48, 1}, {DType::f64});
      (void)attention(q, q * score, q, options);
      return std::sqrt(options.stats.values()[static_cast<std::size_t>(which)]);
    };
    const bool sigmoid = c.scoring.kind == Scoring::Kind::sigmoid;
    CAPTURE(text);
    CHECK(measured(sigmoid ? -c.scoring.sigmoid_bias(48) : 1, AttentionStat::jac2) == Approx(*b.jacobian_sharp));
    CHECK(b.fro.has_value() == reaches_fro);
    if (reaches_fro) CHECK(measured(100, AttentionStat::fro2) == Approx(*b.fro));
  }
}

TEST_CASE("random attention measures what is expected of it", "[theory]") {
  for (const char* text : {"x", "x^2/sqrt(N)", "x^3/sqrt(N)", "0.5x + x^3/14", "x^4/sqrt(N)"}) {
    TheoryConfig c = config_of(text);
    c.samples = 8;
    const TheoryPoint p = measure_theory(c, 256);
    const Expectation e = expectation(c.scoring, 256, 1, 64);
    CAPTURE(text, p.fro.mean, p.fro.error, *e.fro, p.jacobian.mean, *e.jacobian);
    CHECK(p.fro.error > 0);
    // E sqrt(x) lies below sqrt(E x) by the variance over 8 (E x)^(3/2): a share far below one error here.
    CHECK(std::abs(p.fro.mean - *e.fro) < 4 * p.fro.error);
    CHECK(std::abs(p.jacobian.mean - *e.jacobian) <= 4 * p.jacobian.error + 1e-9);
    CHECK(p.score_rms == Approx(1).epsilon(0.05));
  }
  TheoryConfig c = config_of("softmax", 64);
  CHECK(measure_theory(c, 2048).fro.mean == Approx(*expectation(c.scoring, 2048, 1, 64).fro).epsilon(0.03));
  // The paper's checks at the usual initialisation, N = 196, x^3/14: score rms 0.02^2 width; 0.026, 0.20 and 1.6 for widths 192, 384, 768.
  c = config_of("x^3/14");
  c.samples = 32;
  for (auto [width, norm] : {std::pair{192.0, 0.026}, {384.0, 0.20}, {768.0, 1.6}}) {
    c.rms = 0.0004 * width;
    CHECK(measure_theory(c, 196).fro.mean == Approx(norm).epsilon(0.05));
  }
  c = config_of("x^3/sqrt(N)");
  c.rms = std::cbrt(1 / std::sqrt(15.0 * 196));
  CHECK(c.rms == Approx(0.26).epsilon(0.02));
  CHECK(measure_theory(c, 196).fro.mean == Approx(1).epsilon(0.1));
}

TEST_CASE("read as matrix powers the paper's rate is wrong from the second power on", "[theory]") {
  // The paper: X, W_Q and W_K are Gaussian, S = X W_Q (X W_K)^T. `norma theory`: Q and K are, whose matrix powers grow more slowly.
  for (const auto& [with_tokens, of_square, of_cube] : {std::tuple{true, 2.0, 3.0}, {false, 1.5, 2.0}}) {
    std::vector<double> n, each, square, cube;
    for (Index tokens : {64, 128, 256, 512}) {
      const auto normal = [](Index rows, std::uint64_t stream) { return randn({rows, 16}, {1, stream}, {DType::f64}); };
      const Tensor x = normal(tokens, 3), q = with_tokens ? matmul(x, normal(16, 1)) : normal(tokens, 1), k = with_tokens ? matmul(x, normal(16, 2)) : normal(tokens, 2);
      const Tensor s = matmul(q, transpose(k)) / 4, s2 = matmul(s, s);
      n.push_back(static_cast<double>(tokens)), each.push_back(norm(s * s).item());
      square.push_back(norm(s2).item()), cube.push_back(norm(matmul(s2, s)).item());
    }
    CAPTURE(with_tokens);
    CHECK(fit_power_law(n, each)->exponent == Approx(1).margin(0.1));  // element-wise it is right
    CHECK(fit_power_law(n, square)->exponent == Approx(of_square).margin(0.15));
    CHECK(fit_power_law(n, cube)->exponent == Approx(of_cube).margin(0.25));
  }
}

TEST_CASE("a power law is fitted with its error", "[theory]") {
  const auto exact = fit_power_law({10, 100, 1000}, {6, 600, 60000});
  CHECK(exact->exponent == Approx(2));
  CHECK(exact->factor == Approx(0.06));
  CHECK(*exact->error == Approx(0).margin(1e-12));
  // By hand, u = 0, 1, 2 and w = 0, 1, 1: slope 1/2, misses 1/6, -1/3, 1/6, so error sqrt(1/6 / 1 / 2).
  const double e = std::exp(1.0);
  const auto bent = fit_power_law({1, e, e * e}, {1, e, e});
  CHECK(bent->exponent == Approx(0.5));
  CHECK(*bent->error == Approx(std::sqrt(1.0 / 12)));
  CHECK_FALSE(fit_power_law({1, 2}, {3, 4})->error);
  // Errors of y: by hand, slope = (w2 - w0) / 2, so its error is half the root of both squares; the larger of the two counts.
  CHECK(*fit_power_law({1, e, e * e}, {1, e, e}, {0.6, 1, 0.8 * e})->error == Approx(0.5));
  CHECK(*fit_power_law({1, e, e * e}, {1, e, e}, {0.1, 0, 0.1})->error == Approx(std::sqrt(1.0 / 12)));
  CHECK(*fit_power_law({1, e * e}, {1, e}, {0.6, 0.8 * e})->error == Approx(0.5));
  CHECK_FALSE(fit_power_law({1, 2}, {3, 4}, {NAN, NAN})->error);
  CHECK_THROWS_WITH(fit_power_law({1, 2}, {3, 4}, {1}), "fit_power_law: 2 measured values, 1 errors of them");
  CHECK_FALSE(fit_power_law({2}, {3}));
  CHECK_FALSE(fit_power_law({2, 2}, {3, 4}));
  CHECK_FALSE(fit_power_law({1, 2}, {0, 4}));
  CHECK_FALSE(fit_power_law({1, 2}, {NAN, 4}));
  CHECK_THROWS_WITH(fit_power_law({1, 2}, {1}), "fit_power_law: 2 values of N, 1 measured values");
}

TEST_CASE("measure_theory: a function of the seed; what is out of range is named", "[theory]") {
  TheoryConfig c = config_of("x^3", 8);
  const TheoryPoint a = measure_theory(c, 32), b = measure_theory(c, 32);
  CHECK(a.fro.mean == b.fro.mean);
  c.seed = 2;
  CHECK(measure_theory(c, 32).fro.mean != a.fro.mean);
  TheoryConfig line = config_of("x", 1);
  line.samples = 1;
  int larger = 0;  // heads of one token whose score is not among those of two: each N has heads of its own
  for (line.seed = 1; line.seed <= 40; ++line.seed) larger += measure_theory(line, 1).score_rms > 2 * measure_theory(line, 2).score_rms;
  CHECK(larger > 0);
  c.samples = 1, c.spectral = true;
  const TheoryPoint one = measure_theory(c, 32);
  CHECK(std::isnan(one.fro.error));
  CHECK(one.norm.mean <= one.fro.mean);
  CHECK(one.stable_rank.mean == Approx(std::pow(one.fro.mean / one.norm.mean, 2)));
  CHECK_THROWS_WITH(measure_theory(c, 0), "theory: tokens = 0 must be 1 or more");
  c.width = 0;
  CHECK_THROWS_WITH(measure_theory(c, 4), "theory: width = 0 must be 1 or more");
  c.width = 8, c.samples = 0;
  CHECK_THROWS_WITH(measure_theory(c, 4), "theory: samples = 0 must be 1 or more");
  c.samples = 1, c.rms = NAN;
  CHECK_THROWS_WITH(measure_theory(c, 4), "theory: rms = nan of the scores must be more than 0");
  c.rms = 1, c.place.dtype = DType::bf16;
  CHECK_THROWS_WITH(measure_theory(c, 4), "theory: dtype is bf16; there are f32 and f64");
}

TEST_CASE("a long head is measured in parts, which tell how far it is", "[theory]") {
  TheoryConfig config;
  config.scoring = nn::parse_scoring("x^3/sqrt(N)"), config.tokens = {12000}, config.samples = 1;
  double told = 0;
  int calls = 0;
  config.worked = [&](double scores) { told += scores, ++calls; };
  const TheoryPoint p = measure_theory(config, 12000);
  CHECK(calls == 3);  // two of 2^26 scores, and the rest
  CHECK(told == theory_work(config, 12000));
  const auto expected = expectation(config.scoring, 12000, 1, config.width);
  CHECK(p.fro.mean == Approx(*expected.fro).epsilon(0.05));
  CHECK(p.jacobian.mean == Approx(*expected.jacobian).epsilon(0.05));
  CHECK(p.score_rms == Approx(1).epsilon(0.02));
}

TEST_CASE("norma theory: wrong usage says what, and what to do", "[theory]") {
  const std::vector<Wrong> table = {
      {{"--tokens", "0"}, 2, "norma: --tokens: N = 0 must be 1 to 1048576\n"},
      {{"--tokens", "-4"}, 2, "norma: --tokens: N = -4 must be 1 to 1048576\n"},
      {{"--tokens", "2000000"}, 2, "norma: --tokens: N = 2000000 must be 1 to 1048576\n"},
      {{"--tokens", "99999999999999999999"}, 2, "norma: --tokens: N = 99999999999999999999 must be 1 to 1048576\n"},
      {{"--tokens", "64,many"}, 2, "norma: --tokens: \"many\" in \"64,many\" is not a whole number; write a list as in 64,128,197 or a range as in 64:4096\n"},
      {{"--tokens", "64,"}, 2, "norma: --tokens: \"\" in \"64,\" is not a whole number; write a list as in 64,128,197 or a range as in 64:4096\n"},
      {{"--tokens", "1:2:3"}, 2, "norma: --tokens: \"1:2:3\" in \"1:2:3\" is not a whole number; write a list as in 64,128,197 or a range as in 64:4096\n"},
      {{"--tokens", "128:64"}, 2, "norma: --tokens: the range 128:64 goes down; write 64:128\n"},
      {{"--attention", "softmax,sofmax"}, 2, "norma: --attention \"sofmax\": unknown function; did you mean \"softmax\"?\n"},
      {{"--width", "0"}, 2, "norma: --width: 0 must be more than 0\n"},
      {{"--samples", "-1"}, 2, "norma: --samples: -1 must be more than 0\n"},
      {{"--score-rms", "0"}, 2, "norma: --score-rms: 0 must be more than 0\n"},
      {{"--score-rms", "nan"}, 2, "norma: --score-rms: \"nan\" is not a number; root mean square of the scores\n"},
      {{"--dtype", "bf16"}, 2, "norma: --dtype: \"bf16\" is not possible; there are f32, f64\n"},
      {{"--device", "tpu"}, 2, "norma: device \"tpu\" is unknown; there are cpu, cuda, cuda:INDEX, reference\n"},
      {{"--log-format", "xml"}, 2, "norma: --log-format: \"xml\" is unknown; there are text, json\n"},
      {{"--threads", "-1"}, 2, "norma: --threads: -1 must be in 0..1024; 0 is all cores\n"},
      {{"--seed", "-1"}, 2, "norma: --seed: -1 must be 0 or more\n"},
      {{"--token", "4"}, 2, "norma: unknown flag --token (did you mean --tokens?)\n"},
      {{"--images", "4"}, 2, "norma: theory: --images is for a run; name its folder, as in norma theory runs/a\n"},
      {{"--data-dir", "x"}, 2, "norma: theory: --data-dir is for a run; name its folder, as in norma theory runs/a\n"},
      {{"runs/a", "--score-rms", "2"}, 2, "norma: theory: --score-rms is for random Q and K; the run runs/a brings its own\n"},
      {{"runs/a", "runs/b"}, 2, "norma: theory: unexpected \"runs/b\"; name one run folder, or none for random Q and K\n"},
      {{"no-such-run"}, 1, "norma: run folder no-such-run: there is no such folder\n"},
  };
  check_refused(table, {"theory"});
  CHECK_THAT(run_norma({"theory", "--help"}).out, StartsWith("usage: norma theory") && Contains("--score-rms"));
}

TEST_CASE("norma theory: the exponents of N", "[theory]") {
  const Finished f = run_norma({"theory", "--tokens", "64:500", "--width", "32", "--samples", "16", "--attention", "softmax, x^2, x^3/sqrt(N)", "--spectral", "--log-format", "json"});
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const auto result = nlohmann::json::parse(f.out);
  REQUIRE(result["attention"].size() == 3);
  const auto& softmax = result["attention"][0];
  REQUIRE(softmax["points"].size() == 4);
  CHECK(softmax["points"][3]["tokens"] == 500);
  CHECK(softmax["points"][0]["bound_jacobian"] == 16);
  CHECK(softmax["points"][0]["sharp_jacobian"] == 4);
  CHECK(softmax["fit_fro"]["exponent"].get<double>() == Approx(0).margin(0.08));
  CHECK(result["attention"][1]["fit_fro"]["exponent"].get<double>() == Approx(1).margin(0.05));
  CHECK(result["attention"][1]["points"][0]["bound_fro"].is_null());
  CHECK(result["attention"][2]["fit_fro"]["exponent"].get<double>() == Approx(0.5).margin(0.08));
  CHECK(result["attention"][2]["fit_fro"]["error"].get<double>() < 0.08);
  for (const auto& p : result["attention"][2]["points"]) {
    CHECK(p["norm"]["mean"].get<double>() < p["fro"]["mean"].get<double>());
    CHECK(p["stable_rank"]["mean"].get<double>() > 1);
    CHECK(p["unconverged"] == 0);
  }
  const Finished doubled = run_norma({"theory", "--tokens", "16:64", "--width", "4", "--samples", "1", "--attention", "softmax", "--log-format", "json"});
  std::vector<Index> tokens;
  const auto points = nlohmann::json::parse(doubled.out)["attention"][0]["points"];
  for (const auto& p : points) tokens.push_back(p["tokens"]);
  CHECK(tokens == std::vector<Index>{16, 32, 64});
  const Finished text = run_norma({"theory", "--tokens", "8", "--width", "4", "--attention", "softmax"});
  CHECK(text.code == 0);
  CHECK_THAT(text.out, Contains("√N, 2√N and √N/2 are bounds") && !Contains("grows as"));  // one N: nothing to fit
  const std::string others = run_norma({"theory", "--tokens", "8", "--width", "4", "--samples", "1", "--attention", "sigmoid/N, relu, x^2/sum(x^2), x^3"}).out;
  for (const char* header : {"\nsigmoid/N: ‖A‖_F ≤ N/c and ‖∂A/∂S‖_F ≤ N/4c, c its divisor\n", "\nrelu: ‖∂A/∂S‖_F ≤ N/c, c its divisor\n", "\nx^2/sum(x^2): ‖A‖_F ≤ √N\n", "\nx^3\n"})
    CHECK_THAT(others, Contains(header));
  const Finished huge = run_norma({"theory", "--tokens", "8,16", "--width", "4", "--attention", "x^8", "--score-rms", "1e9"});
  CHECK_THAT(huge.out, Contains(" inf ") && !Contains("grows as"));
  const Finished halved = run_norma({"theory", "--tokens", "8", "--width", "4", "--samples", "1", "--attention", "x^2", "--score-rms", "0.5", "--log-format", "json"});
  const auto half = nlohmann::json::parse(halved.out)["attention"][0]["points"][0];
  CHECK(half["gaussian_fro"].get<double>() == Approx(8 * 0.25 * std::sqrt(3.0)));
  CHECK(half["width_fro"].get<double>() == Approx(8 * 0.25 * std::sqrt(3.0 * 1.5)));
  CHECK(half["gaussian_jacobian"].get<double>() == Approx(8 * 2 * 0.5));
  CHECK(run_norma({"theory", "--tokens", "8", "--samples", "1"}).out == run_norma({"theory", "--tokens", "8", "--samples", "1", "--threads", "1"}).out);
}

TEST_CASE("norma theory RUN: every layer and head, trained and as it started", "[theory]") {
  const auto data = tiny_data(64, 150), runs = fresh_folder("theory");
  const std::string run = (runs / "a").string();
  REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "2", "--heads", "2", "--patch", "14", "--batch", "8",
                     "--epochs", "1", "--lr", "0.01", "--out", run}).code == 0);
  auto heads = [&](std::vector<std::string> more) {
    std::vector<std::string> args = {"theory", run, "--data-dir", data.string(), "--spectral", "--log-format", "json"};
    args.insert(args.end(), more.begin(), more.end());
    const Finished f = run_norma(args);
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
    return nlohmann::json::parse(f.out);
  };
  const auto trained = heads({}), fresh = heads({"--initial"});
  CHECK(trained["step"] == 8);
  CHECK(fresh["step"] == 0);
  CHECK(trained["images"] == 64);
  CHECK(trained["tokens"] == 5);
  CHECK(heads({"--images", "3"})["images"] == 3);
  // More than 64 images are measured in parts; what the 65th adds to the sums are norms of one matrix whose rows sum to one.
  const auto all = heads({"--images", "1000"}), one_more = heads({"--images", "65"});
  CHECK(all["images"] == 150);
  CHECK(all == heads({"--images", "150"}));
  for (std::size_t h = 0; h < 4; ++h) {
    const auto last = [&](const char* field) { return 65 * one_more["heads"][h][field].get<double>() - 64 * trained["heads"][h][field].get<double>(); };
    CHECK((last("norm") > 1 - 1e-4 && last("norm") < last("fro") + 1e-4 && last("fro") < std::sqrt(5.0) + 1e-4));
    CHECK((last("stable_rank") > 1 - 1e-4 && last("stable_rank") < 5 + 1e-4));
  }
  REQUIRE(trained["heads"].size() == 4);
  CHECK(trained["heads"][3]["layer"] == "blocks.1.attn");
  CHECK(trained["heads"][3]["head"] == 1);
  CHECK(trained["heads"][0]["score_rms"] != fresh["heads"][0]["score_rms"]);
  for (const auto& head : trained["heads"]) {
    const double fro = head["fro"], norm = head["norm"], jacobian = head["jacobian"];
    CHECK(fro >= 1 - 1e-6);
    CHECK(fro <= trained["bound_fro"].get<double>());
    CHECK(jacobian <= trained["sharp_jacobian"].get<double>());
    CHECK(norm <= fro * (1 + 1e-6));
    CHECK(head["stable_rank"].get<double>() >= 1 - 1e-6);
    CHECK(head["gaussian_fro"].get<double>() == Approx(*expectation({}, 5, head["score_rms"].get<double>()).fro));
  }
  const Finished text = run_norma({"theory", run, "--data-dir", data.string()});
  CHECK_THAT(text.out, Contains("softmax: mean norms over 64 test images, N = 5") && Contains("blocks.1.attn"));
  for (const auto& head : trained["heads"]) {  // norms as shares of their bounds
    const double fro = head["fro"], jacobian = head["jacobian"];
    CHECK_THAT(text.out, Contains(fmt::format(" {:>10.4g} {:>7.4g} ", fro, fro / std::sqrt(5.0))) && Contains(fmt::format(" {:>10.4g} {:>8.4g} ", jacobian, jacobian / (std::sqrt(5.0) / 2))));
  }
  const std::string config = contents(runs / "a" / "config.json");
  for (const auto& [attention, told] : {std::pair{"sigmoid/N", "of this function ‖A‖_F ≤ 1 and ‖∂A/∂S‖_F ≤ 0.25."}, {"relu", "of this function ‖∂A/∂S‖_F ≤ 5."},
                                        {"x^2/sum(x^2)", "of this function ‖A‖_F ≤ 2.236."}, {"x^3", "this function has no such bounds."}}) {
    auto changed = nlohmann::json::parse(config);
    changed["attention"] = attention;
    std::ofstream(runs / "a" / "config.json") << changed;
    CHECK_THAT(run_norma({"theory", run, "--data-dir", data.string(), "--initial"}).out, Contains(fmt::format("(in the paper 2√N = 4.472); {}\n", told)));
  }
  std::ofstream(runs / "a" / "config.json") << config;
  for (const auto& file : std::filesystem::directory_iterator(runs / "a"))
    if (file.path().extension() == ".safetensors") std::filesystem::remove(file.path());
  const Finished none = run_norma({"theory", run, "--data-dir", data.string()});
  CHECK(none.code == 1);
  CHECK_THAT(none.err, Contains("holds no checkpoint"));
}

TEST_CASE("expectations at other sizes of the scores, with a bias, of rows that sum to one", "[theory]") {
  constexpr Index many = 1 << 20;
  CHECK(*expectation({}, many, 0.5).fro == Approx(std::exp(0.125)));  // e^(v/2), v = rms^2
  CHECK(*expectation({}, many, 0.5).jacobian == Approx(std::exp(0.125)));
  CHECK(*expectation({}, many, 0.5, 8).fro == Approx(std::pow(1 - 0.5 / 8, -2)));
  Scoring even;
  even.kind = Scoring::Kind::polynomial, even.coefficient[0] = even.coefficient[2] = 1, even.normalize = true;
  CHECK(*expectation(even, many, 2).fro == Approx(std::sqrt(57.0) / 5));  // E (1 + s^2)^2 = 1 + 2 4 + 3 16, E (1 + s^2) = 5
  Scoring sigmoid;
  sigmoid.kind = Scoring::Kind::sigmoid, sigmoid.bias = 0.3, sigmoid.bias_minus_log_keys = true;
  const double a = 1 / (1 + 8 * std::exp(-0.3));  // at rms 0
  CHECK(*expectation(sigmoid, 8, 1e-9).fro == Approx(8 * a));
  CHECK(*expectation(sigmoid, 8, 1e-9).jacobian == Approx(8 * a * (1 - a)));
  // Scores so large that a sigmoid is a step at -b: E phi^2 = P(s > -b), and E phi'^2 = the density there times the integral of phi'^2, 1/6.
  const double b = 0.3 - std::log(8.0);
  for (const double rms : {1e3, 1e4, 1e6}) {
    CHECK(*expectation(sigmoid, 8, rms).fro == Approx(8 * std::sqrt(0.5 * std::erfc(-b / rms / std::sqrt(2.0)))).epsilon(1e-3));
    CHECK(*expectation(sigmoid, 8, rms).jacobian == Approx(8 * std::sqrt(std::exp(-b * b / rms / rms / 2) / rms / std::sqrt(2 * std::acos(-1.0)) / 6)).epsilon(1e-5));
  }
}

TEST_CASE("expectations of rows that sum to one hold at every N", "[theory]") {
  CHECK(*expectation({}, 1).fro == Approx(1));  // one weight, 1
  CHECK(*expectation({}, 1).jacobian == Approx(0).margin(1e-5));
  CHECK(*expectation({}, 8, 1e-9).fro == Approx(1));  // all weights 1/8
  CHECK(*expectation({}, 8, 1e-9).jacobian == Approx(std::sqrt(7.0 / 8)));
  CHECK_FALSE(expectation({}, 8, 1000).fro);
  // Two tokens: a = (1 +- t)/2 with t = tanh((s1 - s2)/2), so sum a^2 = (1 + t^2)/2, and the Jacobian's square is ((1 - t^2)/2)^2.
  for (const double rms : {0.3, 1.0, 5.0, 60.0}) {
    double fro2 = 0, jacobian2 = 0, weights = 0;
    for (double z = -9; z < 9; z += 1e-3) {
      const double t2 = std::pow(std::tanh(rms * z / std::sqrt(2.0)), 2), weight = std::exp(-z * z / 2);
      fro2 += weight * (1 + t2), jacobian2 += weight * (1 - t2) * (1 - t2) / 2, weights += weight;
    }
    CAPTURE(rms);
    CHECK(*expectation({}, 2, rms).fro == Approx(std::sqrt(fro2 / weights)));
    CHECK(*expectation({}, 2, rms).jacobian == Approx(std::sqrt(jacobian2 / weights)));
  }
  // E sum a^2 of squares over their sum: 3/(N + 2), moments of a direction; the width cancels.
  for (const Index n : {1, 2, 5, 64})
    for (const Index width : {0, 1, 8})
      CHECK(*expectation(nn::parse_scoring("x^2/sum(x^2)"), n, 0.3, width).fro == Approx(std::sqrt(3.0 * static_cast<double>(n) / static_cast<double>(n + 2))));
  // Measured: the limit of many tokens is far away.
  for (const auto& [text, rms] : {std::pair{"softmax", 1.0}, {"softmax", 4.0}, {"(1 + x^4)/sum(1 + x^4)", 1.0}}) {
    TheoryConfig c = config_of(text, 8);
    c.samples = 400, c.rms = rms;
    const TheoryPoint p = measure_theory(c, 24);
    const Expectation e = expectation(c.scoring, 24, rms, 8);
    CAPTURE(text, rms, p.fro.mean, p.fro.error, *e.fro, p.jacobian.mean, p.jacobian.error);
    const auto root_of_square = [](const Measured& m) { return std::sqrt(m.mean * m.mean + 399 * m.error * m.error); };
    CHECK(std::abs(root_of_square(p.fro) - *e.fro) < 4 * p.fro.error);
    CHECK(e.jacobian.has_value() != c.scoring.normalize);
    if (e.jacobian) CHECK(std::abs(root_of_square(p.jacobian) - *e.jacobian) < 4 * p.jacobian.error);
  }
}

TEST_CASE("the error of a mean of two samples is half of their distance", "[theory]") {
  TheoryConfig c = config_of("x^2", 8);
  c.samples = 1;
  const double first = measure_theory(c, 16).fro.mean;
  c.samples = 2;
  const TheoryPoint both = measure_theory(c, 16);
  CHECK(both.fro.error == Approx(std::abs(both.fro.mean - first)).epsilon(1e-9));  // the mean lies in the middle
}
