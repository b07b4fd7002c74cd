// Convolution with one kernel a channel: the arithmetic of its windows, and its kernels against the composition in f64.
#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "backends/cuda/kernels/depthwise.h"
#include "core/backend.h"
#include "tests/worst.h"

using namespace norma;

namespace {

const Device device{Device::Kind::cuda, 0};

struct Problem {
  Shape x;
  Window window;
  bool bias = true;
};

/// The value, and the gradients of image, kernels and bias; of the numbers that `dtype` holds, computed in f64 where `wide`.
Tensors results(const Problem& p, DType dtype, bool wide) {
  const Index channels = p.x[1];
  const auto draw = [&](const Shape& shape, std::uint64_t id, DType stored) {
    const Tensor x = cast(randn(shape, {7, id}, {DType::f32, device}), stored);
    return (wide ? cast(x, DType::f64) : x).detach();
  };
  Tensors inputs{draw(p.x, 1, dtype).track(), draw({channels, 1, p.window.kernel_h, p.window.kernel_w}, 2, dtype)};
  if (!wide) inputs[1] = cast(inputs[1], wide_of(dtype)).detach();
  inputs[1].track();
  if (p.bias) inputs.push_back(cast(draw({channels}, 3, dtype), wide ? DType::f64 : wide_of(dtype)).detach().track());
  const Tensor y = conv2d(inputs[0], inputs[1], p.bias ? inputs[2] : Tensor(), p.window, channels);
  Tensors out = grad(y, inputs, draw(y.shape(), 4, dtype));
  out.push_back(y);
  return out;
}

void check(const Problem& p) {
  for (const auto& [dtype, tolerance] : {std::pair{DType::f64, 1e-13}, {DType::f32, 3e-6}, {DType::bf16, 8e-3}}) {
    CAPTURE(p.x, p.window.kernel_h, p.window.kernel_w, name(dtype));
    const Tensors got = results(p, dtype, false), again = results(p, dtype, false);
    const NoFusion plain;
    const Tensors expected = results(p, dtype, true);
    for (std::size_t i = 0; i < got.size(); ++i) {
      CAPTURE(i);
      const std::vector<double> values = expected[i].values();
      double largest = 0;
      for (const double v : values) largest = std::max(largest, std::abs(v));
      CHECK(test::largest_difference(got[i].values(), values) <= tolerance * largest);
      CHECK(got[i].values() == again[i].values());
    }
  }
}

}  // namespace

TEST_CASE("windows along an axis: what an output reads, and who reads an element", "[cuda_backend]") {
  for (Index size = 1; size <= 9; ++size)
    for (Index kernel = 1; kernel <= 5; ++kernel)
      for (Index stride = 1; stride <= 6; ++stride)
        for (Index pad = 0; pad <= 4; ++pad) {
          if (size + 2 * pad < kernel) continue;
          const Window w{.kernel_h = kernel, .stride_h = stride, .pad_h = pad};
          const cuda::WindowAxis axis = cuda::window_axis(size, w.out_h(size), kernel, stride, pad);
          std::vector<std::array<Index, 3>> read, readers;  // output, element of the kernel, element of the image
          for (std::int32_t o = 0; o < axis.outputs; ++o) {
            const std::int32_t at = axis.position(static_cast<std::uint32_t>(o));
            CHECK(at == o * stride - pad);
            const auto inside = axis.inside(at);
            for (std::int32_t k = 0; k < axis.kernel; ++k) {
              const bool there = at + k >= 0 && at + k < axis.size;
              CHECK(there == (k >= inside.begin && k < inside.end));
              if (there) read.push_back({o, k, at + k});
            }
          }
          for (std::int32_t i = 0; i < axis.size; ++i) {
            const auto by = axis.readers(static_cast<std::uint32_t>(i));
            for (std::int32_t o = by.begin; o < by.end; ++o) readers.push_back({o, i - axis.position(static_cast<std::uint32_t>(o)), i});
          }
          std::sort(readers.begin(), readers.end());
          CAPTURE(size, kernel, stride, pad);
          CHECK((read == readers));
        }
}

