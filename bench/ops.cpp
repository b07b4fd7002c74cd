// norma_bench_ops [--large] [OP...]: one row for every line of the op table, at its own (small) shapes: what a call
// costs, alone and with its derivative, in f32 on the CPU backend. At these sizes that is the cost of dispatch and
// recording rather than of arithmetic. --large: some calls of millions of elements instead, some of them in f64 too.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "backends/register_all.h"
#include "checks/op_case.h"

namespace {

using namespace norma;

/// Microseconds of one call: the fastest of seven batches of calls, each a millisecond long.
template <class Function>
double microseconds(Function f) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  };
  int calls = 1;
  for (;; calls *= 2) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) f();
    if (since(start) > 1000) break;
  }
  double best = 1e300;
  for (int batch = 0; batch < 7; ++batch) {
    const auto start = Clock::now();
    for (int i = 0; i < calls; ++i) f();
    best = std::min(best, since(start) / calls);
  }
  return best;
}

void row(const checks::OpCase& c, DType dtype = DType::f32) {
  Tensors inputs, leaves;
  std::string shapes;
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    inputs.push_back(checks::make(c.inputs[i], c, i, {dtype, {}}));
    shapes += (i ? " " : "") + c.inputs[i].shape.text();
    if (c.inputs[i].kind == checks::Input::Kind::real && !c.inputs[i].constant) leaves.push_back(inputs.back());
  }
  const std::string title = c.title() + (dtype == DType::f32 ? "" : fmt::format(", {}", dtype));
  const double forward = microseconds([&] { (void)c.run(inputs); });
  if (c.order < 1) {
    fmt::print("{:<60} {:>10.2f} {:>10}  {}\n", title, forward, "-", shapes);
    return;
  }
  for (Tensor& t : leaves) t.track();
  const Tensor seed = full(c.run(inputs).shape(), 1, {dtype, {}});
  const double both = microseconds([&] { grad(c.run(inputs), leaves, seed); });
  fmt::print("{:<60} {:>10.2f} {:>10.2f}  {}\n", title, forward, both, shapes);
}

