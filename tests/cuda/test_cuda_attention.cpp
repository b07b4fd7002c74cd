// Fused attention of the CUDA backend: the tensor-core kernel against the same numbers in f64, and the statistics of every kernel
// against those of the composition.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>

#include "autograd/node.h"
#include "autograd/ops.h"
#include "backends/cuda/attention_products.h"
#include "checks/draws.h"
#include "checks/scorings.h"

using namespace norma;

namespace {

const Device device{Device::Kind::cuda, 0};

Tensor draw(const Shape& shape, std::uint64_t stream, DType dtype) {
  return checks::drawn(shape, {3, stream}, {dtype, device});
}

struct Problem {
  Index batch, heads, rows, keys, width, value_width;
  bool causal, masked;
  double dropout;
};

AttentionOptions options_for(const Problem& s, const Scoring& scoring) {
  AttentionOptions o;
  o.scoring = scoring, o.causal = s.causal, o.dropout = s.dropout, o.stream = {9, 2};
  if (s.masked) o.key_mask = checks::drawn_keys(s.batch, s.keys, device);
  o.stats = full({s.batch, s.heads, attention_stats}, 123, {DType::f64, device});
  return o;
}

struct Run {
  std::vector<std::vector<double>> results;  // out, dq, dk, dv
  std::vector<double> stats;
};

/// The inputs rounded to `inputs`, everything computed in `dtype`.
Run run(const Problem& s, const Scoring& scoring, DType inputs, DType dtype, bool with_stats = true,
        AttentionForm form = AttentionForm::quadratic) {
  AttentionOptions o = options_for(s, scoring);
  o.form = form;
  if (!with_stats) o.stats = {};
  const auto input = [&](const Shape& shape, std::uint64_t stream) { return cast(draw(shape, stream, inputs), dtype); };
  Tensor q = input({s.batch, s.heads, s.rows, s.width}, 1).detach().track();
  Tensor k = input({s.batch, s.heads, s.keys, s.width}, 2).detach().track();
  Tensor v = input({s.batch, s.heads, s.keys, s.value_width}, 3).detach().track();
  const Tensor out = attention(q, k, v, o);
  Run r;
  r.results.push_back(out.values());
  for (const Tensor& g : grad(out, Tensors{q, k, v}, input(out.shape(), 4))) r.results.push_back(g.values());
  if (with_stats) r.stats = o.stats.values();
  return r;
}

double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, length = 1e-300;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    length += b[i] * b[i];
  }
  return std::sqrt(difference / length);
}

void compare_stats(const std::vector<double>& got, const std::vector<double>& wanted, double tolerance, const std::string& title) {
  for (std::size_t i = 0; i < got.size(); ++i) {
    const int stat = static_cast<int>(i) % attention_stats;
    INFO(title << ", statistic " << stat);
    if (std::isnan(wanted[i])) {
      CHECK(std::isnan(got[i]));
    } else if (stat == static_cast<int>(AttentionStat::small) || stat == static_cast<int>(AttentionStat::negative)) {
      CHECK(std::abs(got[i] - wanted[i]) <= 2 + 0.01 * std::abs(wanted[i]));  // weights on the border
    } else {
      CHECK(got[i] == Approx(wanted[i]).epsilon(tolerance).margin(tolerance));
    }
  }
}

/// All attention functions; under AddressSanitizer, with which fibers are slow, one for each kind of path.
std::vector<std::pair<std::string, Scoring>> scorings() {
  auto all = checks::scorings();
#if defined(__SANITIZE_ADDRESS__)
  std::erase_if(all, [](const auto& s) {
    return s.first != "softmax" && s.first != "x^3/sqrt(n)" && s.first != "(0.1 + x^2 + 0.5 x^4)/sum" && s.first != "sigmoid";
  });
#endif
  return all;
}

