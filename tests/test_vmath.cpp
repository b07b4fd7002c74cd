// The elementary functions of the vector kernels, through their tables, floats against float64 and doubles against long double: bounds in
// ulp over dense samples of the whole range, and the values at the edges, for every instruction set that this processor has.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
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

template <class T>
const cpu::ElementwiseTable<T>& kernels() {
  if constexpr (sizeof(T) == 4) return NORMA_KERNELS(elementwise_kernels).f32;
  else return NORMA_KERNELS(elementwise_kernels).f64;
}
template <class T>
std::vector<T> values_of(UnaryOp op, const std::vector<T>& x, double parameter = 0) {
  std::vector<T> y(x.size());
  kernels<T>().unary(op, static_cast<std::int64_t>(x.size()), x.data(), y.data(), parameter);
  return y;
}
template <class T>
std::vector<T> gelu_grad(const std::vector<T>& x) {
  std::vector<T> y(x.size());
  const std::vector<T> one(x.size(), 1);
  kernels<T>().unary_backward(UnaryOp::gelu, static_cast<std::int64_t>(x.size()), x.data(), one.data(), y.data());
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

/// 24,000 doubles of [low, high]: two thirds with random bits, of every binade, a third evenly through the interval; and `near`, with the
/// doubles beside.
std::vector<double> doubles(double low, double high, const std::vector<double>& near = {}) {
  std::vector<double> x;
  std::mt19937_64 draw(1);
  const auto through = [&](double from, double to, double sign) {
    std::uniform_int_distribution<std::uint64_t> bits(std::bit_cast<std::uint64_t>(from), std::bit_cast<std::uint64_t>(to));
    for (int i = 0; i < 8000; ++i) x.push_back(sign * std::bit_cast<double>(bits(draw)));
  };
  if (low < 0) through(std::max(0.0, -high), -low, -1);
  if (high > 0) through(std::max(0.0, low), high, 1);
  std::uniform_real_distribution<double> even(low, high);
  for (int i = 0; i < 8000; ++i) x.push_back(even(draw));
  for (const double v : near) x.insert(x.end(), {v, std::nextafter(v, low), std::nextafter(v, high)});
  return x;
}

double ulp(double exact) {
  const float size = std::fabs(static_cast<float>(exact));
  if (size < std::numeric_limits<float>::min()) return 0x1p-149;
  int exponent;
  std::frexp(size, &exponent);
  return std::ldexp(1.0, exponent - 24);
}

double ulp_of_double(long double exact) {
  const double size = std::fabs(static_cast<double>(exact));
  if (size < std::numeric_limits<double>::min()) return 0x1p-1074;
  int exponent;
  std::frexp(size, &exponent);
  return std::ldexp(1.0, exponent - 53);
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

template <class T>
bool same_bits(T a, T b) {
  return (std::isnan(a) && std::isnan(b)) || std::memcmp(&a, &b, sizeof(T)) == 0;
}

using Long = long double;
const Long long_root_half = std::sqrt(0.5L);
Long long_gelu(Long x) { return 0.5L * x * std::erfc(-x * long_root_half); }
Long long_gelu_grad(Long x) {
  return 0.5L * std::erfc(-x * long_root_half) + x * std::exp(-0.5L * x * x) * 0.398942280401432677939946059934381868L;
}

/// All ops of one argument.
#define NORMA_OP(word, ...) UnaryOp::word,
const std::vector<UnaryOp> unary_ops = {NORMA_UNARY_OPS(NORMA_OP)};
#undef NORMA_OP

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

TEST_CASE("a result does not depend on where its element lies", "[vmath]") {
  const auto check = [](auto zero) {
    using T = decltype(zero);
    const std::vector<T> x = {0.1f, -0.3f, 0.5f, -0.74f, 0.76f, -1.1f, 1.9f,   -2.5f, 3.3f, 4.7f, -6,
                              8.2f, -12,   25,   -40,    90,    -1000, 7e3f, 3e6f,  -2e9f, 1e30f};
    for (const UnaryOp op : unary_ops) {
      CAPTURE(name(op), sizeof(T));
      const std::vector<T> y = values_of(op, x, 2.5);
      for (std::size_t i = 0; i < x.size(); ++i) {
        CAPTURE(x[i]);
        CHECK(same_bits(values_of(op, std::vector<T>{x[i]}, 2.5)[0], y[i]));
        CHECK(same_bits(values_of(op, std::vector<T>(16, x[i]), 2.5)[7], y[i]));
      }
    }
  };
  test::for_each_isa([&](const std::string&) { check(0.0f), check(0.0); });
}

/// By a softmax of {0, x}: where 1 + exp x rounds to 1, its second number is exp_fast(x) itself.
template <class T>
std::vector<T> exp_fast(const std::vector<T>& x) {
  std::vector<T> rows(2 * x.size()), y(rows.size()), out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) rows[2 * i + 1] = x[i];
  NORMA_KERNELS(norm_kernels).of<T>().softmax(static_cast<std::int64_t>(x.size()), 2, rows.data(), 2, y.data(), 2, false);
  for (std::size_t i = 0; i < x.size(); ++i) out[i] = y[2 * i + 1];
  return out;
}

TEST_CASE("exp_fast, as the small one of a softmax of two numbers", "[vmath]") {
  const std::vector<float> x = samples(-86.8f, -17.4f);
  const std::vector<double> wide = doubles(-707.9, -37.5);
  test::for_each_isa([&](const std::string&) {
    CHECK(worst_ulp(x, exp_fast(x), [](double v) { return std::exp(v); }) <= 1.1);
    double worst = 0;
    const std::vector<double> y = exp_fast(wide);
    for (std::size_t i = 0; i < wide.size(); ++i) {
      const long double exact = std::exp(static_cast<long double>(wide[i]));
      worst = test::worse(worst, static_cast<double>(std::fabs(y[i] - exact) / ulp_of_double(exact)));
    }
    CHECK(worst <= 1.1);
    CHECK(exp_fast<double>({-708.1, -infinity}) == std::vector<double>{0, 0});
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
    double x, y;
  };
  const double inf = infinity, nan = nan_value;
  const std::vector<Edge> of_both = {
      {UnaryOp::exp, inf, inf},          {UnaryOp::exp, -inf, 0},           {UnaryOp::exp, 0, 1},            {UnaryOp::log, 0, -inf},
      {UnaryOp::log, 1, 0},              {UnaryOp::log, inf, inf},          {UnaryOp::log, -1, nan},         {UnaryOp::log1p, -1, -inf},
      {UnaryOp::log1p, inf, inf},        {UnaryOp::log1p, -2, nan},         {UnaryOp::log1p, -0.0, -0.0},    {UnaryOp::tanh, inf, 1},
      {UnaryOp::tanh, -inf, -1},         {UnaryOp::tanh, 0, 0},             {UnaryOp::tanh, -0.0, -0.0},     {UnaryOp::erf, inf, 1},
      {UnaryOp::erf, -inf, -1},          {UnaryOp::erf, 0, 0},              {UnaryOp::erf, -0.0, -0.0},      {UnaryOp::sigmoid, inf, 1},
      {UnaryOp::sigmoid, -inf, 0},       {UnaryOp::sigmoid, 0, 0.5},        {UnaryOp::gelu, inf, inf},       {UnaryOp::gelu, -inf, -0.0},
      {UnaryOp::gelu_tanh, -inf, 0},     {UnaryOp::gelu_tanh, inf, inf},    {UnaryOp::silu, -inf, 0},        {UnaryOp::sin, inf, nan},
      {UnaryOp::sin, 0, 0},              {UnaryOp::sin, -0.0, -0.0},        {UnaryOp::cos, -inf, nan},       {UnaryOp::cos, 0, 1},
      {UnaryOp::softplus, inf, inf},     {UnaryOp::softplus, -inf, 0},      {UnaryOp::relu, -inf, 0},        {UnaryOp::sqrt, -1, nan},
  };
  const std::vector<Edge> of_floats = {{UnaryOp::exp, 200, inf}, {UnaryOp::exp, -200, 0}, {UnaryOp::log1p, 1e-20f, 1e-20f},
                                       {UnaryOp::sin, 3e9f, std::sin(3e9f)}, {UnaryOp::tanh, 1e-45f, 1e-45f}};
  const std::vector<Edge> of_doubles = {{UnaryOp::exp, 800, inf}, {UnaryOp::exp, -800, 0}, {UnaryOp::log1p, 1e-40, 1e-40},
                                        {UnaryOp::sin, 3e22, std::sin(3e22)}, {UnaryOp::tanh, 5e-324, 5e-324},
                                        {UnaryOp::sin, 5e-324, 5e-324}};
  const auto check = [](auto zero, const std::vector<Edge>& edges) {
    using T = decltype(zero);
    for (const Edge& edge : edges) {
      // The last, partly filled register goes the same way as a whole one.
      for (const std::size_t length : {1u, 40u}) {
        const std::vector<T> y = values_of(edge.op, std::vector<T>(length, static_cast<T>(edge.x)));
        CAPTURE(name(edge.op), edge.x, length, y[0], sizeof(T));
        CHECK((edge.op == UnaryOp::gelu && edge.y == 0 ? y[length - 1] == 0 : same_bits(y[length - 1], static_cast<T>(edge.y))));
      }
    }
    const std::vector<T> slope = gelu_grad<T>({infinity, -infinity, 0, nan_value});
    CHECK(slope[0] == 1);
    CHECK(slope[1] == 0);
    CHECK(std::abs(slope[2] - T(0.5)) <= (sizeof(T) == 4 ? 2.5e-7 : 5e-16));  // the bounds vmath.h states
    CHECK(std::isnan(slope[3]));
  };
  test::for_each_isa([&](const std::string&) {
    check(0.0f, of_both), check(0.0f, of_floats), check(0.0, of_both), check(0.0, of_doubles);
    for (const UnaryOp op : unary_ops) {
      if (op == UnaryOp::sign || op == UnaryOp::step) continue;
      // Of any bits: other machines make other NaNs.
      for (const std::uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7fc00001u, 0x7fffffffu, 0xffffffffu, 0x7f800001u, 0x7fc001ffu}) {
        CAPTURE(name(op), bits);
        CHECK(std::isnan(values_of<float>(op, {std::bit_cast<float>(bits)}, 2.5)[0]));
        const std::uint64_t wide = std::uint64_t{bits & 0x80000000u} << 32 | 0x7ffull << 52 | std::uint64_t{bits & 0x7fffffu} << 29;
        CHECK(std::isnan(values_of<double>(op, {std::bit_cast<double>(wide)}, 2.5)[0]));
        const float row[3] = {0, std::bit_cast<float>(bits), 1};
        float y[3];
        NORMA_KERNELS(norm_kernels).f32.softmax(1, 3, row, 3, y, 3, false);
        CHECK((std::isnan(y[0]) && std::isnan(y[1]) && std::isnan(y[2])));
      }
    }
  });
}

TEST_CASE("elementary functions of doubles stay within their bounds", "[vmath]") {
  struct Case {
    const char* text;
    UnaryOp op;
    std::vector<double> x;
    Long (*exact)(Long);
    double bound;
  };
  constexpr Long quarter = 1.57079632679489661923132169164L;
  std::vector<double> turns;  // next to zeros of sin and cos
  for (int n = 1; n < 4000; ++n) turns.push_back(static_cast<double>(quarter * n)), turns.push_back(static_cast<double>(quarter * (n * 253 + 1)));
  const Case cases[] = {
      {"exp", UnaryOp::exp, doubles(-746, 709.8), [](Long x) { return std::exp(x); }, 1},
      {"log", UnaryOp::log, doubles(5e-324, 1.7e308), [](Long x) { return std::log(x); }, 1},
      {"log near 1", UnaryOp::log, doubles(0.3, 3, {1}), [](Long x) { return std::log(x); }, 1},
      {"log1p", UnaryOp::log1p, doubles(-0.9999999, 1.7e308), [](Long x) { return std::log1p(x); }, 1},
      {"log1p near 0", UnaryOp::log1p, doubles(-0.7, 2, {-0.5, 1}), [](Long x) { return std::log1p(x); }, 1},
      {"tanh", UnaryOp::tanh, doubles(-21, 21), [](Long x) { return std::tanh(x); }, 1},
      {"tanh near 0", UnaryOp::tanh, doubles(-0.5, 0.5), [](Long x) { return std::tanh(x); }, 1},
      {"erf", UnaryOp::erf, doubles(-7, 7, {-0.75, 0.75, 1}), [](Long x) { return std::erf(x); }, 1},
      {"sin", UnaryOp::sin, doubles(-100, 100, turns), [](Long x) { return std::sin(x); }, 1},
      {"sin of many turns", UnaryOp::sin, doubles(-2e6, 2e6, {-1.6e6, 1.6e6}), [](Long x) { return std::sin(x); }, 1},
      {"cos", UnaryOp::cos, doubles(-100, 100, turns), [](Long x) { return std::cos(x); }, 1},
      {"cos of many turns", UnaryOp::cos, doubles(-2e6, 2e6, {-1.6e6, 1.6e6}), [](Long x) { return std::cos(x); }, 1},
      {"sigmoid", UnaryOp::sigmoid, doubles(-745, 745), [](Long x) { return 1 / (1 + std::exp(-x)); }, 3},
      {"gelu", UnaryOp::gelu, doubles(-8, 8), long_gelu, 4},
      {"gelu in its tails", UnaryOp::gelu, doubles(-38.5, 20), long_gelu, 4.5},
      {"softplus", UnaryOp::softplus, doubles(-700, 700),
       [](Long x) { return std::log1p(std::exp(-std::fabs(x))) + std::fmax(x, 0.0L); }, 3},
  };
  for (const Case& c : cases) {
    CAPTURE(c.text);
    std::vector<Long> exact;
    for (const double x : c.x) exact.push_back(c.exact(x));
    test::for_each_isa([&](const std::string&) {
      const std::vector<double> y = values_of(c.op, c.x);
      double worst = 0;
      for (std::size_t i = 0; i < c.x.size(); ++i) {
        if (std::isinf(static_cast<double>(exact[i])) && y[i] == static_cast<double>(exact[i])) continue;
        worst = test::worse(worst, static_cast<double>(std::fabs(y[i] - exact[i])) / ulp_of_double(exact[i]));
      }
      CHECK(worst <= c.bound);
    });
  }
}

TEST_CASE("gelu's derivative of doubles is exact to 5e-16, and in its tail to 1e-15 of itself", "[vmath]") {
  const std::vector<double> x = doubles(-37.5, 20, {0});
  std::vector<Long> exact;
  for (const double v : x) exact.push_back(long_gelu_grad(v));
  test::for_each_isa([&](const std::string&) {
    const std::vector<double> y = gelu_grad(x);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double off = static_cast<double>(std::fabs(y[i] - exact[i]));
      if (!(off <= 5e-16)) FAIL(x[i] << " gives " << y[i] << ", off by " << off);
      if (x[i] < -2 && !(off <= 1e-15 * std::fabs(static_cast<double>(exact[i])))) FAIL(x[i] << " gives " << y[i] << ", off by " << off);
    }
  });
}

