// The elementary functions of the vector kernels, through their tables, against float64: bounds in ulp over dense samples of the
// whole range, and the values at the edges, for every instruction set that this processor has.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "backends/cpu/vector_kernels.h"
#include "core/error.h"
#include "tests/cpu_settings.h"
#include "tests/worst.h"

using namespace norma;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan_value = std::numeric_limits<float>::quiet_NaN();

std::vector<float> values_of(UnaryOp op, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  NORMA_KERNELS(elementwise_kernels).f32.unary(op, static_cast<std::int64_t>(x.size()), x.data(), y.data(), 0);
  return y;
}
std::vector<float> gelu_grad(const std::vector<float>& x) {
  std::vector<float> y(x.size());
  const std::vector<float> one(x.size(), 1.0f);
  NORMA_KERNELS(elementwise_kernels)
      .f32.gelu_backward(static_cast<std::int64_t>(x.size()), x.data(), one.data(), y.data());
  return y;
}

/// Up to 400,000 floats of [low, high]: evenly through their bit patterns (every binade, denormals too; a prime step, so that all
/// mantissas occur), and evenly through the interval.
std::vector<float> samples(float low, float high) {
  std::vector<float> x;
  const auto through = [&](float from, float to, float sign) {
    const auto a = std::bit_cast<std::uint32_t>(from), b = std::bit_cast<std::uint32_t>(to);
    const std::uint32_t step = b - a < 150001u ? 1u : b - a < 1000000u ? 7u : 7919u;
    for (std::uint32_t bits = a; bits < b; bits += step) x.push_back(sign * std::bit_cast<float>(bits));
  };
  if (low < 0) through(std::max(0.0f, -high), -low, -1);
  if (high > 0) through(std::max(0.0f, low), high, 1);
  for (int i = 0; i <= 20000; ++i) x.push_back(static_cast<float>(low + (static_cast<double>(high) - low) * i / 20000));
  return x;
}

double ulp(double exact) {
  const float size = std::fabs(static_cast<float>(exact));
  if (size < std::numeric_limits<float>::min()) return 0x1p-149;
  int exponent;
  std::frexp(size, &exponent);
  return std::ldexp(1.0, exponent - 24);
}

using Exact = std::function<double(double)>;

double worst_ulp(const std::vector<float>& x, const std::vector<float>& y, const Exact& exact) {
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double e = exact(x[i]);
    if (std::isinf(static_cast<float>(e)) && y[i] == static_cast<float>(e)) continue;
    const double off = std::fabs(static_cast<double>(y[i]) - e) / ulp(e);
    worst = test::worse(worst, off);
  }
  return worst;
}

const double root_half = std::sqrt(0.5);
double exact_sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double exact_gelu(double x) { return 0.5 * x * std::erfc(-x * root_half); }
double exact_gelu_grad(double x) {
  return 0.5 * std::erfc(-x * root_half) + x * std::exp(-0.5 * x * x) * 0.398942280401432677939946;
}

}  // namespace

TEST_CASE("elementary functions of floats stay within their bounds", "[vmath]") {
  struct Case {
    const char* text;
    UnaryOp op;
    float low, high;
    Exact exact;
    double bound;
  };
  const Case cases[] = {
      {"exp", UnaryOp::exp, -105, 89, [](double x) { return std::exp(x); }, 1},
      {"log", UnaryOp::log, 1e-45f, 3e38f, [](double x) { return std::log(x); }, 1},
      {"log near 1", UnaryOp::log, 0.5, 2, [](double x) { return std::log(x); }, 1},
      {"log1p", UnaryOp::log1p, -0.999f, 3e38f, [](double x) { return std::log1p(x); }, 2.5},
      {"tanh", UnaryOp::tanh, -12, 12, [](double x) { return std::tanh(x); }, 1},
      {"erf", UnaryOp::erf, -7, 7, [](double x) { return std::erf(x); }, 1},
      {"sin", UnaryOp::sin, -100, 100, [](double x) { return std::sin(x); }, 1},
      {"sin of many turns", UnaryOp::sin, -1e7f, 1e7f, [](double x) { return std::sin(x); }, 1},
      {"cos", UnaryOp::cos, -100, 100, [](double x) { return std::cos(x); }, 1},
      {"cos of many turns", UnaryOp::cos, -1e7f, 1e7f, [](double x) { return std::cos(x); }, 1},
      {"sigmoid", UnaryOp::sigmoid, -104, 104, exact_sigmoid, 3},
      {"gelu", UnaryOp::gelu, -8, 8, exact_gelu, 4},
      {"gelu in its tails", UnaryOp::gelu, -14.5, 20, exact_gelu, 4},
      {"softplus", UnaryOp::softplus, -80, 80, [](double x) { return std::log1p(std::exp(x)); }, 4},
  };
  test::for_each_isa([&](const std::string&) {
    for (const Case& c : cases) {
      CAPTURE(c.text);
      const std::vector<float> x = samples(c.low, c.high);
      CHECK(worst_ulp(x, values_of(c.op, x), c.exact) <= c.bound);
    }
  });
}

