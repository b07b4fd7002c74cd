// The engine: derivatives of high order, misuse with its messages, and the checkers themselves.
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <thread>

#include "autograd/ops.h"
#include "tests/errors.h"
#include "tests/worst.h"

using namespace norma;
using norma::test::error_of;

namespace {

constexpr Place f64{DType::f64, {}};

Tensor leaf(const std::vector<double>& values, const Shape& shape) { return from_values(values, shape, f64).track(); }
Tensor leaf(double value) { return leaf({value}, {}); }

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  return test::largest_difference(a.values(), b.values());
}

Tensor ramp(const Shape& shape, double from, double step) {
  std::vector<double> v(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = std::sin(from + step * static_cast<double>(i));
  return from_values(v, shape, f64);
}

}  // namespace

TEST_CASE("an error that is no number is the largest", "[autograd]") {
  const double nan = std::nan("");
  CHECK(test::largest_difference(std::vector<double>{9, nan, 0}, std::vector<double>{0, 0, 0}) == HUGE_VAL);
  CHECK(test::largest_difference(std::vector<double>{1, 4}, std::vector<double>{3, 3}) == 2);
  CHECK(test::largest_difference(std::vector<double>{1}, std::vector<double>{}) == HUGE_VAL);
  CHECK(test::worse(HUGE_VAL, 1) == HUGE_VAL);
}

TEST_CASE("sine to the sixth derivative", "[autograd]") {
  Tensor x = leaf({-2.0, 0.3, 1.1}, {3});
  Tensor y = sin(x);
  for (int order = 1; order <= 6; ++order) {
    y = grad(sum(y), x, {.create_graph = true});
    const std::vector<double> got = y.values(), at = x.values();
    for (std::size_t i = 0; i < 3; ++i) {
      const double wanted = std::sin(at[i] + order * std::acos(-1.0) / 2);
      CHECK(got[i] == Approx(wanted).margin(1e-14));
    }
  }
}

TEST_CASE("mixed derivatives of a product of powers", "[autograd]") {
  Tensor x = leaf(1.3), y = leaf(0.7);
  const Tensor z = pow(x, 4) * pow(y, 3);
  Tensor d = grad(z, x, {.create_graph = true});
  d = grad(d, y, {.create_graph = true});
  d = grad(d, x, {.create_graph = true});
  CHECK(d.item() == Approx(12 * 1.3 * 1.3 * 3 * 0.7 * 0.7).epsilon(1e-13));
  d = grad(grad(d, y, {.create_graph = true}), y);
  CHECK(d.item() == Approx(12 * 1.3 * 1.3 * 6).epsilon(1e-13));
}

TEST_CASE("fused ops whose inputs depend on one another have the composition's second derivatives", "[autograd]") {
  Tensor x = ramp({1, 2, 3, 2}, 0.4, 0.7).track();
  AttentionOptions cubic;
  cubic.scoring.kind = Scoring::Kind::polynomial;
  cubic.scoring.coefficient[3] = 1;
  const std::vector<std::function<Tensor()>> cases{
      [&] { return attention(x, x, x); },
      [&] { return attention(x, x * 2.0, sin(x), cubic); },
      [&] {
        return layer_norm(x, sum(x, {0, 1, 2}), {});
      },
      [&] { return linear(x, select(select(x, 0, 0), 0, 1), {}, linear(sin(x), select(select(x, 0, 0), 0, 0))); },
      [&] { return mlp(x, select(select(x, 0, 0), 0, 0), {}, transpose(select(select(x, 0, 0), 0, 1)), {}, x); },
      [&] { return softmax(x * sum(x)); }};
  for (std::size_t i = 0; i < cases.size(); ++i) {
    INFO("case " << i);
    const auto second = [&] {
      const Tensor y = cases[i]();
      const Tensor first = grad(sum(square(y)), x, {.create_graph = true});
      return grad(sum(first * ramp(first.shape(), 1, 1.3)), x);
    };
    const Tensor fused = second();
    const NoFusion plain;
    const Tensor expected = second();
    CHECK(largest_difference(fused, expected) <= 1e-12 * std::max(1.0, max(abs(expected)).item()));
  }
}

