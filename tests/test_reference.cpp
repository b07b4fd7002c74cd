// The reference backend against values worked out by hand: views with any strides, empty and 0-d ones.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "backends/reference/reference.h"
#include "core/tensor.h"

using namespace norma;

namespace {

const Device device{Device::Kind::reference};
using Values = std::vector<double>;
const double no_number = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();

Tensor make(const Values& values, const Shape& shape, DType dtype = DType::f32) {
  return from_values(values, shape, {dtype, device});
}
Tensor result(const Shape& shape, DType dtype = DType::f32) { return full(shape, 99, {dtype, device}); }
Backend& b() { return backend(device); }

}  // namespace

TEST_CASE("reference: element-wise verbs", "[reference]") {
  const Tensor x = make({-1, 0, 2, 3}, {4}), out = result({4});
  b().unary(UnaryOp::square, x.view(), out.view());
  CHECK(out.values() == Values{1, 0, 4, 9});
  b().unary(UnaryOp::power, x.view(), out.view(), 3);
  CHECK(out.values() == Values{-1, 0, 8, 27});
  b().binary(BinaryOp::sub, x.view(), make({1, 1, 1, 1}, {4}).view(), out.view());
  CHECK(out.values() == Values{-2, -1, 1, 2});
  const Tensor truth = result({4}, DType::boolean);
  b().binary(BinaryOp::less, x.view(), make({0, 0, 3, 3}, {4}).view(), truth.view());
  CHECK(truth.values() == Values{1, 0, 1, 0});
  b().where(truth.view(), x.view(), make({10, 20, 30, 40}, {4}).view(), out.view());
  CHECK(out.values() == Values{-1, 20, 2, 40});
}

TEST_CASE("reference: casts cut at the ends of the range", "[reference]") {
  const Tensor x = make({1.9, -1.9, 300, -5, no_number, inf}, {6}, DType::f64), bytes = result({6}, DType::u8);
  b().copy(x.view(), bytes.view());
  CHECK(bytes.values() == Values{1, 0, 255, 0, 0, 255});
  const Tensor integers = result({6}, DType::i32);
  b().copy(x.view(), integers.view());
  CHECK(integers.values() == Values{1, -1, 300, -5, 0, 2147483647});
  const Tensor half = result({2}, DType::bf16);  // 1 + 2^-8 lies halfway: to even
  b().copy(make({1 + 0x1p-8, 1 + 0x1p-8 + 0x1p-12}, {2}, DType::f64).view(), half.view());
  CHECK(half.values() == Values{1, 1 + 0x1p-7});
}

TEST_CASE("reference: integer arithmetic never traps", "[reference]") {
  const double least = -0x1p63;
  const Tensor a = make({7, -7, 5, least}, {4}, DType::i64), c = make({2, 2, 0, -1}, {4}, DType::i64);
  const Tensor out = result({4}, DType::i64);
  b().binary(BinaryOp::div, a.view(), c.view(), out.view());
  CHECK(out.values() == Values{3, -3, 0, least});
  b().binary(BinaryOp::add, a.view(), c.view(), out.view());
  CHECK(out.values()[3] == 0x1p63);  // 2^63 - 1, as double
  const Tensor product = result({1, 1}, DType::i64);
  b().matmul(make({least, least, 3}, {1, 3}, DType::i64).view(), make({-1, 1, 2}, {3, 1}, DType::i64).view(), product.view());
  CHECK(product.values() == Values{6});
}

