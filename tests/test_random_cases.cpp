// Random calls of the ops (checks/random_case.h), values, gradients and attention's statistics, against the reference backend in float64.
// A run takes a few; NORMA_RANDOM_CASES=N takes that many, NORMA_RANDOM_SEED=S others, NORMA_RANDOM_FIRST=K begins with case K, to come back to one
// that failed; NORMA_RANDOM_WORK=W lets a product take W multiply-adds.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>

#include "checks/layouts.h"
#include "checks/random_case.h"
#include "tests/tested_device.h"

using namespace norma;
using namespace norma::checks;

namespace {

struct Outcome {
  Tensors results;  // the value, then the gradients of what is differentiated
  std::vector<double> stats;
};

Outcome run(const RandomCase& c, Tensors inputs, const std::function<Tensor(const Tensor&)>& placed_cotangent) {
  Tensors tracked;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (c.call.inputs[i].kind == Input::Kind::real && !c.call.inputs[i].constant) tracked.push_back(inputs[i].track());
  const Tensor stats = c.measured ? zeros(c.stats, {DType::f64, inputs[0].device()}) : Tensor();
  const Tensor y = c.measured ? c.measured(inputs, stats) : c.call.run(inputs);
  Outcome out{{y}, {}};
  for (const Tensor& g : grad(y, tracked, placed_cotangent(y))) out.results.push_back(g);
  if (stats) out.stats = stats.values();
  return out;
}

double largest(const std::vector<double>& v) {
  double size = 0;
  for (double x : v) size = std::max(size, std::isfinite(x) ? std::abs(x) : 0);
  return size;
}

/// The largest |a - b|; infinite where they differ by more than a number.
double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    const double off = std::abs(a[i] - b[i]);
    worst = std::max(worst, std::isfinite(off) ? off : HUGE_VAL);
  }
  return worst;
}

struct Verdict {
  double worst = 0;  // the largest error as a share of what is allowed
  std::string where;
  void add(double error, double allowed, const std::string& what) {
    const double share = error == 0 ? 0 : std::isfinite(error) && std::isfinite(allowed) ? error / allowed : HUGE_VAL;
    if (share <= worst) return;
    worst = share;
    where = fmt::format("{} is off by {:.3g}, {:.3g} allowed", what, error, allowed);
  }
};

/// What one statistic may be off by, of values that are up to `size` large.
double allowed_of_statistic(AttentionStat which, DType dtype, double size, double pairs) {
  const double eps = dtype == DType::f64 ? 1e-11 : 8e-6;  // of x^8 squared: 16 times a score's
  switch (which) {
    case AttentionStat::entries: return 1e-9;
    case AttentionStat::negative: case AttentionStat::small: return 1e-9 + (dtype == DType::f64 ? 0 : 1 + 1e-4 * pairs);  // scores beside the threshold
    case AttentionStat::grad_s2: return (dtype == DType::bf16 ? 2e-2 : eps) * (size + 1);  // out is rounded before its rows are taken from dA
    case AttentionStat::score_sum: case AttentionStat::entropy: return eps * (size + 1e-2 * pairs + 1);  // sums of what is off by itself, or cancels
    default: return eps * (size + 1);
  }
}

/// Elements a rounding of `dtype` or less away from those of x; the `draw` decides how far.
Tensor a_rounding_away(const Tensor& x, DType dtype, std::uint32_t draw) {
  std::vector<double> v = x.values();
  std::uint32_t state = 2 * draw + 1;
  for (double& e : v) e *= 1 + eps_of(dtype) * (static_cast<double>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23 - 1);
  return from_values(v, x.shape(), place_of(x));
}

std::vector<double> statistic(const Outcome& o, std::size_t which) {
  std::vector<double> of_heads;
  for (std::size_t at = which; at < o.stats.size(); at += attention_stats) of_heads.push_back(o.stats[at]);
  return of_heads;
}

/// How far part(outcome) of the reference moves where all it is given moves by a rounding of `dtype`: small sums of large terms do, and no kernel
/// can be held to less.
template <class Part>
double moved_by_roundings(const RandomCase& c, const Tensors& wide, const Outcome& wanted, DType dtype, const Part& part) {
  double moved = 0;
  for (std::uint32_t draw = 0; draw < 3; ++draw) {
    Tensors inputs;
    for (const Tensor& x : wide) inputs.push_back(is_floating(x.dtype()) ? a_rounding_away(x, dtype, draw) : x);
    const Outcome there = run(c, inputs, [&](const Tensor& y) { return a_rounding_away(cotangent(y), dtype, draw); });
    moved = std::max(moved, largest_difference(part(there), part(wanted)));
  }
  return moved;
}

