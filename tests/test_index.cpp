// Indexing and sliding windows of the CPU backend against the reference: any strides, every dtype, any number of
// threads.
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "backends/cpu/parallel.h"
#include "core/backend.h"
#include "tests/cpu_settings.h"

using namespace norma;

namespace {

const Device cpu_device{Device::Kind::cpu}, reference_device{Device::Kind::reference};

/// Small integers: sums are exact before they are rounded to the dtype, so the backends must agree to the bit.
Tensor numbers(const Shape& shape, DType dtype, Device device, std::uint64_t seed) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = RandomStream{seed, 1}.word(i) % (dtype == DType::boolean ? 2 : 5);
  return from_values(values, shape, {dtype, device});
}
Tensor indices(const Shape& shape, Index limit, Device device, std::uint64_t seed) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<double>(RandomStream{seed, 2}.word(i) % static_cast<std::uint32_t>(limit));
  return from_values(values, shape, {DType::i64, device});
}

/// The same elements at other places in memory: 0 as it is, 1 with the first two axes exchanged, 2 backwards with gaps.
Tensor placed(const Tensor& t, int how) {
  if (how == 0 || t.rank() < 2) return t;
  Layout layout = t.layout();
  Tensor to;
  if (how == 1) {
    const Tensor swapped = empty(transpose(layout, 0, 1).shape, place_of(t));
    to = swapped.with_layout(transpose(swapped.layout(), 0, 1));
  } else {
    const int last = t.rank() - 1;
    const Tensor wide = empty(layout.shape.with(last, 2 * t.size(last)), place_of(t));
    const Index n = t.size(last);
    to = n ? wide.with_layout(slice(wide.layout(), last, 2 * n - 1, n, -2)) : t;
  }
  copy_into(to, t);
  return to;
}

const DType dtypes[] = {DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean};

/// Runs f(device, how) on the reference and, for every layout and 1 and 3 threads, on the CPU; all must give the same.
template <class F>
void same_everywhere(F&& f) {
  const std::vector<double> expected = f(reference_device, 0);
  const test::RestoreSettings restore;
  for (const int threads : {1, 3}) {
    cpu::set_threads(threads);
    for (int how = 0; how < 3; ++how) {
      CAPTURE(threads, how);
      REQUIRE(f(cpu_device, how) == expected);
    }
  }
}

}  // namespace

TEST_CASE("gather and scatter_add agree with the reference", "[index]") {
  for (const DType dtype : dtypes)
    for (const Shape& shape : {Shape{300, 7, 9}, Shape{5, 0, 3}, Shape{2, 3, 4}})
      for (int axis = 0; axis < 3; ++axis) {
        CAPTURE(dtype, shape, axis);
        const Shape table = shape.with(axis, 4);
        same_everywhere([&](Device device, int how) {
          const Tensor x = placed(numbers(table, dtype, device, 1), how),
                       index = placed(indices(shape, 4, device, 2), how);
          const Tensor out = placed(full(shape, 0, {dtype, device}), how);
          backend(device).gather(x.view(), axis, index.view(), out.view());
          return out.values();
        });
        same_everywhere([&](Device device, int how) {
          const Tensor x = placed(numbers(shape, dtype, device, 3), how);
          const Tensor out = placed(numbers(table, dtype, device, 4), how);
          backend(device).scatter_add(x.view(), axis, placed(indices(shape, 4, device, 5), how).view(), out.view());
          return out.values();
        });
      }
}

/// An index that does not move along the trailing axes: rows are taken whole, and large ones in parts.
TEST_CASE("gather and scatter_add by an expanded index agree with the reference", "[index]") {
  for (const DType dtype : dtypes)
    for (const Shape& shape : {Shape{3, 7, 9}, Shape{1, 1500, 40}, Shape{70, 3, 2}, Shape{2, 5, 0}})
      for (int axis = 0; axis < 2; ++axis) {
        CAPTURE(dtype, shape, axis);
        const Shape table = shape.with(axis, 4);
        const auto index = [&](Device device) {
          const Tensor one = indices({shape[0], shape[1], 1}, 4, device, 2);
          return one.with_layout(expand(one.layout(), shape));
        };
        same_everywhere([&](Device device, int how) {
          const Tensor x = placed(numbers(table, dtype, device, 1), how), out = placed(full(shape, 0, {dtype, device}), how);
          backend(device).gather(x.view(), axis, index(device).view(), out.view());
          return out.values();
        });
        same_everywhere([&](Device device, int how) {
          const Tensor x = placed(numbers(shape, dtype, device, 3), how), out = placed(numbers(table, dtype, device, 4), how);
          backend(device).scatter_add(x.view(), axis, index(device).view(), out.view());
          return out.values();
        });
      }
}

