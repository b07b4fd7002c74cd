// Attention backward with a head in shared memory: how its work is cut, and that it gives the bits of the kernels that stream.
#include <catch2/catch.hpp>
#include <cmath>
#include <set>
#include <vector>

#include "backends/cuda/device.h"
#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/attention_resident.h"
#include "backends/cuda/runtime.h"
#include "core/backend.h"
#include "core/random.h"

using namespace norma;
using namespace norma::cuda;

namespace {

Stream stream() {
  static const std::unique_ptr<Runtime> runtime = make_runtime(0);
  return runtime->stream();
}

struct Case {
  std::int32_t batches, heads, rows, keys, d, e;
  bool causal, masked, drop;
};

/// [B, H, rows, width], dense, uniform in [-1, 1).
struct Rows {
  std::vector<bf16> values;
  HeadTensor tensor;
  Rows(const Case& c, std::int32_t rows, std::int32_t width, std::uint64_t stream_id)
      : values(static_cast<std::size_t>(c.batches) * static_cast<std::size_t>(c.heads) * static_cast<std::size_t>(rows) *
               static_cast<std::size_t>(width) + 8) {
    // 16-byte aligned, as the kernels ask for.
    const std::size_t start = (16 - reinterpret_cast<std::uintptr_t>(values.data()) % 16) % 16 / sizeof(bf16);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = bf16(static_cast<float>(2 * uniform_from(RandomStream{7, stream_id}.word(i)) - 1));
    tensor = {values.data() + start, std::int64_t{c.heads} * rows * width, std::int64_t{rows} * width, width};
  }
  std::vector<std::uint16_t> bits() const {
    std::vector<std::uint16_t> all;
    const std::size_t start = static_cast<std::size_t>(static_cast<const bf16*>(tensor.data) - values.data());
    for (std::size_t i = start; i < values.size() - 8 + start; ++i) all.push_back(values[i].bits);
    return all;
  }
};

struct Gradients {
  std::vector<std::uint16_t> dq, dk, dv;
  std::vector<double> stats;
};

Gradients run(const Case& c, AttentionProblem p, bool resident) {
  p.batches = c.batches, p.heads = c.heads, p.rows = c.rows, p.keys = c.keys, p.d = c.d, p.e = c.e;
  p.scale = 1 / std::sqrt(static_cast<float>(c.d)), p.causal = c.causal, p.small = 1e-3f;
  const Rows q(c, c.rows, c.d, 1), k(c, c.keys, c.d, 2), v(c, c.keys, c.e, 3), dout(c, c.rows, c.e, 4);
  const Rows out(c, c.rows, c.e, 5), dq(c, c.rows, c.d, 6), dk(c, c.keys, c.d, 6), dv(c, c.keys, c.e, 6);
  p.q = q.tensor, p.k = k.tensor, p.v = v.tensor, p.out = out.tensor, p.dout = dout.tensor;
  p.dq = dq.tensor, p.dk = dk.tensor, p.dv = dv.tensor;
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(c.batches * c.keys));
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = uniform_from(RandomStream{5, 5}.word(i)) < 0.7;
  if (c.masked) p.key_mask = mask.data(), p.mask_batch = c.keys, p.mask_key = 1;
  if (c.drop) p.drop = true, p.drop_below = std::uint64_t{1} << 62, p.keep_scale = 4.0f / 3, p.stream = {9, 2};
  const std::size_t heads = static_cast<std::size_t>(c.batches * c.heads), rows = heads * static_cast<std::size_t>(c.rows);
  std::vector<float> lse(rows), state(2 * rows);
  p.lse = lse.data(), p.lse_batch = std::int64_t{c.heads} * c.rows, p.lse_head = c.rows, p.lse_row = 1;
  attention_forward_bf16(stream(), p);

  const std::int32_t blocks = resident ? 1 : (c.rows + backward_block_rows_bf16 - 1) / backward_block_rows_bf16;
  std::vector<double> partial(heads * static_cast<std::size_t>(blocks * attention_stats)), stats(heads * attention_stats);
  p.partial_stats = partial.data(), p.stats = stats.data(), p.row_delta = state.data(), p.row_factor = state.data() + rows;
  (resident ? attention_backward_resident : attention_backward_bf16)(stream(), p);
  merge_attention_stats(stream(), p, blocks, true);
  Gradients all{dq.bits(), dk.bits(), dv.bits(), {}};
  for (std::size_t h = 0; h < heads; ++h)
    for (const AttentionStat s : {AttentionStat::grad_a2, AttentionStat::grad_s2})
      all.stats.push_back(stats[h * attention_stats + static_cast<std::size_t>(s)]);
  return all;
}