/// An error may be four times that of the composition on the reference backend in the same dtype, or some units in the last place of the largest number
/// around; one beyond that, four times what roundings of the inputs make. What is tested has no part in it. `spoil` changes what is judged.
Verdict compare(const RandomCase& c, const std::function<void(Outcome&)>& spoil = {}) {
  const Device reference{Device::Kind::reference, 0};
  Tensors inputs, narrow, wide;
  for (std::size_t i = 0; i < c.call.inputs.size(); ++i) {
    const Tensor x = make(c.call.inputs[i], c.call, i, c.place(i, tested_device()));
    inputs.push_back(placed(x, c.memory[i]));
    narrow.push_back(make(c.call.inputs[i], c.call, i, c.place(i, reference)));
    wide.push_back(from_values(x.values(), x.shape(), {is_floating(x.dtype()) ? DType::f64 : x.dtype(), reference}));
  }
  const auto shifted = [&](const Tensor& y) { return placed(cotangent(y), c.memory.back()); };
  Outcome got = run(c, inputs, shifted);
  const Outcome wanted = run(c, wide, cotangent);
  if (spoil) spoil(got);
  const NoFusion plain;
  const Outcome composed = run(c, narrow, cotangent);
  double around = 0;
  for (const Tensor& w : wanted.results) around = std::max(around, largest(w.values()));
  Verdict verdict;
  const auto judge = [&](const std::string& what, DType dtype, double allowed, const auto& part) {
    const double error = largest_difference(part(got), part(wanted));
    verdict.add(error, error <= allowed ? allowed : std::max(allowed, 4 * moved_by_roundings(c, wide, wanted, dtype, part)), what);
  };
  for (std::size_t i = 0; i < wanted.results.size(); ++i) {
    const auto part = [i](const Outcome& o) { return o.results[i].values(); };
    const double eps = eps_of(c.dtype), rounded = c.dtype == DType::bf16 ? 8 : 16, cancelled = c.dtype == DType::bf16 ? 0.125 : c.dtype == DType::f32 ? 32 : 256;
    const double allowed = 4 * largest_difference(part(composed), part(wanted)) + eps * (rounded * largest(part(wanted)) + cancelled * around);
    judge(i == 0 ? "the value" : fmt::format("gradient {}", i - 1), c.dtype, allowed, part);
  }
  const bool scores = !c.call.inputs[0].constant || !c.call.inputs[1 % c.call.inputs.size()].constant;  // have gradients
  for (std::size_t s = 0; !wanted.stats.empty() && s < static_cast<std::size_t>(AttentionStat::fro2_error); ++s) {
    if (!scores && s >= static_cast<std::size_t>(AttentionStat::grad_a2)) break;
    const auto part = [s](const Outcome& o) { return statistic(o, s); };
    const double pairs = largest({wanted.stats[static_cast<std::size_t>(AttentionStat::entries)]});
    judge(fmt::format("statistic {}", s), wide_of(c.dtype), allowed_of_statistic(static_cast<AttentionStat>(s), c.dtype, largest(part(wanted)), pairs), part);
  }
  return verdict;
}

/// With its largest element a hundredth too large.
void spoil_first(Outcome& o) {
  std::vector<double> v = o.results[0].values();
  if (v.empty()) return;
  double& largest = *std::max_element(v.begin(), v.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
  largest *= 1.01;
  o.results[0] = from_values(v, o.results[0].shape(), {DType::f64});
}

double asked(const char* name, double otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atof(text) : otherwise;
}

}  // namespace

TEST_CASE("random calls give the reference's values, gradients and statistics", "[random_cases][device]") {
  const bool slow = tested_device().kind == Device::Kind::cuda;  // may be the emulator
  const auto seed = static_cast<std::uint64_t>(asked("NORMA_RANDOM_SEED", 1)), first = static_cast<std::uint64_t>(asked("NORMA_RANDOM_FIRST", 0));
  const auto cases = static_cast<std::uint64_t>(asked("NORMA_RANDOM_CASES", 150));
  const double work = asked("NORMA_RANDOM_WORK", slow ? 1e6 : 3e6);
  double worst = 0;
  std::string where;
  for (std::uint64_t n = first; n < first + cases; ++n) {
    const RandomCase c = random_case(seed, n, work);
    INFO(c.text());
    const Verdict verdict = compare(c);
    if (!(verdict.worst <= 1)) FAIL_CHECK(verdict.where);
    if (verdict.worst > worst) worst = verdict.worst, where = c.text() + ": " + verdict.where;
  }
  CHECK(cases > 0);
  if (std::getenv("NORMA_RANDOM_CASES")) WARN(fmt::format("{} cases of seed {}; the worst, at {:.2f} of what is allowed: {}", cases, seed, worst, where));
}

TEST_CASE("a random call whose result is a hundredth off, or no number, is told", "[random_cases]") {
  int told = 0, of = 0;
  for (std::uint64_t n = 0; n < 60; ++n) {
    const RandomCase c = random_case(3, n, 1e5);
    if (c.dtype == DType::bf16) continue;  // whose steps are that large
    INFO(c.text());
    double size = 0;
    const Verdict off = compare(c, [&](Outcome& o) { size = largest(o.results[0].values()), spoil_first(o); });
    if (size < 1e-3) continue;  // zeros stay zeros
    ++of, told += off.worst > 1;
    bool filled = false;
    const Verdict none = compare(c, [&](Outcome& o) {
      filled = o.results.back().numel() > 0;
      o.results.back() = full(o.results.back().shape(), std::nan(""), {DType::f64});
    });
    CHECK((none.worst > 1) == filled);
  }
  CHECK(of > 25);
  CHECK(told == of);
}
