// The MLP in one pass over blocks of rows, forward and backward, against plain loops in double: sizes, absent operands, strides, both
// precisions, thread counts. bf16 is done under AMX only, f32 also by multiply-adds of AVX2 and AVX-512; elsewhere the pass declines, and there is
// nothing to test.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>
#include <vector>

#include "autograd/dispatch.h"
#include "autograd/ops.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "core/backend.h"
#include "tests/cpu_settings.h"
#include "tests/worst.h"

using namespace norma;

namespace {

struct Widths {
  Index rows, in, hidden, out;
  bool biases = true, residual = true, dx = true;
  std::string text() const {
    return fmt::format("{} rows, {} -> {} -> {}{}{}{}", rows, in, hidden, out, biases ? "" : ", no biases", residual ? "" : ", no residual",
                       dx ? "" : ", no dX");
  }
};

Tensor numbers(const Shape& shape, DType dtype, double deviation, std::uint64_t stream) {
  return cast(randn(shape, {3, stream}) * deviation, dtype);
}

/// x in rows with a gap behind each, of `gap` elements that are 7.
struct Gapped {
  static constexpr Index gap = 24;
  Tensor wide, inner;
  explicit Gapped(const Tensor& x) : wide(full({x.size(0), x.size(1) + gap}, 7, place_of(x))), inner(slice(wide, 1, 0, x.size(1))) {
    copy_into(inner, x);
  }
  View view() const { return inner.view(); }
  bool gap_is_whole() const {
    const std::vector<double> rest = slice(wide, 1, inner.size(1), wide.size(1)).values();
    return std::all_of(rest.begin(), rest.end(), [](double v) { return v == 7; });
  }
};

struct Results {
  bool covered = false;
  Tensor y, pre, dx, dw1, db1, dw2, db2;
  std::vector<Tensor> all() const { return {y, pre, dx, dw1, db1, dw2, db2}; }
};

struct Problem {
  Widths s;
  DType dtype;
  Gapped x, residual, dy;
  Tensor w1, b1, w2, b2;
  Problem(const Widths& sizes, DType type)
      : s(sizes), dtype(type), x(numbers({s.rows, s.in}, type, 1, 1)), residual(numbers({s.rows, s.out}, type, 1, 2)),
        dy(numbers({s.rows, s.out}, type, 1, 3)),
        w1(numbers({s.hidden, s.in}, DType::f32, 1.5 / std::sqrt(static_cast<double>(s.in)), 4)), b1(numbers({s.hidden}, DType::f32, 1, 5)),
        w2(numbers({s.out, s.hidden}, DType::f32, 1 / std::sqrt(static_cast<double>(s.hidden)), 6)), b2(numbers({s.out}, DType::f32, 1, 7)) {}

  Results at_once() const {
    const Place activation{dtype, {}};
    const Gapped y(full({s.rows, s.out}, 5, activation)), pre(full({s.rows, s.hidden}, 5, activation)), dx(full({s.rows, s.in}, 5, activation));
    Results r;
    r.dw1 = full({s.hidden, s.in}, 5), r.dw2 = full({s.out, s.hidden}, 5), r.db1 = full({s.hidden}, 5), r.db2 = full({s.out}, 5);
    const auto some = [](bool there, const auto& t) { return there ? t.view() : View(); };
    r.covered = backend({}).mlp({x.view(), w1.view(), w2.view(), y.view(), some(s.biases, b1), some(s.biases, b2), some(s.residual, residual), pre.view()}) &&
                backend({}).mlp_backward({dy.view(), x.view(), pre.view(), w1.view(), w2.view(), r.dw1.view(), r.dw2.view(), some(s.dx, dx),
                                          some(s.biases, r.db1), some(s.biases, r.db2)});
    CHECK((y.gap_is_whole() && pre.gap_is_whole() && dx.gap_is_whole()));
    r.y = y.inner, r.pre = pre.inner, r.dx = dx.inner;
    return r;
  }

