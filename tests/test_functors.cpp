// The meaning of the element-wise words where it is delicate: tails, signs, special values; and strided loops.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backends/common/convert.h"
#include "backends/common/functors.h"
#include "backends/common/loops.h"
#include "tests/worst.h"

using namespace norma;

namespace {

const double inf = std::numeric_limits<double>::infinity(), no_number = std::numeric_limits<double>::quiet_NaN();

/// Distance in units in the last place of T; below its smallest normal number, in those of that number.
template <class T>
double ulps(T value, long double exact) {
  const int exponent = std::max(std::ilogb(exact), std::numeric_limits<T>::min_exponent - 1);
  return static_cast<double>(std::fabs(value - exact) /
                             std::ldexp(1.0L, exponent - std::numeric_limits<T>::digits + 1));
}

template <class T>
double worst_gelu() {
  double worst = 0;
  for (int i = -8000; i <= 8000; ++i) {
    const T x = static_cast<T>(i * 0.001 + 1e-7 * i);
    if (std::fabs(x) > 8 || x == 0) continue;
    const long double exact = 0.5L * x * std::erfc(-x / std::sqrt(2.0L));
    worst = test::worse(worst, ulps(Unary<UnaryOp::gelu>{}(x), exact));
  }
  return worst;
}

}  // namespace

TEST_CASE("gelu keeps its digits in the negative tail", "[functors]") {
  CHECK(worst_gelu<float>() <= 1);
  CHECK(worst_gelu<double>() <= 4);
  CHECK(Unary<UnaryOp::gelu>{}(-inf) == 0);
  CHECK(Unary<UnaryOp::gelu>{}(inf) == inf);
  CHECK(std::isnan(Unary<UnaryOp::gelu>{}(no_number)));
}

TEST_CASE("functions with exponentials neither overflow nor lose their tails", "[functors]") {
  CHECK(Unary<UnaryOp::softplus>{}(1000.0) == 1000);
  CHECK(Unary<UnaryOp::softplus>{}(-50.0) == Approx(std::exp(-50.0)).epsilon(1e-15));
  CHECK(Unary<UnaryOp::sigmoid>{}(-80.0f) == Approx(std::exp(-80.0)).epsilon(1e-6));
  CHECK(Unary<UnaryOp::sigmoid>{}(-1000.0) == 0);
  CHECK(Unary<UnaryOp::sigmoid>{}(1000.0) == 1);
  CHECK(Unary<UnaryOp::silu>{}(-inf) == 0);
  CHECK(Unary<UnaryOp::gelu_tanh>{}(-inf) == 0);
  const double x = -3, u = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
  CHECK(Unary<UnaryOp::gelu_tanh>{}(x) == Approx(0.5 * x * (1 + std::tanh(u))).epsilon(1e-13));
  for (const auto op :
       {UnaryOp::relu, UnaryOp::softplus, UnaryOp::sigmoid, UnaryOp::silu, UnaryOp::gelu_tanh, UnaryOp::abs})
    with_unary(op, [](auto f) { CHECK(std::isnan(f(no_number))); });
}

TEST_CASE("small integer powers are exact and keep the sign", "[functors]") {
  const Unary<UnaryOp::power> power;
  CHECK(power(-3.0, 3) == -27);
  CHECK(power(-3.0, 4) == 81);
  CHECK(power(-2.0, -3) == -0.125);
  CHECK(power(7.0f, 8) == 5764801);
  CHECK(power(0.0, 0) == 1);
  CHECK(power(no_number, 1) != power(no_number, 1));
  CHECK(power(-2.0, 9) == -512);
  CHECK(power(4.0, 0.5) == 2);
  CHECK(std::isnan(power(-4.0, 0.5)));
  CHECK(power(std::int64_t{-3}, 5) == -243);
  CHECK(power(std::int64_t{10}, 18) == 1000000000000000000);
}

TEST_CASE("max and min pass NaN on, from either side", "[functors]") {
  for (const auto op : {BinaryOp::max, BinaryOp::min})
    with_binary(op, [](auto f) {
      CHECK(std::isnan(static_cast<double>(f(no_number, 1.0))));
      CHECK(std::isnan(static_cast<double>(f(1.0, no_number))));
    });
  CHECK(replaces<ReduceOp::max>(2.0, 1.0));
  CHECK_FALSE(replaces<ReduceOp::max>(1.0, 1.0));
  CHECK(replaces<ReduceOp::min>(no_number, 1.0));
  CHECK_FALSE(replaces<ReduceOp::min>(1.0, no_number));
}

TEST_CASE("a strided loop visits every element once, in any cut", "[functors]") {
  std::vector<float> data(2 * 3 * 4), out(2 * 3 * 4, -1);
  std::iota(data.begin(), data.end(), 0.0f);
  const Layout dense(Shape{2, 3, 4});
  const int axes[] = {2, 0, 1};
  const Layout turned = slice(permute(dense, axes), 0, 3, 4, -1);  // [4, 2, 3], first axis backwards
  View from{data.data() + turned.offset, turned, DType::f32}, to{out.data(), Layout(turned.shape), DType::f32};
  from.layout.offset = 0;
  const StridedLoop loop(from, to);
  REQUIRE(loop.size() == 24);
  const auto copy = [](Index n, const auto& p, const auto& step) {
    for (Index i = 0; i < n; ++i)
      reinterpret_cast<float*>(p[1])[i * step[1]] = reinterpret_cast<const float*>(p[0])[i * step[0]];
  };
  for (Index cut = 0; cut <= 24; ++cut) {
    std::fill(out.begin(), out.end(), -1.0f);
    loop.run(0, cut, copy);
    CHECK(std::count(out.begin(), out.end(), -1.0f) == 24 - cut);
    loop.run(cut, 24, copy);
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 2; ++j)
        for (int k = 0; k < 3; ++k) REQUIRE(out[static_cast<std::size_t>(i * 6 + j * 3 + k)] == j * 12 + k * 4 + 3 - i);
  }
}

TEST_CASE("dense operands run as one loop; empty and 0-d ones as they are", "[functors]") {
  float x = 1, y = 2;
  View a{&x, Layout(Shape{4, 5, 6}), DType::f32}, b{&y, Layout(Shape{4, 5, 6}), DType::f32};
  CHECK(StridedLoop(a, b).dense());
  CHECK(StridedLoop(a, b).length() == 120);
  const View none{nullptr, Layout(Shape{3, 0}), DType::f32}, scalar{&x, Layout(Shape{}), DType::f32};
  int calls = 0;
  StridedLoop(none).run([&](Index, const auto&, const auto&) { ++calls; });
  CHECK(calls == 0);
  StridedLoop(scalar).run([&](Index n, const auto&, const auto&) { calls += static_cast<int>(n); });
  CHECK(calls == 1);
}
