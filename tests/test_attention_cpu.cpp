// Fused attention on the CPU, through the backend's verbs on plain memory: output, gradients and statistics against loops in
// double over random sizes, layouts and masks; the same bits with statistics and with any number of threads.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>

#include "autograd/grad.h"
#include "autograd/ops.h"
#include "backends/cpu/attention_kernels.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/packed_products.h"
#include "backends/cpu/parallel.h"
#include "checks/scorings.h"
#include "tests/attention_problem.h"
#include "tests/cpu_settings.h"

using namespace norma;
using namespace norma::checks;
using namespace norma::test;

namespace {

/// Everything by loops in double. A row's Jacobian norm is taken from the definition, sum over (i, k) of (d a_i / d s_k)^2.
template <class T>
Results<double> by_loops(const Problem<T>& p) {
  const ProblemSizes& z = p.size;
  const Scoring& scoring = p.scoring;
  Results<double> r(z);
  contiguous_view(r.lse, {z.batch, z.heads, z.rows});
  contiguous_view(r.stats, {z.batch, z.heads, attention_stats});
  const double scale = z.scale(), keep_scale = 1 / (1 - z.dropout);
  const bool softmax = scoring.kind == Scoring::Kind::softmax, normalized = softmax || scoring.normalize;
  const auto n = static_cast<std::size_t>(z.keys);
  for (auto* x : {&r.dq, &r.dk, &r.dv, &r.out}) std::fill(x->memory.begin(), x->memory.end(), 0.0);
  for (Index b = 0; b < z.batch; ++b) {
    for (Index h = 0; h < z.heads; ++h) {
      double* all = r.stats.data() + (b * z.heads + h) * attention_stats;
      const auto stat = [&](AttentionStat which) -> double& { return all[static_cast<int>(which)]; };
      std::fill_n(all, attention_stats, 0.0);
      stat(AttentionStat::min) = HUGE_VAL;
      stat(AttentionStat::max) = stat(AttentionStat::score_max) = -HUGE_VAL;
      if (!normalized) stat(AttentionStat::entropy) = std::nan("");
      for (Index i = 0; i < z.rows; ++i) {
        std::vector<double> s(n), a(n), slope(n), da(n), ds(n), keep(n, 1);
        std::vector<bool> seen(n);
        Index count = 0;
        double top = -HUGE_VAL, total = 0;
        for (std::size_t j = 0; j < n; ++j) {
          const auto column = static_cast<Index>(j);
          if (!(seen[j] = p.visible(b, i, column))) continue;
          ++count;
          for (Index c = 0; c < z.d; ++c) s[j] += static_cast<double>(p.q.at(b, h, i, c)) * static_cast<double>(p.k.at(b, h, column, c));
          s[j] *= scale;
          top = std::max(top, s[j]);
        }
        for (std::size_t j = 0; j < n; ++j) {
          if (!seen[j]) continue;
          if (softmax) a[j] = slope[j] = std::exp(s[j] - top);
          else std::tie(a[j], slope[j]) = phi(scoring, s[j], z.keys);
          total += a[j];
        }
        const double factor = normalized ? (total != 0 ? 1 / total : 1) : row_factor(scoring, z.keys, count);
        double row = 0, a2 = 0, delta = 0;
        for (std::size_t j = 0; j < n; ++j) {
          a[j] *= factor, slope[j] *= factor;
          row += a[j];
          a2 += a[j] * a[j];
          const auto index = static_cast<std::uint64_t>(((b * z.heads + h) * z.rows + i) * z.keys) + j;
          if (z.dropout > 0) keep[j] = RandomStream{3, 0x123456789abcull}.word(index) >= z.dropout * 0x1p32 ? keep_scale : 0;
          for (Index c = 0; c < z.e; ++c) {
            const auto v = static_cast<double>(p.v.at(b, h, static_cast<Index>(j), c)), g = static_cast<double>(p.dout.at(b, h, i, c));
            r.out.at(b, h, i, c) += keep[j] * a[j] * v;
            r.dv.at(b, h, static_cast<Index>(j), c) += keep[j] * a[j] * g;
            da[j] += keep[j] * g * v;
          }
          delta += a[j] * da[j];
        }
        for (std::size_t j = 0; j < n; ++j) {
          if (!seen[j]) continue;
          ds[j] = slope[j] * (da[j] - (normalized ? delta : 0));
          for (Index c = 0; c < z.d; ++c) {
            r.dq.at(b, h, i, c) += scale * ds[j] * static_cast<double>(p.k.at(b, h, static_cast<Index>(j), c));
            r.dk.at(b, h, static_cast<Index>(j), c) += scale * ds[j] * static_cast<double>(p.q.at(b, h, i, c));
          }
          // column j of the Jacobian: slope_j (delta_ij - a_i)
          stat(AttentionStat::jac2) += normalized ? slope[j] * slope[j] * (a2 - a[j] * a[j] + (1 - a[j]) * (1 - a[j]))
                                                  : slope[j] * slope[j];
          stat(AttentionStat::score_sum) += s[j];
          stat(AttentionStat::score_sum2) += s[j] * s[j];
          stat(AttentionStat::min) = std::min(stat(AttentionStat::min), a[j]);
          stat(AttentionStat::max) = std::max(stat(AttentionStat::max), a[j]);
          stat(AttentionStat::negative) += a[j] < 0;
          stat(AttentionStat::small) += std::abs(a[j]) < 1e-3;
          if (normalized && a[j] > 0) stat(AttentionStat::entropy) -= a[j] * std::log(a[j]);
          stat(AttentionStat::grad_a2) += da[j] * da[j];
          stat(AttentionStat::grad_s2) += ds[j] * ds[j];
        }
        stat(AttentionStat::score_max) = std::max(stat(AttentionStat::score_max), top);
        stat(AttentionStat::fro2) += a2;
        stat(AttentionStat::row_sum) += row;
        stat(AttentionStat::row_sum2) += row * row;
        stat(AttentionStat::entries) += static_cast<double>(count);
      }
    }
  }
  return r;
}

std::optional<std::string> statistics_differ(const std::vector<double>& got, const std::vector<double>& wanted, double forward_rtol,
                                             double gradient_rtol) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto which = static_cast<AttentionStat>(i % attention_stats);
    const double* head = wanted.data() + i - i % attention_stats;
    const auto of = [&](AttentionStat s) { return head[static_cast<int>(s)]; };
    if (got[i] == wanted[i] || (std::isnan(got[i]) && std::isnan(wanted[i]))) continue;
    const double rtol = which == AttentionStat::grad_a2 || which == AttentionStat::grad_s2 ? gradient_rtol : forward_rtol;
    double allowed = rtol * std::abs(wanted[i]);
    // Sums of signed terms are as exact as their terms are large (Cauchy-Schwarz); extremes as the scores.
    if (which == AttentionStat::score_sum) allowed = rtol * std::sqrt(of(AttentionStat::score_sum2) * of(AttentionStat::entries));
    if (which == AttentionStat::row_sum || which == AttentionStat::row_sum2)
      allowed += rtol * std::sqrt(of(AttentionStat::fro2) * of(AttentionStat::entries));
    if (which == AttentionStat::score_max) allowed = rtol * std::max(1.0, std::abs(wanted[i]));
    if (which == AttentionStat::min || which == AttentionStat::max)
      allowed = rtol * std::max(std::abs(of(AttentionStat::min)), std::abs(of(AttentionStat::max))) * 4;
    // A weight on the threshold may fall on either side of it in f32.
    if (which == AttentionStat::small && rtol > 1e-10) allowed = 1;
    if (!(std::abs(got[i] - wanted[i]) <= allowed))
      return fmt::format("{} of head {}: {:.17g} instead of {:.17g}", name(which), i / attention_stats, got[i], wanted[i]);
  }
  return {};
}