  /// In f64, by the plain operations; the backward pass starts from the same numbers.
  Results reference() const {
    const auto wide = [](const Tensor& t) { return cast(t, DType::f64).track(); };
    const Tensor x64 = wide(x.inner), w1_64 = wide(w1), b1_64 = wide(s.biases ? b1 : b1 * 0), w2_64 = wide(w2),
                 b2_64 = wide(s.biases ? b2 : b2 * 0);
    Results r;
    r.pre = matmul(x64, transpose(w1_64)) + b1_64;
    r.y = matmul(gelu(r.pre), transpose(w2_64)) + b2_64;
    if (s.residual) r.y = r.y + wide(residual.inner);
    const Tensors g = grad(r.y, Tensors{x64, w1_64, b1_64, w2_64, b2_64}, cast(dy.inner, DType::f64));
    r.dx = g[0], r.dw1 = g[1], r.db1 = g[2], r.dw2 = g[3], r.db2 = g[4];
    return r;
  }
};

/// The largest difference, as a share of the largest number.
double difference(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.values(), y = b.values();
  REQUIRE(x.size() == y.size());
  double largest = 0;
  for (const double v : y) largest = std::max(largest, std::abs(v));
  return test::largest_difference(x, y) / largest;
}

/// What this instruction set does at once.
std::vector<std::pair<DType, cpu::GemmProvider>> passes() {
  std::vector<std::pair<DType, cpu::GemmProvider>> all;
  if (cpu::isa() >= cpu::Isa::amx) all.emplace_back(DType::f32, cpu::GemmProvider::own), all.emplace_back(DType::bf16, cpu::GemmProvider::own);
  if (cpu::isa() >= cpu::Isa::avx2) all.emplace_back(DType::f32, cpu::GemmProvider::fma);
  return all;
}

constexpr Widths cases[] = {
    {256, 192, 768, 192},
    {1001, 65, 130, 97},
    {1300, 40, 100, 72, false, false},
    {300, 33, 47, 50, true, false, false},
    {257, 128, 96, 32, false, true},
    {700, 192, 200, 64},
};

}  // namespace

TEST_CASE("an MLP at once: values and gradients", "[mlp]") {
  const test::RestoreSettings restore;
  for (const auto& [dtype, provider] : passes())
    for (const Widths& sizes : cases) {
      INFO(sizes.text() << ", " << name(dtype) << (provider == cpu::GemmProvider::fma ? ", by multiply-adds" : ""));
      cpu::set_gemm_provider(provider);
      const Problem problem(sizes, dtype);
      const Results got = problem.at_once(), want = problem.reference();
      REQUIRE(got.covered);
      const double bound = dtype == DType::f32 ? 2e-6 : 2e-2;
      CHECK(difference(got.y, want.y) < bound);
      CHECK(difference(got.pre, want.pre) < bound);
      if (sizes.dx) CHECK(difference(got.dx, want.dx) < bound);
      CHECK(difference(got.dw1, want.dw1) < bound);
      CHECK(difference(got.dw2, want.dw2) < bound);
      if (!sizes.biases) continue;
      CHECK(difference(got.db1, want.db1) < bound);
      CHECK(difference(got.db2, want.db2) < bound);
    }
}

TEST_CASE("an MLP at once has the same bits with any number of threads", "[mlp]") {
  const test::RestoreSettings restore;
  for (const auto& [dtype, provider] : passes()) {
    cpu::set_gemm_provider(provider);
    for (const Widths& sizes : {Widths{2100, 64, 130, 48}, {700, 96, 600, 64}, {1600, 48, 420, 96, true, true, false}, {800, 64, 400, 64, false}}) {
      CAPTURE(sizes.text());
      const Problem problem(sizes, dtype);
      cpu::set_threads(1);
      const Results one = problem.at_once();
      for (const int threads : {2, 3, 8, 21, 48}) {  // from more than slices on, hidden elements are shared too
        cpu::set_threads(threads);
        const Results many = problem.at_once();
        for (std::size_t i = 0; i < one.all().size(); ++i) CHECK(one.all()[i].values() == many.all()[i].values());
      }
    }
  }
}

TEST_CASE("an MLP at once declines what it does not do", "[mlp]") {
  const test::RestoreSettings restore;
  CHECK(!Problem({3, 192, 768, 192}, DType::f32).at_once().covered);     // few rows
  CHECK(!Problem({256, 8, 768, 192}, DType::f32).at_once().covered);     // narrow
  CHECK(!Problem({256, 1024, 64, 1024}, DType::f32).at_once().covered);  // its weights leave no room for rows
  cpu::set_gemm_provider(cpu::GemmProvider::openblas);
  CHECK(!Problem({256, 192, 768, 192}, DType::f32).at_once().covered);
}

TEST_CASE("an MLP is the same at once and layer by layer, also without some gradients", "[mlp]") {
  const test::RestoreSettings restore;
  const Problem p({400, 64, 160, 64}, DType::f32);
  const auto gradients = [&](bool second) {
    const Tensor x = copy_of(p.x.inner).track(), w1 = copy_of(p.w1).track(), w2 = second ? copy_of(p.w2).track() : p.w2;
    const Tensor y = mlp(x, w1, p.b1, w2, p.b2, x);
    Tensors wanted{x, w1};
    if (second) wanted.push_back(w2);
    Tensors out = grad(y, wanted, p.dy.inner);
    out.push_back(y);
    return out;
  };
  for (const bool second : {true, false}) {
    cpu::set_gemm_provider(cpu::GemmProvider::own);
    const Tensors at_once = gradients(second);
    cpu::set_gemm_provider(cpu::GemmProvider::openblas);
    const Tensors by_layer = gradients(second);
    for (std::size_t i = 0; i < at_once.size(); ++i) CHECK(difference(at_once[i], by_layer[i]) < 3e-6);
  }
}
