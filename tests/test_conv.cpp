// Convolution by strips of windows, by pieces of columns and with one kernel a channel, against its composition.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>

#include "autograd/ops.h"
#include "core/backend.h"
#include "tests/cpu_settings.h"
#include "tests/worst.h"

using namespace norma;

namespace {

Tensor noise(const Shape& shape, DType dtype, std::uint64_t id) { return randn(shape, {7, id}, {dtype}); }

struct Problem {
  Shape x, weight;
  Window window;
  Index groups = 1;
  bool bias = true;
};

Tensors results(const Problem& p, DType dtype, DType parameters) {
  Tensor x = noise(p.x, dtype, 1).track(), w = noise(p.weight, parameters, 2).track(), b = noise({p.weight[0]}, parameters, 3).track();
  const Tensor y = conv2d(x, w, p.bias ? b : Tensor(), p.window, p.groups);
  Tensors wanted{x, w};
  if (p.bias) wanted.push_back(b);
  Tensors out = grad(y, wanted, noise(y.shape(), dtype, 4));
  out.push_back(y);
  return out;
}

/// The largest error of each result, as a part of its largest value.
void check_against_composition(const Problem& p, DType dtype, DType parameters, double tolerance) {
  CAPTURE(p.x, p.weight, dtype, parameters);
  const Tensors got = results(p, dtype, parameters);
  const NoFusion composed;
  const Tensors expected = results(p, dtype, parameters);
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    CHECK(place_of(got[i]) == place_of(expected[i]));
    CHECK(test::largest_difference(got[i].values(), expected[i].values()) <= tolerance * max(abs(cast(expected[i], DType::f64))).item());
  }
}

void check_all_dtypes(const Problem& p) {
  check_against_composition(p, DType::f64, DType::f64, 1e-13);
  check_against_composition(p, DType::f32, DType::f32, 3e-5);
  check_against_composition(p, DType::bf16, DType::f32, 1e-2);
  check_against_composition(p, DType::bf16, DType::bf16, 1e-2);
}

/// A convolution of views that are permuted, flipped and cut backwards has the results of one of dense copies.
void check_layouts(Index channels, const Tensor& kernels, const Window& window, Index groups) {
  const Index outputs = kernels.size(0);
  const Tensor x = flip(permute(noise({2, 9, 8, channels}, DType::f64, 1), {0, 3, 2, 1}), 2), b = slice(noise({2 * outputs}, DType::f64, 3), 0, 0, 2 * outputs, 2);
  const auto results_of = [&](bool dense) {
    const auto leaf = [&](const Tensor& t) { return (dense ? contiguous(t) : t).detach().track(); };
    const Tensors leaves{leaf(x), leaf(kernels), leaf(flip(b, 0))};
    const Tensor y = conv2d(leaves[0], leaves[1], leaves[2], window, groups);
    const Tensor seed = transpose(noise({y.size(0), y.size(3), y.size(2), y.size(1)}, DType::f64, 5), 1, 3);
    Tensors out = grad(y, leaves, dense ? contiguous(seed) : seed);
    out.push_back(y);
    return out;
  };
  const Tensors any = results_of(false), dense = results_of(true);
  for (std::size_t i = 0; i < any.size(); ++i) CHECK(test::largest_difference(any[i].values(), dense[i].values()) <= 1e-13);
}

}  // namespace

TEST_CASE("a convolution in pieces of images and of rows is the composition", "[conv]") {
  const test::RestoreSettings restore;
  const auto own = GENERATE(false, true);
  cpu::set_gemm_provider(cpu::GemmProvider::openblas);  // it declines strips of windows, as some devices do
  const Index groups = own ? 12 : GENERATE(1, 3);
  const auto weight = [&](Index h, Index w) { return own ? Shape{12, 1, h, w} : Shape{6, 12 / groups, h, w}; };
  check_all_dtypes({{3, 12, 61, 67}, weight(7, 5), {.pad_h = 3, .pad_w = 2}, groups});                                    // an image is several pieces
  check_all_dtypes({{2, 12, 70, 75}, weight(9, 8), {.stride_h = 2, .stride_w = 1, .pad_h = 8, .pad_w = 0}, groups, false});  // rows of padding alone
  check_all_dtypes({{40, 12, 19, 20}, weight(3, 3), {.stride_h = 1, .stride_w = 2, .pad_h = 1, .pad_w = 2}, groups});      // a piece is several images
}