TEST_CASE("gradients accumulate in leaves, and only there", "[autograd]") {
  Tensor x = leaf({1, 2}, {2}), unused = leaf(3);
  backward(sum(square(x)));
  backward(sum(x * 3.0));
  CHECK(x.grad().values() == std::vector<double>{5, 7});
  CHECK(!unused.grad());
  CHECK(grad(sum(x), Tensors{x, unused})[1].values() == std::vector<double>{0});
  x.set_grad({});
  const Tensor y = sum(square(x));
  backward(y, {.retain_graph = true});
  backward(y);
  CHECK(x.grad().values() == std::vector<double>{4, 8});
}

TEST_CASE("leaves with the same gradient do not share its memory", "[autograd]") {
  for (const bool view_first : {false, true}) {  // what is computed last goes back first
    const Tensor a = leaf({1, 2}, {2}), b = leaf({3, 4}, {2}), c = leaf({5, 6}, {1, 2});
    Tensor view = view_first ? reshape(c, {2}) : Tensor();
    const Tensor both = a + b;
    if (!view) view = reshape(c, {2});
    backward(sum(square(both + view)));
    for (const Tensor& x : {a, b, c}) copy_into(x.grad(), x.grad() * 0.5);
    for (const Tensor& x : {a, b, c}) CHECK(x.grad().values() == std::vector<double>{9, 12});
  }
}

