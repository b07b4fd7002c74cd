// Rows in registers, reductions in parts and GELU in bf16: the values of plain loops in double, and the same bits wherever the numbers lie and whatever
// is made beside.
#include <array>
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
  const View means = rms ? View() : mean.view();
  REQUIRE(backend(device).layer_norm({x.view(), y.view(), weight.view(), bias.view(), means, rstd.view(), 1e-5, rms}));
  LayerNormBackward back{x.view(), dy.view(), dx.view(), add.view(), weight.view(), means, rstd.view()};
  back.rms = rms;
  REQUIRE(backend(device).layer_norm_backward(back));
  return {y.values(), dx.values()};
}

double distance(const Values& a, const Values& b) {
  double difference = 0, length = 1e-300;
  for (std::size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), length += b[i] * b[i];
  return std::sqrt(difference / length);
}

}  // namespace

TEST_CASE("norms of rows of every length, wherever they lie", "[cuda_backend][sanitized]") {
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

TEST_CASE("gradients of a norm have the same bits together and each by itself", "[cuda_backend][sanitized]") {
  const auto compare = [](Index rows, Index n, DType dtype, bool rms, bool apart) {
    INFO(rows << " x " << n << ", " << name(dtype) << (rms ? ", rms" : "") << (apart ? ", apart" : ""));
    const Place wide{wide_of(dtype), device};
    const Tensor x = matrix(draw(rows * n, 1, -2, 3), rows, n, dtype, apart), dy = matrix(draw(rows * n, 2, -1, 1), rows, n, dtype, apart),
                 add = matrix(draw(rows * n, 3, -1, 1), rows, n, dtype, apart);
    const Tensor weight = from_values(draw(n, 6, 0.5, 1.5), {n}, wide);
    const Tensor mean = from_values(draw(rows, 8, -1, 1), {rows}, wide), rstd = from_values(draw(rows, 9, 0.5, 2), {rows}, wide);
    const auto gradients = [&](bool of_x, bool of_weight, bool of_bias) {
      const Tensor dx = full({rows, n}, 7, {dtype, device}), dweight = full({n}, 7, wide), dbias = full({n}, 7, wide);
      const auto some = [](bool there, const Tensor& t) { return there ? t.view() : View(); };
      LayerNormBackward back{x.view(), dy.view(), some(of_x, dx), add.view(), weight.view(), some(!rms, mean), rstd.view()};
      back.dweight = some(of_weight, dweight), back.dbias = some(of_bias, dbias), back.rms = rms;
      REQUIRE(backend(device).layer_norm_backward(back));
      return std::array{dx.values(), dweight.values(), dbias.values()};
    };
    const Values untouched(static_cast<std::size_t>(n), 7);
    const auto all = gradients(true, true, true), own = gradients(true, false, false), sums = gradients(false, true, true);
    CHECK((all[0] == own[0]));
    CHECK((all[1] == sums[1]));
    CHECK((all[2] == sums[2]));
    CHECK((own[1] == untouched));
    CHECK((all[1] != untouched));
    const auto bias = gradients(true, false, true);
    CHECK((bias[0] == all[0]));
    CHECK((bias[1] == untouched));
    CHECK((bias[2] == all[2]));
  };
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const bool apart : {false, true}) {
      for (const Index n : {4, 6, 192, 260, 512, 516}) compare(37, n, dtype, n == 260, apart);
      compare(1, 12, dtype, apart, apart);
      compare(64, 64, dtype, apart, apart);
      compare(8300, 8, dtype, apart, apart);  // blocks of more rows than they have warps
    }
}

