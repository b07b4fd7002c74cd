// Rows in registers and GELU in bf16: the values of plain loops in double, and the same bits wherever the numbers lie.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "checks/draws.h"

using namespace norma;

namespace {

const Device device{Device::Kind::cuda, 0};
using Values = std::vector<double>;

Values draw(Index n, std::uint64_t stream, double low, double high) { return checks::drawn(n, {4, stream}, low, high); }

/// [rows, n] in rows of their own, or, `apart`, each behind an element of another.
Tensor matrix(const Values& v, Index rows, Index n, DType dtype, bool apart) {
  if (!apart) return from_values(v, {rows, n}, {dtype, device});
  Values wide(static_cast<std::size_t>(rows * (n + 1)), 77);
  for (Index i = 0; i < rows * n; ++i) wide[static_cast<std::size_t>(i / n * (n + 1) + 1 + i % n)] = v[static_cast<std::size_t>(i)];
  return slice(from_values(wide, {rows, n + 1}, {dtype, device}), 1, 1, n + 1);
}

struct Norms {
  Values y, dx;
  bool operator==(const Norms&) const = default;
};

Norms norms(Index rows, Index n, DType dtype, bool rms, bool apart) {
  const Tensor x = matrix(draw(rows * n, 1, 2, 4), rows, n, dtype, apart), dy = matrix(draw(rows * n, 2, -1, 1), rows, n, dtype, apart),
               add = matrix(draw(rows * n, 3, -1, 1), rows, n, dtype, apart), y = matrix(draw(rows * n, 4, 0, 1), rows, n, dtype, apart),
               dx = matrix(draw(rows * n, 5, 0, 1), rows, n, dtype, apart);
  const Place wide{dtype == DType::f64 ? DType::f64 : DType::f32, device};
  const Tensor weight = from_values(draw(n, 6, 0.5, 1.5), {n}, wide), bias = from_values(draw(n, 7, -1, 1), {n}, wide);
  const Tensor mean = zeros({rows}, wide), rstd = zeros({rows}, wide);
  const View w = weight.view(), b = bias.view(), m = mean.view(), s = rstd.view(), more = add.view();
  REQUIRE(backend(device).layer_norm({x.view(), y.view(), &w, &b, rms ? nullptr : &m, &s, 1e-5, rms}));
  LayerNormBackward back{x.view(), dy.view(), dx.view()};
  back.add = &more, back.weight = &w, back.mean = rms ? nullptr : &m, back.rstd = &s, back.rms = rms;
  REQUIRE(backend(device).layer_norm_backward(back));
  return {y.values(), dx.values()};
}

double distance(const Values& a, const Values& b) {
  double difference = 0, length = 1e-300;
  for (std::size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), length += b[i] * b[i];
  return std::sqrt(difference / length);
}

}  // namespace

TEST_CASE("norms of rows of every length, wherever they lie", "[cuda_backend]") {
  constexpr Index rows = 7;  // more than one block, the last not full
  for (const Index n : {4, 6, 124, 192, 260, 523, 768, 1020, 1024, 1028, 2059})
    for (const bool rms : {false, true}) {
      const Norms wanted = norms(rows, n, DType::f64, rms, false);
      for (const DType dtype : {DType::f32, DType::bf16}) {
        INFO(n << " elements, " << name(dtype) << (rms ? ", rms" : ""));
        const Norms got = norms(rows, n, dtype, rms, false);
        CHECK(distance(got.y, wanted.y) < (dtype == DType::f32 ? 2e-6 : 2e-2));  // numbers near 3 lose bits in bf16
        CHECK(distance(got.dx, wanted.dx) < (dtype == DType::f32 ? 4e-6 : 3e-2));
        CHECK((norms(rows, n, dtype, rms, true) == got));
      }
    }
}

TEST_CASE("GELU of bf16 has the error of its rounding", "[cuda_backend]") {
  const Index n = 4099;  // a rest behind the last vector
  const Values v = draw(n, 1, -9, 9);
  for (const bool apart : {false, true}) {
    const Tensor x = matrix(v, 1, n, DType::bf16, apart), one = matrix(Values(v.size(), 1), 1, n, DType::bf16, apart);
    const Tensor y = empty({1, n}, {DType::bf16, device}), slope = empty({1, n}, {DType::bf16, device});
    backend(device).unary(UnaryOp::gelu, x.view(), y.view(), 0);
    REQUIRE(backend(device).gelu_backward(x.view(), one.view(), slope.view()));
    const Values at = x.values(), got = y.values(), steep = slope.values();
    Index wrong = 0;
    for (std::size_t i = 0; i < at.size(); ++i) {
      const double cdf = 0.5 * std::erfc(-at[i] * std::sqrt(0.5)), bell = std::exp(-0.5 * at[i] * at[i]) / std::sqrt(2 * std::acos(-1.0));
      const double value = at[i] * cdf, rise = cdf + at[i] * bell;
      wrong += std::abs(got[i] - value) > (0x1p-8 + 4e-5) * std::abs(value);  // half of bf16's last place
      wrong += std::abs(steep[i] - rise) > 0x1p-8 * std::abs(rise) + 4e-5 * (cdf + std::abs(at[i]) * bell);
    }
    CHECK(wrong == 0);
  }
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor ends = from_values({-infinity, infinity, std::nan(""), -1e30, 1e30}, {5}, {DType::bf16, device}), y = empty({5}, {DType::bf16, device});
  backend(device).unary(UnaryOp::gelu, ends.view(), y.view(), 0);
  const Values got = y.values();
  CHECK(got[0] == 0);
  CHECK(got[1] == infinity);
  CHECK(std::isnan(got[2]));
  CHECK(got[3] == 0);
  CHECK(got[4] == Approx(1e30).epsilon(0.01));
}
