// Where formulas that are right on paper lose digits or become NaN: numbers far from zero, bf16, infinities, NaN, subnormal divisors.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <string_view>
#include <tuple>
#include <vector>

#include "autograd/ops.h"
#include "tests/tested_device.h"

using namespace norma;
using Values = std::vector<double>;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity(), no_number = std::numeric_limits<double>::quiet_NaN();
const Device tested = tested_device();

Tensor leaf(const Values& values, const Shape& shape, DType dtype = DType::f32) { return from_values(values, shape, {dtype, tested}).track(); }
Tensor row(const Values& values, DType dtype = DType::f32) { return leaf(values, {static_cast<Index>(values.size())}, dtype); }

/// As numbers alone, but NaN equals NaN.
bool same(const Tensor& got, const Values& wanted) {
  const Values a = got.values();
  return std::equal(a.begin(), a.end(), wanted.begin(), wanted.end(), [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}
bool close(const Tensor& got, const Values& wanted, double tolerance) {
  const Values a = got.values();
  return std::equal(a.begin(), a.end(), wanted.begin(), wanted.end(), [=](double x, double y) { return std::abs(x - y) <= tolerance * std::abs(y); });
}

/// Gradients of y by x, as the kernels, create_graph and the compositions alone give them.
std::vector<Tensors> on_every_road(const std::function<Tensor()>& y, const Tensors& x) {
  std::vector<Tensors> found = {grad(y(), x), grad(y(), x, {.create_graph = true})};
  const NoFusion compositions;
  found.push_back(grad(y(), x));
  return found;
}

}  // namespace

TEST_CASE("log-probabilities of large logits have their gradients on every road", "[special_values]") {
  const Tensor x = leaf({3e7, 3e7}, {1, 2}), shares = leaf({1, 0}, {1, 2}), first = from_values({0}, {1}, {DType::i64, tested});
  for (const Tensors& g : on_every_road([&] { return sum(log_softmax(x) * shares.detach()); }, {x})) CHECK(close(g[0], {0.5, -0.5}, 1e-6));
  for (const Tensors& g : on_every_road([&] { return cross_entropy(x, first); }, {x})) CHECK(close(g[0], {-0.5, 0.5}, 1e-6));
  for (const Tensors& g : on_every_road([&] { return cross_entropy(x, shares); }, {x, shares})) {
    CHECK(close(g[0], {-0.5, 0.5}, 1e-6));
    CHECK(close(g[1], {std::log(2.0), std::log(2.0)}, 1e-6));
  }
  for (const Tensors& g : on_every_road([&] { return sum(logsumexp(x, 1)); }, {x})) CHECK(close(g[0], {0.5, 0.5}, 1e-6));
  const NoFusion compositions;
  CHECK(same(log_softmax(leaf({-inf, 0, -inf, -inf, inf, 0}, {3, 2})), {-inf, 0, no_number, no_number, no_number, -inf}));
}

TEST_CASE("derivatives of bf16 are rounded once", "[special_values]") {
  Values points;
  for (int i = -40; i <= 40; ++i) points.push_back(i / 10.0 + 0.01);
  const Tensor all = row(points, DType::bf16);
  const Tensor positive = cast(abs(all.detach()) + 0.125, DType::bf16).track();
  using Op = Tensor (*)(const Tensor&);
  const auto power = [](const Tensor& x) { return pow(x, 2.5); };
  const auto quotient = [](const Tensor& x) { return 3.0 / x; };
  const auto exponential = [](const Tensor& x) { return pow(0.7, x); };
  const auto variable = [](const Tensor& x) { return pow(x, from_values({1.5}, {}, place_of(x))); };
  for (const auto& [name, op, x] : {std::tuple("gelu", Op(gelu), all), {"gelu_tanh", gelu_tanh, all}, {"silu", silu, all}, {"erf", erf, all},
                                    {"softplus", softplus, all}, {"sin", sin, all}, {"cos", cos, all}, {"log1p", log1p, positive},
                                    {"pow(x, 2.5)", power, positive}, {"pow(x, y)", variable, positive}}) {
    INFO(name);
    const Tensor wide = cast(x.detach(), DType::f64).track();
    const Values right = grad(sum(op(wide)), wide).values();
    for (const bool higher : {false, true}) CHECK(close(grad(sum(op(x)), x, {.create_graph = higher}), right, 0x1p-8));
  }
  for (const auto& [name, op, x] : {std::tuple("tanh", Op(tanh), all), {"sigmoid", sigmoid, all}, {"rsqrt", rsqrt, positive},
                                    {"reciprocal", reciprocal, positive}, {"3 / x", quotient, positive}, {"0.7^x", exponential, all}}) {
    // beside the output as it is kept, which is rounded
    INFO(name);
    const std::string_view op_name = name;
    const Tensor wide = cast(x.detach(), DType::f64), y = cast(op(x.detach()), DType::f64);
    const Tensor right = op_name == "tanh"         ? 1.0 - square(y)
                         : op_name == "sigmoid"    ? y * (1.0 - y)
                         : op_name == "rsqrt"      ? y * y * y * -0.5
                         : op_name == "reciprocal" ? -square(y)
                         : op_name == "3 / x"      ? -(y / wide)
                                                   : y * std::log(from_values({0.7}, {}, {DType::bf16}).item());
    CHECK(close(grad(sum(op(x)), x), right.values(), 0x1p-8));
  }
}

TEST_CASE("variances of numbers far from zero", "[special_values]") {
  const double eps = 0x1p-23;
  const Tensor pair = row({1, 1 + eps});
  CHECK(var(pair).item() == eps * eps / 2);
  CHECK(close(grad(var(pair), pair), {-eps, eps}, 1e-6));
  CHECK(close(grad(stddev(pair), pair), {-std::sqrt(0.5), std::sqrt(0.5)}, 1e-6));
  Values rows;
  for (int i = 0; i < 70; ++i) rows.push_back(1e6 + std::cos(i));
  const Tensor x = leaf(rows, {7, 10}), wide = cast(x.detach(), DType::f64).track();
  CHECK(close(var(x, {1}), var(wide, {1}).values(), 1e-5));
  CHECK(close(stddev(x, {0}), stddev(wide, {0}).values(), 1e-5));
  CHECK(max(abs(cast(grad(sum(stddev(x, {1})), x), DType::f64) - grad(sum(stddev(wide, {1})), wide))).item() < 1e-5);
}

TEST_CASE("cross-entropy where a logit is -inf", "[special_values]") {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    const Tensor x = leaf({-inf, 0, 0}, {1, 3}, dtype);
    const Tensor soft = from_values({0, 1, 0}, {1, 3}, {dtype, tested}), hidden = from_values({1, 0, 0}, {1, 3}, {dtype, tested});
    const Tensor second = from_values({1}, {1}, {DType::i64, tested}), first = from_values({0}, {1}, {DType::i64, tested});
    const auto check = [&] {
      for (const double smoothing : {0.1, 1.0})
        for (const Tensor& targets : {soft, hidden, second, first}) CHECK(cross_entropy(x, targets, smoothing).item() == inf);
      CHECK(cross_entropy(x, soft).item() == Approx(std::log(2.0)).epsilon(1e-6));
      CHECK(cross_entropy(x, second).item() == Approx(std::log(2.0)).epsilon(1e-6));
      CHECK(cross_entropy(x, hidden).item() == inf);
      CHECK(std::isnan(cross_entropy(leaf({no_number, 0, 0}, {1, 3}, dtype), soft).item()));
    };
    check();
    for (const Tensors& g : on_every_road([&] { return cross_entropy(x, soft); }, {x})) CHECK(close(g[0], {0, -0.5, 0.5}, 1e-6));
    for (const Tensors& g : on_every_road([&] { return cross_entropy(x, soft, 0.25); }, {x}))
      CHECK(close(cast(g[0], DType::f64), {-0.25 / 3, 0.5 - 0.75 - 0.25 / 3, 0.5 - 0.25 / 3}, dtype == DType::bf16 ? 0x1p-8 : 1e-6));
    const NoFusion compositions;
    check();
  }
}

