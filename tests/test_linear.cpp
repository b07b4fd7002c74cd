// The CPU backend's products over views: batches, broadcasts, strides and dtypes of matmul; linear layers and their
// gradients.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "backends/cpu/parallel.h"
#include "core/backend.h"
#include "core/tensor.h"
#include "tests/cpu_settings.h"
#include "tests/worst.h"

using namespace norma;

namespace {

Backend& device() { return backend(Device{}); }

/// Noise in [-1, 1], for integers in [-9, 9], in the given layout over a storage large enough.
Tensor noise(const Shape& shape, DType dtype, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (double& v : values) v = is_floating(dtype) ? uniform(engine) : std::floor(uniform(engine) * 10);
  if (dtype == DType::u8 || dtype == DType::boolean)
    for (double& v : values) v = std::abs(v);
  return from_values(values, shape, {dtype});
}

/// Multiplies the slow way: [..., m, k] x [..., k, n] with equal leading axes, over row-major values.
std::vector<double> slow(const std::vector<double>& a, const std::vector<double>& b, Index batch, Index m, Index n,
                         Index k) {
  std::vector<double> c(static_cast<std::size_t>(batch * m * n));
  for (Index i = 0; i < batch; ++i)
    for (Index r = 0; r < m; ++r)
      for (Index j = 0; j < n; ++j)
        for (Index p = 0; p < k; ++p) c[(i * m + r) * n + j] += a[(i * m + r) * k + p] * b[(i * k + p) * n + j];
  return c;
}

double worst_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  return test::largest_difference(a, b);
}

double tolerance(DType dtype, Index k) {
  const double size = 1 + std::sqrt(static_cast<double>(k));
  return dtype == DType::f64    ? 1e-14 * size
         : dtype == DType::f32  ? 2e-6 * size
         : dtype == DType::bf16 ? 2e-2 * size
                                : 0;
}

void check_matmul(const Tensor& a, const Tensor& b, const Tensor& out) {
  const Index m = a.size(-2), k = a.size(-1), n = b.size(-1);
  Index batch = 1;
  for (int i = 0; i + 2 < out.rank(); ++i) batch *= out.size(i);
  INFO(a.shape().text() << " x " << b.shape().text() << " " << name(a.dtype()));
  device().matmul(a.view(), b.view(), out.view());
  std::vector<double> expected = slow(a.values(), b.values(), batch, m, n, k);
  if (out.dtype() == DType::boolean)
    for (double& v : expected) v = v != 0;
  if (out.dtype() == DType::u8)
    for (double& v : expected) v = std::fmod(v, 256);
  CHECK(worst_difference(out.values(), expected) <= tolerance(a.dtype(), k));
}

Tensor turned(const Tensor& t) { return t.with_layout(transpose(t.layout(), -1 + t.rank(), -2 + t.rank())); }
Tensor expanded(const Tensor& t, const Shape& shape) { return t.with_layout(expand(t.layout(), shape)); }
Tensor every_second(const Tensor& t, int axis) {
  return t.with_layout(slice(t.layout(), axis, t.size(axis) - 1, t.size(axis) / 2, -2));
}

double gelu(double x) { return 0.5 * x * std::erfc(-x * M_SQRT1_2); }
double gelu_grad(double x) { return 0.5 * std::erfc(-x * M_SQRT1_2) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }

}  // namespace

TEST_CASE("matmul: batches of every dtype, transposed, expanded, sliced, reversed", "[linear]") {
  for (DType d : {DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean}) {
    const Place place{d};
    check_matmul(noise({7, 9}, d, 1), noise({9, 11}, d, 2), empty({7, 11}, place));
    check_matmul(turned(noise({9, 7}, d, 1)), turned(noise({11, 9}, d, 2)), empty({7, 11}, place));
    check_matmul(noise({2, 3, 7, 9}, d, 1), noise({2, 3, 9, 11}, d, 2), empty({2, 3, 7, 11}, place));
    check_matmul(noise({2, 3, 7, 9}, d, 1), expanded(noise({9, 11}, d, 2), {2, 3, 9, 11}), empty({2, 3, 7, 11}, place));
    check_matmul(expanded(noise({7, 9}, d, 1), {2, 3, 7, 9}), noise({2, 3, 9, 11}, d, 2), empty({2, 3, 7, 11}, place));
    check_matmul(expanded(noise({1, 3, 1, 9}, d, 1), {2, 3, 7, 9}), expanded(noise({2, 1, 9, 1}, d, 2), {2, 3, 9, 11}),
                 empty({2, 3, 7, 11}, place));
    check_matmul(every_second(noise({4, 7, 9}, d, 1), 0), every_second(noise({2, 9, 12}, d, 2), 2),
                 empty({2, 7, 6}, place));
    check_matmul(noise({3, 1, 9}, d, 1), expanded(noise({9, 5}, d, 2), {3, 9, 5}), empty({3, 1, 5}, place));
    // results that are not row-major: transposed, a row of a transposed array, spread out
    check_matmul(noise({7, 9}, d, 1), noise({9, 11}, d, 2), turned(empty({11, 7}, place)));
    check_matmul(noise({2, 1, 9}, d, 1), noise({2, 9, 11}, d, 2), turned(empty({2, 11, 1}, place)));
    check_matmul(noise({2, 7, 9}, d, 1), noise({2, 9, 3}, d, 2), every_second(empty({2, 7, 6}, place), 2));
  }
}

