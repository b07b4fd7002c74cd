// The CPU backend's fused row verbs (softmax, layer norm, cross-entropy, gelu's derivative) against plain loops in
// double, and the same bits with any number of threads.
#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "backends/cpu/parallel.h"
#include "checks/draws.h"
#include "core/backend.h"
#include "tests/cpu_settings.h"

using namespace norma;

namespace {

using Values = std::vector<double>;
const Device device{Device::Kind::cpu};
Backend& cpu_backend() { return backend(device); }

Values draw(Index count, std::uint64_t seed, double low = -2, double high = 2) {
  return checks::drawn(count, {seed, 3}, low, high);
}
Tensor tensor(const Values& values, const Shape& shape, DType dtype) { return from_values(values, shape, {dtype, device}); }
/// The same elements with room behind each row.
Tensor spread(const Tensor& t) {
  const Tensor wide = empty(t.shape().with(t.rank() - 1, t.size(-1) + 3), place_of(t));
  const Tensor to = wide.with_layout(slice(wide.layout(), t.rank() - 1, 1, t.size(-1), 1));
  copy_into(to, t);
  return to;
}

void close(const Tensor& got, const Values& expected, double tolerance) {
  const Values values = got.values();
  REQUIRE(values.size() == expected.size());
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!(std::fabs(values[i] - expected[i]) <= tolerance * std::max(1.0, std::fabs(expected[i]))))
      FAIL("element " << i << " is " << values[i] << ", expected " << expected[i]);
}

/// f() gives the same bits with 1, 2, 3 and 8 threads.
void same_bits(const std::function<Values()>& f) {
  const test::RestoreSettings restore;
  cpu::set_threads(1);
  const Values one = f();
  for (const int threads : {2, 3, 8}) {
    cpu::set_threads(threads);
    REQUIRE(f() == one);
  }
}

struct Sizes {
  Index rows, n;
};
const Sizes sizes[] = {{1, 1}, {3, 5}, {700, 37}, {130, 192}, {5, 1000}};
const DType floats[] = {DType::f32, DType::f64};
double eps_of(DType dtype) { return dtype == DType::f32 ? 1e-6 : 1e-14; }

Values softmax_of(const double* x, Index n) {
  double top = -INFINITY, sum = 0;
  Values p(x, x + n);
  for (const double v : p) top = std::max(top, v);
  for (double& v : p) sum += v = std::exp(v - top);
  for (double& v : p) v /= sum;
  return p;
}

}  // namespace

TEST_CASE("softmax and log softmax, forward and backward", "[cpu_norms]") {
  for (const DType dtype : floats)
    for (const auto [rows, n] : sizes) {
      CAPTURE(name(dtype), rows, n);
      const Shape shape{rows, n};
      const Tensor x = tensor(draw(rows * n, 1, -20, 20), shape, dtype), dy = tensor(draw(rows * n, 2), shape, dtype);
      const Values xs = x.values(), g = dy.values();
      Values p, log_p, dx, dlog;
      for (Index r = 0; r < rows; ++r) {
        const Values row = softmax_of(xs.data() + r * n, n);
        double dot = 0, total = 0;
        for (Index j = 0; j < n; ++j) dot += row[j] * g[r * n + j], total += g[r * n + j];
        // log p from the largest, which is near 0 even where p underflows
        double top = -INFINITY, sum = 0;
        for (Index j = 0; j < n; ++j) top = std::max(top, xs[r * n + j]);
        for (Index j = 0; j < n; ++j) sum += std::exp(xs[r * n + j] - top);
        for (Index j = 0; j < n; ++j) {
          p.push_back(row[j]);
          log_p.push_back(xs[r * n + j] - top - std::log(sum));
          dx.push_back(row[j] * (g[r * n + j] - dot));
          dlog.push_back(g[r * n + j] - row[j] * total);
        }
      }
      for (const bool gaps : {false, true}) {
        const Tensor from = gaps ? spread(x) : x, grad = gaps ? spread(dy) : dy;
        const Tensor y = empty(shape, place_of(x)), d = gaps ? spread(x) : empty(shape, place_of(x));
        REQUIRE(cpu_backend().softmax(from.view(), y.view(), false));
        close(y, p, eps_of(dtype));
        REQUIRE(cpu_backend().softmax_backward(y.view(), grad.view(), d.view(), false));
        close(d, dx, 4 * eps_of(dtype));
        REQUIRE(cpu_backend().softmax(from.view(), y.view(), true));
        close(y, log_p, eps_of(dtype));
        REQUIRE(cpu_backend().softmax_backward(y.view(), grad.view(), d.view(), true));
        close(d, dlog, 40 * eps_of(dtype));
      }
      const Tensor y = empty(shape, place_of(x));
      same_bits([&] {
        cpu_backend().softmax(x.view(), y.view(), false);
        return y.values();
      });
    }
}

