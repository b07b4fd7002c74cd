// Matrix products of the CPU backend against plain loops in double: sizes, strides, epilogues, providers, thread
// counts.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "backends/cpu/gemm.h"
#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "core/error.h"
#include "tests/cpu_settings.h"
#include "tests/worst.h"

using namespace norma::cpu;

namespace {

using std::int64_t;

/// Uniform in [-1, 1), by SplitMix64: under a sanitizer <random> takes as long as the products do.
template <class T>
std::vector<T> noise(int64_t count, unsigned seed) {
  std::vector<T> v(static_cast<std::size_t>(count));
  std::uint64_t state = seed;
  for (T& x : v) {
    std::uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    x = static_cast<T>(static_cast<double>((z ^ z >> 31) >> 11) * 0x1p-52 - 1);
  }
  return v;
}

/// An operand of `rows` x `columns` elements in a larger array: dense or transposed, or with both strides above 1.
template <class T>
struct Operand {
  std::vector<T> data;
  Matrix<const T> matrix;
  Operand(int64_t rows, int64_t columns, char form, unsigned seed) {
    const int64_t pad = form == 'g' ? 2 : 1;
    matrix.row = form == 't' ? 1 : columns * pad + 3;
    matrix.col = form == 't' ? rows + 2 : pad;
    data = noise<T>(rows * matrix.row + columns * matrix.col + 1, seed);
    matrix.data = data.data();
  }
  double operator()(int64_t i, int64_t j) const {
    return static_cast<double>(matrix.data[i * matrix.row + j * matrix.col]);
  }
};

double gelu(double x) { return 0.5 * x * std::erfc(-x * M_SQRT1_2); }
double gelu_grad(double x) { return 0.5 * std::erfc(-x * M_SQRT1_2) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI); }

constexpr const char* provider_names[] = {" own", " fma", " openblas", " slices"};

struct Case {
  int64_t m, n, k;
  char a = 'n', b = 'n';  // n dense, t transposed, g general strides
  bool accumulate = false, gelu_b = false, row_sums = false;
  bool bias = false, pre = false, gelu = false, gelu_pre = false, residual = false;
};

/// Sums of products by plain loops, and of the products' sizes; of large products only every step-th column.
template <class T>
struct PlainSums {
  int64_t step;
  std::vector<double> sums, sizes;  // column after column
  PlainSums(const Case& x, const Operand<T>& a, const Operand<T>& b) : step(std::max<int64_t>(1, x.m * x.n * x.k / 2'000'000)) {
    using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;
    std::vector<double> column(static_cast<std::size_t>(x.k));
    for (int64_t j = 0; j < x.n; j += step) {
      for (int64_t p = 0; p < x.k; ++p) column[p] = x.gelu_b ? gelu(b(p, j)) : b(p, j);
      for (int64_t i = 0; i < x.m; ++i) {
        Wide sum = 0;
        double size = 0;
        for (int64_t p = 0; p < x.k; ++p) {
          sum += static_cast<Wide>(a(i, p)) * column[p];
          size += std::abs(a(i, p) * column[p]);
        }
        sums.push_back(static_cast<double>(sum)), sizes.push_back(size);
      }
    }
  }
};
/// Those of the last operands are kept: cases that differ in the epilogue alone have the same.
template <class T>
const PlainSums<T>& plain_sums(const Case& x, const Operand<T>& a, const Operand<T>& b) {
  static std::optional<PlainSums<T>> kept;
  static std::tuple<int64_t, int64_t, int64_t, char, char, bool> of;
  const std::tuple wanted(x.m, x.n, x.k, x.a, x.b, x.gelu_b);
  if (!kept || of != wanted) kept.emplace(x, a, b), of = wanted;
  return *kept;
}