template <class T>
void check(const std::string& name, const ProblemSizes& s, const Scoring& scoring) {
  const Problem<T> p(s, scoring);
  const Results<T> got = by_kernels(p, true);
  const Results<double> wanted = by_loops(p);
  const bool f32 = std::is_same_v<T, float>;
  const double steep = 1 + scoring.degree();  // a power multiplies the relative error of a score
  // Over a handful of pairs nothing averages out, and one score that nearly cancels decides.
  double pairs = 0;
  for (std::size_t i = 0; i < wanted.stats.size(); i += attention_stats)
    pairs = std::max(pairs, wanted.stats[i + static_cast<std::size_t>(AttentionStat::entries)]);
  const double few = pairs < 10 ? 300 : pairs < 100 ? 30 : 1;
  const double tolerance = (f32 ? 2e-6 : 1e-13) * steep * few;
  INFO(name << ": batch " << s.batch << ", heads " << s.heads << ", rows " << s.rows << ", keys " << s.keys << ", d " << s.d
            << ", e " << s.e << ", causal " << s.causal << ", masked " << s.masked << ", dropout " << s.dropout
            << (f32 ? ", f32" : ", f64"));
  CHECK(error(got.out, wanted.out) < tolerance);
  CHECK(error(got.dq, wanted.dq) < tolerance);
  CHECK(error(got.dk, wanted.dk) < tolerance);
  CHECK(error(got.dv, wanted.dv) < tolerance);
  const double rtol = (f32 ? scoring.degree() > 4 ? 4e-6 : 1e-6 : 1e-12) * few;
  const auto different = statistics_differ(got.stats, wanted.stats, rtol, rtol);
  if (different) FAIL_CHECK(*different);
}