TEST_CASE("matmul: empty sizes give zeros or nothing", "[linear]") {
  for (DType d : {DType::f32, DType::f64, DType::bf16, DType::i32}) {
    check_matmul(noise({2, 3, 0}, d, 1), noise({2, 0, 4}, d, 2), full({2, 3, 4}, 5, {d}));
    check_matmul(noise({0, 3, 2}, d, 1), noise({0, 2, 4}, d, 2), empty({0, 3, 4}, {d}));
    check_matmul(noise({2, 0, 3}, d, 1), noise({2, 3, 4}, d, 2), empty({2, 0, 4}, {d}));
  }
}

TEST_CASE("matmul: integers wrap, floating NaN and infinity pass through", "[linear]") {
  const Tensor big = from_values({2147483647}, {1, 1}, {DType::i32}), two = from_values({2}, {1, 1}, {DType::i32});
  const Tensor out = empty({1, 1}, {DType::i32});
  device().matmul(big.view(), two.view(), out.view());
  CHECK(out.item() == -2);
  const Tensor a = from_values({1, INFINITY, 0, 1}, {2, 2}), b = from_values({1, 2, NAN, 1}, {2, 2});
  const Tensor c = empty({2, 2});
  device().matmul(a.view(), b.view(), c.view());
  const std::vector<double> v = c.values();
  CHECK(std::isnan(v[0]));
  CHECK(v[1] == INFINITY);
  CHECK(std::isnan(v[2]));
  CHECK(v[3] == 1);
}

TEST_CASE("linear and its gradients against plain loops", "[linear]") {
  for (DType d : {DType::f32, DType::f64}) {
    for (Shape lead : {Shape{5}, Shape{4, 33}, Shape{0}, Shape{1, 2500}}) {
      const Index rows = lead.numel(), k = 24, n = 20;
      const auto shaped = [&](Index last) {
        Shape s = lead;
        s.append(last);
        return s;
      };
      const Tensor x = noise(shaped(k), d, 1), w = noise({n, k}, d, 2), bias = noise({n}, d, 3),
                   dy = noise(shaped(n), d, 4);
      const Tensor residual = noise(shaped(n), d, 5), h = noise(shaped(k), d, 6);
      const std::vector<double> xv = x.values(), wv = w.values(), bv = bias.values(), gv = dy.values(),
                                rv = residual.values(), hv = h.values();
      for (bool with_gelu : {false, true}) {
        INFO(lead.text() << " " << name(d) << " gelu " << with_gelu);
        const Tensor y = empty(shaped(n), {d}), pre = empty(shaped(n), {d});
        REQUIRE(device().linear({x.view(), w.view(), y.view(), bias.view(), residual.view(), with_gelu ? pre.view() : View(), with_gelu}));
        std::vector<double> expected = slow(xv, turned(w).values(), 1, rows, n, k);
        for (Index i = 0; i < rows * n; ++i) expected[i] += bv[i % n];
        if (with_gelu) CHECK(worst_difference(pre.values(), expected) <= tolerance(d, k));
        for (Index i = 0; i < rows * n; ++i) expected[i] = (with_gelu ? gelu(expected[i]) : expected[i]) + rv[i];
        CHECK(worst_difference(y.values(), expected) <= tolerance(d, k));

        const Tensor dx = empty(shaped(k), {d}), dw = empty({n, k}, {d}), db = empty({n}, {d});
        LinearBackward back{dy.view()};
        back.x = with_gelu ? h.view() : x.view();
        back.x_is_pre_gelu = with_gelu;
        back.weight = w.view();
        if (with_gelu) back.gelu_pre = h.view();
        back.dx = dx.view(), back.dweight = dw.view(), back.dbias = db.view();
        REQUIRE(device().linear_backward(back));
        std::vector<double> edx = slow(gv, wv, 1, rows, k, n), edw(n * k), edb(n);
        for (Index i = 0; i < rows; ++i)
          for (Index j = 0; j < n; ++j) {
            edb[j] += gv[i * n + j];
            for (Index p = 0; p < k; ++p)
              edw[j * k + p] += gv[i * n + j] * (with_gelu ? gelu(hv[i * k + p]) : xv[i * k + p]);
          }
        if (with_gelu)
          for (Index i = 0; i < rows * k; ++i) edx[i] *= gelu_grad(hv[i]);
        CHECK(worst_difference(dx.values(), edx) <= tolerance(d, n));
        CHECK(worst_difference(dw.values(), edw) <= tolerance(d, rows));
        CHECK(worst_difference(db.values(), edb) <= tolerance(d, rows));

        LinearBackward only_bias{dy.view()};
        fill(db, -1);
        only_bias.dbias = db.view();
        REQUIRE(device().linear_backward(only_bias));
        CHECK(worst_difference(db.values(), edb) <= tolerance(d, rows));
      }
    }
  }
}