/// Runs a case; returns C (with a gap of 5 columns, checked untouched), pre and the row sums.
template <class T>
std::vector<T> run(const Case& x, bool check) {
  INFO("m " << x.m << " n " << x.n << " k " << x.k << " a " << x.a << " b " << x.b << " accumulate " << x.accumulate
            << " gelu_b " << x.gelu_b << " bias " << x.bias << " pre " << x.pre << " gelu " << x.gelu << " gelu_pre "
            << x.gelu_pre << " residual " << x.residual << " bytes " << sizeof(T) << " " << name(isa())
            << provider_names[static_cast<int>(gemm_provider())]);
  const Operand<T> a(x.m, x.k, x.a, 1), b(x.k, x.n, x.b, 2);
  const int64_t ldc = x.n + 5, ld = x.n + 2;
  std::vector<T> c = noise<T>(x.m * ldc, 3), pre(static_cast<std::size_t>(x.m * ld), T{7}),
                 row_sums(static_cast<std::size_t>(x.m), T{9});
  const std::vector<T> c_before = c, bias = noise<T>(x.n, 4), gelu_pre = noise<T>(x.m * ld, 5),
                       residual = noise<T>(x.m * ld, 6);
  Epilogue<T> e;
  e.ld = ld;
  if (x.bias) e.bias = bias.data();
  if (x.pre) e.pre = pre.data();
  e.gelu = x.gelu;
  if (x.gelu_pre) e.gelu_pre = gelu_pre.data();
  if (x.residual) e.residual = residual.data();
  if (x.row_sums || x.gelu_b)
    gemm_with_row_sums<T>(x.m, x.n, x.k, a.matrix, b.matrix, x.gelu_b, c.data(), ldc, x.row_sums ? row_sums.data() : nullptr);
  else
    gemm<T>(x.m, x.n, x.k, a.matrix, b.matrix, c.data(), ldc, x.accumulate, e);

  if (check) {
    const double u = std::is_same_v<T, float> ? 0x1p-24 : 0x1p-53;
    const PlainSums<T>& plain = plain_sums(x, a, b);
    double worst = 0, squares = 0;
    std::size_t checked = 0;
    for (int64_t j = 0; j < x.n; j += plain.step) {
      for (int64_t i = 0; i < x.m; ++i, ++checked) {
        const double size = plain.sizes[checked];
        double s = plain.sums[checked], bound = 8 * u * size;
        if (x.accumulate) s += c_before[i * ldc + j];
        if (x.bias) s += bias[j];
        bound += 8 * u * (std::abs(s) + 3);
        if (x.pre) worst = norma::test::worse(worst, std::abs(s - pre[i * ld + j]) / bound);
        if (x.gelu) s = gelu(s);
        if (x.gelu_pre) s *= gelu_grad(gelu_pre[i * ld + j]);
        if (x.residual) s += residual[i * ld + j];
        if (!(x.bias || x.accumulate || x.gelu || x.gelu_pre || x.residual || x.gelu_b)) bound = 8 * u * size;
        const double error = std::abs(s - c[i * ldc + j]);
        if (error != 0) worst = norma::test::worse(worst, error / bound);
        squares += error * error / (bound * bound + 1e-300);
      }
    }
    // Sums of noise: in the mean far below u (|A||B|), at worst, among many elements, a few times that.
    CHECK(worst <= 1);
    if (checked > 1000) CHECK(std::sqrt(squares / static_cast<double>(checked)) <= 0.125);
    for (int64_t i = 0; i < x.m; ++i)
      for (int64_t j = x.n; j < ldc; ++j)
        if (c[i * ldc + j] != c_before[i * ldc + j]) FAIL("wrote outside of C at " << i << ", " << j);
    if (x.row_sums)
      for (int64_t i = 0; i < x.m; ++i) {
        double sum = 0, size = 0;
        for (int64_t p = 0; p < x.k; ++p) sum += a(i, p), size += std::abs(a(i, p));
        if (!(std::abs(sum - row_sums[i]) <= 4 * u * size))
          FAIL("row sum " << i << ": " << row_sums[i] << " for " << sum);
      }
  }
  c.insert(c.end(), pre.begin(), pre.end());
  c.insert(c.end(), row_sums.begin(), row_sums.end());
  return c;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class F>
void for_each_isa(F&& f) {
  norma::test::for_each_isa({"base", "avx2", "avx512", "amx"}, [&](const std::string&) { f(); });
}

/// Without them, and in f64, `slices` and `own` are multiply-adds too, and a loop over providers would compute everything again.
bool has_slices() { return NORMA_BF16_KERNELS(sliced_gemm).f32 != nullptr; }

/// Those that the active instruction set has for itself: AMX differs from AVX-512 in slices alone.
std::vector<GemmProvider> providers() {
  if (isa() == Isa::amx) return {GemmProvider::slices};
  return {GemmProvider::own, GemmProvider::openblas};
}

}  // namespace