const std::vector<Problem>& all_sizes() {
#if defined(__SANITIZE_ADDRESS__)  // likewise: one for each kernel
  static const std::vector<Problem> sizes = {{2, 1, 65, 130, 16, 24, false, true, 0.2}, {1, 1, 130, 197, 64, 32, true, true, 0.1},
                                           {1, 1, 20, 140, 128, 128, false, false, 0}};
#else
  static const std::vector<Problem> sizes = {{1, 2, 70, 70, 32, 32, false, false, 0},  {2, 1, 65, 130, 16, 24, false, true, 0.2},
                                           {1, 1, 100, 100, 64, 64, true, false, 0}, {1, 1, 33, 90, 128, 72, true, true, 0.1},
                                           {1, 1, 90, 40, 8, 8, true, false, 0},
                                           {1, 1, 150, 150, 32, 32, true, false, 0.1},  // tiles below, on and above the diagonal
                                           // more groups of keys than warps; then beyond shared memory by rows, keys and width
                                           {1, 1, 130, 197, 64, 32, true, true, 0.1}, {1, 1, 270, 50, 128, 72, false, true, 0.1},
                                           {1, 1, 70, 270, 32, 40, true, false, 0.2}, {1, 1, 20, 140, 128, 128, false, false, 0}};
#endif
  return sizes;
}

/// The products of bf16 attention that NORMA_TEST_ATTENTION names: mma, wgmma, or both where it names nothing. A kernel that fails on a device takes
/// the process with it, and with that the verdict on the others.
std::vector<std::string> products_named(const char* word) {
  const std::string name = word ? word : "";
  if (name.empty()) return {"mma", "wgmma"};
  if (name != "mma" && name != "wgmma") fail("NORMA_TEST_ATTENTION: unknown products \"{}\"; there are mma, wgmma", name);
  return {name};
}

/// Those of them that the device has; a device that lacks all of them is an error.
std::vector<std::string> products_here() {
  const Problem small{1, 1, 8, 8, 8, 8, false, false, 0};
  std::vector<std::string> all = products_named(std::getenv("NORMA_TEST_ATTENTION"));
  if (all.back() != "wgmma") return all;
  try {
    cuda::set_attention_products("wgmma");
    run(small, {}, DType::bf16, DType::bf16);
  } catch (const Error& e) {
    cuda::set_attention_products("mma");
    CHECK_THAT(e.what(), Catch::Contains("compute capability"));
    all.pop_back();
    if (all.empty()) throw;
  }
  return all;
}

}  // namespace

TEST_CASE("the products that are tested are those that are named", "[cuda_attention]") {
  CHECK((products_named(nullptr) == std::vector<std::string>{"mma", "wgmma"}));
  CHECK((products_named("") == products_named(nullptr)));
  for (const char* word : {"mma", "wgmma"}) CHECK((products_named(word) == std::vector<std::string>{word}));
  CHECK_THROWS_WITH(products_named("tma"), "NORMA_TEST_ATTENTION: unknown products \"tma\"; there are mma, wgmma");
}

TEST_CASE("bf16 attention equals the f64 result of the same numbers", "[cuda_attention][attention_products]") {
  const std::vector<std::string> all_products = products_here();
  for (const auto& [name, scoring] : scorings()) {
    if (scoring.kind == Scoring::Kind::relu) continue;  // a score that rounding moves over the kink has another slope
    for (const Problem& s : all_sizes()) {
      const Run wanted = run(s, scoring, DType::bf16, DType::f64);
      for (const std::string& products : all_products) {
        cuda::set_attention_products(products);
        const Run got = run(s, scoring, DType::bf16, DType::bf16),
                  silent = run(s, scoring, DType::bf16, DType::bf16, false);
        INFO(name << ", " << products << ", " << s.rows << " x " << s.keys << " of " << s.width);
        for (std::size_t i = 0; i < got.results.size(); ++i) {
          INFO("result " << i);
          CHECK(distance(got.results[i], wanted.results[i]) < 8e-3);
        }
        if (!scoring.normalize && scoring.kind != Scoring::Kind::softmax) {
          CHECK((silent.results == got.results));  // watching changes no bit
        } else {
          CHECK(distance(silent.results[0], got.results[0]) < 8e-3);
        }
      }
    }
  }
  cuda::set_attention_products("mma");
}