TEST_CASE("softmax of hidden and broken rows", "[cpu_norms]") {
  const double inf = INFINITY;
  const Tensor x = tensor({-inf, 0, 0, -inf, -inf, -inf, 1, NAN, 2}, {3, 3}, DType::f32), y = empty({3, 3}, place_of(x));
  REQUIRE(cpu_backend().softmax(x.view(), y.view(), false));
  const Values p = y.values();
  CHECK(p[0] == 0);
  CHECK(p[1] == 0.5);
  for (int i = 3; i < 9; ++i) CHECK(std::isnan(p[static_cast<std::size_t>(i)]));
}

TEST_CASE("verbs decline what they do not cover", "[cpu_norms]") {
  const Tensor x = tensor(draw(12, 1), {3, 4}, DType::f32), y = empty({3, 4}, place_of(x));
  const Tensor across = empty({4, 3}, place_of(x));
  const Tensor turned = across.with_layout(transpose(across.layout(), 0, 1));
  CHECK_FALSE(cpu_backend().softmax(turned.view(), y.view(), false));
  const Tensor half = tensor(draw(12, 1), {3, 4}, DType::bf16);
  CHECK_FALSE(cpu_backend().softmax(half.view(), y.view(), false));
  CHECK_FALSE(cpu_backend().unary_backward(UnaryOp::gelu, half.view(), y.view(), half.view()));
  LayerNormForward norm;
  norm.x = turned.view(), norm.y = y.view();
  CHECK_FALSE(cpu_backend().layer_norm(norm));
  const Tensor weight = ones({4}, {DType::bf16});
  norm.x = norm.y = half.view(), norm.weight = weight.view();  // bf16 activations go with f32 parameters
  CHECK_FALSE(cpu_backend().layer_norm(norm));
}

