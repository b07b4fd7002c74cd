// A small physics-informed transformer solves the heat equation; docs/your-equation.md goes through this file.
#include <cmath>
#include <cstdio>
#include <numbers>
#include <string>

#include "backends/register_all.h"
#include "inspect/probe.h"
#include "nn/layers.h"
#include "train/optimizer.h"

using namespace norma;

constexpr double pi = std::numbers::pi, conductivity = 0.1;

/// u(x, t). A point becomes a short sequence of times, t and the moments after it, and attention looks along it.
class Solution : public nn::Module {
 public:
  Solution(const std::string& scoring, nn::Init& init)
      : embed(2, width, init, 1.0),
        attn({.width = width, .heads = 2, .scoring = nn::parse_scoring(scoring), .std = 0.2}, init),
        mlp(width, 2 * width, init, 0.2),
        head(width, 1, init, 0.2) {}
  Tensor operator()(const Tensor& x, const Tensor& t) const {  // [B, 1], [B, 1] -> [B, 1]
    Tensors sequence;
    for (int j = 0; j < tokens; ++j) sequence.push_back(cat({x, t + 0.05 * j}, 1));
    Tensor y = embed(stack(sequence, 1));  // [B, tokens, width]
    y = attn(sin(y), y);                   // plus y
    y = mlp(sin(y), y);
    return head(select(y, 1, 0));
  }
  void visit(nn::Visitor& v) override { v("embed", embed), v("attn", attn), v("mlp", mlp), v("head", head); }

  static constexpr Index width = 32;
  static constexpr int tokens = 5;
  nn::Linear embed;
  nn::SelfAttention attn;
  nn::MLP mlp;
  nn::Linear head;
};

/// What is left of u_t = 0.1 u_xx at these points, [B, 1].
Tensor residual(const Solution& u, const Tensor& x, const Tensor& t) {
  const Tensors slopes = grad(sum(u(x, t)), {x, t}, {.create_graph = true});  // u_x, u_t
  const Tensor curvature = grad(sum(slopes[0]), x, {.create_graph = true});   // u_xx
  return slopes[1] - conductivity * curvature;
}

/// The equation inside, u = sin(pi x) at t = 0, and u = 0 at both ends: 64 random points of each, a function of the step.
Tensor loss_of(const Solution& u, std::uint64_t step) {
  const auto points = [&](std::uint64_t k) { return rand({64, 1}, {2, stream_id(step, k)}, {DType::f64}); };
  const Tensor x = points(0).track(), t = points(1).track(), start = points(2), end = points(3), side = cast(greater(points(4), 0.5), DType::f64);
  const Tensor inside = mean(square(residual(u, x, t)));
  const Tensor at_first = mean(square(u(start, zeros_like(start)) - sin(pi * start)));
  return inside + 10.0 * at_first + 10.0 * mean(square(u(side, end)));
}

/// sqrt(sum (u - exact)^2 / sum exact^2) over 21 x 21 points.
double error_of(const Solution& u) {
  const NoGrad evaluating;
  const Tensor grid = arange(21, {DType::f64}) / 20.0;
  const Tensor x = reshape(expand(unsqueeze(grid, 0), {21, 21}), {441, 1}), t = reshape(expand(unsqueeze(grid, 1), {21, 21}), {441, 1});
  const Tensor exact = exp(-conductivity * pi * pi * t) * sin(pi * x);
  return sqrt(sum(square(u(x, t) - exact)) / sum(square(exact))).item();
}

int main(int argc, char** argv) {
  register_backends();
  nn::Init init(7, {DType::f64});
  Solution u(argc > 1 ? argv[1] : "x^3/sqrt(N)", init);
  const auto optimizer = train::Optimizer::make({.weight_decay = 0}, u);
  constexpr std::uint64_t steps = 200;
  for (std::uint64_t step = 0; step <= steps; ++step) {
    inspect::Probe probe(u);
    if (step % 50 == 0) probe.attention("attn.stats");
    const Tensor loss = loss_of(u, step);
    backward(loss);
    optimizer->step(5e-3 * (1 + std::cos(pi * double(step) / steps)) / 2, 1);
    if (step % 50) continue;
    const auto norms = probe.take_attention().front().second;
    std::printf("step %3d  loss %.5f  error %.4f  |A| %.2f %.2f  |dL/dA| %.1e %.1e\n", static_cast<int>(step), loss.item(), error_of(u), norms.fro[0], norms.fro[1],
                norms.grad_a[0], norms.grad_a[1]);
  }
  return error_of(u) < 0.05 ? 0 : 1;
}