TEST_CASE("pieces of a convolution may lie in the padding alone, where it is larger than the kernel", "[conv]") {
  const test::RestoreSettings restore;
  cpu::set_gemm_provider(cpu::GemmProvider::openblas);
  const auto check = [](const Shape& x, const Shape& weight, Window w) { check_against_composition({x, weight, w}, DType::f64, DType::f64, 1e-13); };
  // In f64 a piece has 64 rows of outputs here. The 65th is below the image, a piece of one row that has 31 rows of padding before it. Its columns
  // get one of the gaps between tensors of their size, which stay as they are.
  Tensors beside;
  for (int i = 0; i < 24; ++i) beside.push_back(ones({16384}, {DType::f64}));
  for (std::size_t i = 0; i < 24; i += 2) beside[i] = {};
  check({1, 1, 1, 16384}, {2, 1, 1, 1}, {.pad_h = 32});
  for (std::size_t i = 1; i < 24; i += 2) CHECK(min(beside[i]).item() == 1);
  // Here 10, and with strides 32: the first pieces are above the image.
  check({1, 2, 3, 8000}, {2, 2, 2, 3}, {.pad_h = 12});
  check({1, 2, 2, 7900}, {2, 2, 2, 3}, {.stride_h = 2, .stride_w = 3, .pad_h = 70, .pad_w = 50});
}

TEST_CASE("a convolution by strips of windows is the composition", "[conv]") {
  test::for_each_isa([](const std::string&) {
    check_all_dtypes({{3, 12, 61, 67}, {6, 12, 7, 5}, {.pad_h = 3, .pad_w = 2}});                                 // several rows, many pieces of a sum
    check_all_dtypes({{2, 6, 5, 450}, {14, 3, 3, 3}, {.pad_h = 1, .pad_w = 1}, 2});                               // some columns of one row
    check_all_dtypes({{7, 80, 5, 6}, {40, 80, 3, 3}, {.pad_h = 1, .pad_w = 1}});                                  // planes of several images
    check_all_dtypes({{11, 6, 7, 7}, {9, 2, 3, 2}, {.stride_h = 2, .stride_w = 3, .pad_h = 1, .pad_w = 1}, 3});  // the last strip has fewer images
    check_all_dtypes({{2, 12, 70, 75}, {6, 4, 9, 8}, {.stride_h = 2, .stride_w = 1, .pad_h = 8, .pad_w = 0}, 3, false});
    check_all_dtypes({{2, 3, 20, 33}, {5, 3, 2, 1}, {.stride_h = 3, .stride_w = 4, .pad_h = 1, .pad_w = 2}});     // strides beyond the kernel
    check_all_dtypes({{2, 3, 20, 33}, {5, 3, 1, 2}, {.stride_h = 9, .stride_w = 40, .pad_h = 1, .pad_w = 20}});   // and far beyond it
    check_all_dtypes({{1, 1, 3, 3}, {2, 1, 1, 1}, {.stride_h = Index{1} << 31, .stride_w = 2, .pad_h = Index{1} << 31}});
    check_all_dtypes({{2, 3, 4, 5}, {4, 3, 2, 3}, {.pad_h = 6, .pad_w = 7}});                                     // padding beyond the kernel
    check_all_dtypes({{2, 2, 21, 20}, {3, 2, 20, 20}, {.pad_w = 1}});                                             // a channel is more than a piece
    check_all_dtypes({{5, 16, 9, 11}, {24, 4, 1, 1}, {}, 4});                                                     // a kernel of one element
    check_all_dtypes({{5, 16, 9, 11}, {24, 4, 1, 1}, {.stride_w = 2}, 4});
    check_all_dtypes({{3, 1, 3, 1}, {1, 1, 3, 1}, {}, 1, false});
  });
}

TEST_CASE("strips of windows read any layout, and what is not finite reaches its windows alone", "[conv]") {
  check_layouts(6, permute(noise({3, 3, 3, 8}, DType::f64, 2), {3, 0, 2, 1}), {.pad_h = 1, .pad_w = 1}, 2);
  Tensor image = ones({1, 1, 3, 40});
  fill(slice(slice(image, 2, 2, 3), 3, 39, 40), HUGE_VAL);
  const std::vector<double> y = conv2d(image, ones({2, 1, 3, 3}), {}, {}).values();  // [2, 1, 38]
  for (std::size_t i = 0; i < y.size(); ++i) CHECK(y[i] == (i % 38 == 37 ? HUGE_VAL : 9));
}

TEST_CASE("what is not finite in a kernel reaches the pixels that it was multiplied with alone", "[conv]") {
  const double value = GENERATE(HUGE_VAL, static_cast<double>(NAN));
  const Index element = GENERATE(0, 4), pad = GENERATE(0, 1), groups = GENERATE(1, 2, 4);  // 4: a kernel a channel
  CAPTURE(value, element, pad, groups);
  const auto gradient = [&] {
    Tensor x = noise({2, 4, 9, 9}, DType::f32, 1).track(), w = ones({4, 4 / groups, 3, 3});
    fill(slice(flatten(w, 0), 0, element, element + 1), value);
    const Tensor y = conv2d(x, w, {}, {.pad_h = pad, .pad_w = pad}, groups);
    return grad(y, {x}, ones(y.shape()))[0].values();
  };
  const std::vector<double> got = gradient();
  const NoFusion composed;
  const std::vector<double> expected = gradient();
  const auto count = [](const std::vector<double>& all, auto is) { return std::count_if(all.begin(), all.end(), [&](double v) { return is(v); }); };
  CHECK(count(got, [](double v) { return std::isnan(v); }) == count(expected, [](double v) { return std::isnan(v); }));
  CHECK(count(got, [](double v) { return std::isinf(v); }) == count(expected, [](double v) { return std::isinf(v); }));
}