TEST_CASE("gelu's derivative is exact to 2.5e-7, and in its tail to 1e-5 of itself", "[vmath]") {
  test::for_each_isa([](const std::string&) {
    const std::vector<float> x = samples(-14.5, 20), y = gelu_grad(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double exact = exact_gelu_grad(x[i]);
      const double off = std::fabs(y[i] - exact);
      if (!(off <= 2.5e-7)) FAIL(x[i] << " gives " << y[i] << " instead of " << exact);
      if (x[i] < -2 && x[i] > -12.5 && !(off <= 1e-5 * std::fabs(exact))) FAIL(x[i] << " gives " << y[i] << ", too far from " << exact);
    }
  });
}

TEST_CASE("gelu and its derivative: a number's bits do not depend on its neighbours", "[vmath]") {
  test::for_each_isa([](const std::string&) {
    const std::vector<float> x = samples(-9, 9);
    std::vector<float> among(2 * x.size(), 7.0f);  // every other one is far from 0, where another form is taken
    for (std::size_t i = 0; i < x.size(); ++i) among[2 * i] = x[i];
    const std::vector<float> y = values_of(UnaryOp::gelu, x), y_among = values_of(UnaryOp::gelu, among);
    const std::vector<float> slope = gelu_grad(x), slope_among = gelu_grad(among);
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::memcmp(&y[i], &y_among[2 * i], sizeof(float)) != 0) FAIL("gelu(" << x[i] << ")");
      if (std::memcmp(&slope[i], &slope_among[2 * i], sizeof(float)) != 0) FAIL("gelu'(" << x[i] << ")");
    }
  });
}

TEST_CASE("exp_fast, as a softmax of two numbers", "[vmath]") {
  test::for_each_isa([](const std::string&) {
    const std::vector<float> x = samples(-86.8f, 0);
    for (const float v : x) {
      const float row[2] = {0, v};
      float y[2];
      NORMA_KERNELS(norm_kernels).f32.softmax(1, 2, row, 2, y, 2, false);
      const double exact = exact_sigmoid(v);
      if (!(std::fabs(y[1] - exact) <= 3 * ulp(exact))) FAIL(v << " gives " << y[1]);
    }
    const float hidden[3] = {-infinity, 1, -300};
    float y[3];
    NORMA_KERNELS(norm_kernels).f32.softmax(1, 3, hidden, 3, y, 3, false);
    CHECK(y[0] == 0);
    CHECK(y[1] == 1);
    CHECK(y[2] == 0);
  });
}