/// Calls in which the work for each element counts: short rows, small matrices, indices, windows.
checks::OpCases large_cases() {
  using namespace checks;
  OpCases out;
  const auto add = [&](const char* op, const char* variant, std::vector<Input> inputs, std::function<Tensor(In)> run) {
    out.push_back({.op = op, .variant = variant, .inputs = std::move(inputs), .run = std::move(run)});
  };
  add("where", "with a number", {flags({9'600'000}), real({9'600'000})},
      [](In x) { return where(x[0], x[1], scalar_like(0, x[1])); });
  add("pow", "0.5", {real({9'600'000}, 0.1, 1)}, [](In x) { return pow(x[0], 0.5); });
  add("sum", "rows of 2", {real({2'097'152, 2})}, [](In x) { return sum(x[0], -1); });
  add("max", "rows of 2", {real({2'097'152, 2})}, [](In x) { return max(x[0], -1); });
  add("max", "rows of 96", {real({100'000, 96})}, [](In x) { return max(x[0], -1); });
  add("sum", "all", {real({65'536})}, [](In x) { return sum(x[0]); });
  add("sum", "rows of 1000", {real({1024, 1000})}, [](In x) { return sum(x[0], -1); });
  add("sum", "columns", {real({1024, 1000})}, [](In x) { return sum(x[0], 0); });
  add("norm", "all", {real({4'194'304})}, [](In x) { return norm(x[0]); });
  add("mean", "2 x 2 pixels", {real({4096, 16, 2, 16, 2})}, [](In x) { return mean(x[0], {2, 4}); });
  add("matmul", "2 x 2 matrices", {real({65'536, 2, 2}), real({65'536, 2, 2})},
      [](In x) { return matmul(x[0], x[1]); });
  add("matmul", "rows and columns", {real({65'536, 1, 64}), real({65'536, 64, 1})},
      [](In x) { return matmul(x[0], x[1]); });
  add("matmul", "one matrix, many", {real({512, 512}), real({256, 512, 49})}, [](In x) { return matmul(x[0], x[1]); });
  add("add", "a row to all", {real({1024, 1000}), real({1000})}, [](In x) { return x[0] + x[1]; });
  add("add", "a row to all of 8", {real({131'072, 8}), real({8})}, [](In x) { return x[0] + x[1]; });
  add("mul", "a number to each row of 3", {real({349'525, 3}), real({349'525, 1})}, [](In x) { return x[0] * x[1]; });
  add("softmax", "rows of 65", {real({12'480, 65})}, [](In x) { return softmax(x[0]); });
  for (const Index n : {192, 1000, 4096})
    add("layer_norm", "", {real({4096, n}), real({n}), real({n})}, [](In x) { return layer_norm(x[0], x[1], x[2]); });
  add("embedding", "2048 tokens", {real({128, 384}), index({2048}, 128)}, [](In x) { return embedding(x[0], x[1]); });
  add("gather", "whole rows", {real({64, 196, 192}), index({64, 49, 1}, 196)}, [](In x) {
    return gather(x[0], 1, expand(x[1], {64, 49, 192}));
  });
  add("index_select", "last axis", {real({4096, 1024}), index({1024}, 1024)},
      [](In x) { return index_select(x[0], 1, x[1]); });
  add("split", "256 parts", {real({256, 4096})}, [](In x) { return cat(split(x[0], 16, 1), 1); });
  add("conv2d", "depthwise", {real({32, 192, 14, 14}), real({192, 1, 3, 3})},
      [](In x) { return conv2d(x[0], x[1], {}, {.pad_h = 1, .pad_w = 1}, 192); });
  const auto convolution = [&](const char* variant, const Shape& x, const Shape& weight, const Window& window) {
    add("conv2d", variant, {real(x), real(weight)}, [window](In in) { return conv2d(in[0], in[1], {}, window); });
  };
  convolution("3x3", {8, 64, 56, 56}, {64, 64, 3, 3}, {.pad_h = 1, .pad_w = 1});
  convolution("3x3, small planes", {8, 512, 7, 7}, {512, 512, 3, 3}, {.pad_h = 1, .pad_w = 1});
  convolution("3x3, stride 2", {8, 96, 56, 56}, {192, 96, 3, 3},
              {.stride_h = 2, .stride_w = 2, .pad_h = 1, .pad_w = 1});
  convolution("1x1", {8, 256, 56, 56}, {64, 256, 1, 1}, {});
  convolution("7x7, stride 2", {4, 3, 224, 224}, {64, 3, 7, 7}, {.stride_h = 2, .stride_w = 2, .pad_h = 3, .pad_w = 3});
  return out;
}

/// Elementary functions.
checks::OpCases elementary_cases() {
  using namespace checks;
  OpCases out;
  const auto add = [&](const char* op, const char* variant, double low, std::function<Tensor(const Tensor&)> f) {
    out.push_back(
        {.op = op, .variant = variant, .inputs = {real({4'194'304}, low, 3)}, .run = [f](In x) { return f(x[0]); }});
  };
  add("sin", "", -3, [](const Tensor& x) { return sin(x); });
  add("tanh", "", -3, [](const Tensor& x) { return tanh(x); });
  add("erf", "", -3, [](const Tensor& x) { return erf(x); });
  add("exp", "", -3, [](const Tensor& x) { return exp(x); });
  add("gelu", "", -3, [](const Tensor& x) { return gelu(x); });
  add("gelu_tanh", "", -3, [](const Tensor& x) { return gelu_tanh(x); });
  add("silu", "", -3, [](const Tensor& x) { return silu(x); });
  add("sigmoid", "", -3, [](const Tensor& x) { return sigmoid(x); });
  add("rsqrt", "", 0.1, [](const Tensor& x) { return rsqrt(x); });
  add("pow", "2.5", 0.1, [](const Tensor& x) { return pow(x, 2.5); });
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    register_backends();
    const bool large = argc > 1 && std::string_view(argv[1]) == "--large";
    const std::vector<std::string> wanted(argv + 1 + large, argv + argc);
    fmt::print("{:<60} {:>10} {:>10}  {}\n", "op", "us", "us + grad", "inputs");
    const auto rows = [&](const checks::OpCases& cases, DType dtype) {
      for (const checks::OpCase& c : cases)
        if (wanted.empty() || std::find(wanted.begin(), wanted.end(), c.op) != wanted.end()) row(c, dtype);
    };
    rows(large ? large_cases() : checks::op_table(), DType::f32);
    if (large)
      for (const DType dtype : {DType::f32, DType::f64}) rows(elementary_cases(), dtype);
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_ops: {}\n", e.what());
    return 1;
  }
}