std::vector<ProblemSizes> random_sizes(std::uint64_t stream, int count) {
  std::vector<ProblemSizes> all;
  std::uint64_t n = 0;
  const auto pick = [&](Index low, Index high) {
    return low + static_cast<Index>(RandomStream{17, stream}.word(n++) % static_cast<std::uint64_t>(high - low + 1));
  };
  for (int i = 0; i < count; ++i) {
    ProblemSizes s{pick(1, 2), pick(1, 2), pick(1, 70), pick(1, 70), pick(1, 70), pick(1, 70)};
    if (pick(0, 1)) s.keys = s.rows, s.e = s.d;
    s.causal = i & 1, s.masked = i & 2, s.dropout = i & 4 ? 0.3 : 0;
    all.push_back(s);
  }
  return all;
}

}  // namespace

TEST_CASE("fused attention equals loops in double: all kinds, random sizes, masks, dropout, layouts", "[attention_cpu]") {
  std::uint64_t stream = 100;
  for (const auto& [name, scoring] : scorings()) {
    for (const ProblemSizes& s : random_sizes(++stream, 8)) {
      check<float>(name, s, scoring);
      check<double>(name, s, scoring);
    }
  }
}

TEST_CASE("fused attention at the sizes models use", "[attention_cpu]") {
  for (const auto& [name, scoring] : {scorings()[0], scorings()[4], scorings()[9]}) {
    check<float>(name, {2, 2, 49, 49, 32, 32}, scoring);
    check<float>(name, {1, 3, 65, 65, 64, 64}, scoring);
    check<float>(name, {1, 1, 197, 197, 64, 64}, scoring);
    check<float>(name, {1, 2, 128, 128, 96, 96, true}, scoring);
    check<double>(name, {1, 1, 65, 65, 64, 64}, scoring);
    check<float>(name, {1, 1, 33, 40, 256, 200}, scoring);
  }
}

/// Of long sequences: heads are cut into pieces, those into blocks, or both.
const ProblemSizes in_pieces[] = {{1, 1, 600, 523, 8, 8}, {1, 1, 523, 600, 7, 9, true, true, 0.1}, {1, 1, 600, 530, 16, 3, true}};
const ProblemSizes in_blocks[] = {{2, 8, 40, 523, 8, 8}, {1, 8, 350, 400, 7, 9, true, true, 0.1}};
const ProblemSizes in_both[] = {{1, 4, 150, 1400, 6, 8, true}, {1, 5, 30, 1400, 8, 8, false, true}};

TEST_CASE("fused attention over sequences that are cut into pieces and blocks", "[attention_cpu]") {
  for (const auto& [name, scoring] : {scorings()[0], scorings()[5], scorings()[10]}) {
    for (const ProblemSizes& s : in_pieces) check<float>(name, s, scoring);
    for (const ProblemSizes& s : in_blocks) check<float>(name, s, scoring);
    for (const ProblemSizes& s : in_both) check<float>(name, s, scoring);
    check<double>(name, {1, 1, 300, 600, 5, 6, true, false, 0.2}, scoring);
    check<double>(name, {1, 4, 30, 1400, 5, 6, true, false, 0.2}, scoring);
  }
}