TEST_CASE("misuse is told", "[autograd]") {
  Tensor x = leaf({1, 2, 3}, {3});
  SECTION("backward twice") {
    const Tensor y = sum(sin(x));
    backward(y);
    CHECK(error_of([&] { backward(y); }) ==
          "backward: the graph of sum was already freed by an earlier backward(); pass retain_graph");
  }
  SECTION("an output of several elements without a seed") {
    CHECK(error_of([&] { backward(sin(x)); }) == "backward: the loss has shape [3]; reduce it to a scalar with sum() or mean(), or use grad(), which takes a seed");
    CHECK(error_of([&] { return grad(sin(x), x); }) == "grad: output has shape [3]; pass a seed or reduce to a scalar");
    CHECK(error_of([&] { return grad(sin(x), Tensors{x}, ones({2}, f64)); }) ==
          "grad: seed of shape [2] for an output of shape [3]");
    CHECK(error_of([&] { return grad(reshape(x, {3, 1}), Tensors{x}, ones({3, 1})); }) ==
          "grad: seed of f32 on cpu for an output of f64 on cpu; convert with cast() and to()");
  }
  SECTION("nothing to differentiate") {
    const Tensor constant = ones({}, f64);
    CHECK(error_of([&] { backward(constant); }) ==
          "backward: the result takes part in no graph; track() the leaves before computing it, compute it outside of NoGrad, and a gradient that is to be differentiated again with .create_graph");
    CHECK(error_of([&] { return grad(sum(x), ones({3}, f64)); }) ==
          "grad: the tensor of shape [3] to differentiate by is not tracked; call track() before using it");
  }
  SECTION("a leaf changed after it was saved") {
    const Tensor y = sum(square(x));
    fill(x.detach(), 7);
    CHECK(error_of([&] { backward(y); }) ==
          "backward: square saved a tensor of shape [3] at version 0, but it is now at version 1; it was changed in "
          "place: write after the backward pass, compute square again after the write, or give square a clone()");
  }
  SECTION("an output changed after it was saved") {
    const Tensor e = exp(x), y = sum(e);
    copy_into(e.detach(), x.detach());
    CHECK(
        error_of([&] { backward(y); }) ==
        "backward: exp saved a tensor of shape [3] at version 0, but it is now at version 1; it was changed in "
        "place: write after the backward pass, compute exp again after the write, or give exp a clone()");
  }
  SECTION("a leaf written to through its memory after it was saved") {
    const Tensor y = sum(square(x));
    x.mutable_data<double>()[1] = 7;
    CHECK_THAT(error_of([&] { backward(y); }), Catch::Contains("square saved a tensor of shape [3] at version 0, but it is now at version 1"));
    CHECK(x.values()[1] == 7);
  }
  SECTION("a fused op's input changed after it was saved") {
    const Tensor y = sum(square(softmax(x)));
    fill(x.detach(), 7);
    CHECK(error_of([&] { backward(y); }) ==
          "backward: softmax saved a tensor of shape [3] at version 0, but it is now at version 1; it was changed in "
          "place: write after the backward pass, compute softmax again after the write, or give softmax a clone()");
  }
  SECTION("in place on a computed tensor") {
    const Tensor y = sin(x);
    CHECK(error_of([&] { fill(y, 0); }) ==
          "fill: the target was computed in a recorded graph; detach() it, or compute a new tensor");
    CHECK(error_of([&] { copy_into(y, x); }) ==
          "copy_into: the target was computed in a recorded graph; detach() it, or compute a new tensor");
  }
  SECTION("a computed tensor written into another, whose gradient would be lost") {
    const Tensor room = zeros({3}, f64), y = sin(x);
    CHECK(error_of([&] { copy_into(room, y); }) ==
          "copy_into: the source was computed in a recorded graph, and a write is not recorded: write under NoGrad, or of source.detach(), "
          "where no gradient is meant, or make the whole with cat()");
    CHECK(room.values() == std::vector<double>{0, 0, 0});
    copy_into(room, y.detach());
    CHECK(room.values() == y.values());
    copy_into(room, x);  // a parameter's value
    {
      const NoGrad off;
      copy_into(room, y);
    }
    CHECK(room.values() == y.values());
  }
  SECTION("the memory of a computed tensor") {
    const Tensor y = sin(x);
    CHECK(error_of([&] { y.mutable_data<double>(); }) ==
          "mutable_data: the target was computed in a recorded graph; detach() it, or compute a new tensor");
    CHECK(error_of([&] { x.mutable_data<float>(); }) == "mutable_data: the tensor is f64, f32 was asked for");
    CHECK(y.data<double>()[0] == y.values()[0]);
  }
  SECTION("in place on an expanded tensor") {
    CHECK(error_of([&] {
            fill(expand(ones({1, 2}), {3, 2}), 0);
          }) == "fill: the target [3, 2] is expanded, several indices share an element; make it contiguous() first");
  }
  SECTION("tracking what has no gradient") {
    CHECK(error_of([&] { return arange(3).track(); }) == "track: a tensor of i64 has no gradient; cast it to f32 or f64");
    CHECK(error_of([&] { return sin(x).track(); }) == "track: this tensor was computed from others; detach() it first");
  }
  SECTION("gradients of another kind than what they belong to") {
    CHECK(error_of([&] { x.set_grad(ones({3})); }) == "set_grad: gradient of f32 on cpu for a tensor of f64 on cpu");
    const auto rule = [&](Vjp vjp) { return sum(record(ones({3}, f64), {x, x}, {"mine", keep_nothing, std::move(vjp)})); };
    const Tensor other = rule([](const Ctx&, const Tensor& g) -> Tensors { return {g, cast(g, DType::f32)}; });
    CHECK(error_of([&] { backward(other); }) ==
          "backward: mine returned a gradient of f32 on cpu for its input 1, expected f64 on cpu");
    const Tensor few = rule([](const Ctx&, const Tensor& g) -> Tensors { return {g}; });
    CHECK(error_of([&] { backward(few); }) == "backward: mine has 2 inputs, but its rule returned 1 gradients");
    const Tensor unkept = rule([](const Ctx& c, const Tensor& g) -> Tensors { return {g * c.saved(0), {}}; });
    CHECK(error_of([&] { backward(unkept); }) == "backward: saved(0) was asked for, but mine keeps 0 tensors");
  }
  SECTION("a handle on nothing") {
    const std::string expected =
        "tensor: the handle is empty; it was never set, was moved from, or is the gradient of a leaf that backward() has not reached";
    CHECK(error_of([&] { x.grad().values(); }) == expected);
    CHECK(error_of([&] { return grad(sum(x), Tensor()); }) == "grad: what to differentiate by is an empty Tensor handle");
    CHECK(error_of([] { fill(Tensor(), 1); }) == "fill: the target is an empty Tensor handle");
    Tensor moved = ones({2});
    const Tensor there = std::move(moved);
    CHECK(error_of([&] { moved.shape(); }) == expected);
    CHECK(error_of([&] { moved.track(false); }) == expected);
    CHECK(error_of([&] { moved.set_grad(there); }) == expected);
    CHECK(error_of([&] { moved.data<float>(); }) == expected);
    CHECK(error_of([&] { on_gradient(moved, [](const Tensor&) {}); }) == expected);
  }
  SECTION("a hook without a graph") {
    CHECK(error_of([&] { on_gradient(ones({2}), [](const Tensor&) {}); }) ==
          "on_gradient: the tensor [2] takes part in no graph; track() a leaf it is computed from");
  }
}