TEMPLATE_TEST_CASE("gemm: every small size and transpose", "[gemm][every_isa]", float, double) {
  for_each_isa([&] {
    for (auto provider : providers()) {
      set_gemm_provider(provider);
      for (int64_t m : {0, 1, 5, 6, 13})
        for (int64_t n : {0, 1, 7, 16, 50})
          for (int64_t k : {0, 1, 9, 40})
            for (char a : {'n', 't', 'g'})
              for (char b : {'n', 't', 'g'}) run<TestType>({m, n, k, a, b, (m + n + k) % 2 == 1}, true);
    }
  });
}

TEMPLATE_TEST_CASE("gemm: random sizes, k in pieces and slices", "[gemm][every_isa]", float, double) {
  std::mt19937 engine(7);
  const auto draw = [&](int64_t most) { return std::uniform_int_distribution<int64_t>(1, most)(engine); };
  for_each_isa([&] {
    set_gemm_provider(providers().front());
    for (int i = 0; i < 12; ++i) {
      const Case wide{draw(300), draw(200), draw(900), "ntg"[i % 3], "ntg"[i / 3 % 3]};
      const Case tall{draw(90), draw(60), 1024 + draw(2500), "ntg"[i % 3], "ntg"[i / 3 % 3], i % 4 == 1};
      for (const Case& x : {wide, tall}) run<TestType>(x, true);
    }
    run<TestType>({100, 1, 3000}, true);
    run<TestType>({1, 100, 3000, 'n', 't'}, true);
  });
}

TEMPLATE_TEST_CASE("gemm: epilogues", "[gemm][every_isa]", float, double) {
  for_each_isa([&] {
    for (auto provider : providers()) {
      set_gemm_provider(provider);
      for (const auto& [m, n, k] : {std::array<int64_t, 3>{37, 53, 20}, {130, 96, 500}, {24, 40, 1500}, {9, 16, 0}})
        for (int bits = 0; bits < 64; ++bits) {
          Case x{m, n, k, 'n', 't'};
          x.accumulate = bits & 1, x.bias = bits & 2, x.pre = bits & 4;
          x.gelu = bits & 8, x.gelu_pre = bits & 16, x.residual = bits & 32;
          run<TestType>(x, true);
        }
    }
  });
}

TEMPLATE_TEST_CASE("gemm: gelu of B and row sums of A", "[gemm][every_isa]", float, double) {
  for_each_isa([&] {
    for (auto provider : providers()) {
      set_gemm_provider(provider);
      for (const auto& [m, n, k] : {std::array<int64_t, 3>{37, 53, 20}, {100, 500, 130}, {70, 40, 2500}, {9, 16, 0}})
        for (char a : {'n', 't'})
          for (bool gelu_b : {false, true})
            for (bool sums : {false, true}) {
              Case x{m, n, k, a, 'n'};
              x.gelu_b = gelu_b, x.row_sums = sums;
              run<TestType>(x, true);
            }
    }
  });
}