TEST_CASE("fused attention: watching changes no bit, nor does the number of threads", "[attention_cpu]") {
  const RestoreSettings restore;
  for (const auto& [name, scoring] : scorings()) {
    const Problem<float> p({2, 3, 65, 65, 32, 32, false, true, 0.2}, scoring);
    const Problem<float> q({1, 2, 530, 600, 8, 8, true}, scoring), r({1, 3, 200, 210, 64, 48}, scoring);
    for (const Problem<float>* problem : {&p, &q, &r}) {
      cpu::set_threads(1);
      const Results<float> silent = by_kernels(*problem, false), one = by_kernels(*problem, true);
      const auto same = [](const Results<float>& a, const Results<float>& b) {
        return a.out.memory == b.out.memory && a.dq.memory == b.dq.memory && a.dk.memory == b.dk.memory &&
               a.dv.memory == b.dv.memory && a.lse == b.lse;
      };
      INFO(name);
      CHECK(same(silent, one));
      for (int threads : {2, 3, 8}) {
        cpu::set_threads(threads);
        const Results<float> many = by_kernels(*problem, true);
        CHECK(same(one, many));
        CHECK(std::memcmp(one.stats.data(), many.stats.data(), one.stats.size() * sizeof(double)) == 0);
      }
    }
  }
}

TEST_CASE("fused attention on every instruction set of this processor", "[attention_cpu][every_isa]") {
  for_each_isa([](const std::string& isa) {
    std::uint64_t stream = 300;
    for (const auto& [name, scoring] : scorings()) {
      for (const ProblemSizes& s : random_sizes(++stream, 2)) {
        check<float>(name + " on " + isa, s, scoring);
        check<double>(name + " on " + isa, s, scoring);
      }
    }
    check<float>(isa, {1, 1, 197, 197, 64, 64, true, false, 0.1}, scorings()[5].second);
  });
}

TEST_CASE("fused attention on tiles of AMX, at every size", "[attention_cpu]") {
  if (!NORMA_BF16_KERNELS(packed_products)) {
    SUCCEED("this processor or instruction set has none");
    return;
  }
  const cpu::ForcePacked everywhere(true);
  std::uint64_t stream = 100;  // the problems of the first test
  for (const auto& [name, scoring] : scorings()) {
    for (const ProblemSizes& s : random_sizes(++stream, 8)) check<float>(name, s, scoring);
    check<float>(name, {1, 1, 197, 197, 64, 64, true, false, 0.1}, scoring);
    check<float>(name, {1, 1, 50, 600, 16, 8, false, true, 0.1}, scoring);
    check<float>(name, {1, 1, 70, 90, 48, 32, false, false, 0, -0.3}, scoring);
  }
  for (const auto& [name, scoring] : {scorings()[0], scorings()[5], scorings()[10]}) {
    for (const ProblemSizes& s : in_pieces) check<float>(name, s, scoring);
    for (const ProblemSizes& s : in_blocks) check<float>(name, s, scoring);
    for (const ProblemSizes& s : in_both) check<float>(name, s, scoring);
    check<float>(name, {1, 1, 330, 520, 128, 96, true}, scoring);
  }
}

TEST_CASE("fused attention on bf16: by tiles or pairs as by multiply-adds, but for the rounding of weights", "[attention_cpu]") {
  std::uint64_t stream = 600;
  for (const auto& [name, scoring] : scorings()) {
    std::vector<ProblemSizes> sizes = random_sizes(++stream, 4);
    for (const ProblemSizes& s : {ProblemSizes{1, 3, 65, 65, 64, 64}, {1, 2, 130, 190, 32, 32, true, false, 0.2}, {1, 1, 300, 420, 24, 40, false, true},
                                  {1, 1, 70, 90, 48, 32, false, false, 0, -0.3}, {2, 8, 40, 420, 32, 24}, {1, 4, 12, 1400, 24, 40, true},
                                  {1, 1, 40, 8, 33, 33, true}, {1, 1, 600, 600, 17, 33, true}})  // rows that see no key, of it or of a piece; a column alone
      sizes.push_back(s);
    for (const ProblemSizes& s : sizes) {
      const Problem<bf16> p(s, scoring);
      const auto with = [&](bool packed, bool measured) {
        const cpu::ForcePacked force(packed);
        return by_kernels(p, measured);
      };
      const Results<bf16> plain = with(false, true), tiled = with(true, true);
      INFO(name << ": rows " << s.rows << ", keys " << s.keys << ", d " << s.d << ", e " << s.e);
      // Scores, and with them the statistics of the forward pass, are sums in f32 of exact products. Weights and gradients of scores are multiplied
      // as bf16, so that results may differ by an ulp of 2^-8 or so, and what comes from the output with them.
      CHECK(error(tiled.out, plain.out) <= 0x1p-7);
      CHECK(error(tiled.dq, plain.dq) <= 0x1p-7);
      CHECK(error(tiled.dk, plain.dk) <= 0x1p-7);
      CHECK(error(tiled.dv, plain.dv) <= 0x1p-7);
      const auto different = statistics_differ(tiled.stats, plain.stats, 1e-5 * (1 + scoring.degree()), 0x1p-7);
      if (different) FAIL_CHECK(*different);
      const Results<bf16> again = [&] {
        const RestoreSettings restore;
        cpu::set_threads(3);
        return with(true, false);
      }();
      const auto same = [](const Placed<bf16>& a, const Placed<bf16>& b) {
        return std::memcmp(a.memory.data(), b.memory.data(), a.memory.size() * sizeof(bf16)) == 0;
      };
      CHECK((same(again.out, tiled.out) && same(again.dq, tiled.dq) && same(again.dk, tiled.dk) && same(again.dv, tiled.dv)));
    }
  }
}