TEST_CASE("a kernel a channel: kernels, strides and padding of many sizes", "[conv]") {
  for (const Window& w : std::initializer_list<Window>{{1, 1, 1, 1, 0, 0}, {1, 1, 2, 3, 1, 0}, {3, 3, 1, 1, 1, 1}, {3, 3, 2, 2, 1, 1}, {5, 2, 3, 1, 4, 1}, {2, 3, 4, 5, 0, 3}, {33, 1, 1, 1, 16, 0}, {1, 17, 1, 2, 0, 9}, {7, 7, 7, 7, 3, 0}, {4, 4, 2, 6, 5, 7}}) {
    for (const Index width : {1, 7, 14, 16, 17, 33, 70}) {
      if (width + 2 * w.pad_w < w.kernel_w || 11 + 2 * w.pad_h < w.kernel_h) continue;
      check_all_dtypes({{2, 3, 11, width}, {3, 1, w.kernel_h, w.kernel_w}, w, 3, width % 2 == 0});
    }
  }
}

TEST_CASE("a kernel a channel reads and writes any layout", "[conv]") {
  check_layouts(3, permute(noise({3, 3, 3, 1}, DType::f64, 2), {1, 3, 0, 2}), {.stride_h = 2, .pad_h = 1, .pad_w = 1}, 3);
  const Tensor ones_of = ones({1, 2, 4, 4}, {DType::f64}).track(), kernel = noise({2, 1, 3, 3}, DType::f64, 6);  // of a sum: one element for all
  CHECK(grad(sum(conv2d(ones_of, kernel, {}, {}, 2)), ones_of).values().at(0) == Approx(kernel.values().at(0)));
}

TEST_CASE("a kernel a channel keeps what is not finite in its place", "[conv]") {
  Tensor x = ones({1, 1, 3, 5});
  fill(slice(slice(x, 2, 0, 1), 3, 4, 5), HUGE_VAL);  // in the last column, which the first of the kernel does not reach
  x.track();
  const Tensor w = ones({1, 1, 1, 3}).track();
  const Tensor y = conv2d(x, w, {}, {}, 1 * x.size(1));
  CHECK(y.values() == std::vector<double>{3, 3, HUGE_VAL, 3, 3, 3, 3, 3, 3});
  const Tensors g = grad(sum(conv2d(cat({x, ones({1, 1, 3, 5})}, 1), cat({w, w}, 0), {}, {}, 2)), {w});
  CHECK(g[0].values() == std::vector<double>{18, 18, HUGE_VAL});
}

TEST_CASE("convolutions have the same bits on any number of threads", "[conv]") {
  const test::RestoreSettings restore;
  const Problem p = GENERATE(Problem{{5, 16, 30, 31}, {16, 1, 3, 3}, {.pad_h = 1, .pad_w = 1}, 16}, Problem{{5, 16, 60, 61}, {24, 8, 5, 5}, {.stride_h = 2, .pad_h = 2}, 2},
                             Problem{{1, 32, 14, 14}, {300, 32, 3, 3}, {.pad_h = 1, .pad_w = 1}}, Problem{{9, 64, 6, 7}, {96, 64, 3, 3}, {.pad_h = 1, .pad_w = 1}});
  cpu::set_threads(1);
  const Tensors one = results(p, DType::f32, DType::f32);
  cpu::set_threads(3);
  const Tensors many = results(p, DType::f32, DType::f32);
  for (std::size_t i = 0; i < one.size(); ++i) CHECK(one[i].values() == many[i].values());
}

TEST_CASE("a convolution holds its input and output, not the columns of all images", "[conv]") {
  const auto [own, images] = GENERATE(std::pair{false, Index{64}}, std::pair{true, Index{64}});
  const Tensor x = noise({images, 32, 32, 32}, DType::f32, 1).track(), w = noise({32, own ? 1 : 32, 3, 3}, DType::f32, 2).track();
  const Tensor seed = noise({images, 32, 32, 32}, DType::f32, 3);
  Backend& cpu = backend(Device{});
  const std::size_t before = cpu.memory().in_use, image_bytes = static_cast<std::size_t>(x.numel()) * sizeof(float);
  cpu.reset_peak();
  const Tensor y = conv2d(x, w, {}, {.pad_h = 1, .pad_w = 1}, own ? 32 : 1);
  CHECK(cpu.memory().in_use - before <= image_bytes + (std::size_t{1} << 16));
  const Tensors g = grad(y, {x, w}, seed);
  CHECK(cpu.memory().peak - before <= 2 * image_bytes + (std::size_t{24} << 20));  // the columns of 64 images are 72 MiB, and twice as much going back
}