#if !defined(__SANITIZE_ADDRESS__)  // for which the case above has such a list
// Few launches, so that it fits into minutes under compute-sanitizer: every kernel of every width, with and without statistics.
TEST_CASE("each kernel of attention once agrees with the scalar ones", "[cuda_attention][sanitized][attention_products]") {
  const std::vector<std::string> all_products = products_here();
  const auto check = [](const Run& got, const Run& wanted, double tolerance) {
    for (std::size_t i = 0; i < got.results.size(); ++i) CHECK(distance(got.results[i], wanted.results[i]) < tolerance);
  };
  for (const auto& [name, scoring] : checks::scorings()) {
    if (name != "softmax" && name != "x^3/sqrt(n)" && name != "(0.1 + x^2 + 0.5 x^4)/sum") continue;
    for (const Problem& s : {Problem{2, 1, 65, 130, 16, 24, false, true, 0.2}, {1, 1, 130, 197, 64, 32, true, true, 0.1}, {1, 1, 40, 100, 128, 128, false, false, 0},
                             {1, 1, 33, 270, 16, 16, false, false, 0}, {1, 1, 70, 270, 32, 40, true, false, 0.2}, {1, 1, 20, 140, 128, 128, false, false, 0}}) {
      INFO(name << ", " << s.rows << " x " << s.keys << " of " << s.width);
      const Run wanted = run(s, scoring, DType::bf16, DType::f32);
      check(run(s, scoring, DType::bf16, DType::f32, false), wanted, 1e-5);
      for (const std::string& products : all_products)
        for (const bool with_stats : {false, true}) {
          INFO(products << (with_stats ? ", statistics" : ""));
          cuda::set_attention_products(products);
          check(run(s, scoring, DType::bf16, DType::bf16, with_stats), wanted, 8e-3);
        }
    }
  }
  cuda::set_attention_products("mma");
  Scoring line;
  line.kind = Scoring::Kind::polynomial, line.coefficient[0] = 0.4, line.coefficient[1] = 0.7;
  for (const Problem& s : {Problem{1, 2, 70, 70, 32, 32, false, false, 0}, {1, 1, 140, 140, 65, 128, true, false, 0}})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      INFO("linear form, " << s.rows << " rows of " << s.width << ", " << name(dtype));
      check(run(s, line, DType::bf16, dtype, false, AttentionForm::linear), run(s, line, DType::bf16, DType::f32, false), dtype == DType::f32 ? 2e-6 : 8e-3);
    }
}
#endif

TEST_CASE("statistics of the kernels equal those of the composition", "[cuda_attention]") {
  for (const auto& [name, scoring] : scorings()) {
    for (const Problem& s : all_sizes()) {
      const Run got = run(s, scoring, DType::bf16, DType::f32);
      const NoFusion plain;
      const Run wanted = run(s, scoring, DType::bf16, DType::f64);
      compare_stats(got.stats, wanted.stats, 2e-5, name + " f32");
    }
  }
}

