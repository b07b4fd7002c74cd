// The graph's nodes: how long they live, how they are let go, and the hooks on them.
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "tests/refused_memory.h"

using namespace norma;

namespace {

constexpr Place f64{DType::f64, {}};

Tensor leaf(const std::vector<double>& values, const Shape& shape) { return from_values(values, shape, f64).track(); }
Tensor leaf(double value) { return leaf({value}, {}); }

Tensor ramp(const Shape& shape, double from, double step) {
  std::vector<double> v(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = std::sin(from + step * static_cast<double>(i));
  return from_values(v, shape, f64);
}

}  // namespace

TEST_CASE("nothing of a graph stays behind", "[graph]") {
  const std::int64_t before = live_nodes();
  {
    Tensor x = ramp({2, 4}, 0, 0.3).track(), w = ramp({3, 4}, 1, 0.2).track();
    const Tensor saved_output = exp(x);  // saves its own output: must not hold itself alive
    const Tensor y = sum(square(softmax(linear(gelu(x), w))) * 1.0) + mean(saved_output);
    const Tensor first = grad(y, x, {.create_graph = true});
    const Tensor second = grad(sum(square(first)), x, {.create_graph = true});
    backward(sum(second) + y);
    CHECK(live_nodes() > before);
    CHECK_THROWS_AS(add(y, ones({2, 3}, {DType::f32})), Error);
    on_gradient(saved_output, [kept = w](const Tensor&) {});
  }
  CHECK(live_nodes() == before);
  {
    const NoGrad off;
    Tensor x = ramp({2, 4}, 0, 0.3).track();
    CHECK(!softmax(exp(x)).tracked());
  }
  CHECK(grad_enabled());
  CHECK(live_nodes() == before);
}

TEST_CASE("a chain of a million ops is swept and freed without a deep stack", "[graph]") {
  const std::int64_t before = live_nodes();
  Tensor x = leaf(0.25);
  {
    Tensor y = x;
    for (int i = 0; i < 1'000'000; ++i) y = neg(y);
    CHECK(live_nodes() >= before + 1'000'000);
    CHECK(grad(y, x, {.retain_graph = true}).item() == 1);
  }
  Tensor z = x;
  for (int i = 0; i < 100'000; ++i) z = sin(z);  // keeps its inputs, each holding the node before
  for (int i = 0; i < 100'000; ++i) z = z * z;   // keeps one input twice
  {
    const test::RefusedMemory none;  // what lets go asks for nothing
    z = {};
  }
  x = {};
  CHECK(live_nodes() == before);
}

TEST_CASE("hooks see the complete gradient", "[graph]") {
  Tensor x = leaf({1, 2}, {2});
  const Tensor h = square(x);
  std::vector<double> seen;
  int calls = 0;
  on_gradient(h, [&](const Tensor& g) { seen = g.values(), ++calls; });
  backward(sum(h * 2.0) + sum(h * 3.0));
  CHECK(calls == 1);
  CHECK(seen == std::vector<double>{5, 5});
  CHECK(x.grad().values() == std::vector<double>{10, 20});
}

TEST_CASE("a rule that takes what arrived does so once, where one tensor is several of its inputs", "[graph]") {
  const Tensor x = leaf({1, 2}, {2});
  bool offered[2] = {};
  const Rule rule{"mine", keep_nothing, [](const Ctx&, const Tensor& g) -> Tensors { return {g, g * 2.0}; },
                  [&](const Ctx& c, const Tensor& g) -> Tensors {
                    Tensors both{g, g * 2.0};
                    for (const int i : {0, 1})
                      if (const Tensor arrived = c.arrived(i)) offered[i] = true, both[static_cast<std::size_t>(i)] = both[static_cast<std::size_t>(i)] + arrived, c.take(i);
                    return both;
                  }};
  const Tensor y = record(x.detach(), {x, x}, rule);
  CHECK(grad(sum(y + x * 3.0), x).values() == std::vector<double>{6, 6});
  CHECK(offered[0]);
  CHECK(!offered[1]);
}

TEST_CASE("a hook can be taken off, also by itself and after the graph has gone", "[graph]") {
  const Tensor x = leaf({1, 2}, {2});
  int first = 0, second = 0, third = 0;
  const auto off_first = on_gradient(x, [&](const Tensor&) { ++first; });
  std::function<void()> off_second = on_gradient(x, [&](const Tensor&) { ++second, off_second(); });
  on_gradient(x, [&](const Tensor&) { ++third; });
  backward(sum(x));
  off_first(), off_first();
  backward(sum(x));
  CHECK((first == 1 && second == 1 && third == 2));
  std::function<void()> off;
  {
    const Tensor y = square(x);
    off = on_gradient(y, [](const Tensor&) {});
  }
  off();
}