TEMPLATE_TEST_CASE("gemm: the same bits with any number of threads", "[gemm][threads]", float, double) {
  const norma::test::RestoreSettings restore;
  std::vector<Case> cases{{700, 192, 500, 'n', 't'}, {300, 700, 96, 'n', 'n'}, {192, 130, 2100, 't', 'n'},
                          {20, 900, 800, 'n', 't'},  {64, 64, 4000, 't', 'n'}, {500, 20, 1100, 't', 't', true},
                          {267, 76, 2492, 't', 'n', false, false, true}, {1000, 256, 512, 'n', 'n'}, {520, 192, 576, 'n', 'n'}, {482, 96, 1000, 'n', 't', true}};
  cases[0].bias = cases[0].gelu = cases[0].pre = true;
  cases[2].row_sums = cases[2].gelu_b = true;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{192, 72, 24}, {192, 24, 96}, {96, 24, 784}}) cases.push_back({m, n, k, 'n', 't'});
#if defined(__SANITIZE_ADDRESS__)  // whose matter is where threads write, not when
  constexpr int repeats = 1;
#else
  constexpr int repeats = 3;
#endif
  std::vector<GemmProvider> different{GemmProvider::fma, GemmProvider::openblas};
  if (has_slices() && sizeof(TestType) == 4) different.push_back(GemmProvider::slices);
  for (const GemmProvider provider : different)
    for (const Case& x : cases) {
      set_gemm_provider(provider);
      set_threads(1);
      const auto one = run<TestType>(x, true);
      for (int count : {2, 3, 4, 8, 13, 21, 48}) {
        set_threads(count);
        for (int repeat = 0; repeat < repeats; ++repeat) CHECK(same_bits(one, run<TestType>(x, false)));
      }
    }
}

TEST_CASE("gemm: the same bits with any number of threads, over random sizes", "[gemm][threads]") {
  const norma::test::RestoreSettings restore;
  std::mt19937 engine(17);
  const auto below = [&](unsigned limit) { return static_cast<int64_t>(engine() % limit); };
  std::vector<GemmProvider> different{GemmProvider::own};
  if (has_slices()) different.push_back(GemmProvider::fma), different.push_back(GemmProvider::slices);
  for (const GemmProvider provider : different) {
    set_gemm_provider(provider);
    for (int round = 0; round < 60; ++round) {
      Case x{1 + below(700), 1 + below(300), 1 + below(round % 3 ? 900 : 3000), "nt"[below(2)], "nt"[below(2)], below(4) == 0};
      x.row_sums = !x.accumulate && below(3) == 0;
      if (!x.row_sums && below(3) == 0) x.bias = x.pre = x.gelu = true;
      set_threads(1);
      const auto one = run<float>(x, false);
      for (int more = 0; more < 3; ++more) {
        const auto count = static_cast<int>(2 + below(31));
        set_threads(count);
        INFO(x.m << " x " << x.n << ", k " << x.k << " " << x.a << x.b << ", " << count << " threads" << provider_names[static_cast<int>(provider)]);
        CHECK(same_bits(one, run<float>(x, false)));
      }
    }
  }
}

TEST_CASE("gemm: where slices pay is a matter of sizes: few rows go by multiply-adds", "[gemm]") {
  const norma::test::RestoreSettings restore;
  const auto by = [](GemmProvider provider, const Case& x) {
    set_gemm_provider(provider);
    return run<float>(x, false);
  };
  for (const auto& [x, pay] : {std::pair{Case{4160, 192, 192, 'n', 't'}, true}, {Case{768, 192, 4160, 't', 'n'}, true}, {Case{96, 96, 4096, 't', 'n'}, true},
                               {Case{3136, 64, 64, 'n', 't'}, true}, {Case{65, 768, 192, 'n', 't'}, false}, {Case{65, 192, 768, 'n', 'n'}, false}, {Case{192, 192, 65, 't', 'n'}, false}})
    CHECK(same_bits(by(GemmProvider::own, x), by(pay ? GemmProvider::slices : GemmProvider::fma, x)));
}