// Whole tiles that all rows see, the last keys of a row, tiles on the diagonal and masked ones.
TEST_CASE("a key that is not a number reaches the rows that see it, and no other row", "[cuda_attention][attention_products]") {
  const Index rows = 150, width = 16, bad_key = 20;
  const std::vector<std::string> all_products = products_here();
  for (const auto& [name, scoring] : scorings())
    for (const DType dtype : {DType::bf16, DType::f32})
      for (const std::string& products : all_products)
        for (const int form : {0, 1, 2}) {  // all see all, causal, masked
          AttentionOptions o = options_for({1, 1, rows, rows, width, width, form == 1, form == 2, 0}, scoring);
          o.stats = {};
          std::vector<double> mask(static_cast<std::size_t>(rows), 1);
          if (form == 2) mask = o.key_mask.values();
          std::vector<double> keys = draw({1, 1, rows, width}, 2, dtype).values();
          keys[static_cast<std::size_t>(bad_key * width + 3)] = std::nan("");
          cuda::set_attention_products(products);
          const std::vector<double> out = attention(draw({1, 1, rows, width}, 1, dtype), from_values(keys, {1, 1, rows, width}, {dtype, device}),
                                                    draw({1, 1, rows, width}, 3, dtype), o).values();
          Index wrong = 0;
          for (Index i = 0; i < rows; ++i) {
            const bool sees = mask[static_cast<std::size_t>(bad_key)] != 0 && (form != 1 || i >= bad_key);
            for (Index c = 0; c < width; ++c) wrong += std::isnan(out[static_cast<std::size_t>(i * width + c)]) != sees;
          }
          INFO(name << ", " << products << ", form " << form);
          CHECK(wrong == 0);
        }
  cuda::set_attention_products("mma");
}

TEST_CASE("a negative scale turns the queries round", "[cuda_attention][attention_products]") {
  const Shape shape{1, 1, 150, 16};
  for (const std::string& products : products_here())
    for (const bool causal : {false, true}) {
      cuda::set_attention_products(products);
      AttentionOptions o;
      o.causal = causal;
      const Tensor q = draw(shape, 1, DType::bf16), k = draw(shape, 2, DType::bf16), v = draw(shape, 3, DType::bf16);
      o.scale = 0.7;
      const std::vector<double> wanted = attention(q, k, v, o).values();
      o.scale = -0.7;
      CHECK((attention(-q, k, v, o).values() == wanted));
    }
  cuda::set_attention_products("mma");
}

namespace {

/// The linear form of degree 1 against the f64 result of the matrix, and its statistics against the quadratic form's.
void check_linear_form(const std::vector<Problem>& sizes) {
  for (const std::vector<double>& coefficients : {std::vector<double>{0, -0.7}, {0.4, 0.7}})
    for (const Scoring::Scale scale : {Scoring::Scale::inverse_sqrt_keys, Scoring::Scale::inverse_valid_keys}) {
      Scoring scoring;
      scoring.kind = Scoring::Kind::polynomial, scoring.scale = scale;
      scoring.coefficient[0] = coefficients[0], scoring.coefficient[1] = coefficients[1];
      for (const Problem& s : sizes) {
        if (s.causal && (scale == Scoring::Scale::inverse_valid_keys) != (coefficients[0] != 0)) continue;  // each, but not each with each
        const Run wanted = run(s, scoring, DType::bf16, DType::f64);
        for (const DType dtype : {DType::f32, DType::bf16}) {
          const Run linear = run(s, scoring, DType::bf16, dtype, true, AttentionForm::linear), quadratic = run(s, scoring, DType::bf16, dtype);
          INFO(coefficients[0] << " + " << coefficients[1] << " x, scale " << static_cast<int>(scale) << ", " << s.rows << " x " << s.keys << " of "
                               << s.width << " and " << s.value_width << (s.causal ? ", causal, " : ", ") << name(dtype));
          for (std::size_t i = 0; i < wanted.results.size(); ++i) CHECK(distance(linear.results[i], wanted.results[i]) < (dtype == DType::f32 ? 2e-6 : 8e-3));
          for (std::size_t i = 0; i < linear.stats.size(); ++i)
            CHECK((linear.stats[i] == quadratic.stats[i] || (std::isnan(linear.stats[i]) && std::isnan(quadratic.stats[i]))));
          if (s.keys > 1) CHECK(linear.results != quadratic.results);  // another order of sums: it was taken
          const Run silent = run(s, scoring, DType::bf16, dtype, false, AttentionForm::linear);
          CHECK((silent.results == linear.results));  // watching changes no bit; in brackets, since thousands of numbers take Catch minutes to print
        }
      }
    }
}

}  // namespace