TEST_CASE("pow of floats stays within an ulp", "[vmath]") {
  const std::vector<float> x = samples(1e-45f, 3.4e38f);
  for (const float p : {2.5f, -2.5f, 0.3333333f, 9.0f, -0.01f, 37.3f}) {
    CAPTURE(p);
    test::for_each_isa([&](const std::string&) {
      CHECK(worst_ulp(x, values_of(UnaryOp::power, x, p), [p](double v) { return std::pow(v, static_cast<double>(p)); }) <= 1);
    });
  }
}

TEST_CASE("pow of special numbers is that of std::pow", "[vmath]") {
  const auto check = [](auto zero) {
    using T = decltype(zero);
    std::vector<T> numbers, a, b;
    for (const float v : {0.0f, 1.0f, 2.0f, 3.0f, 0.5f, 2.5f, 0.1f, 7.0f, 1e-45f, 1e-39f, 1e38f, 3.4e38f, 8388607.0f, 4194303.75f,
                          16777215.0f, 16777216.0f, 33554434.0f, 1.0000001f, 0.99999994f, infinity, nan_value})
      numbers.insert(numbers.end(), {T(v), T(-v)});
    for (const T x : numbers)
      for (const T y : numbers) a.push_back(x), b.push_back(y);
    std::vector<T> result(a.size());
    kernels<T>().binary(BinaryOp::pow, static_cast<std::int64_t>(a.size()), a.data(), 1, b.data(), 1, result.data());
    for (std::size_t i = 0; i < a.size(); ++i) {
      const T exact = std::pow(a[i], b[i]);
      CAPTURE(a[i], b[i], result[i], exact);
      CHECK(std::isnan(result[i]) == std::isnan(exact));
      CHECK((std::isnan(exact) || std::signbit(result[i]) == std::signbit(exact)));
      CHECK((std::isnan(exact) || result[i] == exact || std::nextafter(result[i], exact) == exact));
      const T alone = values_of(UnaryOp::power, std::vector<T>{a[i]}, static_cast<double>(b[i]))[0];
      const bool product = std::abs(b[i]) <= 8 && b[i] == std::trunc(b[i]);  // power() multiplies; and takes roots
      CHECK((product || std::abs(b[i]) == T(0.5) || same_bits(alone, result[i])));
    }
  };
  test::for_each_isa([&](const std::string&) { check(0.0f), check(0.0); });
}
