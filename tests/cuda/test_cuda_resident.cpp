// Attention backward with a head in shared memory: how its work is cut, and that it gives the bits of the kernels that stream.
#include <catch2/catch.hpp>
#include <vector>

#include "backends/cuda/kernels/attention_resident.h"
#include "tests/cuda/bf16_attention.h"

TEST_CASE("the resident backward pass gives every group of keys a warp and every unit of dQ to one", "[cuda_emulator]") {
  for (std::int32_t keys = 1; keys <= 256; ++keys)
    for (const std::int32_t d : {8, 64, 128}) {
      const ResidentPlan plan = resident_plan(50, keys, d, d);
      INFO(keys << " keys of " << d);
      if (d == 128 && keys > 128) {
        CHECK(plan.warps == 0);
        continue;
      }
      REQUIRE(plan.warps > 0);
      CHECK(plan.warps <= ResidentPlan::most_warps(plan.chunks));
      CHECK(plan.warps == plan.keys / ResidentPlan::group);
      CHECK(plan.keys >= keys);
      CHECK(plan.keys < keys + 16);
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
  const std::vector<Case> cases = {{1, 2, 65, 65, 64, 64, false, false, false, true},  {2, 1, 16, 130, 16, 24, false, true, true, true},
                                   {1, 1, 197, 197, 32, 64, false, false, true, true}, {1, 1, 256, 256, 64, 40, true, false, false, true},
                                   {1, 1, 90, 40, 8, 8, true, true, false, true},      {1, 1, 40, 150, 24, 8, true, true, true, true},
                                   {1, 1, 70, 128, 128, 72, false, true, true, true},  {1, 2, 130, 17, 72, 128, true, false, false, true},
                                   {2, 2, 1, 1, 8, 16, false, false, false, true}};
  for (const AttentionProblem& scoring : {softmax(), cubic(), normalised()})
    for (const Case& c : cases) {
      INFO("phi " << static_cast<int>(scoring.phi) << ", " << c.rows << " x " << c.keys << " of " << c.d << " and " << c.e);
      const Results got = run(c, scoring, streaming_forward, {attention_backward_resident, c.rows}),
                    wanted = run(c, scoring, streaming_forward, streaming_backward);
      CHECK(got.bits == wanted.bits);
      check_statistics(got.gradient_stats, wanted.gradient_stats, 1e-6);
    }
}
