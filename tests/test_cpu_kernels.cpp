// The CPU backend's element-wise verbs, copies, reductions, norms and optimizer against the reference backend or plain loops in
// double: every layout and dtype, sizes around the widths of registers and blocks, and the same bits with any number of threads.
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "backends/cpu/parallel.h"
#include "checks/draws.h"
#include "core/backend.h"
#include "tests/cpu_settings.h"

using namespace norma;

namespace {

const Device cpu_device{Device::Kind::cpu}, reference_device{Device::Kind::reference};
const double nan_value = std::numeric_limits<double>::quiet_NaN();

Tensor numbers(const Shape& shape, Place place, std::uint64_t seed, double low = -2, double high = 2) {
  std::vector<double> values = checks::drawn(shape.numel(), {seed, 1}, low, high);
  for (double& x : values) {
    if (!is_floating(place.dtype)) x = std::floor(3 * x);
    if (place.dtype == DType::u8) x = std::fabs(x);
    if (place.dtype == DType::boolean) x = x > 0;
  }
  return from_values(values, shape, place);
}

/// The same elements elsewhere in memory: 0 dense, 1 the last two axes exchanged, 2 backwards with gaps, 3 rows with a gap behind.
constexpr int layouts = 4;
Tensor placed(const Tensor& t, int how) {
  if (how == 0 || t.rank() < 2 || t.numel() == 0) return t;
  Tensor to;
  const Layout& layout = t.layout();
  const Index n = t.size(-1);
  if (how == 1) {
    const Tensor swapped = empty(transpose(layout, t.rank() - 1, t.rank() - 2).shape, place_of(t));
    to = swapped.with_layout(transpose(swapped.layout(), t.rank() - 1, t.rank() - 2));
  } else {
    const Tensor wide = empty(layout.shape.with(t.rank() - 1, 2 * n), place_of(t));
    to = wide.with_layout(how == 2 ? slice(wide.layout(), t.rank() - 1, 2 * n - 1, n, -2)
                                   : slice(wide.layout(), t.rank() - 1, 0, n, 1));
  }
  copy_into(to, t);
  return to;
}

void close(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::isnan(expected[i]) && std::isnan(got[i])) continue;
    if (got[i] == expected[i]) continue;
    if (!(std::fabs(got[i] - expected[i]) <= tolerance * std::max(1.0, std::fabs(expected[i]))))
      FAIL("element " << i << " is " << got[i] << ", expected " << expected[i]);
  }
}

/// f(device, how) -> the values. On the CPU: near the reference's, for every layout; the same bits with 1, 2, 3, 8 threads.
using Run = std::function<std::vector<double>(Device, int)>;
void agrees(double tolerance, const Run& f) {
  const std::vector<double> expected = f(reference_device, 0);
  const test::RestoreSettings restore;
  for (int how = 0; how < layouts; ++how) {
    CAPTURE(how);
    cpu::set_threads(1);
    const std::vector<double> one = f(cpu_device, how);
    close(one, expected, tolerance);
    for (const int threads : {2, 3, 8}) {
      cpu::set_threads(threads);
      const std::vector<double> many = f(cpu_device, how);
      REQUIRE(std::equal(one.begin(), one.end(), many.begin(),
                         [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }));
    }
  }
}

double tolerance_of(DType dtype) {
  return dtype == DType::f32 ? 2e-6 : dtype == DType::bf16 ? 1e-2 : dtype == DType::f64 ? 1e-14 : 0;
}
const DType dtypes[] = {DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean};
const DType floats[] = {DType::f32, DType::f64};
const std::vector<Shape> shapes = {{}, {0}, {1}, {7}, {3, 0, 2}, {3, 5}, {2, 3, 37}, {40, 1, 513}};

}  // namespace