/// No gradient reaches the score of a row's only key, and dV does not mind: every row of `alone`, and the first of `causal`.
template <class T>
void check_only_keys(const Scoring& scoring) {
  const auto numbers = [](const Placed<T>& x, Index rows) {  // which are not zero
    const Shape& s = x.view.shape();
    Index found = 0;
    for (Index b = 0; b < s[0]; ++b)
      for (Index h = 0; h < s[1]; ++h)
        for (Index i = 0; i < rows; ++i)
          for (Index c = 0; c < s[3]; ++c) found += !(static_cast<double>(x.at(b, h, i, c)) == 0);
    return found;
  };
  for (const ProblemSizes& alone : {ProblemSizes{2, 3, 5, 1, 16, 8}, {1, 2, 40, 1, 64, 64, false, false, 0.2}}) {
    const Results<T> r = by_kernels(Problem<T>(alone, scoring), true);
    CHECK(numbers(r.dq, alone.rows) + numbers(r.dk, 1) == 0);
    CHECK(numbers(r.dv, 1) > 0);
    for (Index h = 0; h < alone.batch * alone.heads; ++h) CHECK(r.stats[static_cast<std::size_t>(h * attention_stats + static_cast<Index>(AttentionStat::grad_s2))] == 0);
  }
  const Results<T> r = by_kernels(Problem<T>({1, 2, 40, 40, 64, 64, true}, scoring), false);
  CHECK(numbers(r.dq, 1) == 0);
  CHECK(numbers(r.dq, 2) > 0);
}

TEST_CASE("fused attention: in a row divided by its sum an only key has no gradient", "[attention_cpu]") {
  for (const auto& [name, scoring] : scorings()) {
    if (scoring.kind != Scoring::Kind::softmax && !scoring.normalize) continue;
    INFO(name);
    check_only_keys<double>(scoring);
    for (const bool packed : {false, true}) {
      const cpu::ForcePacked force(packed);
      check_only_keys<float>(scoring);
      check_only_keys<bf16>(scoring);
    }
  }
}

TEST_CASE("fused attention: relu has no derivative at a score of zero", "[attention_cpu]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    AttentionOptions options;
    options.scoring.kind = Scoring::Kind::relu;
    const Tensor q = zeros({1, 1, 4, 8}, {dtype}).track();
    const Tensor k = randn({1, 1, 4, 8}, {3, 1}, {dtype}), v = randn({1, 1, 4, 8}, {3, 2}, {dtype});
    CHECK(grad(sum(attention(q, k, v, options)), q).values() == std::vector<double>(32, 0.0));
  }
}