TEST_CASE("gemm: fma is what AVX-512 does", "[gemm]") {
  const norma::test::RestoreSettings restore;
  const Case x{200, 192, 500, 'n', 't', false, false, false, true};
  const auto on = [&](const char* set, GemmProvider provider) {
    set_isa(set);
    set_gemm_provider(provider);
    return run<float>(x, true);
  };
  try {
    set_isa("amx");
  } catch (const norma::Error&) {
    SUCCEED("this processor has no AMX");
    return;
  }
  const auto own = on("avx512", GemmProvider::own), fma = on("amx", GemmProvider::fma), sliced = on("amx", GemmProvider::slices);
  CHECK(same_bits(own, fma));
  CHECK_FALSE(same_bits(own, sliced));
}

TEST_CASE("gemm: slices are as exact as multiply-adds, also over many magnitudes", "[gemm]") {
  // Without AMX both are multiply-adds, and equal.
  const norma::test::RestoreSettings restore;
  const int64_t m = 96, n = 80;
  for (const int64_t k : {32, 192, 768, 3000})
    for (const int magnitudes : {0, 10, 40}) {
      auto a = noise<float>(m * k, 1), b = noise<float>(k * n, 2);
      std::mt19937 engine(3);
      for (auto* x : {&a, &b})
        for (float& f : *x) f = std::ldexp(f, magnitudes ? static_cast<int>(engine() % static_cast<unsigned>(magnitudes)) - magnitudes / 2 : 0);
      const auto root_mean_square = [&](GemmProvider provider) {
        set_gemm_provider(provider);
        std::vector<float> c(static_cast<std::size_t>(m * n));
        gemm<float>(m, n, k, {a.data(), k, 1}, {b.data(), n, 1}, c.data(), n);
        double squares = 0;
        for (int64_t i = 0; i < m; ++i)
          for (int64_t j = 0; j < n; ++j) {
            double sum = 0, size = 0;
            for (int64_t p = 0; p < k; ++p) {
              const double term = static_cast<double>(a[i * k + p]) * b[p * n + j];
              sum += term, size += term * term;
            }
            const double error = (c[i * n + j] - sum) / std::sqrt(size);
            squares += error * error;
          }
        return std::sqrt(squares / static_cast<double>(m * n));
      };
      const double sliced = root_mean_square(GemmProvider::slices), fma = root_mean_square(GemmProvider::fma);
      INFO("k " << k << ", magnitudes " << magnitudes << ": slices " << sliced << ", multiply-adds " << fma);
      // Where few terms of a sum are much larger than the others, all that counts is how these few are rounded.
      CHECK(sliced <= (magnitudes > 10 ? 1.25 : 1) * fma);
    }
}

TEST_CASE("gemm: what is not finite, and what is tiny", "[gemm]") {
  const int64_t m = 96, n = 96, k = 64;
  const float inf = std::numeric_limits<float>::infinity();
  auto a = noise<float>(m * k, 1), b = noise<float>(k * n, 2);
  a[3 * k + 5] = inf, a[7 * k + 9] = std::nanf(""), a[11 * k] = 3e38f;
  for (int64_t p = 0; p < k; ++p) a[13 * k + p] *= 1e-30f, a[17 * k + p] *= 1e-38f;
  std::vector<float> c(static_cast<std::size_t>(m * n));
  const norma::test::RestoreSettings restore;
  set_gemm_provider(GENERATE(GemmProvider::fma, GemmProvider::slices));
  gemm<float>(m, n, k, {a.data(), k, 1}, {b.data(), n, 1}, c.data(), n);
  for (int64_t j = 0; j < n; ++j) {
    CHECK(!std::isfinite(c[3 * n + j]));
    CHECK(std::isnan(c[7 * n + j]));
    for (const int64_t i : {0, 11, 13, 17}) {
      double sum = 0, size = 0;
      for (int64_t p = 0; p < k; ++p) sum += static_cast<double>(a[i * k + p]) * b[p * n + j], size += std::abs(static_cast<double>(a[i * k + p]) * b[p * n + j]);
      CHECK(std::abs(c[i * n + j] - sum) <= 1e-6 * size + static_cast<double>(k) * 0x1p-126);
    }
  }
}

