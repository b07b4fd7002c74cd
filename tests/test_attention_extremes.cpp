// Attention where rounding could take over: values far from 0, sums of rows at the ends of a float's range.
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "backends/cpu/packed_products.h"
#include "nn/scoring.h"

using namespace norma;

namespace {

/// dq, dk, dv of sum(attention * seed).
Tensors gradients(Tensors x, const Tensor& seed, const std::string& formula) {
  for (Tensor& t : x) t = t.detach().track();
  AttentionOptions options;
  options.scoring = nn::parse_scoring(formula);
  return grad(attention(x[0], x[1], x[2], options), x, seed);
}

double difference(const Tensor& x, const Tensor& exact) {
  const Tensor wide = cast(x, DType::f64);
  return norm(wide - exact).item() / norm(exact).item();
}

}  // namespace

TEST_CASE("in bf16 gradients of scores keep their digits where values are far from 0", "[attention_extremes]") {
  for (const bool packed : {false, true}) {
    const cpu::ForcePacked force(packed);
    for (const char* formula : {"softmax", "x^2/sum(x^2)", "x^3/sqrt(N)"})
      for (const Index tokens : {65, 130, 300}) {
        const RandomStream stream{7, static_cast<std::uint64_t>(tokens)};
        const auto draw = [&](std::uint64_t i) { return cast(randn({2, 2, tokens, 16}, {stream.seed, stream.stream + 1000 * i}), DType::bf16); };
        const Tensors x = {draw(0), draw(1), cast(4.0 + 0.3 * cast(draw(2), DType::f32), DType::bf16)};
        const Tensor seed = draw(3);
        const auto wide = [](const Tensor& t) { return cast(t, DType::f64); };
        const Tensors rounded = gradients(x, seed, formula), exact = gradients({wide(x[0]), wide(x[1]), wide(x[2])}, wide(seed), formula);
        INFO(formula << ", " << tokens << " tokens, packed " << packed);
        // of rounding each element once a thousandth or two are left; of delta from a rounded output it was four hundredths
        for (std::size_t i = 0; i < 3; ++i) CHECK(difference(rounded[i], exact[i]) < 0.006);
      }
  }
}

TEST_CASE("rows whose sum has no inverse count as rows that sum to 0", "[attention_extremes]") {
  for (const double size : {1e-5, 1.5e-5, 1e-7, 1e-20})
    for (const Index tokens : {17, 130}) {
      const Tensor q = size * randn({1, 2, tokens, 16}, {3, 1}), k = randn({1, 2, tokens, 16}, {3, 2}), v = randn({1, 2, tokens, 16}, {3, 3});
      INFO("scores of " << size << ", " << tokens << " tokens");
      for (const char* formula : {"x^8/sum(x^8)", "x^4/sum(x^4)"})
        for (const Tensor& g : gradients({q, k, v}, ones({1, 2, tokens, 16}), formula)) CHECK(std::isfinite(norm(g).item()));
    }
}
