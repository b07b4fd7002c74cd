// Where elements go: values of views, joins and rearrange against what one can count by hand, and what they refuse.
#include <catch2/catch.hpp>
#include <limits>

#include "autograd/ops.h"
#include "core/backend.h"
#include "tests/errors.h"

namespace norma {
namespace {

using Values = std::vector<double>;

/// 0, 1, 2, ... in row-major order.
Tensor counted(const Shape& shape) { return reshape(cast(arange(shape.numel()), DType::f64), shape); }

void check(const Tensor& x, const Shape& shape, const Values& values) {
  CHECK(x.shape().text() == shape.text());
  CHECK(x.values() == values);
}

TEST_CASE("views share memory, and only a reshape that strides cannot express copies", "[ops_shape]") {
  const Tensor x = counted({2, 3, 4});
  const auto shares = [&](const Tensor& y) { return y.storage() == x.storage(); };
  CHECK(shares(reshape(x, {6, 4})));
  CHECK(shares(reshape(x, {2, -1})));
  CHECK(shares(permute(x, {2, 0, 1})));
  CHECK(shares(slice(x, 1, 0, 3, 2)));
  CHECK(shares(select(x, 0, 1)));
  CHECK(shares(flip(x, 2)));
  CHECK(shares(expand(unsqueeze(x, 0), {5, 2, 3, 4})));
  CHECK(shares(rearrange(x, "a b c -> c (a b)")));  // a and b stay adjacent
  CHECK(shares(contiguous(x)));
  CHECK(!shares(rearrange(x, "a b c -> (c a) b")));
  CHECK(!shares(reshape(transpose(x), {24})));
  CHECK(!shares(contiguous(transpose(x))));
  CHECK(shares(reshape(permute(x, {1, 2, 0}), {12, 2})));
}

TEST_CASE("tensors as text", "[ops_shape]") {
  CHECK(fmt::format("{}", counted({2, 3}) * 0.5) == "f64 [2, 3] [[0, 0.5, 1], [1.5, 2, 2.5]]");
  CHECK(transpose(reshape(arange(4), {2, 2})).text() == "i64 [2, 2] [[0, 2], [1, 3]]");
  CHECK((arange(9) + 1e9).text() == "i64 [9] [1000000000, 1000000001, 1000000002, ..., 1000000006, 1000000007, 1000000008]");
  CHECK(full({}, 3).text() == "f32 [] 3");
  CHECK(zeros({2, 0}).text() == "f32 [2, 0] [[], []]");
  CHECK(Tensor().text() == "an empty Tensor handle");
}

TEST_CASE("slices follow Python", "[ops_shape]") {
  const Tensor x = counted({6});
  check(slice(x, 0, 1, 4), {3}, {1, 2, 3});
  check(slice(x, 0, 1, 100, 2), {3}, {1, 3, 5});
  check(slice(x, 0, -4, -1), {3}, {2, 3, 4});
  check(slice(x, 0, -100, 2), {2}, {0, 1});
  check(slice(x, 0, 4, 0, -2), {2}, {4, 2});
  check(slice(x, 0, 100, -100, -1), {6}, {5, 4, 3, 2, 1, 0});
  check(slice(x, 0, 5, -100, -2), {3}, {5, 3, 1});
  check(slice(x, 0, 4, 2), {0}, {});
  check(slice(x, 0, 2, 4, -1), {0}, {});
  check(slice(counted({2, 3}), -1, 1, 3), {2, 2}, {1, 2, 4, 5});
  check(select(counted({2, 3}), 1, -1), {2}, {2, 5});
  check(slice(slice(x, 0, 1, 6), 0, 4, -100, -2), {3}, {5, 3, 1});  // of a view that starts late
}

TEST_CASE("a copy within one storage reads before it writes", "[ops_shape]") {
  const Tensor x = counted({6}), m = counted({2, 2}), r = counted({6});
  copy_into(slice(x, 0, 1, 6), slice(x, 0, 0, 5));
  CHECK(x.values() == Values{0, 0, 1, 2, 3, 4});
  copy_into(m, transpose(m));
  CHECK(m.values() == Values{0, 2, 1, 3});
  copy_into(r, flip(r, 0));
  CHECK(r.values() == Values{5, 4, 3, 2, 1, 0});
}

TEST_CASE("a slice sends its gradient back to where it was taken", "[ops_shape]") {
  const auto gradient = [](Index start, Index stop, Index step) {
    const Tensor x = counted({6}).track();
    const Tensor y = slice(x, 0, start, stop, step);
    return grad(sum(y * (counted({y.numel()}) + 1.0)), x).values();
  };
  CHECK(gradient(1, 4, 1) == Values{0, 1, 2, 3, 0, 0});
  CHECK(gradient(1, 6, 2) == Values{0, 1, 0, 2, 0, 3});
  CHECK(gradient(4, 1, -1) == Values{0, 0, 3, 2, 1, 0});
  CHECK(gradient(5, -100, -2) == Values{0, 3, 0, 2, 0, 1});
  CHECK(gradient(3, 3, 1) == Values{0, 0, 0, 0, 0, 0});
}

TEST_CASE("flip, roll, pad", "[ops_shape]") {
  const Tensor x = counted({2, 3});
  check(flip(x, 0), {2, 3}, {3, 4, 5, 0, 1, 2});
  check(flip(x, 1), {2, 3}, {2, 1, 0, 5, 4, 3});
  check(flip(flip(x, 1), 1), {2, 3}, {0, 1, 2, 3, 4, 5});
  check(flip(counted({0, 3}), 0), {0, 3}, {});
  check(roll(x, 1, 1), {2, 3}, {2, 0, 1, 5, 3, 4});
  check(roll(x, 1, -1), {2, 3}, {1, 2, 0, 4, 5, 3});
  check(roll(x, 1, 7), {2, 3}, {2, 0, 1, 5, 3, 4});
  check(roll(x, 0, 2), {2, 3}, {0, 1, 2, 3, 4, 5});
  check(roll(counted({0}), 0, 3), {0}, {});
  check(roll(x, {{1, 1}, {0, 1}}), {2, 3}, {5, 3, 4, 2, 0, 1});
  check(roll(x, {{1, 1}, {-1, -1}}), {2, 3}, {0, 1, 2, 3, 4, 5});
  check(pad(x, 1, 1, 0, 9), {2, 4}, {9, 0, 1, 2, 9, 3, 4, 5});
  check(pad(x, 0, 0, 1), {3, 3}, {0, 1, 2, 3, 4, 5, 0, 0, 0});
  check(pad(transpose(x), 0, 1, 1, -1), {5, 2}, {-1, -1, 0, 3, 1, 4, 2, 5, -1, -1});
}

TEST_CASE("cat, stack and split", "[ops_shape]") {
  const Tensor x = counted({2, 2}), y = counted({2, 1}) + 10.0;
  check(cat(Tensors{x, y, x}, 1), {2, 5}, {0, 1, 10, 0, 1, 2, 3, 11, 2, 3});
  check(cat(Tensors{x, transpose(x)}, 0), {4, 2}, {0, 1, 2, 3, 0, 2, 1, 3});
  check(cat(Tensors{x, counted({0, 2})}, 0), {2, 2}, {0, 1, 2, 3});
  check(stack(Tensors{x, transpose(x)}, 0), {2, 2, 2}, {0, 1, 2, 3, 0, 2, 1, 3});
  check(stack(Tensors{x, transpose(x)}, -1), {2, 2, 2}, {0, 0, 1, 2, 2, 1, 3, 3});
  const Tensors parts = split(counted({5}), 2, 0);
  REQUIRE(parts.size() == 3);
  check(parts[1], {2}, {2, 3});
  check(parts[2], {1}, {4});
  CHECK(split(counted({0, 2}), 3, 0).size() == 1);
}

TEST_CASE("a clone has memory of its own and is differentiated through", "[ops_shape]") {
  const Tensor x = counted({2, 2}).track();
  for (const Tensor& from : {x, transpose(x)}) {
    const Tensor y = clone(from);
    CHECK(y.storage() != x.storage());
    CHECK(y.is_contiguous());
    CHECK(y.values() == from.values());
    check(grad(sum(y * y), x), {2, 2}, {0, 2, 4, 6});
  }
}

TEST_CASE("lists of tensors may be written in place", "[ops_shape]") {
  const Tensor a = counted({2}).track(), b = counted({2}).track();
  check(cat({a, b}, 0), {4}, {0, 1, 0, 1});
  check(stack({a, b}, 1), {2, 2}, {0, 0, 1, 1});
  const Tensors g = grad(sum(a * b), {a, b}, {}, {.retain_graph = false});
  check(g[0], {2}, {0, 1});
  check(grad(sum(checkpoint([](std::span<const Tensor> in) { return in[0] * in[1]; }, {a, b})), b), {2}, {0, 1});
}

TEST_CASE("more than 32 tensors join, and each receives its gradient", "[ops_shape]") {
  Tensors xs;
  for (int i = 0; i < 40; ++i) xs.push_back(full({2}, i, {DType::f64}).track());
  const Tensors g = grad(sum(square(cat(xs, 0))), xs);
  for (int i = 0; i < 40; ++i) CHECK(g[static_cast<std::size_t>(i)].values() == Values{2.0 * i, 2.0 * i});
}

TEST_CASE("rearrange patterns", "[ops_shape]") {
  const Tensor x = counted({2, 6});
  check(rearrange(x, "a b -> b a"), {6, 2}, {0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11});
  check(rearrange(x, "a (b c) -> (a b) c", {{"c", 2}}), {6, 2}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  check(rearrange(x, "a (b c)->c(a b)", {{"b", 3}}), {2, 6}, {0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11});
  check(rearrange(x, "a b -> (b a)"), {12}, {0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11});
  check(rearrange(x, "a b -> a 1 b"), {2, 1, 6}, x.values());
  check(rearrange(counted({2, 1, 3}), "a 1 b -> b a ()"), {3, 2, 1}, {0, 3, 1, 4, 2, 5});
  check(rearrange(counted({2, 2, 3}), "... c -> c ..."), {3, 2, 2}, {0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11});
  check(rearrange(counted({2, 2, 3}), "a ... -> (...) a"), {6, 2}, {0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11});
  check(rearrange(counted({3}), "a ... -> ... a"), {3}, {0, 1, 2});
  check(rearrange(counted({0, 4}), "a (b c) -> b (a c)", {{"c", 2}}), {2, 0}, {});
  // patches of 2 x 3 pixels out of a 4 x 6 image, two channels
  const Tensor patches = rearrange(counted({1, 2, 4, 6}), "b c (h p) (w q) -> b (h w) (c p q)", {{"p", 2}, {"q", 3}});
  CHECK(patches.shape().text() == "[1, 4, 12]");
  CHECK(select(select(patches, 0, 0), 0, 1).values() == Values{3, 4, 5, 9, 10, 11, 27, 28, 29, 33, 34, 35});
  const Tensor heads = rearrange(counted({1, 2, 6}), "b t (h d) -> b h t d", {{"h", 3}});
  check(heads, {1, 3, 2, 2}, {0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11});
  check(rearrange(heads, "b h t d -> b t (h d)"), {1, 2, 6}, counted({12}).values());
}

TEST_CASE("rearrange says what is wrong with a pattern", "[ops_shape]") {
  const auto says = [](const Shape& shape, const char* pattern, Sizes sizes = {}) {
    return test::error_of([&] { return rearrange(ones(shape), pattern, sizes); });
  };
  CHECK(says({2, 3}, "a b") == "rearrange: \"a b\" has no ->");
  CHECK(says({2, 3}, "a b c -> c b a") == "rearrange: \"a b c -> c b a\" names 3 axes, x is [2, 3]");
  CHECK(says({2}, "a b ... -> a b ...") == "rearrange: \"a b ... -> a b ...\" names 2 axes, x is [2]");
  CHECK(says({2}, "... a ... -> a ...") == "rearrange: ... must stand alone, and once, on the left of \"... a ... -> a ...\"");
  CHECK(says({2}, "(a ...) -> a ...") == "rearrange: ... must stand alone, and once, on the left of \"(a ...) -> a ...\"");
  CHECK(says({2}, "a -> a ...") == "rearrange: ... is only on the right of \"a -> a ...\"");
  CHECK(says({2, 3}, "a b -> a") == "rearrange: b is only on the left of \"a b -> a\"");
  CHECK(says({2}, "a -> a b") == "rearrange: b is only on the right of \"a -> a b\"");
  CHECK(says({2, 2}, "a a -> a") == "rearrange: a appears twice on the left of \"a a -> a\"");
  CHECK(says({2}, "a -> a a") == "rearrange: a appears twice on the right of \"a -> a a\"");
  CHECK(says({6}, "(a b -> a b") == "rearrange: a parenthesis in \"(a b -> a b\" is not closed");
  CHECK(says({6}, "a) -> a") == "rearrange: unexpected \")\" in \"a) -> a\"");
  CHECK(says({6}, "a+ -> a") == "rearrange: unexpected \"+\" in \"a+ -> a\"");
  CHECK(says({6}, "(a b) -> a b") == "rearrange: give the size of a or b: axis 0 of [6] is 6");
  CHECK(says({6}, "(a b) -> a b", {{"a", 4}}) ==
        "rearrange: axis 0 of [6] is 6, which does not split into (a b) with 4 known");
  CHECK(says({6}, "(a b) -> a b", {{"a", 2}, {"b", 2}}) ==
        "rearrange: axis 0 of [6] is 6, which does not split into (a b) with 4 known");
  CHECK(says({3}, "1 -> 1") == "rearrange: axis 0 of [3] is 3, which does not split into () with 1 known");
  CHECK(says({6}, "a -> a", {{"h", 2}}) == "rearrange: a size is given for h, which is not on the left of \"a -> a\"");
  CHECK(says({6}, "a -> a", {{"a", -2}}) == "rearrange: the size of a is negative (-2)");
}

TEST_CASE("there is no room for a ninth axis, and the op says so", "[ops_shape]") {
  const Tensor x = zeros({1, 1, 1, 1, 1, 1, 1, 1}), index = zeros({1, 1, 1, 1, 1, 1, 1, 1}, {DType::i64});
  const std::string full = ": [1, 1, 1, 1, 1, 1, 1, 1] has 8 axes already, the most there can be; reshape() it to fewer";
  CHECK(test::error_of([&] { return unsqueeze(x, 0); }) == "unsqueeze" + full);
  CHECK(test::error_of([&] { return stack({x, x}, 0); }) == "stack" + full);
  CHECK(test::error_of([&] { return one_hot(index, 2); }) == "one_hot" + full);
  CHECK(test::error_of([&] { return embedding(zeros({2, 3}), index); }) == "embedding" + full);
}

TEST_CASE("what shape ops refuse", "[ops_shape]") {
  const Tensor x = ones({2, 3});
  CHECK(test::error_of([&] { return reshape(x, {4, 2}); }) == "reshape: 6 elements cannot become [4, 2] (8 elements)");
  CHECK(test::error_of([&] { return reshape(x, {4, -1}); }) == "reshape: 6 elements cannot become [4, -1]");
  CHECK(test::error_of([&] { return reshape(x, {-1, -1}); }) == "reshape: only one size may be -1, got [-1, -1]");
  CHECK(test::error_of([&] { return reshape(zeros({0, 3}), {0, -1}); }) == "reshape: -1 has no meaning beside a size of 0, got [0, -1]");
  CHECK(test::error_of([&] { return reshape(x, {-1, -2}); }) == "reshape: a size is negative, got [-1, -2]");
  CHECK(test::error_of([&] { return reshape(x, {-1, Index{1} << 32, Index{1} << 32}); }) ==
        "shape: the number of elements of [4294967296, 4294967296] overflows the 63-bit size limit");
  CHECK(test::error_of([&] { return flatten(zeros({0, Index{1} << 32, Index{1} << 32}), 1); }) ==
        "shape: the number of elements of [4294967296, 4294967296] overflows the 63-bit size limit");
  CHECK(test::error_of([&] { return flatten(x, 1, 0); }) == "flatten: the first axis 1 comes after the last 0 in [2, 3]");
  CHECK(test::error_of([&] { return permute(x, {0, 0}); }) == "permute: axis 0 is given twice for [2, 3]");
  CHECK(test::error_of([&] { return permute(x, {0}); }) == "permute: 1 axes are given for [2, 3]");
  CHECK(test::error_of([&] { return squeeze(x, 1); }) == "squeeze: axis 1 of [2, 3] has size 3, not 1");
  CHECK(test::error_of([&] { return expand(x, {4, 3}); }) == "expand: [2, 3] cannot become [4, 3]: axis 0 is 2");
  CHECK(test::error_of([&] { return expand(x, {3}); }) == "expand: [2, 3] has more axes than [3]");
  CHECK(test::error_of([&] { return slice(x, 0, 0, 1, 0); }) == "slice: the step must not be 0");
  CHECK(test::error_of([&] { return select(x, 1, 3); }) == "select: index 3 is outside axis 1 of [2, 3]");
  CHECK(test::error_of([&] { return select(x, 1, -4); }) == "select: index -4 is outside axis 1 of [2, 3]");
  CHECK(test::error_of([&] { return cat(Tensors{}, 0); }) == "cat: needs at least one tensor");
  CHECK(test::error_of([&] { return cat(Tensors{x, ones({2, 4})}, 0); }) ==
        "cat: tensor 1 has shape [2, 4], expected [*, 3] to join along axis 0");
  CHECK(test::error_of([&] { return cat(Tensors{x, cast(x, DType::f64)}, 0); }) ==
        "cat: dtypes f32 and f64 differ; convert with cast()");
  CHECK(test::error_of([&] { return stack(Tensors{x, ones({3, 2})}, 0); }) == "stack: tensor 1 has shape [3, 2], the first has [2, 3]");
  CHECK(test::error_of([&] { split(x, 0, 1); }) == "split: the size of a part must be at least 1, got 0");
  CHECK(test::error_of([&] { return pad(x, 0, -1, 0); }) == "pad: -1 before and 0 after must not be negative; cut with slice()");
  const Index most = std::numeric_limits<Index>::max();
  CHECK(test::error_of([&] { return pad(x, 0, most, 1); }) == fmt::format("pad: {} before and 1 after an axis of 2 are more than {} elements", most, most));
  CHECK(test::error_of([&] { return pad(cast(x, DType::i64), 0, 1, 0, 0.5); }) == "pad: 0.5 is not an integer, but the dtype is i64");
  CHECK(tril(x, most).values() == x.values());
  CHECK(triu(x, -most - 1).values() == x.values());
  CHECK(tril(x, -most - 1).values() == std::vector<double>(static_cast<std::size_t>(x.numel()), 0));
  CHECK(triu(x, most).values() == std::vector<double>(static_cast<std::size_t>(x.numel()), 0));
  CHECK(test::error_of([&] { return pad(x, 0, 1, -1); }) == "pad: 1 before and -1 after must not be negative; cut with slice()");
  CHECK(test::error_of([&] { return gather(x, 1, zeros({3, 1}, {DType::i64})); }) ==
        "gather: index [3, 1] must have the rank of [2, 3] and not exceed it outside axis 1");
  CHECK(test::error_of([&] { return sum_to(x, {2}); }) == "sum_to: [2] does not broadcast to [2, 3]");
  CHECK(test::error_of([&] { return sum(x, {0, -2}); }) == "sum: the axes 0 and -2 of [2, 3] are the same");
  CHECK(test::error_of([&] { return sum(x, Index{1} << 32); }) == "axes: 4294967296 is no axis of any tensor");
}

TEST_CASE("axes are one, several or all, and may be kept", "[ops_shape]") {
  const Tensor x = counted({2, 3, 4});
  CHECK(sum(x, -1).values() == sum(x, {2}).values());
  CHECK(sum(x, Index{0}).shape() == Shape{3, 4});
  CHECK(sum(x, 1, true).shape() == Shape{2, 1, 4});
  const Axes axes = x.rank() == 3 ? Axes{0, 2} : Axes{};  // lives on when its braces are gone
  CHECK(sum(x, axes).shape() == Shape{3});
  CHECK(sum(x).shape() == Shape{});
}

TEST_CASE("integers and bools flow through without a graph", "[ops_shape]") {
  const Tensor x = counted({2, 3}).track();
  const Tensor positive = greater(x, scalar_like(2, x));
  CHECK(!positive.tracked());
  CHECK(sum(positive).dtype() == DType::i64);
  CHECK(sum(positive).item() == 3);
  CHECK(sum(cast(positive, DType::u8), {0}).values() == Values{1, 1, 1});
  const Tensor whole = cast(x, DType::i64);
  CHECK(!whole.tracked());
  CHECK((whole * whole + whole).values() == Values{0, 2, 6, 12, 20, 30});
  CHECK(cumsum(positive, 1).values() == Values{0, 0, 0, 1, 2, 3});
}

TEST_CASE("identities and evenly spaced numbers", "[ops_shape]") {
  for (const DType dtype : {DType::f64, DType::bf16, DType::i64, DType::u8, DType::boolean}) {
    const Tensor one = eye(3, {dtype});
    CHECK(one.dtype() == dtype);
    check(one, {3, 3}, {1, 0, 0, 0, 1, 0, 0, 0, 1});
  }
  CHECK(eye(0).shape() == Shape{0, 0});
  CHECK(test::error_of([] { return eye(-1); }) == "eye: n is -1, must not be negative");

  check(linspace(-1, 1, 5), {5}, {-1, -0.5, 0, 0.5, 1});
  check(linspace(3, 1, 3, {DType::bf16}), {3}, {3, 2, 1});
  check(linspace(3, 7, 1), {1}, {3});
  check(linspace(3, 7, 0), {0}, {});
  const Values tenths = linspace(0, 0.7, 8, {DType::f64}).values(), back = linspace(0.7, 0, 8, {DType::f64}).values();
  CHECK(tenths.back() == 0.7);  // seven steps of 0.1 would end beside it
  CHECK(Values(back.rbegin(), back.rend()) == tenths);
  CHECK(test::error_of([] { return linspace(0, 1, -2); }) == "linspace: count is -2, must not be negative");
  CHECK(test::error_of([] { return linspace(0, 1, 2, {DType::i64}); }) == "linspace: dtype i64 is not floating; arange counts in integers");
  CHECK(test::error_of([] { return linspace(0, std::numeric_limits<double>::infinity(), 2); }) == "linspace: from 0 to inf is no finite distance");
}

TEST_CASE("triangles of any shape, on any diagonal, need no table of positions", "[ops_shape]") {
  for (const Shape& shape : {Shape{3, 5}, Shape{5, 3}, Shape{2, 4, 4}, Shape{0, 3}})
    for (const Index diagonal : {-6, -2, -1, 0, 1, 3, 6}) {
      const Tensor x = counted(shape) + 1, lower = tril(x, diagonal), upper = triu(x, diagonal);
      const Values all = x.values();
      Values low, up;
      for (Index i = 0; i < x.numel(); ++i) {
        const Index column = i % x.size(-1), row = i / x.size(-1) % x.size(-2);
        low.push_back(column - row <= diagonal ? all[static_cast<std::size_t>(i)] : 0);
        up.push_back(column - row >= diagonal ? all[static_cast<std::size_t>(i)] : 0);
      }
      CHECK(lower.values() == low);
      CHECK(upper.values() == up);
    }
  const Tensor x = ones({512, 512});
  Backend& b = backend({});
  const std::size_t before = b.memory().in_use;
  b.reset_peak();
  const Tensor y = tril(x);
  CHECK(b.memory().peak - before < 512 * 512 * 6);  // y, and a mask
}

TEST_CASE("a scalar operand stays one element, and gradients pass through add without a copy", "[ops_shape]") {
  const Tensor x = counted({256, 256});
  CHECK(scalar_like(2, x).storage()->bytes() < 1024);
  const Tensor a = counted({2, 2}).track(), b = counted({2, 2}).track(), seed = counted({2, 2});
  const Tensors xs{a, b};
  const Tensors g = grad(a + b, xs, seed);
  CHECK(g[0].storage() == seed.storage());
  CHECK(g[1].storage() == seed.storage());
}

}  // namespace
}  // namespace norma
