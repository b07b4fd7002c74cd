// Activation checkpointing: the same derivatives to any order, less memory, the same random draws; and what it detects.
#include <catch2/catch.hpp>

#include <cmath>

#include "autograd/node.h"
#include "autograd/ops.h"
#include "tests/errors.h"

namespace norma {
namespace {

Tensor wave(const Shape& shape, double phase) {
  std::vector<double> values;
  for (Index i = 0; i < shape.numel(); ++i) values.push_back(std::sin(1.7 * static_cast<double>(i) + phase));
  return from_values(values, shape, {DType::f64});
}

/// Two layers: x[rows, c], w[c, c], b[c].
Tensor block(std::span<const Tensor> in) { return sin(matmul(sin(matmul(in[0], in[1]) + in[2]), in[1])) + in[0]; }

Tensor plain(const Function& f, std::span<const Tensor> in) { return f(in); }
using Runner = Tensor (*)(const Function&, std::span<const Tensor>);

void check_close(const Tensors& a, const Tensors& b, double tolerance = 1e-12) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    const std::vector<double> x = a[i].values(), y = b[i].values();
    REQUIRE(x.size() == y.size());
    for (std::size_t k = 0; k < x.size(); ++k) CHECK(x[k] == Approx(y[k]).epsilon(tolerance).margin(tolerance / 10));
  }
}

TEST_CASE("a chain of checkpoints has the plain gradients", "[checkpoint]") {
  const Tensor x = wave({3, 4}, 0).track(), w = wave({4, 4}, 1).track(), b = wave({4}, 2).track();
  const auto run = [&](Runner runner) {
    Tensor h = x;
    for (int i = 0; i < 3; ++i) h = runner(block, Tensors{h, w, b});
    return grad(sum(square(h)), Tensors{x, w, b});
  };
  check_close(run(checkpoint), run(plain));
}

TEST_CASE("a function may hold its parameters instead of reading them from its inputs", "[checkpoint]") {
  const Tensor x = wave({3, 4}, 0).track(), w = wave({4, 4}, 1).track();
  const Function held = [w](std::span<const Tensor> in) { return sin(matmul(in[0], w)); };
  const auto run = [&](Runner runner, bool twice) {
    const Tensor y = sum(square(runner(held, Tensors{runner(held, Tensors{x, w}), w})));
    const Tensors g = grad(y, Tensors{x, w}, {}, {.create_graph = twice});
    return twice ? grad(sum(square(g[0])) + sum(g[0]) * sum(sin(g[1])), Tensors{x, w}) : g;
  };
  check_close(run(checkpoint, false), run(plain, false));
  check_close(run(checkpoint, true), run(plain, true));
}

TEST_CASE("second and third derivatives, where one input depends on another", "[checkpoint]") {
  const Tensor x = wave({2, 3}, 0).track(), w = wave({3, 3}, 1).track(), b = wave({3}, 2).track();
  const Tensors leaves{x, w, b};
  const auto run = [&](Runner runner) {
    const Tensor h = runner(block, Tensors{matmul(x, w) * 0.5, w, b + sum(w, {0})});
    const Tensors first = grad(sum(sin(h)), leaves, {}, {.create_graph = true});
    const Tensor s = sum(square(first[0])) + sum(sin(first[1])) + sum(first[2] * b);
    const Tensors second = grad(s, leaves, {}, {.create_graph = true});
    Tensors all = grad(sum(square(second[0])) + sum(second[1] * w) + sum(sin(second[2])), leaves);
    all.insert(all.end(), first.begin(), first.end());
    all.insert(all.end(), second.begin(), second.end());
    return all;
  };
  check_close(run(checkpoint), run(plain));
}

TEST_CASE("checkpoints pass the gradient checks", "[checkpoint]") {
  const Tensors in{wave({2, 3}, 0).track(), wave({3, 3}, 1).track(), wave({3}, 2).track()};
  const Function f = [](std::span<const Tensor> xs) { return checkpoint(block, xs); };
  const GradcheckReport first = gradcheck(f, in), second = gradgradcheck(f, in);
  INFO(first.where << "; " << second.where);
  CHECK(first.ok);
  CHECK(second.ok);
}