TEST_CASE("runs of elements cover a tensor once, in its order, also one of more elements than 32 bits count", "[cuda_backend]") {
  for (const Index limit : {1, 7, 60, 1000}) {
    Index i = 0, wrong = 0;
    cuda::each_run(std::array<std::int64_t, 3>{3, 5, 7}, limit, [&](const cuda::Run<3>& run) {
      CHECK(run.count <= static_cast<std::uint32_t>(limit));
      for (std::uint32_t j = 0; j < run.count; ++j, ++i) {
        std::uint32_t at[3];
        run.at(j, at);
        wrong += (at[0] * 5 + at[1]) * 7 + at[2] != static_cast<std::uint32_t>(i);
      }
    });
    CHECK(wrong == 0);
    CHECK(i == 105);
  }
  const std::int64_t most = std::int64_t{1} << 30, sizes[] = {5, most - 3, 6};
  std::int64_t first = 0;
  cuda::each_run(std::array{sizes[0], sizes[1], sizes[2]}, most, [&](const cuda::Run<3>& run) {
    for (const std::uint32_t j : {0u, 1u, run.count / 2, run.count - 1}) {
      std::uint32_t at[3];
      run.at(j, at);
      CHECK((at[0] * sizes[1] + at[1]) * sizes[2] + at[2] == first + j);
      CHECK((at[1] < sizes[1] && at[2] < sizes[2]));
    }
    first += run.count;
  });
  CHECK(first == sizes[0] * sizes[1] * sizes[2]);
  cuda::each_run(std::array<std::int64_t, 2>{3, 0}, 10, [](const cuda::Run<2>&) { FAIL("a run of nothing"); });
}

TEST_CASE("elements of planes are numbered in their order", "[cuda_backend]") {
  const cuda::Planes planes{cuda::Divider(3), cuda::Divider(5), cuda::Divider(7)};
  std::uint32_t i = 0, wrong = 0;
  for (std::uint32_t image = 0; image < 4; ++image)
    for (std::uint32_t channel = 0; channel < 3; ++channel)
      for (std::uint32_t row = 0; row < 5; ++row)
        for (std::uint32_t column = 0; column < 7; ++column, ++i) {
          const cuda::PlanePlace p = planes.at(i);
          wrong += p.image != image || p.channel != channel || p.row != row || p.column != column;
        }
  CHECK(wrong == 0);
  CHECK(cuda::depthwise_parts(1) == 1);
  CHECK(cuda::depthwise_parts(cuda::depthwise_part) == 1);
  CHECK(cuda::depthwise_parts(cuda::depthwise_part + 1) == 2);
}

TEST_CASE("a kernel a channel: kernels, strides and padding of many sizes, and parts of the outputs", "[cuda_backend]") {
  for (const Window& w : std::initializer_list<Window>{{1, 1, 2, 3, 1, 0}, {3, 3, 1, 1, 1, 1}, {5, 2, 3, 1, 4, 1}, {2, 3, 4, 5, 0, 3}, {11, 1, 1, 1, 5, 0}, {4, 4, 2, 6, 5, 7}})
    for (const Index width : {Index{7}, Index{16}}) check({{2, 3, 11, width}, w, width == 7});
  check({{3, 2, 61, 67}, {7, 5, 1, 1, 3, 2}});     // three parts, the last not full
  check({{2, 1, 64, 64}, {3, 3, 2, 1, 1, 1}, false});  // one full part
}

TEST_CASE("a kernel a channel does not decline, and reads and writes any layout", "[cuda_backend][sanitized]") {
  const auto draw = [](const Shape& shape, std::uint64_t id, DType dtype) { return cast(randn(shape, {7, id}, {DType::f32, device}), dtype).detach(); };
  const Window w{.kernel_h = 3, .kernel_w = 3, .stride_h = 2, .pad_h = 1, .pad_w = 1};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    CAPTURE(name(dtype));
    const Place wide{wide_of(dtype), device};
    const Tensor x = transpose(draw({2, 8, 9, 3}, 1, dtype), 1, 3), dy = transpose(draw({2, 8, 5, 3}, 2, dtype), 1, 3), bias = slice(draw({6}, 3, wide.dtype), 0, 0, 6, 2);
    const Tensor weight = permute(draw({3, 9, 1}, 4, wide.dtype), {0, 2, 1});
    const auto outputs = [&](bool dense) {
      const auto as = [&](const Tensor& t) { return dense ? contiguous(t) : t; };
      const auto room = [&](const Tensor& t, Place place) { return dense ? empty(t.shape(), place) : transpose(empty(transpose(t, 0, 1).shape(), place), 0, 1); };
      const Tensor y = room(dy, place_of(dy)), dx = room(x, place_of(x)), dweight = empty(weight.shape(), wide);
      CHECK(backend(device).depthwise(as(x).view(), as(weight).view(), as(bias).view(), w, y.view()));
      CHECK(backend(device).depthwise_backward(as(dy).view(), as(x).view(), as(weight).view(), w, dx.view(), dweight.view()));
      return std::array{y.values(), dx.values(), dweight.values()};
    };
    CHECK((outputs(true) == outputs(false)));
  }
  const Tensor none = zeros({0, 2, 4, 4}, {DType::f32, device}), weight = ones({2, 1, 9}, {DType::f32, device}), dweight = ones({2, 1, 9}, {DType::f32, device});
  const Tensor dy = zeros({0, 2, 2, 4}, {DType::f32, device});
  CHECK(backend(device).depthwise_backward(dy.view(), none.view(), weight.view(), w, {}, dweight.view()));
  CHECK(dweight.values() == std::vector<double>(18, 0));
}