TEST_CASE("layer norm and RMS norm, forward and backward", "[cpu_norms]") {
  for (const DType dtype : floats)
    for (const bool rms : {false, true})
      for (const bool affine : {true, false})
        for (const auto [rows, n] : sizes) {
          if (n == 1) continue;  // its variance is eps alone: tested by hand below
          CAPTURE(name(dtype), rms, affine, rows, n);
          const Shape shape{rows, n};
          const Place place{dtype, device};
          const Tensor x = tensor(draw(rows * n, 1), shape, dtype), dy = tensor(draw(rows * n, 2), shape, dtype);
          const Tensor weight = tensor(draw(n, 3), {n}, dtype), bias = tensor(draw(n, 4), {n}, dtype);
          const Tensor y = empty(shape, place), dx = empty(shape, place), mean = empty({rows}, place), rstd = empty({rows}, place);
          const Tensor dweight = empty({n}, place), dbias = empty({n}, place);
          const Values xs = x.values(), g = dy.values(), w = weight.values(), b = bias.values();
          Values ys, dxs, dw(static_cast<std::size_t>(n)), db(dw);
          for (Index r = 0; r < rows; ++r) {
            const double *row = xs.data() + r * n, *grad = g.data() + r * n;
            double m = 0, v = 0, mean_g = 0, mean_gh = 0;
            for (Index j = 0; j < n && !rms; ++j) m += row[j] / static_cast<double>(n);
            for (Index j = 0; j < n; ++j) v += (row[j] - m) * (row[j] - m) / static_cast<double>(n);
            const double s = 1 / std::sqrt(v + 1e-6);
            const auto weighted = [&](Index j) { return grad[j] * (affine ? w[j] : 1); };
            for (Index j = 0; j < n; ++j) {
              const double h = (row[j] - m) * s;
              ys.push_back(affine ? h * w[j] + (rms ? 0 : b[j]) : h);
              mean_g += rms ? 0 : weighted(j) / static_cast<double>(n);
              mean_gh += weighted(j) * h / static_cast<double>(n);
              dw[j] += grad[j] * h, db[j] += grad[j];
            }
            for (Index j = 0; j < n; ++j) dxs.push_back(s * (weighted(j) - mean_g - (row[j] - m) * s * mean_gh));
          }
          LayerNormForward forward{x.view(), y.view()};
          if (affine) forward.weight = weight.view(), forward.bias = rms ? View() : bias.view();
          forward.mean = rms ? View() : mean.view(), forward.rstd = rstd.view(), forward.rms = rms;
          REQUIRE(cpu_backend().layer_norm(forward));
          close(y, ys, 3 * eps_of(dtype));
          LayerNormBackward backward{x.view(), dy.view(), dx.view()};
          backward.mean = forward.mean, backward.rstd = rstd.view(), backward.rms = rms;
          if (affine) backward.weight = weight.view(), backward.dweight = dweight.view(), backward.dbias = rms ? View() : dbias.view();
          REQUIRE(cpu_backend().layer_norm_backward(backward));
          close(dx, dxs, 10 * eps_of(dtype));
          const Tensor total = empty(shape, place), sum = empty(shape, place);
          backward.dx = total.view(), backward.add = x.view();
          REQUIRE(cpu_backend().layer_norm_backward(backward));
          cpu_backend().binary(BinaryOp::add, x.view(), dx.view(), sum.view());
          CHECK((total.values() == sum.values()));
          backward.dx = dx.view(), backward.add = {};
          if (!affine) continue;
          close(dweight, dw, 30 * eps_of(dtype));
          if (!rms) close(dbias, db, 30 * eps_of(dtype));
          same_bits([&] {
            cpu_backend().layer_norm_backward(backward);
            Values all = dx.values();
            for (const Tensor& t : {dweight, rms ? dweight : dbias})
              for (const double v : t.values()) all.push_back(v);
            return all;
          });
        }
}

TEST_CASE("layer norm far from zero: mean / std = 3000", "[cpu_norms]") {
  const Index rows = 4, n = 192;
  const Place place{DType::f32, device};
  const Tensor x = tensor(draw(rows * n, 1, 3000 - 1.7, 3000 + 1.7), {rows, n}, DType::f32);
  const Tensor dy = tensor(draw(rows * n, 2), {rows, n}, DType::f32);
  const Tensor y = empty({rows, n}, place), dx = empty({rows, n}, place), mean = empty({rows}, place), rstd = empty({rows}, place);
  LayerNormForward forward{x.view(), y.view()};
  forward.mean = mean.view(), forward.rstd = rstd.view();
  REQUIRE(cpu_backend().layer_norm(forward));
  LayerNormBackward backward{x.view(), dy.view(), dx.view()};
  backward.mean = mean.view(), backward.rstd = rstd.view();
  REQUIRE(cpu_backend().layer_norm_backward(backward));
  const Values xs = x.values(), g = dy.values(), ys = y.values(), dxs = dx.values();
  for (Index r = 0; r < rows; ++r) {
    double m = 0, v = 0, mean_g = 0, mean_gh = 0;
    for (Index j = 0; j < n; ++j) m += xs[r * n + j] / n;
    for (Index j = 0; j < n; ++j) v += (xs[r * n + j] - m) * (xs[r * n + j] - m) / n;
    const double s = 1 / std::sqrt(v + 1e-6);
    for (Index j = 0; j < n; ++j) mean_g += g[r * n + j] / n, mean_gh += g[r * n + j] * (xs[r * n + j] - m) * s / n;
    for (Index j = 0; j < n; ++j) {
      const double h = (xs[r * n + j] - m) * s;
      if (!(std::fabs(ys[r * n + j] - h) <= 2e-6)) FAIL("y off by " << ys[r * n + j] - h);
      const double d = s * (g[r * n + j] - mean_g - h * mean_gh);
      if (!(std::fabs(dxs[r * n + j] - d) <= 2e-6)) FAIL("dx off by " << dxs[r * n + j] - d);
    }
  }
}