// Widths on both sides of the kernels' two sizes; keys and rows of several pieces. Causal: fewer rows than a chunk, whole chunks and rests, of
// 64 rows and (wide) of 128, more chunks than are joined at once, keys before the first row, rows before the first key, both by more than a chunk.
TEST_CASE("the linear form of degree 1 equals the f64 result of the matrix", "[cuda_attention]") {
  check_linear_form({{1, 2, 70, 70, 32, 32, false, false, 0}, {1, 2, 33, 40, 65, 128, false, false, 0}, {2, 2, 1, 1, 1, 3, false, false, 0},
                     {2, 2, 1, 1, 1, 3, true, false, 0}, {2, 1, 20, 20, 8, 8, true, true, 0}, {1, 1, 128, 128, 64, 64, true, false, 0},
                     {2, 2, 100, 100, 3, 5, true, true, 0}, {1, 1, 70, 210, 16, 24, true, true, 0}, {1, 1, 210, 70, 24, 16, true, true, 0},
                     {1, 1, 1, 200, 65, 128, true, false, 0}});
}
TEST_CASE("the linear form of degree 1 in several pieces equals the f64 result of the matrix", "[cuda_attention][slow]") {
  check_linear_form({{2, 1, 9, 1100, 16, 24, false, true, 0}, {1, 1, 1030, 20, 128, 72, false, true, 0}, {1, 1, 580, 580, 5, 7, true, true, 0},
                     {1, 1, 260, 260, 128, 72, true, true, 0}, {1, 1, 290, 140, 40, 66, true, false, 0}});
}

TEST_CASE("causal rows in linear form see nothing of later keys, and nothing at all before the first key", "[cuda_attention]") {
  // Packed as models lay them out: q, k and v are slices of one tensor [B, N, 3, H, d].
  const Index batch = 2, heads = 2, rows = 150, width = 16;
  AttentionOptions o;
  o.scoring.kind = Scoring::Kind::polynomial, o.scoring.coefficient[0] = 0.3, o.scoring.coefficient[1] = 1, o.causal = true;
  const Shape shape{batch, rows, 3, heads, width};
  const std::vector<double> numbers = draw(shape, 1, DType::f32).values();
  const auto result = [&](AttentionForm form, Index from, double factor) {  // with the keys and values from `from` on changed
    std::vector<double> changed = numbers;
    for (Index b = 0; b < batch; ++b)
      for (Index i = from; i < rows; ++i)
        for (Index c = heads * width; c < 3 * heads * width; ++c) changed[static_cast<std::size_t>((b * rows + i) * 3 * heads * width + c)] *= factor;
    const Tensor all = permute(from_values(changed, shape, {DType::f32, device}), {2, 0, 3, 1, 4});
    const auto part = [&](Index which) { return select(all, 0, which); };
    o.form = form;
    return attention(part(0), part(1), part(2), o).values();
  };
  const std::vector<double> wanted = result(AttentionForm::quadratic, rows, 1), got = result(AttentionForm::linear, rows, 1);
  CHECK(distance(got, wanted) < 2e-6);
  for (const Index from : {1, 63, 64, 100, 128}) {  // borders of chunks among them
    const std::vector<double> other = result(AttentionForm::linear, from, -3);
    Index first_changed = rows;
    for (std::size_t i = 0; i < got.size(); ++i)
      if (other[i] != got[i]) first_changed = std::min(first_changed, static_cast<Index>(i) / width % rows);
    CHECK(first_changed == from);
  }
  const Run blind = run({1, 1, 200, 60, 16, 16, true, false, 0}, o.scoring, DType::f32, DType::f32, false, AttentionForm::linear);
  for (std::size_t i = 0; i < 140 * 16; ++i) {  // rows 0 to 139 stand before the first key
    REQUIRE(blind.results[0][i] == 0);
    REQUIRE(blind.results[1][i] == 0);
  }
  CHECK(blind.results[0][140 * 16] != 0);
}