TEST_CASE("gradients of norms' weights are whole wherever they are read, though their sums are added up last", "[cuda_backend]") {
  // Behind a product with 1 a weight is no leaf, and its gradient is added up at once.
  const auto gradients = [](int which, bool late) {
    const Place place{DType::f32, device};
    const auto leaf = [&](Shape shape, std::uint64_t stream) { return from_values(draw(shape.numel(), stream, 0.5, 2), shape, place).track(); };
    const auto at = [&](const Tensor& w) { return late ? w : w * 1.0; };
    const Tensor x = leaf({40, 64}, 1), w = leaf({64}, 2), b = leaf({64}, 3), v = leaf({64}, 4), c = leaf({64}, 5);
    std::vector<Values> seen;
    const auto norm = [&](const Tensor& in, const Tensor& weight, const Tensor& bias) { return layer_norm(in, at(weight), at(bias)); };
    const auto run = [&](const Tensor& y) { backward(sum(square(y))); };
    switch (which) {
      case 0: run(norm(norm(x, w, b), v, c)); break;
      case 1: run(norm(norm(x, w, b), w, c)); break;                 // one weight for two norms
      case 2: run(norm(x, w, b)), run(norm(x, w, c)); break;         // added to a gradient from before
      case 3: run(norm(w, w, b)); break;                             // the weight is normalised, too
      case 4: run(norm(norm(x, w, b), w, b) + w * v + b); break;     // other ways
      case 5: {
        const Tensor h = norm(x, w, b), y = norm(h, v, c);
        seen.resize(3);
        on_gradient(w, [&](const Tensor& g) { seen[0] = g.values(); });
        on_gradient(v, [&](const Tensor& g) { seen[1] = g.values(); });
        on_gradient(h, [&](const Tensor&) { seen[2] = c.grad().values(); });  // which the sweep has reached before
        run(y);
        break;
      }
      case 6: {
        const Tensors found = grad(sum(square(rms_norm(norm(x, w, b), at(v)))), Tensors{v, w, x, b});
        for (const Tensor& g : found) seen.push_back(g.values());
        break;
      }
      default: {
        const Tensor y = norm(x, w, b);
        grad(sum(square(y)), Tensors{x}, {}, {.retain_graph = true});  // those of the weights are not asked for
        run(y);
      }
    }
    for (const Tensor& t : {x, w, b, v, c}) seen.push_back(t.grad() ? t.grad().values() : Values());
    return seen;
  };
  for (int which = 0; which < 8; ++which) {
    CAPTURE(which);
    const auto late = gradients(which, true), at_once = gradients(which, false);
    CHECK((late == at_once));
    CHECK((late != std::vector<Values>(late.size())));
  }
}

TEST_CASE("reductions in one part, in few and in many, by threads and by blocks", "[cuda_backend][sanitized]") {
  struct Sizes {
    Shape from, to;
  };
  // Rests of a thread's elements; one axis reduced, and two apart.
  for (const auto& [from, to] : {Sizes{{37, 33}, {1, 33}}, {{2005, 33}, {1, 33}}, {{4199, 33}, {1, 33}}, {{65, 2, 65, 17}, {1, 2, 1, 17}}, {{262161}, {1}}, {{2, 9001}, {2, 1}}, {{7, 3, 700}, {1, 3, 1}}}) {
    Values v = draw(from.numel(), 1, -50, 50);
    for (double& x : v) x = std::floor(x);  // equal ones, sums without rounding
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::argmin}) {
      const auto reduced = [&, to = to, from = from](DType dtype, Device where) {
        const Tensor x = from_values(v, from, {dtype, where}), out = zeros(to, {op == ReduceOp::argmin ? DType::i64 : wide_of(dtype), where});
        backend(where).reduce(op, x.view(), out.view());
        return out.values();
      };
      const Values wanted = reduced(DType::f64, {});
      for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
        CAPTURE(from.numel(), to.numel(), static_cast<int>(op), name(dtype));
        CHECK(reduced(dtype, device) == wanted);
      }
    }
  }
}

TEST_CASE("GELU of bf16 has the error of its rounding", "[cuda_backend][sanitized]") {
  const Index n = 4099;  // a rest behind the last vector
  const Values v = draw(n, 1, -9, 9);
  for (const bool apart : {false, true}) {
    const Tensor x = matrix(v, 1, n, DType::bf16, apart), one = matrix(Values(v.size(), 1), 1, n, DType::bf16, apart);
    const Tensor y = empty({1, n}, {DType::bf16, device}), slope = empty({1, n}, {DType::bf16, device});
    backend(device).unary(UnaryOp::gelu, x.view(), y.view(), 0);
    REQUIRE(backend(device).unary_backward(UnaryOp::gelu, x.view(), one.view(), slope.view()));
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