TEST_CASE("gemm: strides do not change the order of the sum", "[gemm]") {
  // The same numbers dense, transposed and spread out give the same bits.
  const int64_t m = 130, n = 90, k = 1300;
  const auto a = noise<float>(m * k, 1), b = noise<float>(k * n, 2);
  std::vector<float> a_transposed(a.size()), b_spread(b.size() * 2), c[2];
  for (int64_t i = 0; i < m; ++i)
    for (int64_t p = 0; p < k; ++p) a_transposed[p * m + i] = a[i * k + p];
  for (std::size_t i = 0; i < b.size(); ++i) b_spread[2 * i] = b[i];
  for (auto& x : c) x.resize(m * n);
  const norma::test::RestoreSettings restore;
  set_gemm_provider(GENERATE(GemmProvider::fma, GemmProvider::slices));
  gemm<float>(m, n, k, {a.data(), k, 1}, {b.data(), n, 1}, c[0].data(), n);
  gemm<float>(m, n, k, {a_transposed.data(), 1, m}, {b_spread.data(), 2 * n, 2}, c[1].data(), n);
  CHECK(same_bits(c[0], c[1]));
}

TEMPLATE_TEST_CASE("gemm: a few rows have the bits of many", "[gemm]", float, double) {
  using T = TestType;
  const int64_t most = 9;
  for (const char form : {'n', 't'})
    for (const int64_t n : {1, 7, 16, 33, 100})
      for (const int64_t k : {1, 5, 16, 41, 300, 700}) {
        const Operand<T> a(most, k, 'n', 1), b(k, n, form, 2);
        const std::vector<T> bias = noise<T>(n, 3), residual = noise<T>(most * n, 4);
        std::vector<T> all(static_cast<std::size_t>(most * n)), all_pre(all);
        Epilogue<T> e;
        e.bias = bias.data(), e.pre = all_pre.data(), e.gelu = true, e.residual = residual.data(), e.ld = n;
        gemm<T>(most, n, k, a.matrix, b.matrix, all.data(), n, false, e);
        for (int64_t m = 1; m <= 5; ++m) {
          std::vector<T> few(static_cast<std::size_t>(m * n)), pre(few);
          e.pre = pre.data();
          gemm<T>(m, n, k, a.matrix, b.matrix, few.data(), n, false, e);
          CAPTURE(form, m, n, k);
          REQUIRE(std::memcmp(few.data(), all.data(), few.size() * sizeof(T)) == 0);
          REQUIRE(std::memcmp(pre.data(), all_pre.data(), pre.size() * sizeof(T)) == 0);
          std::vector<T> twice = few;  // what is there is added to
          gemm<T>(m, n, k, a.matrix, b.matrix, twice.data(), n, true);
          std::vector<T> more = all;
          gemm<T>(most, n, k, a.matrix, b.matrix, more.data(), n, true);
          REQUIRE(std::memcmp(twice.data(), more.data(), twice.size() * sizeof(T)) == 0);
        }
      }
}

