// Matrix products and convolution.
#include <limits>

#include "checks/op_case.h"

namespace norma::checks {

namespace {

Tensor run_matmul(In x) { return matmul(x[0], x[1]); }

}  // namespace

void add_products(OpCases& cases, ErrorCases& errors) {
  const auto product = [&](const char* variant, const Shape& a, const Shape& b) {
    cases.push_back({.op = "matmul", .variant = variant, .inputs = {real(a), real(b)}, .run = run_matmul});
  };
  product("2-d", {2, 3}, {3, 4});
  product("vector matrix", {3}, {3, 2});
  product("matrix vector", {2, 3}, {3});
  product("vectors", {4}, {4});
  product("batched", {2, 2, 3}, {2, 3, 2});
  product("broadcast batch", {2, 1, 2, 3}, {2, 3, 2});
  product("one matrix for all", {2, 2, 3}, {3, 2});
  product("one matrix for a batch", {5, 4}, {3, 4, 1});
  product("each for some of a batch", {2, 1, 4, 1}, {2, 1, 4});
  product("no inner size", {2, 0}, {0, 3});
  product("no row", {0, 3}, {3, 2});
  product("no batch", {0, 2, 3}, {3, 2});
  for (auto [m, k, n] : {std::array<Index, 3>{1, 64, 1}, {65, 33, 17}, {6, 300, 130}, {129, 70, 40}}) {
    cases.push_back({.op = "matmul",
                     .variant = fmt::format("{}x{}x{}", m, k, n),
                     .inputs = {real({m, k}), real({k, n})},
                     .run = run_matmul,
                     .large = true,
                     .condition = 64});
  }
  cases.push_back({.op = "matmul",
                   .variant = "batched 3x4 of 17x9x21",
                   .inputs = {real({3, 1, 17, 9}), real({4, 9, 21})},
                   .run = run_matmul,
                   .large = true,
                   .condition = 32});

  const Window window{2, 3, 1, 2, 1, 0};
  cases.push_back({.op = "unfold",
                   .inputs = {real({1, 2, 3, 5})},
                   .run = [window](In x) { return unfold(x[0], window); },
                   .order = 1});
  cases.push_back({.op = "fold",
                   .inputs = {real({1, 12, 8})},
                   .run = [window](In x) { return fold(x[0], window, 3, 5); },
                   .order = 1});
  cases.push_back({.op = "conv2d",
                   .inputs = {real({2, 2, 3, 3}), real({2, 2, 2, 2}), real({2})},
                   .run = [](In x) { return conv2d(x[0], x[1], x[2], {}); },
                   .fused = true,
                   .parameters = 0b110});
  cases.push_back(
      {.op = "conv2d",
       .variant = "stride, padding, no bias",
       .inputs = {real({1, 2, 4, 3}), real({3, 2, 3, 2})},
       .run = [](In x) { return conv2d(x[0], x[1], {}, {.stride_h = 2, .stride_w = 1, .pad_h = 1, .pad_w = 1}); },
       .fused = true,
       .parameters = 0b10});
  cases.push_back({.op = "conv2d",
                   .variant = "groups",
                   .inputs = {real({1, 4, 3, 2}), real({2, 2, 2, 1}), real({2})},
                   .run = [](In x) { return conv2d(x[0], x[1], x[2], {}, 2); },
                   .fused = true,
                   .parameters = 0b110});
  cases.push_back({.op = "conv2d",
                   .variant = "a kernel a channel",
                   .inputs = {real({2, 3, 3, 4}), real({3, 1, 3, 2}), real({3})},
                   .run = [](In x) { return conv2d(x[0], x[1], x[2], {.pad_h = 1, .pad_w = 1}, 3); },
                   .fused = true,
                   .parameters = 0b110});
  cases.push_back({.op = "conv2d",
                   .variant = "a kernel a channel, strides",
                   .inputs = {real({1, 2, 5, 6}), real({2, 1, 3, 2})},
                   .run = [](In x) { return conv2d(x[0], x[1], {}, {.stride_h = 2, .stride_w = 3, .pad_h = 1}, 2); },
                   .fused = true,
                   .parameters = 0b10});
  cases.push_back({.op = "conv2d",
                   .variant = "patches",
                   .inputs = {real({3, 3, 12, 16}), real({10, 3, 4, 4}), real({10})},
                   .run = [](In x) { return conv2d(x[0], x[1], x[2], {.stride_h = 4, .stride_w = 4}); },
                   .large = true,
                   .condition = 64});
  cases.push_back(
      {.op = "conv2d", .variant = "no image", .inputs = {real({0, 2, 3, 3}), real({2, 2, 2, 2})}, .run = [](In x) {
         return conv2d(x[0], x[1], {}, {});
       }});

  const auto add = [&](const char* op, std::function<void()> run, const char* text) {
    errors.push_back({op, std::move(run), text});
  };
  add(
      "matmul",
      [] {
        return matmul(ones({8, 64}), ones({32, 10}));
      },
      "matmul: inner sizes differ, [8, 64] x [32, 10]: 64 and 32");
  add(
      "matmul",
      [] {
        return matmul(ones({2, 3}), ones({4, 3}));
      },
      "matmul: inner sizes differ, [2, 3] x [4, 3]: 3 and 4; transpose the second?");
  add(
      "matmul",
      [] {
        return matmul(ones({2, 3, 4}), ones({3, 4, 5}));
      },
      "matmul: batch axes [2] and [3] do not broadcast ([2, 3, 4] x [3, 4, 5])");
  add(
      "matmul",
      [] {
        return matmul(ones({}), ones({2, 2}));
      },
      "matmul: a 0-d tensor has no axis to sum over; use mul()");
  add(
      "conv2d",
      [] {
        return conv2d(ones({1, 1, 2, 2}), ones({1, 1, 5, 5}), {}, {});
      },
      "conv2d: kernel 5x5 exceeds the padded input 2x2");
  add(
      "conv2d",
      [] {
        return conv2d(ones({1, 1, 2, 2}), ones({0, 1, 1, 1}), {}, {});
      },
      "conv2d: 0 output channels");
  add(
      "conv2d",
      [] {
        return conv2d(ones({1, 3, 2, 2}), ones({4, 3, 1, 1}), {}, {}, 2);
      },
      "conv2d: 3 input and 4 output channels do not divide into 2 groups");
  add(
      "conv2d",
      [] {
        return conv2d(ones({1, 3, 8, 8}), ones({2, 2, 3, 3}), {}, {});
      },
      "conv2d: weight [2, 2, 3, 3] does not fit x [1, 3, 8, 8] in 1 group; expected [2, 3, kh, kw]");
  add(
      "unfold",
      [] {
        constexpr Index third = std::numeric_limits<Index>::max() / 3;
        return unfold(ones({1, 1, 1, 1}), {.kernel_h = 3, .kernel_w = third, .pad_h = 1, .pad_w = third / 2});
      },
      "unfold: kernel 3x3074457345618258602, stride 1x1, padding 1x1537228672809129301: none may be above 2147483648");
  add(
      "unfold",
      [] {
        return unfold(ones({2, 3}), {});
      },
      "unfold: x must be [B, C, h, w], got [2, 3]");
  add(
      "fold",
      [] {
        return fold(ones({1, 4, 3}), {.kernel_h = 2, .kernel_w = 2}, 3, 3);
      },
      "fold: columns must be [B, C * 4, 4] for 2x2 windows over 3x3, got [1, 4, 3]");
  add(
      "fold",
      [] {
        return fold(ones({1, 1, 1}), {.pad_h = 1}, std::numeric_limits<Index>::max() - 1, 1);
      },
      "fold: images of 9223372036854775806x1: no side may be above 2147483648");
}

}  // namespace norma::checks