TEST_CASE("unary words agree with the reference for every dtype and layout", "[cpu_kernels]") {
#define NORMA_OP(word, ...) UnaryOp::word,
  for (const UnaryOp op : {NORMA_UNARY_OPS(NORMA_OP)})
#undef NORMA_OP
    for (const DType dtype : dtypes)
      for (const Shape& shape : {Shape{}, Shape{3, 0, 2}, Shape{2, 3, 37}}) {
        if (dtype == DType::boolean && op == UnaryOp::neg) continue;
        CAPTURE(name(op), name(dtype), shape.text());
        const bool positive = op == UnaryOp::log || op == UnaryOp::sqrt || op == UnaryOp::rsqrt || op == UnaryOp::power;
        agrees(tolerance_of(dtype), [&](Device device, int how) {
          const Tensor x = placed(numbers(shape, {dtype, device}, 1, positive ? 0.1 : -2, 2), how);
          const Tensor y = placed(empty(shape, {dtype, device}), how);
          backend(device).unary(op, x.view(), y.view(), 1.7);
          return y.values();
        });
      }
}

TEST_CASE("rows longer than the buffer of what is not dense", "[cpu_kernels]") {
  for (const DType dtype : dtypes)
    for (const Shape& shape : {Shape{2, 1100}, Shape{1100, 2}}) {
      CAPTURE(name(dtype), shape.text());
      agrees(tolerance_of(dtype), [&](Device device, int how) {
        const Tensor a = placed(numbers(shape, {dtype, device}, 1), how), b = placed(numbers(shape, {dtype, device}, 2), how);
        const Tensor y = placed(empty(shape, {dtype, device}), how), above = placed(empty(shape, {DType::boolean, device}), how);
        backend(device).unary(UnaryOp::square, a.view(), y.view(), 0);
        std::vector<double> all = y.values();
        backend(device).binary(BinaryOp::mul, a.view(), b.view(), y.view());
        backend(device).binary(BinaryOp::greater, a.view(), b.view(), above.view());
        for (const Tensor& t : {y, above})
          for (const double v : t.values()) all.push_back(v);
        return all;
      });
    }
}

TEST_CASE("powers by a constant", "[cpu_kernels]") {
  for (const DType dtype : {DType::f32, DType::f64, DType::i64})
    for (const double p : {0.0, 1.0, 2.0, 3.0, 4.0, 7.0, -1.0, -3.0, 0.5, -0.5, 11.0}) {
      if (dtype == DType::i64 && p < 0) continue;
      CAPTURE(name(dtype), p);
      agrees(4 * tolerance_of(dtype), [&](Device device, int how) {
        const Tensor x = placed(numbers({4, 19}, {dtype, device}, 2, p == 0.5 ? 0 : p == -0.5 ? 0.1 : -2, 2), how);
        const Tensor y = placed(empty(x.shape(), {dtype, device}), how);
        backend(device).unary(UnaryOp::power, x.view(), y.view(), p);
        return y.values();
      });
    }
}

TEST_CASE("the powers 0.5 and -0.5 at the edges are pow's, not the square root's", "[cpu_kernels]") {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    const Place place{dtype, cpu_device};
    const Tensor x = from_values({0.0, -0.0, infinity, -infinity, -1.0, nan_value, 4.0}, {7}, place), y = empty({7}, place);
    backend(cpu_device).unary(UnaryOp::power, x.view(), y.view(), 0.5);
    const std::vector<double> roots = y.values();
    backend(cpu_device).unary(UnaryOp::power, x.view(), y.view(), -0.5);
    const std::vector<double> inverses = y.values();
    CHECK((roots[0] == 0 && roots[1] == 0 && !std::signbit(roots[0]) && !std::signbit(roots[1])));
    CHECK((roots[2] == infinity && roots[3] == infinity && std::isnan(roots[4]) && std::isnan(roots[5]) && roots[6] == 2));
    CHECK((inverses[0] == infinity && inverses[1] == infinity));
    CHECK((inverses[2] == 0 && inverses[3] == 0 && !std::signbit(inverses[3])));
    CHECK((std::isnan(inverses[4]) && std::isnan(inverses[5]) && inverses[6] == 0.5));
  }
}

TEST_CASE("where takes one number or many on either side", "[cpu_kernels]") {
  for (const DType dtype : dtypes)
    for (const int kind : {0, 1, 2, 3}) {
      CAPTURE(name(dtype), kind);
      const Shape shape{5, 77};
      const auto side = [&](bool one, Device device, int how, std::uint64_t seed) {
        const Tensor x = numbers(one ? Shape{} : shape, {dtype, device}, seed);
        return one ? x.with_layout(expand(x.layout(), shape)) : placed(x, how);
      };
      agrees(0, [&](Device device, int how) {
        const Tensor condition = placed(numbers(shape, {DType::boolean, device}, 4), how), y = placed(empty(shape, {dtype, device}), how);
        backend(device).where(condition.view(), side(kind & 1, device, how, 5).view(), side(kind & 2, device, how, 6).view(), y.view());
        return y.values();
      });
    }
}