AttentionProblem softmax() { return {}; }
AttentionProblem cubic() {
  AttentionProblem p;
  p.phi = Phi::monomial, p.degree = 3, p.factor = 0.1f;
  return p;
}
AttentionProblem normalised() {
  AttentionProblem p;
  p.phi = Phi::polynomial, p.degree = 2, p.coefficient[0] = 0.1f, p.coefficient[2] = 1, p.normalize = true;
  return p;
}

}  // namespace

TEST_CASE("the resident backward pass gives every group of keys to one warp and every unit of dQ to one", "[cuda_emulator]") {
  for (std::int32_t keys = 1; keys <= 256; ++keys)
    for (const std::int32_t d : {8, 64, 128}) {
      const ResidentPlan plan = resident_plan(50, keys, d, d);
      INFO(keys << " keys of " << d);
      if (d == 128 && keys > 128) {
        CHECK(plan.warps == 0);
        continue;
      }
      REQUIRE(plan.warps > 0);
      CHECK(plan.warps <= ResidentPlan::most_warps);
      CHECK(plan.keys >= keys);
      CHECK(plan.keys < keys + 16);
      std::multiset<std::int32_t> starts;
      for (std::int32_t w = 0; w < plan.warps; ++w)
        for (std::int32_t g = 0; g < plan.owned; ++g)
          if (plan.first_key(w, g) < keys) starts.insert(plan.first_key(w, g));
      std::multiset<std::int32_t> wanted;
      for (std::int32_t key = 0; key < keys; key += 16) wanted.insert(key);
      CHECK(starts == wanted);
    }
  for (std::int32_t rows = 1; rows <= 256; ++rows) {
    std::int32_t groups = 0;
    for (std::int32_t first = 0; first < rows; first += ResidentPlan::tile) {
      CHECK(ResidentPlan::row_groups(rows, first) <= 4);
      groups += ResidentPlan::row_groups(rows, first);
    }
    CHECK(groups == (rows + 15) / 16);
  }
  CHECK(ResidentPlan::column_units(8) == 1);
  CHECK(ResidentPlan::column_units(64) == 2);
  CHECK(ResidentPlan::column_units(72) == 3);
}

TEST_CASE("a head stays in shared memory where sizes and registers allow it", "[cuda_emulator]") {
  const auto fits = [](std::int32_t rows, std::int32_t keys, std::int32_t width, std::size_t kib) {
    AttentionProblem p;
    p.rows = rows, p.keys = keys, p.d = p.e = width;
    return attention_fits_resident(p, kib << 10);
  };
  CHECK(fits(256, 256, 64, 227));
  CHECK(fits(1, 1, 8, 227));
  CHECK(fits(256, 128, 128, 227));
  CHECK(fits(197, 197, 64, 163));
  CHECK_FALSE(fits(257, 64, 64, 227));
  CHECK_FALSE(fits(64, 257, 64, 227));
  CHECK_FALSE(fits(64, 129, 72, 227));
  CHECK_FALSE(fits(256, 256, 64, 163));
}

TEST_CASE("the resident backward pass has the bits of the kernels that stream", "[cuda_emulator]") {
  const std::vector<Case> cases = {{1, 2, 65, 65, 64, 64, false, false, false},  {2, 1, 16, 130, 16, 24, false, true, true},
                                   {1, 1, 197, 197, 32, 64, false, false, true}, {1, 1, 256, 256, 64, 40, true, false, false},
                                   {1, 1, 90, 40, 8, 8, true, true, false},      {1, 1, 40, 150, 24, 8, true, true, true},
                                   {1, 1, 70, 128, 128, 72, false, true, true},  {1, 2, 130, 17, 72, 128, true, false, false},
                                   {2, 2, 1, 1, 8, 16, false, false, false}};
  for (const AttentionProblem& scoring : {softmax(), cubic(), normalised()})
    for (const Case& c : cases) {
      INFO("phi " << static_cast<int>(scoring.phi) << ", " << c.rows << " x " << c.keys << " of " << c.d << " and " << c.e);
      const Gradients got = run(c, scoring, true), wanted = run(c, scoring, false);
      CHECK(got.dq == wanted.dq);
      CHECK(got.dk == wanted.dk);
      CHECK(got.dv == wanted.dv);
      for (std::size_t i = 0; i < got.stats.size(); ++i) CHECK(got.stats[i] == Approx(wanted.stats[i]).epsilon(1e-6));
    }
}