TEST_CASE("a norm adds its gradient to what a residual branch has brought, with the bits of a sum", "[autograd]") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Tensor x = cast(ramp({5, 24}, 0.3, 0.7), dtype).detach().track();
    const Tensor weight = cast(ramp({24}, 1, 0.1), dtype), bias = cast(ramp({24}, 2, 0.1), dtype), seed = cast(ramp({5, 24}, 3, 0.2), dtype);
    const auto norm = [&] { return sum(layer_norm(x, weight, bias) * seed); };
    const auto other_norm = [&] { return sum(rms_norm(x, weight) * seed); };
    const auto residual = [&] { return sum(sin(x)); };
    const Tensor of_norm = grad(norm(), x), of_other = grad(other_norm(), x), of_residual = grad(residual(), x);

    Tensor first = norm(), second = residual();  // what is computed later goes back first
    CHECK((grad(first + second, x).values() == add(of_residual, of_norm).values()));
    second = residual(), first = norm();
    CHECK((grad(first + second, x).values() == add(of_norm, of_residual).values()));
    first = norm(), second = other_norm();
    CHECK((grad(first + second, x).values() == add(of_other, of_norm).values()));

    Tensor seen;
    first = norm(), second = residual();
    on_gradient(x, [&](const Tensor& g) { seen = contiguous(g); });
    const Tensor g = grad(first + second, x);
    CHECK((seen.values() == g.values()));
    CHECK((g.values() == add(of_residual, of_norm).values()));
    CHECK((of_residual.values() == grad(residual(), x).values()));  // what had arrived was read, not written
  }
}

TEST_CASE("a fused rule that declines a strided gradient is asked again with a dense one", "[autograd]") {
  int compositions = 0;
  std::vector<bool> contiguous_asked;
  Fused op;
  op.name = "twice";
  op.composite = [&](std::span<const Tensor> in) { return ++compositions, in[0] * 2; };
  op.forward = [](std::span<const Tensor> in, Tensors&) { return in[0] * 2; };
  op.vjp = [&](const Ctx&, std::span<const Tensor>, const Tensor&, const Tensors&, const Tensor& g) -> Tensors {
    contiguous_asked.push_back(g.is_contiguous());
    if (!g.is_contiguous()) return {};
    return {g * 2};
  };
  const Tensor x = ramp({4, 3}, 0, 1).track();
  const Tensor pooled = mean(apply(op, {x}), {0});  // its gradient is one row for all four
  backward(sum(pooled));
  CHECK(contiguous_asked == std::vector<bool>{false, true});
  CHECK(compositions == 0);
  CHECK(largest_difference(x.grad(), full({4, 3}, 0.5, f64)) == 0);
}