TEST_CASE("an input given twice, inputs that need nothing, mixed dtypes", "[checkpoint]") {
  const Tensor x = wave({4}, 0).track();
  const Function product = [](std::span<const Tensor> in) { return in[0] * sin(in[1]); };
  const auto twice = [&](Runner runner) { return grad(sum(runner(product, Tensors{x, x})), Tensors{x}); };
  check_close(twice(checkpoint), twice(plain));
  const auto computed = [&](Runner runner) {
    const Tensor h = square(x);
    const Tensor g = grad(sum(runner(product, Tensors{h, h})), x, {.create_graph = true});
    return Tensors{g, grad(sum(square(g)), x)};
  };
  check_close(computed(checkpoint), computed(plain));

  const Tensor fixed = wave({4}, 3);
  CHECK(grad(sum(checkpoint(product, Tensors{x, fixed})), x).values() == sin(fixed).values());
  CHECK(!checkpoint(product, Tensors{fixed, fixed}).tracked());
  const Function constant = [](std::span<const Tensor> in) { return in[0].detach() * 2.0; };
  CHECK_FALSE(checkpoint(constant, Tensors{x}).tracked());

  const Tensor narrow = full({4}, 0.5, {DType::f32}).track();
  const Function mixed = [](std::span<const Tensor> in) { return square(in[0]) * sin(cast(in[1], DType::f64)); };
  const auto both = [&](Runner runner) {
    const Tensors g = grad(sum(runner(mixed, Tensors{x, narrow})), Tensors{x, narrow}, {}, {.create_graph = true});
    Tensors all = grad(sum(square(g[0])) + sum(cast(g[1], DType::f64)), Tensors{x, narrow});
    all.insert(all.end(), g.begin(), g.end());
    return all;
  };
  check_close(both(checkpoint), both(plain), 1e-6);  // part of it runs in f32
}