TEST_CASE("linear declines what it does not cover", "[linear]") {
  const Tensor x = noise({4, 6}, DType::bf16, 1), w = noise({3, 6}, DType::bf16, 2), y = empty({4, 3}, {DType::bf16});
  CHECK_FALSE(device().linear({x.view(), w.view(), y.view()}));
  const Tensor f = noise({4, 6}, DType::f32, 1), v = noise({3, 6}, DType::f32, 2), out = turned(empty({3, 4}));
  CHECK_FALSE(device().linear({f.view(), v.view(), out.view()}));
}

TEST_CASE("linear: the same bits with any number of threads", "[linear][threads]") {
  const test::RestoreSettings restore;
  const Tensor x = noise({33, 65, 48}, DType::f32, 1), w = noise({80, 48}, DType::f32, 2),
               dy = noise({33, 65, 80}, DType::f32, 3);
  std::vector<std::vector<double>> first;
  for (int count : {1, 2, 3, 8, 21}) {
    cpu::set_threads(count);
    const Tensor y = empty({33, 65, 80}), dx = empty({33, 65, 48}), dw = empty({80, 48}), db = empty({80}),
                 bias_only = empty({80});
    REQUIRE(device().linear({x.view(), w.view(), y.view()}));
    LinearBackward back{dy.view()}, alone{dy.view()};
    back.x = x.view(), back.weight = w.view(), back.dx = dx.view(), back.dweight = dw.view(), back.dbias = db.view();
    alone.dbias = bias_only.view();
    REQUIRE(device().linear_backward(back));
    REQUIRE(device().linear_backward(alone));
    std::vector<std::vector<double>> now{y.values(), dx.values(), dw.values(), db.values(), bias_only.values()};
    if (first.empty()) first = now;
    CHECK(now == first);
  }
}

TEST_CASE("linear: a residual whose rows lie further apart than those of the result", "[linear]") {
  for (const DType d : {DType::f32, DType::f64, DType::bf16}) {
    CAPTURE(name(d));
    const Tensor x = noise({300, 24}, d, 1), w = noise({20, 24}, d == DType::bf16 ? DType::f32 : d, 2), wide = noise({300, 3, 20}, d, 3);
    const Tensor residual = wide.with_layout(squeeze(slice(wide.layout(), 1, 1, 1, 1), 1)), y = empty({300, 20}, {d});
    REQUIRE(device().linear({x.view(), w.view(), y.view(), {}, residual.view()}));
    std::vector<double> expected = slow(x.values(), turned(w).values(), 1, 300, 20, 24);
    const std::vector<double> r = residual.values();
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += r[i];
    CHECK(worst_difference(y.values(), expected) <= tolerance(d, 24));
  }
}

TEST_CASE("linear: the gradient of a bias alone, over many rows of bf16", "[linear]") {
  const Tensor dy = noise({700, 20}, DType::bf16, 4), db = full({20}, -1);
  LinearBackward args{dy.view()};
  args.dbias = db.view();
  REQUIRE(device().linear_backward(args));
  std::vector<double> expected(20);
  const std::vector<double> g = dy.values();
  for (std::size_t i = 0; i < g.size(); ++i) expected[i % 20] += g[i];
  CHECK(worst_difference(db.values(), expected) <= 1e-4);
}
