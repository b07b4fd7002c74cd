// Products of mixed precision against plain loops in double over the same rounded operands: sizes, epilogues, all forms of packed
// operands, every instruction set, thread counts.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backends/cpu/gemm_bf16.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/random.h"
#include "tests/cpu_settings.h"
#include "tests/worst.h"

using namespace norma;
using namespace norma::cpu;

namespace {

using std::int64_t;

double value(Bf16Bits bits) {
  bf16 x;
  x.bits = bits;
  return static_cast<double>(x);
}
double rounded(double x) { return static_cast<double>(bf16(static_cast<float>(x))); }
double gelu(double x) { return 0.5 * x * std::erfc(-x * M_SQRT1_2); }
double gelu_grad(double x) { return 0.5 * std::erfc(-x * M_SQRT1_2) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }

std::vector<float> floats(int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = uniform(engine);
  return v;
}
std::vector<Bf16Bits> bits(int64_t count, unsigned seed) {
  std::vector<Bf16Bits> v;
  for (float x : floats(count, seed)) v.push_back(bf16(x).bits);
  return v;
}

/// Each instruction set of this processor, each form.
template <class F>
void each_form(F&& f) {
  test::for_each_isa({"base", "avx2", "avx512", "avx512bf16", "amx"}, [&](const std::string&) {
    for (const Bf16Form form : {Bf16Form::widened, Bf16Form::pairs, Bf16Form::tiles}) {
      if (!has(form)) continue;
      const ForceBf16Form force(form);
      INFO(name(form));
      f();
    }
  });
}

struct Case {
  int64_t m, n, k;
  bool transposed_b = true;  // a weight [n, k], read as W^T; else [k, n]
  bool bias = false, pre = false, gelu = false, gelu_pre = false, residual = false;
};

/// C as bits, after a comparison with the plain loop where `check`.
std::vector<Bf16Bits> run(const Case& x, bool check) {
  const int64_t lda = x.k + 3, ldb = (x.transposed_b ? x.k : x.n) + 1, ldc = x.n + 5, ld = x.n + 2;
  const auto a = bits(x.m * lda + 1, 1);
  const auto b = floats((x.transposed_b ? x.n : x.k) * ldb + 1, 2), bias = floats(x.n, 3);
  const auto slope = bits(x.m * ld, 4), residual = bits(x.m * ld, 5);
  std::vector<Bf16Bits> c(static_cast<std::size_t>(x.m * ldc), 0x1234), pre(static_cast<std::size_t>(x.m * ld), 0x1234);
  const Matrix<const float> weight{b.data(), x.transposed_b ? 1 : ldb, x.transposed_b ? ldb : 1};
  Bf16Epilogue e;
  e.ld = ld, e.gelu = x.gelu;
  if (x.bias) e.bias = bias.data();
  if (x.pre) e.pre = pre.data();
  if (x.gelu_pre) e.gelu_pre = slope.data();
  if (x.residual) e.residual = residual.data();
  gemm_bf16(x.m, x.n, x.k, {a.data(), lda, 1}, weight, c.data(), ldc, e);
  if (!check) return c;
  INFO("m " << x.m << " n " << x.n << " k " << x.k << " bias " << x.bias << " gelu " << x.gelu << " gelu_pre " << x.gelu_pre);
  const auto close = [&](double got, double exact, double terms) {
    // half an ulp of the result, and the rounding of `terms` sums in f32
    return std::abs(got - exact) <= std::abs(exact) * 0x1p-8 + 4e-7 * (1 + terms);
  };
  int wrong = 0;
  for (int64_t i = 0; i < x.m; ++i) {
    for (int64_t j = 0; j < x.n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < x.k; ++p)
        sum += value(a[i * lda + p]) * rounded(weight.data[p * weight.row + j * weight.col]);
      if (x.bias) sum += bias[j];
      if (x.pre && !close(value(pre[i * ld + j]), sum, std::sqrt(x.k))) ++wrong;
      if (x.gelu) sum = gelu(sum);
      if (x.gelu_pre) sum *= gelu_grad(value(slope[i * ld + j]));
      if (x.residual) sum += value(residual[i * ld + j]);
      if (!close(value(c[i * ldc + j]), sum, std::sqrt(x.k))) ++wrong;
    }
    for (int64_t j = x.n; j < ldc && i + 1 < x.m; ++j) wrong += c[i * ldc + j] != 0x1234;
  }
  CHECK(wrong == 0);
  return c;
}