TEST_CASE("binary words agree with the reference, also broadcast along any axis", "[cpu_kernels]") {
#define NORMA_OP(word) BinaryOp::word,
  for (const BinaryOp op : {NORMA_BINARY_OPS(NORMA_OP)})
#undef NORMA_OP
    for (const DType dtype : dtypes)
      for (const Shape& b_shape : {Shape{5, 37}, Shape{1, 37}, Shape{5, 1}, Shape{1, 1}}) {
        CAPTURE(name(op), name(dtype), b_shape.text());
        const Shape shape{5, 37};
        agrees(2 * tolerance_of(dtype), [&](Device device, int how) {
          const bool positive = op == BinaryOp::pow;
          const Tensor a = placed(numbers(shape, {dtype, device}, 1, positive ? 0.1 : -2), how);
          const Tensor small = numbers(b_shape, {dtype, device}, 3, positive ? 0 : -2);
          const Tensor b = small.with_layout(expand(small.layout(), shape));
          const Tensor y = placed(empty(shape, {is_comparison(op) ? DType::boolean : dtype, device}), how);
          backend(device).binary(op, a.view(), b.view(), y.view());
          std::vector<double> both = y.values();
          backend(device).binary(op, b.view(), a.view(), y.view());
          for (const double v : y.values()) both.push_back(v);
          return both;
        });
      }
}

TEST_CASE("short rows are computed many at a time, however they are broadcast", "[cpu_kernels]") {
  const Shape shapes[] = {{6001, 3}, {60, 61, 5}, {2, 3, 1100, 2}, {60, 33}, {9, 256}, {3, 300, 1, 7}};  // beyond a buffer and a task
  for (const Shape& shape : shapes)
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
      for (unsigned alone = 0; alone < 1u << shape.rank(); ++alone) {  // which axes of b have one element
        Shape narrow = shape;
        for (int axis = 0; axis < shape.rank(); ++axis)
          if (alone >> axis & 1) narrow = narrow.with(axis, 1);
        CAPTURE(shape.numel(), shape.rank(), name(dtype), alone);
        const auto computed = [&](Device device, BinaryOp op, bool turned, bool in_place) {
          const Tensor a = numbers(shape, {dtype, device}, 1), b = numbers(narrow, {dtype, device}, 2);
          View wide = b.view();
          wide.layout = expand(wide.layout, shape);
          const Tensor out = in_place ? a : empty(shape, {is_comparison(op) ? DType::boolean : dtype, device});
          backend(device).binary(op, turned ? wide : a.view(), turned ? a.view() : wide, out.view());
          return out.values();
        };
        for (const bool turned : {false, true}) {
          CHECK((computed(cpu_device, BinaryOp::sub, turned, false) == computed(reference_device, BinaryOp::sub, turned, false)));
          CHECK((computed(cpu_device, BinaryOp::less, turned, false) == computed(reference_device, BinaryOp::less, turned, false)));
          CHECK((computed(cpu_device, BinaryOp::mul, turned, true) == computed(reference_device, BinaryOp::mul, turned, false)));
        }
      }
}

TEST_CASE("max and min of two keep a NaN of either side", "[cpu_kernels]") {
  const Place place{DType::f32, cpu_device};
  const Tensor a = from_values({nan_value, 1, 2, nan_value}, {4}, place), b = from_values({1, nan_value, 3, 0}, {4}, place);
  const Tensor y = empty({4}, place);
  for (const BinaryOp op : {BinaryOp::max, BinaryOp::min}) {
    backend(cpu_device).binary(op, a.view(), b.view(), y.view());
    CHECK(std::isnan(y.values()[0]));
    CHECK(std::isnan(y.values()[1]));
    CHECK(y.values()[2] == (op == BinaryOp::max ? 3 : 2));
    CHECK(std::isnan(y.values()[3]));
  }
}