namespace {

/// Whether a kernel writes nothing behind the scratch memory that it asks for.
template <class Head>
bool keeps_to_its_scratch(const cpu::AttentionKernel<Head>& kernel, Head head) {
  constexpr std::size_t guard = 512;
  const auto bytes = static_cast<std::size_t>(kernel.work(head));
  const std::unique_ptr<char, void (*)(void*)> memory(static_cast<char*>(std::aligned_alloc(64, bytes + guard)), std::free);
  std::memset(memory.get() + bytes, 0x5a, guard);
  head.work = memory.get();
  kernel.run(head);
  return std::all_of(memory.get() + bytes, memory.get() + bytes + guard, [](char c) { return c == 0x5a; });
}

template <class T>
void check_scratch(const ProblemSizes& z, cpu::Phi phi, const cpu::PackedProducts* packed) {
  const std::vector<T> numbers(static_cast<std::size_t>(std::max(z.rows, z.keys) * std::max(z.d, z.e) + 64), T{0.125});
  std::vector<T> written[4];
  for (auto& x : written) x.resize(numbers.size());
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(z.keys), 1);
  mask[0] = 0;
  const auto fill = [&](auto& h) {
    h.rows = z.rows, h.keys = z.keys, h.d = z.d, h.e = z.e, h.scale = z.scale(), h.factor = 1, h.row_scale = RowScale::inverse_visible;
    h.phi = phi, h.normalize = phi == cpu::Phi::softmax || phi == cpu::Phi::polynomial, h.degree = 2, h.coefficient[2] = 1;
    h.causal = z.causal, h.key_mask = z.masked ? mask.data() : nullptr, h.key_mask_step = 1;
    h.drop = z.dropout > 0, h.drop_below = 1u << 30, h.keep_scale = 1.25, h.packed = packed;
    h.q = h.k = h.v = numbers.data(), h.q_row = h.k_row = z.d, h.v_row = z.e;
  };
  cpu::AttentionHeadForward<T> f{};
  fill(f);
  f.row_end = z.rows, f.out = written[0].data(), f.out_row = z.e;
  cpu::AttentionHeadBackward<T> b{};
  fill(b);
  b.out = b.dout = numbers.data(), b.out_row = b.dout_row = z.e, b.lse = numbers.data(), b.lse_step = 1, b.key_end = z.keys;
  b.dq = written[1].data(), b.dk = written[2].data(), b.dv = written[3].data(), b.dq_row = b.dk_row = z.d, b.dv_row = z.e;
  CAPTURE(z.rows, z.keys, z.d, z.e, z.causal, z.masked, z.dropout, static_cast<int>(phi), sizeof(T));
  const auto& forward = NORMA_KERNELS(attention_forward_kernels);
  const auto& backward = NORMA_KERNELS(attention_backward_kernels);
  if constexpr (sizeof(T) == 4) {
    CHECK(keeps_to_its_scratch(forward.f32, f));
    CHECK(keeps_to_its_scratch(backward.f32, b));
  } else {
    CHECK(keeps_to_its_scratch(forward.f64, f));
    CHECK(keeps_to_its_scratch(backward.f64, b));
  }
}

}  // namespace

TEST_CASE("attention kernels keep to the scratch memory that they ask for", "[attention_cpu]") {
  const cpu::PackedProducts* tiles = cpu::own_products(false);  // for f32 under AMX alone
  for (const ProblemSizes& sizes : {ProblemSizes{1, 1, 1, 1, 1, 1}, {1, 1, 7, 17, 5, 3}, {1, 1, 33, 65, 16, 24}, {1, 1, 130, 130, 64, 64, true}, {1, 1, 97, 530, 8, 40}})
    for (const bool masked : {false, true})
      for (const double dropout : {0.0, 0.25})
        for (const cpu::Phi phi : {cpu::Phi::softmax, cpu::Phi::power3, cpu::Phi::polynomial}) {
          ProblemSizes z = sizes;
          z.masked = masked, z.dropout = dropout;
          check_scratch<float>(z, phi, nullptr);
          check_scratch<double>(z, phi, nullptr);
          if (tiles) check_scratch<float>(z, phi, tiles);
        }
}

TEST_CASE("fused attention declines what it does not cover", "[attention_cpu]") {
  cpu::CpuBackend backend;
  const Problem<float> p({1, 1, 4, 5, 3, 3}, scorings()[4].second);
  Results<float> r(p.size);
  AttentionForward f;
  p.write(f, {});
  f.q = p.q.view, f.k = p.k.view, f.v = p.v.view, f.out = r.out.view;
  CHECK(backend.attention(f));
  AttentionForward strided = f;
  strided.q.layout.strides[3] = 2;
  CHECK_FALSE(backend.attention(strided));
  AttentionForward mixture = f;
  mixture.q.dtype = mixture.k.dtype = mixture.v.dtype = DType::bf16;  // and out is f32
  CHECK_FALSE(backend.attention(mixture));
  AttentionForward empty = f;
  empty.q.layout.shape.set(2, 0), empty.out.layout.shape.set(2, 0);
  CHECK_FALSE(backend.attention(empty));
}