TEST_CASE("index_select and index_add agree with the reference", "[index]") {
  for (const DType dtype : dtypes)
    for (const Shape& shape : {Shape{40, 7, 9}, Shape{5, 0, 3}, Shape{2, 3, 4}})
      for (int axis = 0; axis < 3; ++axis) {
        CAPTURE(dtype, shape, axis);
        const Shape table = shape.with(axis, 5);
        same_everywhere([&](Device device, int how) {
          const Tensor x = placed(numbers(table, dtype, device, 1), how),
                       out = placed(full(shape, 0, {dtype, device}), how);
          backend(device).index_select(x.view(), axis, indices({shape[axis]}, 5, device, 2).view(), out.view());
          return out.values();
        });
        same_everywhere([&](Device device, int how) {
          const Tensor x = placed(numbers(shape, dtype, device, 3), how),
                       out = placed(numbers(table, dtype, device, 4), how);
          backend(device).index_add(x.view(), axis, indices({shape[axis]}, 5, device, 5).view(), out.view());
          return out.values();
        });
      }
}

TEST_CASE("sums of bf16 are rounded once", "[index]") {
  const Place place{DType::bf16, cpu_device};
  const Tensor ones_ = full({1000, 1}, 1, place), zeros_ = full({1000}, 0, {DType::i64, cpu_device});
  const Tensor sum = full({2, 1}, 0, place), scattered = full({2, 1}, 0, place);
  backend(cpu_device).index_add(ones_.view(), 0, zeros_.view(), sum.view());
  CHECK(sum.values() == std::vector<double>{1000, 0});  // adding 1 in bf16 stops at 256
  const Tensor column = zeros_.with_layout(unsqueeze(zeros_.layout(), 1));
  backend(cpu_device).scatter_add(ones_.view(), 0, column.view(), scattered.view());
  CHECK(scattered.values() == std::vector<double>{1000, 0});
}

TEST_CASE("check_index names the first position outside", "[index]") {
  for (const Device device : {cpu_device, reference_device}) {
    const Tensor index = from_values({0, 1, 2, 3, 4, -1}, {2, 3}, {DType::i64, device});
    Backend& b = backend(device);
    CHECK(b.check_index(index.view(), 5) == 5);
    CHECK(b.check_index(index.view(), 3) == 3);
    const Tensor turned = index.with_layout(transpose(index.layout(), 0, 1));  // 0 3 / 1 4 / 2 -1
    CHECK(b.check_index(turned.view(), 5) == 5);
    CHECK(b.check_index(turned.view(), 3) == 1);
    const Tensor wide = index.with_layout(expand(unsqueeze(index.layout(), 1), Shape{2, 4, 3}));
    CHECK(b.check_index(wide.view(), 5) == 14);
    CHECK(b.check_index(wide.view(), 2) == 2);
    CHECK(b.check_index(full({0}, 0, {DType::i64, device}).view(), 0) == -1);
    CHECK(b.check_index(full({3}, 2, {DType::i64, device}).view(), 3) == -1);
  }
}

TEST_CASE("unfold and fold agree with the reference", "[index]") {
  const Window windows[] = {{1, 1, 1, 1, 0, 0}, {3, 3, 1, 1, 1, 1}, {2, 3, 2, 1, 0, 2},
                            {4, 4, 4, 4, 0, 0}, {3, 2, 3, 4, 2, 1}, {5, 5, 1, 2, 3, 3}, {5, 5, 2, 2, 2, 2}, {6, 6, 1, 1, 2, 2}};
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i64})
    for (const Shape& shape : {Shape{2, 3, 8, 8}, Shape{1, 30, 9, 5}, Shape{0, 3, 8, 8}, Shape{1, 2, 2, 2}})
      for (const Window& w : windows) {
        if (w.kernel_h > shape[2] + 2 * w.pad_h || w.kernel_w > shape[3] + 2 * w.pad_w) continue;
        CAPTURE(dtype, shape, w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.pad_h, w.pad_w);
        const Shape columns{shape[0], shape[1] * w.kernel_h * w.kernel_w, w.out_h(shape[2]) * w.out_w(shape[3])};
        same_everywhere([&](Device device, int how) {
          const Tensor x = placed(numbers(shape, dtype, device, 1), how),
                       out = placed(full(columns, 7, {dtype, device}), how);
          backend(device).unfold(x.view(), w, out.view());
          return out.values();
        });
        same_everywhere([&](Device device, int how) {
          const Tensor x = placed(numbers(columns, dtype, device, 2), how),
                       out = placed(full(shape, 7, {dtype, device}), how);
          backend(device).fold(x.view(), w, out.view());
          return out.values();
        });
      }
}