TEST_CASE("reference: transposed, reversed and expanded views", "[reference]") {
  const Tensor x = make({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor t = x.with_layout(transpose(x.layout(), 0, 1));           // [3, 2]
  const Tensor flipped = t.with_layout(slice(t.layout(), 0, 2, 3, -1));  // rows backwards
  const Tensor out = result({3, 2});
  b().copy(flipped.view(), out.view());
  CHECK(out.values() == Values{3, 6, 2, 5, 1, 4});
  const Tensor row = make({10, 20}, {2}), wide = row.with_layout(expand(row.layout(), {3, 2}));
  b().binary(BinaryOp::add, flipped.view(), wide.view(), out.view());
  CHECK(out.values() == Values{13, 26, 12, 25, 11, 24});
  b().unary(UnaryOp::neg, x.with_layout(slice(x.layout(), 1, 2, 2, -2)).view(),
            out.with_layout(slice(out.layout(), 0, 0, 2, 2)).view());
  CHECK(out.values() == Values{-3, -1, 12, 25, -6, -4});
}

TEST_CASE("reference: reductions", "[reference]") {
  const Tensor x = make({1, 5, 3, 4, 5, -6}, {2, 3});
  const Tensor rows = result({2, 1}), columns = result({1, 3}), all = result({1, 1});
  b().reduce(ReduceOp::sum, x.view(), rows.view());
  CHECK(rows.values() == Values{9, 3});
  b().reduce(ReduceOp::max, x.view(), columns.view());
  CHECK(columns.values() == Values{4, 5, 3});
  b().reduce(ReduceOp::min, x.view(), all.view());
  CHECK(all.item() == -6);
  const Tensor places = result({1, 3}, DType::i64);
  b().reduce(ReduceOp::argmax, x.view(), places.view());
  CHECK(places.values() == Values{1, 0, 0});  // a tie takes the first
  b().reduce(ReduceOp::argmin, x.view(), places.view());
  CHECK(places.values() == Values{0, 0, 1});
  const Tensor with_nan = make({1, no_number, 9}, {3}), one = result({1});
  b().reduce(ReduceOp::max, with_nan.view(), one.view());
  CHECK(std::isnan(one.item()));
  const Tensor where_nan = result({1}, DType::i64);
  b().reduce(ReduceOp::argmin, with_nan.view(), where_nan.view());
  CHECK(where_nan.item() == 1);
  b().reduce(ReduceOp::sum, make({0x1p24, 1, 1, 1}, {4}).view(), one.view());  // a float sum would stay at 2^24
  CHECK(one.item() == 0x1p24 + 4);                                             // 2^24 + 3 rounds to even
  b().cumsum(x.view(), 1, result({2, 3}).view());
  const Tensor sums = result({2, 3});
  b().cumsum(x.view(), 0, sums.view());
  CHECK(sums.values() == Values{1, 5, 3, 5, 10, -3});
  CHECK(sum_of_squares(x) == 112);
}

TEST_CASE("reference: matrix products", "[reference]") {
  const Tensor a = make({1, 2, 3, 4, 5, 6}, {2, 3}), at = a.with_layout(transpose(a.layout(), 0, 1));
  const Tensor out = result({2, 2});
  b().matmul(a.view(), at.view(), out.view());
  CHECK(out.values() == Values{14, 32, 32, 77});
  const Tensor batch = make({1, 0, 0, 1, 2, 0, 0, 2}, {2, 2, 2}), both = result({2, 2, 3});
  b().matmul(batch.view(), a.with_layout(expand(a.layout(), {2, 2, 3})).view(), both.view());
  CHECK(both.values() == Values{1, 2, 3, 4, 5, 6, 2, 4, 6, 8, 10, 12});
  const Tensor none = result({2, 2});
  b().matmul(result({2, 0}).view(), result({0, 2}).view(), none.view());
  CHECK(none.values() == Values{0, 0, 0, 0});
}

TEST_CASE("reference: indexing", "[reference]") {
  const Tensor x = make({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor index = make({2, 0, 1, 1}, {2, 2}, DType::i64), out = result({2, 2});
  b().gather(x.view(), 1, index.view(), out.view());
  CHECK(out.values() == Values{3, 1, 5, 5});
  const Tensor target = make({0, 0, 0, 100, 100, 100}, {2, 3});
  b().scatter_add(out.view(), 1, index.view(), target.view());
  CHECK(target.values() == Values{1, 0, 3, 100, 110, 100});
  const Tensor picks = make({2, 2, 0}, {3}, DType::i64), picked = result({2, 3});
  b().index_select(x.view(), 1, picks.view(), picked.view());
  CHECK(picked.values() == Values{3, 3, 1, 6, 6, 4});
  const Tensor sums = make({0, 0, 0, 0, 0, 0}, {2, 3});
  b().index_add(x.view(), 1, picks.view(), sums.view());
  CHECK(sums.values() == Values{3, 0, 3, 6, 0, 9});
  CHECK(b().check_index(index.view(), 3) == -1);
  CHECK(b().check_index(index.view(), 2) == 0);
  CHECK(b().check_index(make({0, 1, -1, 5}, {2, 2}, DType::i64).view(), 3) == 2);
}

TEST_CASE("reference: sliding windows", "[reference]") {
  const Tensor x = make({1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 1, 3, 3});
  const Window w{2, 2, 1, 1, 0, 0};
  const Tensor columns = result({1, 4, 4}), back = result({1, 1, 3, 3});
  b().unfold(x.view(), w, columns.view());
  CHECK(columns.values() == Values{1, 2, 4, 5, 2, 3, 5, 6, 4, 5, 7, 8, 5, 6, 8, 9});
  b().fold(columns.view(), w, back.view());
  CHECK(back.values() == Values{1, 4, 3, 8, 20, 12, 7, 16, 9});
  const Window padded{3, 3, 2, 2, 1, 1};
  const Tensor wide = result({1, 9, 4});
  b().unfold(x.view(), padded, wide.view());
  const Values values = wide.values();
  CHECK(Values(values.begin(), values.begin() + 8) == Values{0, 0, 0, 5, 0, 0, 4, 6});
}

TEST_CASE("reference: empty and 0-d tensors", "[reference]") {
  const Tensor scalar = make({3}, {}), out = result({});
  b().unary(UnaryOp::square, scalar.view(), out.view());
  CHECK(out.item() == 9);
  b().reduce(ReduceOp::sum, scalar.view(), out.view());
  CHECK(out.item() == 3);
  const Tensor none = result({3, 0}), sums = result({3, 1});
  b().unary(UnaryOp::exp, none.view(), none.view());
  b().fill(1, none.view());
  b().cumsum(none.view(), 1, none.view());
  b().reduce(ReduceOp::sum, none.view(), sums.view());
  CHECK(sums.values() == Values{0, 0, 0});
  CHECK(sum_of_squares(none) == 0);
  CHECK(b().check_index(result({0}, DType::i64).view(), 0) == -1);
}