TEST_CASE("powers and quotients have gradients where parts of their formula overflow", "[special_values]") {
  const Tensor a = row({1e-39, 0, no_number, 0, inf, 2}), b = row({0, -1, 0, -2, 0, 0});
  const Tensors g = grad(sum(pow(a, b)), Tensors{a, b});
  CHECK(same(g[0], {0, -inf, 0, -inf, 0, 0}));
  CHECK(close(slice(g[1], 0, 0, 1), {std::log(1e-39)}, 1e-5));
  CHECK(same(slice(g[1], 0, 1, 5), {-inf, no_number, -inf, inf}));

  const Tensor base = leaf({2}, {}, DType::f64), exponent = leaf({0}, {}, DType::f64);  // d/db of b a^(b - 1)
  CHECK(grad(grad(pow(base, exponent), base, {.create_graph = true}), exponent).item() == 0.5);

  const Tensor x = row({0, 0, 3}), y = row({1e-39, -1e-39, 2});
  CHECK(same(grad(sum(x / y), y), {0, 0, -0.75}));
  const Tensor slope = grad(sum(x / y), y, {.create_graph = true});
  CHECK(grad(sum(slope), x).values()[2] == -0.25);
}

TEST_CASE("a row of attention that sees -inf alone is NaN, with a mask and without", "[special_values]") {
  const Tensor scores = leaf({-inf, -inf, 5, 1, 2, 3}, {1, 1, 2, 3});
  AttentionOptions options;
  options.key_mask = from_values({1, 1, 0}, {1, 3}, {DType::boolean, tested});
  const Values weights = attention_weights(scores, options).values();
  for (const std::size_t i : {0u, 1u}) CHECK(std::isnan(weights[i]));
  CHECK(weights[3] + weights[4] == Approx(1));
  CHECK(weights[5] == 0);
  options.key_mask = zeros({1, 3}, {DType::boolean, tested});
  CHECK(same(attention_weights(scores, options), Values(6, 0)));  // sees nothing

  const Tensor q = row({1, 1, 0, 0}), keys = row({-inf, 0, -inf, 0, 5, 0}), v = row({1, 2, 3});
  options.key_mask = from_values({1, 1, 0}, {1, 3}, {DType::boolean, tested});
  const auto both = [&] { return attention(reshape(q, {1, 1, 2, 2}), reshape(keys, {1, 1, 3, 2}), reshape(v, {1, 1, 3, 1}), options).values(); };
  const Values fused = both();
  const NoFusion composition;
  CHECK(std::isnan(both()[0]));
  CHECK(std::isnan(fused[0]));
}

TEST_CASE("beside NaN the gradients of maximum, minimum and relu pass", "[special_values]") {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    const Tensor x = row({no_number, 1, 2, 3, 4}, dtype), y = row({0, no_number, 2, 1, 5}, dtype);
    const Tensors top = grad(sum(maximum(x, y)), Tensors{x, y}), bottom = grad(sum(minimum(x, y)), Tensors{x, y});
    CHECK(same(top[0], {1, 1, 0.5, 1, 0}));
    CHECK(same(top[1], {1, 1, 0.5, 0, 1}));
    CHECK(same(bottom[0], {1, 1, 0.5, 0, 1}));
    CHECK(same(bottom[1], {1, 1, 0.5, 1, 0}));
    const Tensor z = row({no_number, -1, 0, 2, -inf, inf}, dtype);
    CHECK(same(grad(sum(relu(z)), z), {1, 0, 0, 1, 0, 1}));
    CHECK(same(grad(sum(clamp(z, -3, 1)), z), {1, 1, 1, 0, 0, 0}));
  }
}