struct Gradient {
  std::vector<float> dw, db;
};
/// dW = dY^T X over k rows, with the sums of dY's columns.
Gradient run_long(int64_t m, int64_t n, int64_t k, bool through_gelu, bool check) {
  const int64_t ld_dy = m + 3, ldx = n + 1, ldc = n + 2;
  const auto dy = bits(k * ld_dy + 1, 6), x = bits(k * ldx + 1, 7);
  Gradient g{std::vector<float>(static_cast<std::size_t>(m * ldc), 99), std::vector<float>(static_cast<std::size_t>(m))};
  gemm_bf16_long(m, n, k, {dy.data(), 1, ld_dy}, {x.data(), ldx, 1}, through_gelu, g.dw.data(), ldc, g.db.data());
  if (!check) return g;
  INFO("m " << m << " n " << n << " k " << k << " gelu " << through_gelu);
  // gelu's last bit may round the other way: one ulp of bf16 in a term now and then
  const double allowed = 1e-6 * (1 + std::sqrt(k)) + (through_gelu ? 0x1p-8 * (1 + 0.02 * static_cast<double>(k)) : 0);
  int wrong = 0;
  for (int64_t i = 0; i < m; ++i) {
    double total = 0;
    for (int64_t p = 0; p < k; ++p) total += value(dy[p * ld_dy + i]);
    wrong += !(std::abs(g.db[i] - total) <= 1e-6 * (1 + static_cast<double>(k)));
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        const double v = value(x[p * ldx + j]);
        sum += value(dy[p * ld_dy + i]) * (through_gelu ? rounded(gelu(v)) : v);
      }
      wrong += !(std::abs(g.dw[i * ldc + j] - sum) <= allowed);
    }
    for (int64_t j = n; j < ldc; ++j) wrong += g.dw[i * ldc + j] != 99;
  }
  CHECK(wrong == 0);
  return g;
}

}  // namespace

TEST_CASE("bf16 products equal plain loops over the rounded operands", "[gemm_bf16]") {
  each_form([] {
    for (const int64_t m : {1, 5, 13, 100})
      for (const int64_t n : {1, 7, 16, 49, 97})
        for (const int64_t k : {0, 1, 2, 7, 64, 193})
          for (const bool t : {true, false}) run({m, n, k, t}, true);
    run({300, 130, 900, true}, true);  // several pieces of k, several tasks
    run({203, 96, 401, false}, true);
    run({500, 300, 520, true}, true);  // packed once for all tasks
  });
}

TEST_CASE("bf16 epilogues", "[gemm_bf16]") {
  each_form([] {
    for (const int64_t n : {16, 48, 53}) {
      run({37, n, 70, true, true}, true);
      run({37, n, 70, true, true, false, false, false, true}, true);
      run({37, n, 70, true, true, true, true}, true);
      run({37, n, 70, true, false, true, true, false, true}, true);
      run({37, n, 70, false, false, false, false, true}, true);
    }
  });
}

TEST_CASE("bf16 gradients of weights", "[gemm_bf16]") {
  each_form([] {
    for (const int64_t m : {1, 6, 17, 100})
      for (const int64_t n : {1, 16, 50})
        for (const int64_t k : {0, 1, 3, 130, 700}) run_long(m, n, k, false, true);
    run_long(24, 40, 300, true, true);
    run_long(200, 390, 1100, false, true);
    for (const int64_t k : {0, 65, 1100}) run_long(192, 96, k, k == 65, true);  // whole tiles of every form, written where they belong
    run_long(96, 192, 2100, false, true);
  });
}

TEST_CASE("bf16 products have the same bits with any number of threads", "[gemm_bf16]") {
  const test::RestoreSettings restore;
  each_form([] {
    std::array<std::vector<Bf16Bits>, 6> c, d;
    std::array<Gradient, 6> g, h;
    int i = 0;
    for (const int count : {1, 2, 3, 8, 21, 48}) {
      set_threads(count);
      c[i] = run({260, 200, 300, true, true, true, true}, false);
      d[i] = run({500, 300, 400, true}, false);
      g[i] = run_long(130, 70, 2100, true, false);
      h[i] = run_long(192, 192, 1500, false, false);
      ++i;
    }
    for (i = 1; i < 6; ++i) {
      CHECK(c[i] == c[0]);
      CHECK(d[i] == d[0]);
      for (const auto& of : {g, h}) {
        CHECK(std::memcmp(of[i].dw.data(), of[0].dw.data(), of[0].dw.size() * 4) == 0);
        CHECK(std::memcmp(of[i].db.data(), of[0].db.data(), of[0].db.size() * 4) == 0);
      }
    }
  });
}

