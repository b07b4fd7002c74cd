// Numbers and masks beside tensors: integers of 64 bits, bools that are no numbers, what an op says of a number that does not fit.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <sstream>

#include "autograd/ops.h"
#include "tests/errors.h"

using namespace norma;
using norma::test::error_of;
using Values = std::vector<double>;

namespace {

template <class B>
concept Multiplies = requires(Tensor x, B b) { x * b; b * x; };
template <class B>
concept Compares = requires(Tensor x, B b) { equal(x, b); };
template <class B>
concept Bounds = requires(Tensor x, B b) { maximum(x, b); };

constexpr Index odd = (Index{1} << 53) + 1;  // no double

/// The elements of an i64 as they are.
std::vector<Index> integers(const Tensor& x) { return {x.data<Index>(), x.data<Index>() + x.numel()}; }

}  // namespace

TEST_CASE("a bool is no number beside a tensor", "[numbers]") {
  CHECK(Multiplies<double>);
  CHECK(Multiplies<int>);
  CHECK(Multiplies<std::size_t>);
  CHECK(Compares<float>);
  CHECK_FALSE(Multiplies<bool>);  // x * !mask
  CHECK_FALSE(Compares<bool>);
  CHECK_FALSE(Bounds<bool>);
}

TEST_CASE("masks are joined by their elements", "[numbers]") {
  const Tensor a = from_values({0, 0, 1, 1}, {4}, {DType::boolean}), b = from_values({0, 1, 0, 1}, {4}, {DType::boolean});
  CHECK(logical_and(a, b).values() == Values{0, 0, 0, 1});
  CHECK(logical_or(a, b).values() == Values{0, 1, 1, 1});
  CHECK(logical_and(from_values({0, -2, 0.5}, {3}), arange(3)).values() == Values{0, 1, 1});
  CHECK(logical_or(reshape(a, {4, 1}), b).shape() == Shape{4, 4});
  CHECK(logical_and(a, b).dtype() == DType::boolean);
  CHECK(any(a).values() == Values{1});
  CHECK(all(a).values() == Values{0});
  const Tensor table = from_values({0, 0, 0, 3, -1, 2}, {2, 3});
  CHECK(any(table, {1}).values() == Values{0, 1});
  CHECK(all(table, {1}, true).shape() == Shape{2, 1});
  CHECK(all(table, {1}).values() == Values{0, 1});
  CHECK(any(zeros({0, 2}), {0}).values() == Values{0, 0});
  CHECK(all(zeros({0, 2}), {0}).values() == Values{1, 1});
  CHECK(error_of([&] { return logical_or(a, Tensor()); }) == "logical_or: an operand is an empty Tensor handle");
  CHECK(error_of([&] { return logical_and(a, ones({3})); }) == "logical_and: shapes [4] and [3] do not broadcast: axis -1 is 4 and 3");
}

TEST_CASE("an integer beside i64 is that integer", "[numbers]") {
  const Tensor i = from_values(std::vector<Index>{0, odd}, {2});
  CHECK(integers(i) == std::vector<Index>{0, odd});
  CHECK(integers(i + odd) == std::vector<Index>{odd, 2 * odd});
  CHECK(equal(i, odd).values() == Values{0, 1});
  CHECK(equal(i, odd - 1).values() == Values{0, 0});
  CHECK(integers(i - std::numeric_limits<Index>::max()).front() == -std::numeric_limits<Index>::max());
  CHECK(error_of([&] { return i + std::numeric_limits<std::uint64_t>::max(); }) == "scalar: 18446744073709551615 does not fit into i64");
}