TEST_CASE("where, fill and casts between all dtypes", "[cpu_kernels]") {
  for (const DType dtype : dtypes)
    for (const Shape& shape : shapes) {
      CAPTURE(name(dtype), shape.text());
      agrees(0, [&](Device device, int how) {
        const Tensor condition = placed(numbers(shape, {DType::boolean, device}, 4), how);
        const Tensor a = placed(numbers(shape, {dtype, device}, 5), how), y = placed(empty(shape, {dtype, device}), how);
        const Tensor one = numbers({}, {dtype, device}, 6), b = one.with_layout(expand(one.layout(), shape));
        backend(device).where(condition.view(), a.view(), b.view(), y.view());
        std::vector<double> all = y.values();
        backend(device).fill(1.75, y.view());
        for (const double v : y.values()) all.push_back(v);
        for (const DType other : dtypes) {
          const Tensor z = placed(empty(shape, {other, device}), how);
          backend(device).copy(a.view(), z.view());
          for (const double v : z.values()) all.push_back(v);
        }
        return all;
      });
    }
}

TEST_CASE("a cast into one column leaves the others as they are", "[cpu_kernels]") {
  for (const DType from : dtypes)
    for (const DType to : dtypes) {
      CAPTURE(name(from), name(to));
      const Tensor x = zeros({3, 4}, {to});
      copy_into(x.with_layout(Layout({3}, {4}, 1)), from_values({1, 0, 1}, {3}, {from}));
      CHECK(x.values() == std::vector<double>{0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0});
    }
}

TEST_CASE("copies of permuted tensors", "[cpu_kernels]") {
  const Shape shape{3, 70, 5, 131};
  const std::vector<std::vector<int>> orders = {{3, 2, 1, 0}, {0, 3, 2, 1}, {0, 2, 1, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}};
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::u8})
    for (const auto& order : orders) {
      CAPTURE(name(dtype), order[0], order[1], order[2], order[3]);
      std::vector<double> expected;
      for (const Device device : {reference_device, cpu_device}) {
        const Tensor x = numbers(shape, {dtype, device}, 7);
        const Tensor view = x.with_layout(permute(x.layout(), order));
        const Tensor y = empty(view.shape(), {dtype, device});
        backend(device).copy(view.view(), y.view());
        if (expected.empty()) {
          expected = y.values();
        } else {
          REQUIRE(y.values() == expected);
        }
      }
    }
}

TEST_CASE("bf16 rounds to nearest even, and keeps NaN and infinity", "[cpu_kernels]") {
  const std::vector<double> x = {1.00390625, 1.01171875, 3.3895314e38, 3.4e38, nan_value, -0.0, 1e-40, -INFINITY};
  const Tensor from = from_values(x, {8}, {DType::f32, cpu_device}), to = empty({8}, {DType::bf16, cpu_device});
  backend(cpu_device).copy(from.view(), to.view());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = static_cast<double>(bf16(static_cast<float>(x[i])));
    CAPTURE(x[i]);
    if (std::isnan(expected)) {
      CHECK(std::isnan(to.values()[i]));
    } else {
      CHECK(to.values()[i] == expected);
    }
  }
}

TEST_CASE("reductions over any axes", "[cpu_kernels]") {
  const std::vector<std::pair<Shape, Shape>> cases = {
      {{}, {}},           {{0}, {1}},           {{3, 0}, {3, 1}},       {{3, 0}, {1, 0}},      {{1}, {1}},
      {{37}, {1}},        {{5, 37}, {5, 1}},    {{5, 37}, {1, 37}},     {{5, 37}, {1, 1}},     {{700, 3}, {1, 3}},
      {{700, 150}, {1, 150}}, {{4, 9, 37}, {4, 1, 37}}, {{4, 9, 37}, {1, 9, 1}}, {{2, 20000}, {2, 1}}, {{1100, 33}, {1, 33}},
      {{900, 2, 5}, {900, 1, 5}}, {{7, 300, 131}, {7, 1, 131}},
      {{300, 2}, {300, 1}}, {{131, 32}, {131, 1}}, {{40, 33}, {40, 1}}, {{9, 4, 2, 5, 2}, {9, 4, 1, 5, 1}}, {{6, 5, 7, 3}, {6, 1, 7, 1}},
      {{2, 9, 140}, {2, 1, 140}}, {{3, 3}, {1, 1}},
  };
  for (const auto& [shape, out_shape] : cases)
    for (const DType dtype : dtypes)
      for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
        if (op != ReduceOp::sum && shape.numel() == 0) continue;
        CAPTURE(shape.text(), out_shape.text(), name(dtype), name(op));
        const DType sum_dtype = is_floating(dtype) ? dtype : DType::i64;
        // Both backends sum in double; only the rounding to the dtype remains, and the order in double.
        agrees(dtype == DType::bf16 ? 4e-3 : dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1.2e-7 : 0,
               [&, &shape = shape, &out_shape = out_shape](Device device, int how) {
                 const Tensor x = placed(numbers(shape, {dtype, device}, 8), how);
                 const Tensor y = placed(empty(out_shape, {op == ReduceOp::sum ? sum_dtype : dtype, device}), how);
                 backend(device).reduce(op, x.view(), y.view());
                 return y.values();
               });
      }
}

