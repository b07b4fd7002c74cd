// How gradients are asked for and looked at: the forms of grad(), hooks and what they may not do, functions that are none.
#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/errors.h"

using namespace norma;
using norma::test::error_of;
using Values = std::vector<double>;

namespace {

Tensor leaf(const Values& values) { return from_values(values, {static_cast<Index>(values.size())}, {DType::f64}).track(); }

template <class Hook>
concept HookOfGradient = requires(Tensor x, Hook hook) { on_gradient(x, hook); };

}  // namespace

TEST_CASE("gradients of several tensors take options with and without a seed", "[hooks]") {
  const Tensor x = leaf({2, 3}), w = leaf({5, 7});
  const Tensor y = sum(square(x) * w);
  const Tensors listed = grad(y, {x, w}, {.create_graph = true}), given = grad(y, Tensors{x, w}, {.retain_graph = true});
  REQUIRE(listed.size() == 2);
  CHECK(listed[0].values() == Values{20, 42});
  CHECK(listed[1].values() == Values{4, 9});
  CHECK(given[0].values() == listed[0].values());
  CHECK(grad(sum(listed[0]), {w})[0].values() == Values{4, 6});  // a list of one is a list
  CHECK(grad(square(x), {x}, from_values({1, 10}, {2}, {DType::f64})).at(0).values() == Values{4, 60});

  const Tensor slope = grad(sum(pow(x, 3)), x, {.create_graph = true});  // the example of grad.h
  CHECK(slope.values() == Values{12, 27});
  CHECK(grad(sum(slope), x).values() == Values{12, 18});
}

TEST_CASE("a hook returns nothing", "[hooks]") {
  CHECK(HookOfGradient<void (*)(const Tensor&)>);
  CHECK(HookOfGradient<std::function<void(const Tensor&)>>);
  CHECK_FALSE(HookOfGradient<Tensor (*)(const Tensor&)>);
  CHECK_FALSE(HookOfGradient<std::function<Tensor(const Tensor&)>>);
  const auto doubled = [](const Tensor& g) { return g * 2.0; };
  CHECK_FALSE(HookOfGradient<decltype(doubled)>);
}

TEST_CASE("a hook that writes into the gradient is found out", "[hooks]") {
  const Tensor b = leaf({5}), h = leaf({1});
  const Tensor inner = b * 1.0;
  on_gradient(inner, [](const Tensor& g) { fill(g, 0); });
  CHECK(error_of([&] { backward(sum(inner + h)); }) ==
        "on_gradient: the hook changed the gradient of mul [1] in place, and other gradients may share its memory; clone() it and write into the clone");
  const Tensor again = b * 1.0;
  Values seen;
  on_gradient(again, [&](const Tensor& g) {
    const Tensor mine = clone(g);
    fill(mine, 3);
    seen = mine.values();
  });
  b.set_grad({});
  backward(sum(again + h));
  CHECK(seen == Values{3});
  CHECK(b.grad().values() == Values{1});
}

TEST_CASE("an empty function is refused where it is given", "[hooks]") {
  const Tensor x = leaf({1, 2});
  CHECK(error_of([&] { return on_gradient(x, nullptr); }) == "on_gradient: the hook is an empty function");
  CHECK(error_of([&] { return checkpoint(Function(), {x}); }) == "checkpoint: the function is empty");
  CHECK(error_of([&] { return gradcheck(Function(), Tensors{x}); }) == "gradcheck: the function is empty");
  CHECK(error_of([&] { return gradgradcheck(Function(), Tensors{x}); }) == "gradgradcheck: the function is empty");
  CHECK(error_of([&] { return record(ones({2}, {DType::f64}), {x}, {"mine", keep_nothing, nullptr}); }) == "mine: its rule has no vjp, which says how to go back");
  CHECK(error_of([&] { return record(Tensor(), {x}, {"mine", keep_nothing, nullptr}); }) == "mine: its result is an empty Tensor handle");
}

TEST_CASE("a function whose shape depends on values cannot be checked", "[hooks]") {
  const Tensor x = leaf({1});
  const Function grows = [](std::span<const Tensor> in) { return in[0].item() > 1 ? expand(in[0], {1000}) : square(in[0]); };
  CHECK(error_of([&] { return gradcheck(grows, Tensors{x}); }) ==
        "gradcheck: f returned a tensor of shape [1], and of [1000] where an element of an input was moved; its shape must not depend on values");
}

TEST_CASE("a result that was computed under NoGrad is told so", "[hooks]") {
  const Tensor x = leaf({1, 2});
  Tensor y;
  {
    const NoGrad off;
    y = sum(x);
  }
  CHECK_THAT(error_of([&] { backward(y); }), Catch::Contains("compute it outside of NoGrad"));
}