TEST_CASE("layer norm of one element, and of equal ones, is the bias", "[cpu_norms]") {
  for (const Index n : {1, 40}) {
    const Tensor x = full({2, n}, 5, {DType::f32, device}), y = empty({2, n}, {DType::f32, device});
    const Tensor bias = full({n}, 0.25, {DType::f32, device});
    REQUIRE(cpu_backend().layer_norm({x.view(), y.view(), {}, bias.view()}));
    for (const double v : y.values()) CHECK(v == 0.25);
  }
}

TEST_CASE("cross-entropy of indices and of probabilities, with smoothing", "[cpu_norms]") {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
    for (const double smooth : {0.0, 0.1})
      for (const bool soft : {false, true})
        for (const auto [rows, n] : sizes) {
          CAPTURE(name(dtype), smooth, soft, rows, n);
          const Place place{dtype, device}, wide{wide_of(dtype), device};
          const Tensor x = tensor(draw(rows * n, 1, -10, 10), {rows, n}, dtype);
          Values classes(static_cast<std::size_t>(rows)), shares = draw(rows * n, 2, 0, 1);
          for (Index r = 0; r < rows; ++r) classes[r] = static_cast<double>((7 * r + 3) % n);
          const Tensor targets = soft ? tensor(shares, {rows, n}, dtype) : tensor(classes, {rows}, DType::i64);
          if (soft) shares = targets.values();
          const Tensor loss = empty({rows}, wide), sums = empty({rows, 2}, wide), dlogits = empty({rows, n}, place), scale = full({}, -0.75, wide);
          const Values xs = x.values();
          Values losses, ds;
          for (Index r = 0; r < rows; ++r) {
            const double* row = xs.data() + r * n;
            double top = -INFINITY, sum = 0, total = 0, mass = 0;
            for (Index j = 0; j < n; ++j) top = std::max(top, row[j]);
            for (Index j = 0; j < n; ++j) sum += std::exp(row[j] - top);
            const auto t = [&, n = n](Index j) {
              const double hard = static_cast<double>(j) == classes[r] ? 1 : 0;
              return (1 - smooth) * (soft ? shares[r * n + j] : hard) + smooth / static_cast<double>(n);
            };
            for (Index j = 0; j < n; ++j) total -= t(j) * (row[j] - top - std::log(sum)), mass += t(j);
            losses.push_back(total);
            for (Index j = 0; j < n; ++j) ds.push_back(-0.75 * (std::exp(row[j] - top) / sum * mass - t(j)));
          }
          CrossEntropy args{x.view(), targets.view(), loss.view(), smooth};
          REQUIRE(cpu_backend().cross_entropy(args));  // without derivatives
          close(loss, losses, 3 * eps_of(wide.dtype));
          args.sums = sums.view();
          const CrossEntropyBackward back{x.view(), targets.view(), sums.view(), scale.view(), dlogits.view(), smooth};
          const auto both = [&] {
            REQUIRE(cpu_backend().cross_entropy(args));
            REQUIRE(cpu_backend().cross_entropy_backward(back));
            Values all = loss.values();
            for (const double v : dlogits.values()) all.push_back(v);
            return all;
          };
          both();
          close(loss, losses, 3 * eps_of(wide.dtype));
          close(dlogits, ds, dtype == DType::bf16 ? 0x1p-8 : 3 * eps_of(dtype));  // bf16: rounded once
          same_bits(both);
        }
}