TEST_CASE("argmax, argmin and cumsum along each axis", "[cpu_kernels]") {
  const std::vector<std::pair<Shape, int>> cases = {{{6, 7, 33}, 0},  {{6, 7, 33}, 1}, {{6, 7, 33}, 2}, {{1200, 150}, 0},
                                                    {{2, 40, 600}, 1}, {{3, 700}, 1},   {{3, 700}, 0},   {{2, 20000}, 1}, {{130, 130}, 1}};
  for (const auto& [shape, axis] : cases)
    for (const DType dtype : dtypes) {
      CAPTURE(shape.text(), name(dtype), axis);
      agrees(dtype == DType::bf16 ? 4e-3 : is_floating(dtype) ? 1.2e-7 : 0, [&, &shape = shape, axis = axis](Device device, int how) {
        const Tensor x = placed(numbers(shape, {dtype, device}, 9), how);
        const Tensor y = placed(empty(shape.with(axis, 1), {DType::i64, device}), how);
        backend(device).reduce(ReduceOp::argmax, x.view(), y.view());
        std::vector<double> all = y.values();
        backend(device).reduce(ReduceOp::argmin, x.view(), y.view());
        for (const double v : y.values()) all.push_back(v);
        const Tensor z = placed(empty(shape, {dtype, device}), how);
        backend(device).cumsum(x.view(), axis, z.view());
        for (const double v : z.values()) all.push_back(v);
        return all;
      });
    }
}

TEST_CASE("of equal values the first is the extreme one, however far on the others are", "[cpu_kernels]") {
  for (const DType dtype : dtypes)
    for (const Index first : {0, 5, 127, 128, 300, 16383, 16384, 39990}) {
      CAPTURE(name(dtype), first);
      std::vector<double> values(40000, dtype == DType::boolean ? 0 : 1);
      for (const Index later : {Index{0}, Index{1}, Index{9}}) values[static_cast<std::size_t>(first + later)] = dtype == DType::boolean ? 1 : 2;
      const Tensor row = from_values(values, {1, 40000}, {dtype, cpu_device}), at = empty({1, 1}, {DType::i64, cpu_device});
      backend(cpu_device).reduce(ReduceOp::argmax, row.view(), at.view());
      CHECK(at.values() == std::vector<double>{static_cast<double>(first)});
      const Tensor wide = empty({40000, 8}, {dtype, cpu_device}), each = empty({1, 8}, {DType::i64, cpu_device});
      backend(cpu_device).copy(row.with_layout(expand(transpose(row.layout(), 0, 1), Shape{40000, 8})).view(), wide.view());
      backend(cpu_device).reduce(ReduceOp::argmax, wide.view(), each.view());
      CHECK(each.values() == std::vector<double>(8, static_cast<double>(first)));
      backend(cpu_device).reduce(ReduceOp::argmin, wide.view(), each.view());
      CHECK(each.values() == std::vector<double>(8, first == 0 ? 2 : 0));
    }
}

