// Gradients of slices: many parts cost what the whole costs, and what is added in place is nobody else's.
#include <catch2/catch.hpp>
#include <functional>

#include "autograd/anomaly.h"
#include "autograd/ops.h"
#include "core/backend.h"

using namespace norma;
using Values = std::vector<double>;

namespace {

constexpr Place f64{DType::f64, {}};

Tensor leaf(const Values& values) { return from_values(values, {static_cast<Index>(values.size())}, f64).track(); }
Tensor of(const Values& values) { return from_values(values, {static_cast<Index>(values.size())}, f64); }

}  // namespace

TEST_CASE("the gradient of many parts takes the memory of one", "[slices]") {
  constexpr Index rows = 64, columns = 8192;
  const Tensor x = rand({rows, columns}, {1, 2}).track(), seed = rand({rows, columns}, {1, 3});
  const Tensor y = cat(split(x, 1, 0), 0);
  Backend& cpu = backend(Device{});
  const std::size_t before = cpu.memory().in_use;
  cpu.reset_peak();
  const Tensor g = grad(y, {x}, seed).at(0);
  CHECK(cpu.memory().peak - before < static_cast<std::size_t>(rows * columns) * sizeof(float) * 3 / 2);
  CHECK(g.values() == seed.values());
}

TEST_CASE("gradients of slices of any step, overlapping and empty, in every floating dtype", "[slices]") {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Tensor x = from_values({1, 2, 3, 4, 5, 6}, {6}, {dtype}).track();
    const auto weights = [&](const Values& v) { return from_values(v, {static_cast<Index>(v.size())}, {dtype}); };
    const Tensor y = sum(slice(x, 0, 0, 4) * weights({1, 2, 3, 4})) + sum(slice(x, 0, 5, 1, -2) * weights({10, 20})) +
                     sum(slice(x, 0, 1, 6, 2) * weights({5, 6, 7})) + sum(slice(x, 0, 3, 3)) + select(x, 0, -1) * 9 + sum(flip(x, 0) * weights({1, 1, 1, 1, 1, 0}));
    CHECK(grad(y, x).values() == Values{1, 8, 4, 31, 1, 27});
  }
  const Tensor m = from_values({1, 2, 3, 4}, {2, 2}, f64).track();
  CHECK(grad(sum(select(m, 1, 0) * of({1, 2})) + sum(select(m, 0, 1) * of({3, 4})) + sum(select(transpose(m), 0, 1)), m).values() == Values{1, 1, 5, 5});
}

TEST_CASE("derivatives of higher order through slices that add in place", "[slices]") {
  const Tensor x = leaf({0.5, 2, 3});
  const Tensor a = select(x, 0, 0), b = select(x, 0, 1), c = select(x, 0, 2);
  const Tensor first = grad(a * a * b * c + b * b * c, x, {.create_graph = true});
  CHECK(first.values() == Values{6, 12.75, 4.5});
  const Tensor second = grad(sum(first * of({1, 10, 100})), x, {.create_graph = true});
  CHECK(second.values() == Values{242, 488, 44.5});
  CHECK(grad(sum(second), x).values() == Values{580, 327, 35});
}

TEST_CASE("slices write into nothing that others see", "[slices]") {
  // h gets a gradient by a later way first, then by slices, which were made before it.
  const Tensor x = leaf({1, 2, 3, 4});
  const Tensor h = x * 2;
  const Tensor parts = sum(slice(h, 0, 0, 2) * of({10, 20})) + sum(slice(h, 0, 1, 3) * of({30, 40}));
  const Values expected{2 * 11.0, 2 * 52.0, 2 * 43.0, 2 * 4.0};
  const Tensor weight = of({1, 2, 3, 4});

  SECTION("a user's seed") {
    const Tensor padded = pad(slice(h, 0, 0, 2), 0, 0, 2);
    const Tensor y = h + padded;  // the seed is the gradient of h as it is
    CHECK(grad(y, {x}, weight).at(0).values() == Values{4, 8, 6, 8});
    CHECK(weight.values() == Values{1, 2, 3, 4});
  }
  SECTION("a gradient that a hook keeps") {
    const Tensor copy = clone(h);  // hands its gradient on as it is
    Tensor kept;
    on_gradient(copy, [&](const Tensor& g) { kept = g; });
    CHECK(grad(parts + sum(copy * weight), x).values() == expected);
    CHECK(kept.values() == Values{1, 2, 3, 4});
  }
  SECTION("a gradient that grad() returns") {
    const Tensor copy = clone(h);
    const Tensors found = grad(parts + sum(copy * weight), {copy, x});
    CHECK(found[0].values() == Values{1, 2, 3, 4});
    CHECK(found[1].values() == expected);
  }
  SECTION("a gradient that goes two ways") {
    const Tensor other = leaf({5, 6, 7, 8});
    const Tensors found = grad(parts + sum((h + other) * weight), {other, x});
    CHECK(found[0].values() == Values{1, 2, 3, 4});
    CHECK(found[1].values() == expected);
  }
  SECTION("a tensor that a rule kept") {
    const auto kept = [](const Ctx& c, const Tensor&) -> Tensors { return {c.saved(0), Tensor()}; };
    const Tensor y = record(sum(h.detach() * weight), {h, weight}, {"kept", keep1, kept});
    const Tensor again = parts + y;
    for (int sweep = 0; sweep < 2; ++sweep) CHECK(grad(again, x, {.retain_graph = true}).values() == expected);
    CHECK(weight.values() == Values{1, 2, 3, 4});
  }
  SECTION("a tensor that a rule kept and a view of it") {
    const Tensor own = clone(weight);
    const auto kept = [view = reshape(own, {4})](const Ctx&, const Tensor&) -> Tensors { return {view.detach()}; };
    const Tensor again = parts + record(sum(h.detach() * weight), {h}, {"kept", keep_nothing, kept});
    for (int sweep = 0; sweep < 2; ++sweep) CHECK(grad(again, x, {.retain_graph = true}).values() == expected);
    CHECK(own.values() == Values{1, 2, 3, 4});
  }
  SECTION("a gradient of overlapping elements") {
    CHECK(grad(parts + sum(h) * 3, x).values() == Values{26, 106, 86, 6});
  }
  SECTION("the gradient that a leaf has, and one that is to be summed into it") {
    const Tensor l = leaf({1, 2, 3, 4});
    const auto loss = [&] { return sum(slice(l, 0, 0, 2)) + sum(slice(l, 0, 1, 4) * of({2, 3, 4})); };
    backward(loss());
    const Tensor first = l.grad();
    backward(loss());
    CHECK(first.values() == Values{1, 3, 3, 4});
    CHECK(l.grad().values() == Values{2, 6, 6, 8});
  }
  SECTION("a hook on what is sliced sees all of its gradient") {
    Values seen;
    on_gradient(h, [&](const Tensor& g) { seen = g.values(); });
    CHECK(grad(parts + sum(clone(h) * weight), x).values() == expected);
    CHECK(seen == Values{11, 52, 43, 4});
  }
  SECTION("checkpointed parts") {
    const Function f = [](std::span<const Tensor> in) { return sum(slice(in[0], 0, 0, 2) * of({10, 20})) + sum(slice(in[0], 0, 1, 3) * of({30, 40})); };
    CHECK(grad(checkpoint(f, {h}) + sum(clone(h) * weight), x).values() == expected);
  }
}