TEST_CASE("cross-entropy of f32 takes probabilities of f64", "[cpu_norms]") {
  const Tensor x = tensor(draw(15, 1), {3, 5}, DType::f32).track(), wide = softmax(tensor(draw(15, 2), {3, 5}, DType::f64));
  const Tensor mixed = cross_entropy(x, wide), same = cross_entropy(x, cast(wide, DType::f32));
  CHECK(mixed.item() == Approx(same.item()).epsilon(1e-5));
  CHECK(norm(grad(mixed, x) - grad(same, x)).item() < 1e-6);
}

TEST_CASE("gelu's derivative times a gradient", "[cpu_norms]") {
  for (const DType dtype : floats) {
    const Index n = 40000;
    const Tensor x = tensor(draw(n, 1, -9, 9), {n}, dtype), dy = tensor(draw(n, 2), {n}, dtype), dx = empty({n}, place_of(x));
    REQUIRE(cpu_backend().unary_backward(UnaryOp::gelu, x.view(), dy.view(), dx.view()));
    Values expected;
    const Values xs = x.values(), g = dy.values();
    for (std::size_t i = 0; i < xs.size(); ++i)
      expected.push_back(g[i] * (0.5 * std::erfc(-xs[i] * std::sqrt(0.5)) +
                                 xs[i] * std::exp(-0.5 * xs[i] * xs[i]) / std::sqrt(2 * std::acos(-1.0))));
    close(dx, expected, eps_of(dtype));
  }
}

TEST_CASE("an element-wise derivative by one kernel has the bits of its rule", "[cpu_norms]") {
  const double inf = std::numeric_limits<double>::infinity();
  Values values = draw(3000, 3, -7, 7);
  for (const double special : {0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 88.0, -88.0, 1e19, -1e19, inf, -inf, std::nan("")}) values.push_back(special);
  const auto n = static_cast<Index>(values.size());
  struct Word {
    UnaryOp word;
    Tensor (*op)(const Tensor&);
  };
  const Word words[] = {{UnaryOp::abs, abs},         {UnaryOp::log1p, log1p},       {UnaryOp::sqrt, sqrt},
                                        {UnaryOp::rsqrt, rsqrt},     {UnaryOp::sin, sin},           {UnaryOp::cos, cos},
                                        {UnaryOp::tanh, tanh},       {UnaryOp::erf, erf},           {UnaryOp::sigmoid, sigmoid},
                                        {UnaryOp::relu, relu},       {UnaryOp::gelu_tanh, gelu_tanh}, {UnaryOp::silu, silu},
                                        {UnaryOp::softplus, softplus}, {UnaryOp::square, square},   {UnaryOp::reciprocal, reciprocal}};
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
    for (const auto& [word, op] : words) {
      CAPTURE(name(dtype), name(word));
      const Tensor x = tensor(values, {n}, dtype).track(), weights = tensor(draw(n, 4, -2, 2), {n}, dtype), out = empty({n}, place_of(x));
      CHECK(cpu_backend().unary_backward(word, x.view(), weights.view(), out.view()));
      const Tensor loss = sum(op(x) * weights);
      const Values by_rule = grad(loss, x, {.create_graph = true}).values(), by_kernel = grad(loss, x).values();
      Index other = 0;
      for (std::size_t i = 0; i < by_rule.size(); ++i)
        other += std::isnan(by_rule[i]) ? !std::isnan(by_kernel[i]) : std::bit_cast<std::uint64_t>(by_rule[i]) != std::bit_cast<std::uint64_t>(by_kernel[i]);
      CHECK(other == 0);
    }
  const Tensor x = tensor(draw(6, 5), {2, 3}, DType::f32);
  CHECK_FALSE(cpu_backend().unary_backward(UnaryOp::exp, x.view(), x.view(), x.view()));  // one operation, which is no faster as a kernel
}