TEST_CASE("NaN wins a maximum, wherever it stands", "[cpu_kernels]") {
  for (const DType dtype : floats)
    for (const Index position : {0, 1, 31, 40, 76}) {
      std::vector<double> values(77, 1.0);
      values[static_cast<std::size_t>(position)] = nan_value;
      const Place place{dtype, cpu_device};
      const Tensor row = from_values(values, {77}, place), one = empty({1}, place), where_at = empty({1}, {DType::i64, cpu_device});
      for (const ReduceOp op : {ReduceOp::max, ReduceOp::min}) {
        backend(cpu_device).reduce(op, row.view(), one.view());
        CHECK(std::isnan(one.values()[0]));
      }
      backend(cpu_device).reduce(ReduceOp::argmax, row.view(), where_at.view());
      CHECK(where_at.values()[0] == static_cast<double>(position));
      const Tensor wide = empty({77, 20}, place), column = empty({1, 20}, place);
      const Tensor tall = from_values(values, {77, 1}, place);
      backend(cpu_device).copy(tall.with_layout(expand(tall.layout(), Shape{77, 20})).view(), wide.view());
      backend(cpu_device).reduce(ReduceOp::max, wide.view(), column.view());
      for (const double v : column.values()) CHECK(std::isnan(v));
      std::vector<double> long_values(400, 3.0);
      long_values[static_cast<std::size_t>(200 + position)] = long_values[390] = nan_value;
      const Tensor long_row = from_values(long_values, {400}, place), places = empty({1, 20}, {DType::i64, cpu_device});
      for (const ReduceOp op : {ReduceOp::argmax, ReduceOp::argmin}) {
        backend(cpu_device).reduce(op, wide.view(), places.view());
        CHECK(places.values() == std::vector<double>(20, static_cast<double>(position)));
        backend(cpu_device).reduce(op, long_row.view(), where_at.view());
        CHECK(where_at.values()[0] == static_cast<double>(200 + position));
      }
    }
}

TEST_CASE("up to 32 terms are summed one after the other, wherever they lie", "[cpu_kernels]") {
  for (const Index terms : {1, 2, 3, 5, 8, 17, 32})
    for (const Index rows : {1, 7, 128, 300}) {
      CAPTURE(terms, rows);
      const std::vector<double> values = checks::drawn(rows * terms, {11, 1}, -2, 2);
      std::vector<double> sums(static_cast<std::size_t>(rows));
      for (std::size_t i = 0; i < values.size(); ++i) sums[i / static_cast<std::size_t>(terms)] += values[i];
      const Place place{DType::f64, cpu_device};
      const Tensor x = from_values(values, {rows, terms}, place), y = empty({rows, 1}, place);
      for (int how = 0; how < layouts; ++how) {
        backend(cpu_device).reduce(ReduceOp::sum, placed(x, how).view(), y.view());
        CHECK(y.values() == sums);
      }
    }
}

TEST_CASE("NaN wins a maximum of a short row", "[cpu_kernels]") {
  for (const DType dtype : floats)
    for (const Index position : {0, 1, 4}) {
      std::vector<double> values(200 * 5, 1.0);
      for (std::size_t i = 0; i < 200; ++i) values[5 * i + static_cast<std::size_t>(position)] = nan_value;
      const Tensor rows = from_values(values, {200, 5}, {dtype, cpu_device}), y = empty({200, 1}, {dtype, cpu_device});
      for (const ReduceOp op : {ReduceOp::max, ReduceOp::min}) {
        backend(cpu_device).reduce(op, rows.view(), y.view());
        for (const double v : y.values()) CHECK(std::isnan(v));
      }
    }
}

TEST_CASE("sums of ten million floats stay exact to a rounding", "[cpu_kernels]") {
  const Index n = 10'000'000;
  const Tensor x = full({n}, 0.1, {DType::f32, cpu_device}), y = empty({1}, {DType::f32, cpu_device});
  backend(cpu_device).reduce(ReduceOp::sum, x.view(), y.view());
  const double exact = static_cast<double>(0.1f) * static_cast<double>(n);
  CHECK(std::fabs(y.values()[0] - exact) <= 1e-7 * exact);
  CHECK(sum_of_squares(x) ==
        Approx(static_cast<double>(0.1f) * static_cast<double>(0.1f) * static_cast<double>(n)).epsilon(1e-12));
}

TEST_CASE("sum of squares", "[cpu_kernels]") {
  for (const DType dtype : dtypes)
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{7, 37}, Shape{300, 211}}) {
      CAPTURE(name(dtype), shape.text());
      agrees(1e-12, [&](Device device, int how) {
        return std::vector<double>{
            sum_of_squares(placed(numbers(shape, {dtype, device}, 10), how))};
      });
    }
}