TEMPLATE_TEST_CASE("gemm: batches equal single products, and broadcast operands", "[gemm]", float, double) {
  const norma::test::RestoreSettings restore;
  using T = TestType;
  set_gemm_provider(GENERATE(GemmProvider::fma, GemmProvider::slices));
  for (const auto& [count, m, n, k] : {std::array<int64_t, 4>{40, 17, 33, 20}, {3, 200, 180, 200}, {0, 5, 5, 5}}) {
    const auto a = noise<T>(count * m * k, 1), b = noise<T>(k * n, 2);
    std::vector<T> batched(static_cast<std::size_t>(count * m * n)), single = batched;
    std::vector<int64_t> a_offset, b_offset, c_offset;
    for (int64_t i = 0; i < count; ++i) {
      a_offset.push_back((count - 1 - i) * m * k);
      b_offset.push_back(0);
      c_offset.push_back(i * m * n);
      gemm<T>(m, n, k, {a.data() + a_offset.back(), k, 1}, {b.data(), n, 1}, single.data() + c_offset.back(), n);
    }
    for (int t : {1, 3}) {
      set_threads(t);
      gemm_batched<T>(count, a_offset.data(), b_offset.data(), c_offset.data(), m, n, k, {a.data(), k, 1},
                      {b.data(), n, 1}, batched.data(), n);
      CHECK(same_bits(batched, single));
    }
  }
}

TEMPLATE_TEST_CASE("gemm: batches of small products have the bits of single ones", "[gemm][every_isa]", float, double) {
  const norma::test::RestoreSettings restore;
  using T = TestType;
  const int64_t sizes[][3] = {{1, 1, 64},  {1, 1, 256}, {1, 1, 257}, {2, 2, 2},   {2, 2, 250}, {3, 5, 4},  {4, 4, 16},  {5, 4, 13}, {1, 64, 64}, {1, 77, 9},
                              {9, 1, 30}, {4, 16, 16}, {2, 35, 7},  {3, 8, 11}, {1, 9, 256}, {2, 3, 0}, {1, 100, 170}, {5, 5, 16}, {16, 5, 5}, {5, 16, 5}, {10, 10, 16}, {7, 6, 24}};
  for (const auto& [m, n, k] : sizes)
    for (const int64_t count : {1, 2, 7, 8, 21})
      for (const auto& [first, second] : {std::pair(false, false), std::pair(false, true), std::pair(true, true)}) {  // which are transposed
        CAPTURE(m, n, k, count, first, second);
        const auto a = noise<T>(count * m * k, 1), b = noise<T>(count * k * n, 2);
        const Matrix<const T> left{a.data(), first ? 1 : k, first ? m : 1}, right{b.data(), second ? 1 : n, second ? k : 1};
        const int64_t ldc = n + 3, step = m * ldc;
        std::vector<T> batched(static_cast<std::size_t>(count * step), T(7)), single = batched;
        std::vector<int64_t> a_offset, b_offset, c_offset;
        for (int64_t i = 0; i < count; ++i) {
          a_offset.push_back((count - 1 - i) * m * k);
          b_offset.push_back(i * k * n);
          c_offset.push_back(i * step);
          gemm<T>(m, n, k, {left.data + a_offset.back(), left.row, left.col}, {right.data + b_offset.back(), right.row, right.col},
                  single.data() + c_offset.back(), ldc);
        }
        for (int t : {1, 3}) {
          set_threads(t);
          gemm_batched<T>(count, a_offset.data(), b_offset.data(), c_offset.data(), m, n, k, left, right, batched.data(), ldc);
          CHECK(same_bits(batched, single));
        }
      }
}

TEMPLATE_TEST_CASE("gemm: own kernels and OpenBLAS agree", "[gemm]", float, double) {
  const norma::test::RestoreSettings restore;
  for (const Case& x : {Case{333, 192, 576, 'n', 't'}, Case{200, 300, 400, 'n', 'n'}, Case{96, 100, 3000, 't', 'n'}}) {
    set_gemm_provider(GemmProvider::own);
    const auto own = run<TestType>(x, true);
    set_gemm_provider(GemmProvider::openblas);
    const auto blas = run<TestType>(x, true);
    CHECK(norma::test::largest_difference(own, blas) <= 16 * std::sqrt(static_cast<double>(x.k)) * std::numeric_limits<TestType>::epsilon());
  }
}