TEST_CASE("elementary functions at the edges", "[vmath]") {
  struct Edge {
    UnaryOp op;
    float x, y;
  };
  const Edge edges[] = {
      {UnaryOp::exp, infinity, infinity},     {UnaryOp::exp, -infinity, 0},
      {UnaryOp::exp, 0, 1},                   {UnaryOp::exp, 200, infinity},
      {UnaryOp::exp, -200, 0},                {UnaryOp::log, 0, -infinity},
      {UnaryOp::log, 1, 0},                   {UnaryOp::log, infinity, infinity},
      {UnaryOp::log1p, -1, -infinity},        {UnaryOp::log1p, infinity, infinity},
      {UnaryOp::log1p, 1e-20f, 1e-20f},       {UnaryOp::log1p, -2, nan_value},
      {UnaryOp::log, -1, nan_value},          {UnaryOp::tanh, infinity, 1},
      {UnaryOp::tanh, -infinity, -1},         {UnaryOp::tanh, 0, 0},
      {UnaryOp::erf, infinity, 1},            {UnaryOp::erf, -infinity, -1},
      {UnaryOp::sigmoid, infinity, 1},        {UnaryOp::sigmoid, -infinity, 0},
      {UnaryOp::sigmoid, 0, 0.5f},            {UnaryOp::gelu, infinity, infinity},
      {UnaryOp::gelu, -infinity, 0},          {UnaryOp::gelu, 0, 0},
      {UnaryOp::gelu_tanh, -infinity, 0},     {UnaryOp::gelu_tanh, infinity, infinity},
      {UnaryOp::silu, -infinity, 0},          {UnaryOp::sin, infinity, nan_value},
      {UnaryOp::cos, -infinity, nan_value},   {UnaryOp::sin, 3e9f, std::sin(3e9f)},
      {UnaryOp::softplus, infinity, infinity}, {UnaryOp::softplus, -infinity, 0},
      {UnaryOp::relu, -infinity, 0},          {UnaryOp::sqrt, -1, nan_value},
  };
  test::for_each_isa([&](const std::string&) {
    for (const Edge& edge : edges) {
      // The last, partly filled register goes the same way as a whole one.
      for (const std::size_t length : {1u, 40u}) {
        const std::vector<float> y = values_of(edge.op, std::vector<float>(length, edge.x));
        CAPTURE(name(edge.op), edge.x, length, y[0]);
        if (std::isnan(edge.y)) {
          CHECK(std::isnan(y[length - 1]));
        } else {
          CHECK(y[length - 1] == edge.y);
        }
      }
    }
#define NORMA_OP(word, ...) UnaryOp::word,
    for (const UnaryOp op : {NORMA_UNARY_OPS(NORMA_OP)}) {
#undef NORMA_OP
      if (op == UnaryOp::power || op == UnaryOp::sign || op == UnaryOp::step) continue;
      // Of any bits: other machines make other NaNs.
      for (const std::uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7fc00001u, 0x7fffffffu, 0xffffffffu, 0x7f800001u, 0x7fc001ffu}) {
        CAPTURE(name(op), bits);
        CHECK(std::isnan(values_of(op, {std::bit_cast<float>(bits)})[0]));
        const float row[3] = {0, std::bit_cast<float>(bits), 1};
        float y[3];
        NORMA_KERNELS(norm_kernels).f32.softmax(1, 3, row, 3, y, 3, false);
        CHECK((std::isnan(y[0]) && std::isnan(y[1]) && std::isnan(y[2])));
      }
    }
    const std::vector<float> slope = gelu_grad({infinity, -infinity, 0, nan_value});
    CHECK(slope[0] == 1);
    CHECK(slope[1] == 0);
    CHECK(std::abs(slope[2] - 0.5f) <= 2.5e-7f);  // the bound vmath.h states
    CHECK(std::isnan(slope[3]));
  });
}

TEST_CASE("doubles go through libm", "[vmath]") {
  test::for_each_isa([](const std::string&) {
    const std::vector<double> x = {-30, -8, -1.5, -1e-9, 0.25, 3, 30};
    std::vector<double> y(x.size());
    const auto run = [&](UnaryOp op) {
      NORMA_KERNELS(elementwise_kernels).f64.unary(op, static_cast<std::int64_t>(x.size()), x.data(), y.data(), 0);
    };
    run(UnaryOp::gelu);
    for (std::size_t i = 0; i < x.size(); ++i) {
      CAPTURE(x[i]);
      CHECK(y[i] == Approx(exact_gelu(x[i])).epsilon(1e-13).margin(0));
    }
    run(UnaryOp::tanh);
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(y[i] == std::tanh(x[i]));
    run(UnaryOp::sigmoid);
    for (std::size_t i = 0; i < x.size(); ++i)
      CHECK(y[i] == Approx(exact_sigmoid(x[i])).epsilon(1e-15).margin(0));
  });
}
