// norma_bench_ops [OP...]: one row for every line of the op table, at its own (small) shapes: what a call costs, alone
// and with its derivative, in f32 on the CPU backend. At these sizes that is the cost of dispatch and recording rather
// than of arithmetic.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <string>
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

void row(const checks::OpCase& c) {
  Tensors inputs, leaves;
  std::string shapes;
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    inputs.push_back(checks::make(c.inputs[i], c, i, {}));
    shapes += (i ? " " : "") + c.inputs[i].shape.text();
    if (c.inputs[i].kind == checks::Input::Kind::real && !c.inputs[i].constant) leaves.push_back(inputs.back());
  }
  const double forward = microseconds([&] { (void)c.run(inputs); });
  if (c.order < 1) {
    fmt::print("{:<60} {:>10.2f} {:>10}  {}\n", c.title(), forward, "-", shapes);
    return;
  }
  for (Tensor& t : leaves) t.track();
  const Tensor seed = full(c.run(inputs).shape(), 1);
  const double both = microseconds([&] { grad(c.run(inputs), leaves, seed); });
  fmt::print("{:<60} {:>10.2f} {:>10.2f}  {}\n", c.title(), forward, both, shapes);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    register_backends();
    const std::vector<std::string> wanted(argv + 1, argv + argc);
    fmt::print("{:<60} {:>10} {:>10}  {}\n", "op", "us", "us + grad", "inputs");
    for (const checks::OpCase& c : checks::op_table())
      if (wanted.empty() || std::find(wanted.begin(), wanted.end(), c.op) != wanted.end()) row(c);
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_ops: {}\n", e.what());
    return 1;
  }
}