TEST_CASE("threads that share leaves have their gradients", "[autograd]") {
  constexpr int count = 20000;
  Tensors leaves;
  for (int i = 0; i < count; ++i) leaves.push_back(leaf({3}, {1}));
  std::atomic<int> at[2] = {0, 0}, wrong{0};
  const auto work = [&](int me) {
    for (int i = 0; i < count; ++i) {
      at[me] = i + 1;
      while (at[1 - me] <= i) std::this_thread::yield();  // both meet the leaf for the first time
      try {
        wrong += grad(sum(square(leaves[static_cast<std::size_t>(i)])), leaves[static_cast<std::size_t>(i)]).item() != 6;
      } catch (const Error&) {
        ++wrong;
      }
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  CHECK(wrong == 0);
}

TEST_CASE("compositions run until the outermost NoFusion ends", "[autograd]") {
  const Tensor x = leaf({1, 2}, {2});
  const auto name = [&] { return error_of([&] { const Tensor y = sum(softmax(x)); fill(x.detach(), 3); backward(y); }); };
  const NoFusion outer;
  { const NoFusion inner; }
  CHECK(name().find("softmax saved") == std::string::npos);
}

TEST_CASE("the gradient of something linear has a derivative, and it is zero", "[autograd]") {
  const Tensor x = leaf({1, 2, 3}, {3});
  Tensor y = sum(square(x));
  for (const double expected : {2.0, 4.0, 6.0}) CHECK(grad(y, x, {.retain_graph = true}).values()[static_cast<std::size_t>(expected / 2 - 1)] == expected);
  Tensor g = y;
  for (int order = 1; order <= 4; ++order) g = sum(grad(g, x, {.create_graph = true}));
  CHECK(g.item() == 0);
  const Tensor z = leaf({5}, {1});
  CHECK(grad(sum(grad(sum(x), z, {.create_graph = true})), z).item() == 0);  // nor does y depend on z
  const Tensor once = grad(sum(square(x)), x);
  CHECK(error_of([&] { return grad(sum(once), x); }) ==
        "grad: the result takes part in no graph; track() the leaves before computing it, compute it outside of NoGrad, and a gradient that is to be differentiated again with .create_graph");
  CHECK(error_of([&] { return grad(Tensor(), x); }) == "grad: the result is an empty Tensor handle");
  CHECK(error_of([&] { return grad(sum(square(x)), Tensor()); }) == "grad: what to differentiate by is an empty Tensor handle");
}

TEST_CASE("a leaf that is untracked and tracked again is the same leaf to the graphs that have it", "[autograd]") {
  Tensor x = leaf({1, 2}, {2});
  const Tensor y = sum(square(x));
  x.track(false);
  CHECK(error_of([&] { return grad(y, x); }).find("is not tracked") != std::string::npos);
  backward(y, {.retain_graph = true});
  CHECK(!x.grad());  // untracked, it gathers nothing
  x.track();
  CHECK(grad(y, x, {.retain_graph = true}).values() == std::vector<double>{2, 4});
  backward(y);
  CHECK(x.grad().values() == std::vector<double>{2, 4});
}

TEST_CASE("a view that changes nothing is a tensor of its own", "[autograd]") {
  const std::vector<std::pair<const char*, std::function<Tensor(const Tensor&)>>> views = {
      {"reshape", [](const Tensor& x) { return reshape(x, {1, 4}); }},   {"expand", [](const Tensor& x) { return expand(x, {1, 4}); }},
      {"slice", [](const Tensor& x) { return slice(x, 1, 0, 4); }},      {"flip", [](const Tensor& x) { return flip(x, 0); }},
      {"pad", [](const Tensor& x) { return pad(x, 1, 0, 0); }},          {"roll", [](const Tensor& x) { return roll(x, 1, 0); }}};
  for (const auto& [name, view] : views) {
    CAPTURE(name);
    const Tensor data = ones({1, 4});
    Tensor w = view(data);
    w.track();
    CHECK(!data.tracked());
    const Tensor x = ones({1, 4}).track(), y = view(x);
    CHECK(!y.is_leaf());
    CHECK_THROWS(copy_into(y, zeros({1, 4})));
    CHECK(grad(sum(y * 3.0), x).values() == std::vector<double>{3, 3, 3, 3});
    const NoGrad off;
    CHECK(!view(x).tracked());
  }
}

TEST_CASE("masks are turned round by logical_not, axes may come from a list", "[autograd]") {
  const Tensor x = from_values({0, -1, 2, 0}, {2, 2}), mask = greater(x, 0);
  CHECK(logical_not(mask).dtype() == DType::boolean);
  CHECK(logical_not(mask).values() == std::vector<double>{1, 1, 0, 1});
  CHECK(logical_not(x).values() == std::vector<double>{1, 0, 0, 1});
  CHECK(error_of([&] { return -mask; }) == "neg: a bool has no sign; logical_not() turns it round");
  for (const std::vector<int>& axes : {std::vector<int>{}, {0}, {0, 1}}) CHECK(sum(x, axes).rank() == (axes.empty() ? 0 : 2 - static_cast<int>(axes.size())));
}

TEST_CASE("record() takes a result of its own only", "[autograd]") {
  const Tensor x = leaf({1, 2}, {2}), z = leaf({3, 4}, {2}), a = exp(z), untracked = ones({2}, {DType::f64});
  const auto rule = [] { return Rule{"rev", keep_nothing, [](const Ctx&, const Tensor& g) -> Tensors { return {-g}; }}; };
  const std::string message = "rev: its result of shape [2] is one of its inputs, or takes part in a graph already; record y.detach() instead";
  CHECK(error_of([&] { return record(x, {x}, rule()); }) == message);
  CHECK(error_of([&] { return record(a, {x}, rule()); }) == message);
  CHECK(error_of([&] { return record(untracked, {untracked, x}, rule()); }) == message);
  CHECK(grad(sum(record(x.detach(), {x}, rule())), x).values() == std::vector<double>{-1, -1});
}

TEST_CASE("a key mask that is changed before the backward pass is noticed", "[autograd]") {
  const Tensor q = leaf({1, 2, 3}, {1, 1, 3, 1});
  AttentionOptions options;
  options.key_mask = ones({1, 3}, {DType::boolean});
  const Tensor y = sum(attention(q, q, q, options)), packed = sum(attention_packed(expand(reshape(q, {1, 3, 1, 1, 1}), {1, 3, 3, 1, 1}), options));
  CHECK(grad(y, q, {.retain_graph = true}).numel() == 3);
  fill(options.key_mask, 0);
  for (const Tensor& changed : {y, packed})
    CHECK_THAT(error_of([&] { return grad(changed, q); }), Catch::Contains("saved a tensor of shape [1, 3] at version 0, but it is now at version 1; it was changed in place"));
}

TEST_CASE("a quotient by a number is a quotient", "[autograd]") {
  for (int i = 1; i < 1000; ++i) {
    const double x = i;
    if ((full({}, x, {DType::f64}) / x).item() != 1 || (full({}, x) / x).item() != 1) FAIL(i);
  }
  CHECK((full({}, 1e-10) / 1e-40).item() == Approx(1e30));
  CHECK(pow(arange(4), 2).values() == std::vector<double>{0, 1, 4, 9});
  CHECK((arange(7) / 2.0).values() == div(arange(7), scalar_like(2, arange(7))).values());
}

TEST_CASE("random streams come from a scope", "[autograd]") {
  CHECK(!RandomScope::active());
  CHECK(error_of([] { RandomScope::next(); }) ==
        "RandomScope: none is open on this thread, which dropout and other draws need; declare one around the step: RandomScope scope(seed, step)");
  const RandomScope outer(1, 2);
  const RandomStream first = RandomScope::next(), second = RandomScope::next();
  CHECK(!(first == second));
  {
    const RandomScope inner(1, 3);
    CHECK(!(RandomScope::next() == first));
  }
  CHECK(RandomScope::drawn() == 2);
  RandomScope::rewind(0);
  CHECK(RandomScope::next() == first);
}

TEST_CASE("the checkers find wrong derivatives", "[autograd]") {
  const auto cubed = [](double factor, bool recorded) {
    return [=](std::span<const Tensor> in) {
      const Tensor x = in[0];
      Tensor y = pow(x.detach(), 3);
      return record(y, {x}, Rule{"cubed", keep0, [=](const Ctx& c, const Tensor& g) -> Tensors {
                                   const Tensor s = recorded ? c.saved(0) : c.saved(0).detach();
                                   return {g * square(s) * factor};
                                 }});
    };
  };
  const Tensors inputs{leaf({0.5, -1.2}, {2})};
  CHECK(gradcheck(cubed(3, true), inputs).ok);
  CHECK(gradgradcheck(cubed(3, true), inputs).ok);
  const GradcheckReport wrong = gradcheck(cubed(3.00001, true), inputs);
  CHECK(!wrong.ok);
  CHECK(wrong.worst > 1);
  CHECK(wrong.where.find("input 0 element") != std::string::npos);
  CHECK(!gradgradcheck(cubed(3, false), inputs).ok);
  const NoFusion plain;
  CHECK(gradcheck(cubed(3, true), inputs).ok);
}

TEST_CASE("the checkers see a kink within the step, and wrong derivatives beside and at it", "[autograd]") {
  // 7 |x - 1|, whose derivative is told to be -7 slope below 1, 7 at in 1 and 7 slope above.
  const auto bent = [](double slope, double at) {
    return [=](std::span<const Tensor> in) {
      const Tensor x = in[0], from = x.detach() - 1.0;
      return record(abs(from) * 7.0, {x}, Rule{"bent", keep0, [=](const Ctx& c, const Tensor& g) -> Tensors {
                                                 std::vector<double> slopes;
                                                 for (const double v : c.saved(0).detach().values()) slopes.push_back(7 * (v < 1 ? -slope : v > 1 ? slope : at));
                                                 return {g * from_values(slopes, g.shape(), {DType::f64})};
                                               }});
    };
  };
  const auto report = [&](double x, double slope, double at = 0) { return gradcheck(bent(slope, at), Tensors{leaf({x}, {1})}); };
  for (const double beside : {2.1e-3, 1.9e-3, 8.6e-4, 3e-4, 1e-5, 1e-7, 1e-10})
    for (const double x : {1 - beside, 1 + beside}) {
      CAPTURE(beside, x);
      CHECK(report(x, 1).ok);
      CHECK_FALSE(report(x, 1.0001).ok);
      CHECK_FALSE(report(x, -1.1).ok);
    }
  CHECK(report(0.5, 1).kinks == 0);
  CHECK(report(1 + 3e-4, 1).kinks == 0);  // a finer step settles it
  for (const double at : {-1.0, 0.0, 0.3, 1.0}) {
    CHECK(report(1, 1, at).ok);
    CHECK(report(1, 1, at).kinks == (at == 0 ? 0 : 1));  // the central difference is 0 as well
  }
  for (const double at : {-1.0001, 1.0001, 3.0, static_cast<double>(NAN), static_cast<double>(INFINITY)}) CHECK_FALSE(report(1, 1, at).ok);
}

TEST_CASE("derivatives at corners and where a formula has a pole", "[autograd]") {
  using Values = std::vector<double>;
  const Tensor x = leaf({0, 0, 3, 4}, {2, 2});
  const Tensor direction = grad(sum(norm(x, {1})), x, {.create_graph = true});
  CHECK(largest_difference(direction, leaf({0, 0, 0.6, 0.8}, {2, 2})) < 1e-15);  // 0 at the origin, which has no direction
  for (const double v : grad(sum(direction), x).values()) CHECK(std::isfinite(v));

  const Tensor z = leaf({0, 0, 0, 2}, {4});
  CHECK(grad(sum(pow(z, 0)), z).values() == Values{0, 0, 0, 0});
  CHECK(grad(sum(pow(z, 1)), z).values() == Values{1, 1, 1, 1});
  CHECK(grad(sum(pow(z, 2)), z).values() == Values{0, 0, 0, 4});
  const Tensor exponent = leaf({0, 1, 2, 3}, {4}), power = pow(z, exponent);
  CHECK(power.values() == Values{1, 0, 0, 8});
  const Tensors both = grad(sum(power), Tensors{z, exponent});
  CHECK(both[0].values() == Values{0, 1, 0, 12});
  CHECK((both[1].values() == Values{0, 0, 0, 8 * std::log(2.0)}));

  const double inf = INFINITY;
  const Tensor rows = leaf({-inf, -inf, -inf, 0, 1000, 1000, inf, 0}, {4, 2});
  CHECK(logsumexp(rows, 1).values() == Values{-inf, 0, 1000 + std::log(2.0), inf});
}
