// Shared memory of attention kernels: what every card gives is enough for one form of each, and results do not depend
// on which card it is.
#include <catch2/catch.hpp>

#include "autograd/node.h"
#include "autograd/ops.h"
#include "backends/cuda/emulator/emulator.h"
#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"
#include "nn/scoring.h"

using namespace norma;
using namespace norma::cuda;

namespace {

/// The emulator as a card whose blocks may ask for `bytes`, while it lives.
struct SmallCard {
  explicit SmallCard(std::size_t bytes) { emulator::card().block_shared = bytes; }
  ~SmallCard() { emulator::card() = {}; }
};

struct Case {
  std::string scoring;
  DType dtype;
  AttentionForm form;
  Index rows, keys, width, value_width;
};

/// The output and the gradients of q, k and v.
std::vector<std::vector<double>> results(const Case& c) {
  const Place place{c.dtype, {Device::Kind::cuda, 0}};
  const auto draw = [&](Index rows, Index width, std::uint64_t stream) {
    std::vector<double> v(static_cast<std::size_t>(rows * width));
    for (std::size_t i = 0; i < v.size(); ++i) v[i] = 2.0 * uniform_from(RandomStream{3, stream}.word(i)) - 1;
    return from_values(v, {1, 1, rows, width}, place).track();
  };
  const Tensor q = draw(c.rows, c.width, 1), k = draw(c.keys, c.width, 2), v = draw(c.keys, c.value_width, 3);
  AttentionOptions o;
  o.scoring = nn::parse_scoring(c.scoring), o.form = c.form;
  const Tensor out = attention(q, k, v, o);
  std::vector<std::vector<double>> all{out.values()};
  for (const Tensor& g : grad(out, Tensors{q, k, v}, draw(c.rows, c.value_width, 4).detach()))
    all.push_back(g.values());
  return all;
}

}  // namespace

TEST_CASE("what a block asks for is there on every card", "[cuda_emulator]") {
  CHECK(forward_mma_bytes(4) == 45 << 10);
  for (const int chunks : {4, 8}) {
    CHECK(forward_mma_bytes(chunks) <= least_block_shared);
    CHECK(backward_mma_bytes(chunks, sizeof(RowState)) <= least_block_shared);
    CHECK(mma_passing(chunks) % mma_step == 0);
  }
  for (int d = 1; d <= attention_max_width; ++d)
    for (int e = 1; e <= attention_max_width; ++e) {
      INFO("widths " << d << " and " << e);
      REQUIRE(forward_scalar_bytes(d, e) <= least_block_shared);
      REQUIRE(backward_scalar_bytes(d, e) <= least_block_shared);
      REQUIRE(linear_product_bytes(d, e) <= least_block_shared);
    }
  CHECK(linear_state_bytes(attention_max_width) <= least_block_shared);
}

TEST_CASE("attention has the same bits on cards that give a block 227 and 99 KiB", "[cuda_emulator]") {
  const std::vector<Case> cases = {
      {"softmax", DType::bf16, AttentionForm::quadratic, 70, 100, 128, 128},
      {"x^3/sqrt(N)", DType::bf16, AttentionForm::quadratic, 197, 197, 64, 64},  // resident on one of them
      {"x^2/sum(x^2)", DType::bf16, AttentionForm::quadratic, 90, 120, 72, 128},
      {"softmax", DType::f32, AttentionForm::quadratic, 40, 70, 128, 128},
      {"x^3/sqrt(N)", DType::bf16, AttentionForm::quadratic, 40, 70, 127, 125},
      {"x/N", DType::f32, AttentionForm::linear, 40, 70, 128, 128}};
  for (const Case& c : cases) {
    INFO(c.scoring << ", " << name(c.dtype) << ", " << c.rows << " x " << c.keys << " of " << c.width << " and "
                   << c.value_width);
    const auto wanted = results(c);
    const SmallCard small(least_block_shared);
    CHECK(results(c) == wanted);
  }
  const SmallCard none(std::size_t{16} << 10);
  CHECK_THROWS_WITH(results(cases[0]), Catch::Contains("shared memory; a block has 16 KiB"));
}