TEST_CASE("a number that does not fit is told with the op's name", "[numbers]") {
  const Tensor i = arange(3), mask = ones({2}, {DType::boolean}), none;
  CHECK(error_of([&] { return i * 0.5; }) == "mul: 0.5 is not an integer, but the dtype is i64; convert x with cast()");
  CHECK(error_of([&] { return 0.5 - i; }) == "sub: 0.5 is not an integer, but the dtype is i64; convert x with cast()");
  CHECK(error_of([&] { return pow(i, 0.5); }) == "pow: 0.5 is not an integer, but the dtype is i64; convert x with cast()");
  CHECK(error_of([&] { return less(i, 1.5); }) == "less: 1.5 is not an integer, but the dtype is i64; convert x with cast()");
  CHECK(error_of([&] { return mask * 2; }) == "mul: 2 is neither 0 nor 1, but the dtype is bool; convert x with cast()");
  CHECK(error_of([&] { return none + 1.0; }) == "add: an operand is an empty Tensor handle");
  CHECK(error_of([&] { return logical_not(none); }) == "logical_not: an operand is an empty Tensor handle");
  CHECK(error_of([&] { return where(mask, none, 1); }) == "where: an operand is an empty Tensor handle");
  CHECK(error_of([&] { return clamp(none, 0, 1); }) == "clamp: an operand is an empty Tensor handle");
}

TEST_CASE("clamp, where and pow take numbers", "[numbers]") {
  const Tensor x = from_values({-2, 0.5, 3}, {3}).track();
  CHECK(clamp(x, -1, 1).values() == Values{-1, 0.5, 1});
  CHECK(grad(sum(clamp(x, -1, 1)), x).values() == Values{0, 1, 0});
  CHECK(clamp(arange(5), 1, 3).values() == Values{1, 1, 2, 3, 3});
  CHECK(error_of([&] { return clamp(x, 1, -1); }) == "clamp: the lowest value 1 is above the highest -1");
  const Tensor positive = greater(x, 0);
  CHECK(where(positive, x, 0).values() == Values{0, 0.5, 3});
  CHECK(where(positive, -1.5, x).values() == Values{-2, -1.5, -1.5});
  CHECK(pow(2.0, arange(4, {DType::f32})).values() == Values{1, 2, 4, 8});
  CHECK(pow(2, arange(4)).values() == Values{1, 2, 4, 8});
  CHECK(stddev(from_values({1, 2, 3, 4, 5}, {5})).item() == Approx(std::sqrt(2.5)));
}

TEST_CASE("the standard deviation of equal values has the gradient 0, of any order", "[numbers]") {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    const Tensor x = from_values({1, 1, 1, 0, 3, 6}, {2, 3}, {dtype}).track(), y = stddev(x, -1);
    CHECK(y.values() == Values{0, 3});
    const Tensor slope = grad(sum(y), x, {.create_graph = true});
    CHECK(slope.values() == Values{0, 0, 0, -0.5, 0, 0.5});
    const Values curvature = grad(sum(square(slope)), x).values();
    CHECK(std::all_of(curvature.begin(), curvature.end(), [](double v) { return std::abs(v) < 1e-2; }));
  }
}

TEST_CASE("tensors like another, and of the numbers that a program has", "[numbers]") {
  const Tensor x = arange(6, {DType::u8}), like = zeros_like(x);
  CHECK(place_of(like) == place_of(x));
  CHECK(like.values() == Values(6, 0.0));
  CHECK(ones_like(reshape(x, {2, 3})).text() == "u8 [2, 3] [[1, 1, 1], [1, 1, 1]]");
  CHECK(error_of([] { return zeros_like(Tensor()); }) == "zeros_like: x is an empty Tensor handle");
  CHECK(from_values(std::vector<float>{0.5f, 2}, {2}).text() == "f32 [2] [0.5, 2]");
  CHECK(from_values(std::vector<int>{1, -2}, {2}).text() == "i64 [2] [1, -2]");
  CHECK(from_values(std::vector<std::uint8_t>{7, 255}, {2}, {DType::u8}).text() == "u8 [2] [7, 255]");
  CHECK(error_of([] { return from_values(std::vector<int>{300}, {1}, {DType::u8}); }) == "from_values: 300 does not fit into u8, which goes from 0 to 255");
  CHECK(error_of([] { return from_values(std::vector<int>{300}, {2}); }) == "from_values: 1 values for shape [2]");
  CHECK(error_of([] { return arange(300, {DType::u8}); }) == "arange: 299 does not fit into u8, which goes from 0 to 255");
  std::ostringstream out;
  out << arange(2) << " of " << Shape{2, 3};
  CHECK(out.str() == "i64 [2] [0, 1] of [2, 3]");
}