TEST_CASE("a long chain of checkpoints is let go without a deep stack", "[checkpoint]") {
  const std::int64_t before = live_nodes();
  {
    const Tensor x = wave({2}, 0).track();
    Tensor y = x;
    for (int i = 0; i < 50'000; ++i) y = checkpoint([](std::span<const Tensor> in) { return sin(in[0]); }, Tensors{y});
    CHECK(live_nodes() >= before + 50'000);
  }
  CHECK(live_nodes() == before);
}

TEST_CASE("between the passes only the inputs and the output are held", "[checkpoint]") {
  const Tensor x = wave({64, 64}, 0).track(), w = wave({64, 64}, 1).track(), b = wave({64}, 2).track();
  const auto held = [&](Runner runner) {
    Backend& device = backend(x.device());
    const std::size_t before = device.memory().in_use;
    const Tensor y = runner(block, Tensors{x, w, b});
    return device.memory().in_use - before;
  };
  const std::size_t output = 64 * 64 * sizeof(double);
  CHECK(held(checkpoint) <= output + 1024);
  CHECK(held(plain) >= 3 * output);

  // Also the first derivative keeps nothing in between when it is to be differentiated again.
  const auto held_after_gradient = [&](Runner runner) {
    const std::size_t before = backend(x.device()).memory().in_use;
    const Tensors g = grad(sum(runner(block, Tensors{x, w, b})), Tensors{x, w, b}, {}, {.create_graph = true});
    return backend(x.device()).memory().in_use - before;
  };
  CHECK(held_after_gradient(checkpoint) < held_after_gradient(plain) / 2);
}

TEST_CASE("the second run draws what the first drew, and later draws are undisturbed", "[checkpoint]") {
  const Tensor x = wave({8, 8}, 0).track();
  const Function noisy = [](std::span<const Tensor> in) {
    return dropout(sin(dropout(in[0], 0.5, RandomScope::next())), 0.3, RandomScope::next());
  };
  const auto run = [&](Runner runner, std::vector<std::uint64_t>& drawn) {
    const RandomScope scope(5, 17);
    RandomScope::next();
    const Tensor h = runner(noisy, Tensors{runner(noisy, Tensors{x})});
    drawn.push_back(RandomScope::drawn());
    const Tensor g = grad(sum(square(h)), x, {.create_graph = true});
    drawn.push_back(RandomScope::drawn());
    const Tensor second = grad(sum(square(g)), x);
    drawn.push_back(RandomScope::drawn());
    return Tensors{h.detach(), g.detach(), second};
  };
  std::vector<std::uint64_t> a, b;
  check_close(run(checkpoint, a), run(plain, b));
  CHECK(a == b);
  CHECK(a == std::vector<std::uint64_t>{5, 5, 5});
}

TEST_CASE("inputs of two dtypes see the same draws", "[checkpoint]") {
  const Tensor x = wave({8}, 0).track(), w = cast(wave({8}, 1), DType::f32).track();
  const Function noisy = [](std::span<const Tensor> in) { return dropout(in[0] * cast(in[1], DType::f64), 0.5, RandomScope::next()); };
  const auto run = [&](Runner runner) {
    const RandomScope scope(5, 17);
    return grad(sum(square(runner(noisy, Tensors{x, w}))), Tensors{x, w}, {}, {.create_graph = true});
  };
  check_close(run(checkpoint), run(plain), 1e-6);
}

TEST_CASE("a function that draws nothing needs no stream of a captured step", "[checkpoint]") {
  const RandomScope scope(1, zeros({1}, {DType::i64}));
  (void)RandomScope::next();  // the last one
  const Tensor x = wave({4}, 0).track();
  const Tensor y = sum(checkpoint([](std::span<const Tensor> in) { return square(in[0]); }, Tensors{x}));
  check_close(Tensors{grad(y, x)}, Tensors{x.detach() * 2.0});
  CHECK(RandomScope::drawn() == 1);
}

TEST_CASE("a checkpoint detects another random scope, changed inputs and a freed graph", "[checkpoint]") {
  Tensor x = wave({4}, 0).track();
  const Function noisy = [](std::span<const Tensor> in) { return dropout(in[0], 0.5, RandomScope::next()); };
  const RandomScope outer(1, 1);
  Tensor y;
  {
    const RandomScope inner(1, 2);
    y = sum(checkpoint(noisy, Tensors{x}));
  }
  RandomScope::next();
  CHECK(test::error_of([&] { return grad(y, x, {.retain_graph = true}); }) ==
        "checkpoint: the function drew random numbers in another RandomScope; keep that scope until backward()");
  CHECK(RandomScope::drawn() == 1);
  {
    const RandomScope captured(1, zeros({0}, {DType::i64}));
    RandomScope::rewind(5);
    CHECK_THROWS_AS(grad(y, x, {.retain_graph = true}), Error);
    CHECK(RandomScope::drawn() == 5);
  }

  bool training = true;
  y = sum(checkpoint([&](std::span<const Tensor> in) { return training ? noisy(in) : in[0]; }, Tensors{x}));
  training = false;
  CHECK(test::error_of([&] { return grad(y, x); }) ==
        "checkpoint: the function drew 1 random numbers and 0 when it ran again; keep what decides it (Training) until backward()");
  CHECK(RandomScope::drawn() == 2);

  const Function smooth = [](std::span<const Tensor> in) { return sin(in[0]); };
  y = sum(checkpoint(smooth, Tensors{x}));
  fill(x.detach(), 1);
  CHECK(test::error_of([&] { return grad(y, x); }) ==
        "checkpoint: input 0 of shape [4] was changed in place since: write after the backward pass, compute checkpoint again after the write, or give checkpoint a clone()");
  y = sum(checkpoint(smooth, Tensors{x}));
  (void)grad(y, x);
  CHECK(test::error_of([&] { return grad(y, x); }).find("was already freed by an earlier backward(); pass retain_graph") != std::string::npos);
}

TEST_CASE("a function that returns another shape when it runs again is told", "[checkpoint]") {
  const Tensor x = wave({2}, 0).track();
  int runs = 0;
  const Function f = [&](std::span<const Tensor> in) { return runs++ ? sum(in[0] * in[0]) : in[0] * in[0]; };
  const Tensor y = sum(checkpoint(f, {x}));
  CHECK(test::error_of([&] { return grad(y, x); }) ==
        "checkpoint: the function returned f64 [2] on cpu, and f64 [] on cpu when it ran again; what decides it must not change until backward()");
}

TEST_CASE("what a checkpointed function writes is written by both of its runs", "[checkpoint]") {
  const Tensor x = wave({2}, 0).track(), mean = zeros({2}, {DType::f64});
  const Tensor y = sum(checkpoint(
      [&](std::span<const Tensor> in) {
        copy_into(mean, mean + 1.0);
        return sin(in[0]);
      },
      {x}));
  CHECK(mean.values() == std::vector<double>{1, 1});
  backward(y);
  CHECK(mean.values() == std::vector<double>{2, 2});
}

TEST_CASE("nothing of a checkpointed graph stays behind", "[checkpoint]") {
  const std::int64_t before = live_nodes();
  {
    const Tensor x = wave({3, 4}, 0).track(), w = wave({4, 4}, 1).track(), b = wave({4}, 2).track();
    Tensor h = x;
    for (int i = 0; i < 3; ++i) h = checkpoint(block, Tensors{h, w, b});
    const Tensors g = grad(sum(square(h)), Tensors{x, w}, {}, {.create_graph = true});
    (void)grad(sum(square(g[1])), x);
  }
  CHECK(live_nodes() == before);
}

TEST_CASE("the checkers want f64 and something to differentiate by", "[checkpoint]") {
  const Function f = [](std::span<const Tensor> in) { return sin(in[0]); };
  const Tensors narrow{full({2}, 1).track()}, untracked{wave({2}, 0)};
  CHECK(test::error_of([&] { gradcheck(f, narrow); }) == "gradcheck: input 0 is f32; differences need f64, convert with cast()");
  CHECK(test::error_of([&] { gradgradcheck(f, narrow); }) == "gradgradcheck: input 0 is f32; differences need f64, convert with cast()");
  CHECK(test::error_of([&] { gradcheck(f, untracked); }) ==
        "gradcheck: no input is tracked; call track() on those to differentiate by");
}

TEST_CASE("checkpointing gives the same bits with fewer nodes", "[checkpoint]") {
  Tensor x = wave({4, 6}, 0).track(), w = wave({6, 6}, 1).track();
  const Function block = [](std::span<const Tensor> in) {
    Tensor h = in[0];
    for (int i = 0; i < 3; ++i) h = dropout(gelu(linear(h, in[1])), 0.5, RandomScope::next());
    return h;
  };
  const Tensors inputs{x, w};
  const auto run = [&](bool checkpointed, std::int64_t& nodes) {
    const RandomScope scope(7, 1);
    const std::int64_t before = live_nodes();
    const Tensor y = checkpointed ? checkpoint(block, inputs) : block(inputs);
    nodes = live_nodes() - before;
    const Tensor z = dropout(y, 0.5, RandomScope::next());  // draws after it do not move
    Tensors results = grad(sum(square(z)), inputs);
    results.push_back(z.detach());
    return results;
  };
  std::int64_t plain_nodes = 0, checkpoint_nodes = 0;
  const Tensors whole = run(false, plain_nodes), checkpointed = run(true, checkpoint_nodes);
  for (std::size_t i = 0; i < whole.size(); ++i) CHECK(whole[i].values() == checkpointed[i].values());
  CHECK(checkpoint_nodes < plain_nodes);
}

TEST_CASE("checkpointing finds the leaves that a function holds", "[checkpoint]") {
  const auto gradients = [](bool checkpointed, bool tracked_input, bool second) {
    const Tensor w = wave({6, 6}, 1).track(), b = wave({6}, 2).track();
    const Tensor x = tracked_input ? wave({4, 6}, 0).track() : wave({4, 6}, 0);
    const Function block = [w, b](std::span<const Tensor> in) { return gelu(linear(in[0], w, b)); };
    const Tensor h = tracked_input ? x * 2.0 : x;
    const Tensor y = checkpointed ? checkpoint(block, {h}) : block(std::span(&h, 1));
    Tensors xs{w, b};
    if (tracked_input) xs.push_back(x);
    Tensors first = grad(sum(square(y)), xs, {}, {.create_graph = second});
    if (!second) return first;
    Tensor all = scalar_like(0, y);
    for (const Tensor& g : first) all = all + sum(square(g));
    return grad(all, xs);
  };
  for (const bool tracked_input : {true, false})
    for (const bool second : {true, false}) {
      const Tensors whole = gradients(false, tracked_input, second), found = gradients(true, tracked_input, second);
      CAPTURE(tracked_input, second);
      check_close(found, whole);
      for (const Tensor& g : found) CHECK(norm(g).item() > 0.1);
    }
  const Tensor w = wave({3}, 1).track(), outside = exp(w);
  CHECK(test::error_of([&] { return checkpoint([&](std::span<const Tensor> in) { return in[0] * outside; }, {wave({3}, 0)}); }) ==
        "checkpoint: the function uses a result of exp, of shape [3], that was computed outside it from tracked tensors; give it as an input");
}

TEST_CASE("what does not depend on tracked tensors is untracked behind a checkpoint too", "[checkpoint]") {
  const Tensor x = wave({4, 6}, 0).track();
  const auto of = [&](Tensor (*f)(const Tensor&)) { return checkpoint([f](std::span<const Tensor> in) { return f(in[0]); }, {x}); };
  CHECK_FALSE(of([](const Tensor& t) { return argmax(t, 1); }).tracked());
  CHECK_FALSE(of([](const Tensor& t) { return t.detach() * 2.0; }).tracked());
  const Tensor y = of([](const Tensor& t) { return t * 2.0; });
  const Tensor dy = grad(sum(y), x, {.create_graph = true});
  CHECK(norm(grad(sum(dy * x), x)).item() == Approx(2 * std::sqrt(24.0)));
}

TEST_CASE("a derivative that is no number is wrong", "[checkpoint]") {
  const Tensor x = from_values({-1, 2, 3}, {3}, {DType::f64}).track(), bad = from_values({std::nan(""), 1, 1}, {3}, {DType::f64});
  const Function f = [&](std::span<const Tensor> in) {
    const Tensor y = in[0].detach() * 1.0;
    if (!grad_enabled() || !in[0].tracked()) return y;
    return record(y, {in[0]}, {"bad", keep_nothing, [bad](const Ctx&, const Tensor& g) -> Tensors { return {g * bad}; }});
  };
  CHECK_FALSE(gradcheck(f, std::span(&x, 1)).ok);
}

}  // namespace
}  // namespace norma