TEST_CASE("sums for a bias have the same bits with any number of threads", "[gemm_bf16]") {
  const test::RestoreSettings restore;
  each_form([] {
    for (const int64_t m : {48, 64, 96, 100, 192}) {  // whole and left-over columns are packed apart, and threads decide which are left over
      constexpr int64_t k = 272, n = 32;
      std::vector<Bf16Bits> a, b;
      for (int64_t i = 0; i < k * m; ++i) {  // of several magnitudes: sums of equal ones are exact in any order
        const Philox u = philox({static_cast<std::uint32_t>(i), 0, 0, 0}, {1, 2});
        a.push_back(bf16((uniform_from(u[0]) - 0.5f) * std::exp2(-12 * uniform_from(u[1]))).bits);
      }
      for (int64_t i = 0; i < k * n; ++i) b.push_back(bf16(uniform_from(philox({static_cast<std::uint32_t>(i), 1, 0, 0}, {1, 2})[0])).bits);
      std::vector<float> first;
      for (const int count : {1, 2, 3, 8, 21}) {
        set_threads(count);
        std::vector<float> c(static_cast<std::size_t>(m * n)), db(static_cast<std::size_t>(m));
        gemm_bf16_long(m, n, k, {a.data(), 1, m}, {b.data(), n, 1}, false, c.data(), n, db.data());
        if (first.empty()) first = db;
        CAPTURE(m, count);
        CHECK((db == first));
      }
    }
  });
}

TEST_CASE("bf16 epilogues: gelu and its derivative of every bf16", "[gemm_bf16]") {
  // Rounding is half of a step between neighbours; what comes before it may add a fifth of that.
  const auto steps_off = [](double got, double exact, double least) {
    const double size = std::max(std::abs(exact), least);
    return std::abs(got - exact) / std::ldexp(1, std::ilogb(size) - 7);
  };
  constexpr int64_t n = 32;
  std::vector<Bf16Bits> all;
  for (int sign : {0, 0x8000})
    for (int b = 0x0100; b <= 0x4110; ++b) all.push_back(static_cast<Bf16Bits>(sign | b));  // 2^-125 to 9: no result is denormal
  while (all.size() % n != 0) all.push_back(0);
  const auto m = static_cast<int64_t>(all.size()) / n;
  std::vector<float> unit(n * n);
  for (int64_t i = 0; i < n; ++i) unit[static_cast<std::size_t>(i * n + i)] = 1;
  const std::vector<Bf16Bits> ones(all.size(), bf16(1).bits);
  std::vector<Bf16Bits> value_of(all.size()), slope_of(all.size());
  each_form([&] {
    Bf16Epilogue forward, backward;
    forward.ld = backward.ld = n, forward.gelu = true, backward.gelu_pre = all.data();
    gemm_bf16(m, n, n, {all.data(), n, 1}, {unit.data(), 1, n}, value_of.data(), n, forward);
    gemm_bf16(m, n, n, {ones.data(), n, 1}, {unit.data(), 1, n}, slope_of.data(), n, backward);
    double worst = 0, worst_slope = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const double x = value(all[i]);
      worst = test::worse(worst, steps_off(value(value_of[i]), gelu(x), 0x1p-126));
      worst_slope = test::worse(worst_slope, steps_off(value(slope_of[i]), gelu_grad(x), 0.01));
    }
    CHECK(worst < 0.6);
    CHECK(worst_slope < 0.6);
  });
}

TEST_CASE("what is not finite goes through a bf16 product", "[gemm_bf16]") {
  each_form([] {
    const std::vector<Bf16Bits> a{bf16(INFINITY).bits, bf16(1).bits, bf16(NAN).bits, bf16(1).bits, bf16(3e38f).bits, bf16(3e38f).bits};
    const std::vector<float> w{1, 1};
    std::array<Bf16Bits, 3> c{};
    gemm_bf16(3, 1, 2, {a.data(), 2, 1}, {w.data(), 1, 2}, c.data(), 1, {});
    CHECK(std::isinf(value(c[0])));
    CHECK(std::isnan(value(c[1])));
    CHECK(std::isinf(value(c[2])));
  });
}
