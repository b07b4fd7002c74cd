// Threads of a program that compute at the same time, each with tensors and graphs of its own: each gets what it gets alone, to the bit.
#include <atomic>
#include <catch2/catch.hpp>
#include <functional>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "autograd/ops.h"
#include "backends/cpu/parallel.h"
#include "tests/cpu_settings.h"
#include "tests/refused_threads.h"

using namespace norma;

namespace {

using Values = std::vector<double>;
using Work = std::function<Values()>;

Tensor numbers(const Shape& shape, std::uint64_t seed) { return randn(shape, {seed, 1}); }

Work products(const Shape& a, const Shape& b) {
  return [x = numbers(a, 1), y = numbers(b, 2)] { return matmul(x, y).values(); };
}
Work gradients(std::vector<Shape> shapes, std::function<Tensor(const Tensors&)> loss) {
  return [=] {
    Tensors leaves;
    for (const Shape& shape : shapes) leaves.push_back(numbers(shape, 3 + leaves.size()).track());
    Values all;
    for (const Tensor& g : grad(loss(leaves), leaves))
      for (const double v : g.values()) all.push_back(v);
    return all;
  };
}

}  // namespace

TEST_CASE("a pool whose threads cannot be started is an error of the loop, and a smaller one computes", "[concurrent]") {
  if (!test::can_refuse_threads) return;
  const Work work = products({200, 300}, {300, 250});
  const Values expected = work();
  const int before = cpu::threads();
  const test::RefusedThreads none;
  cpu::set_threads(100);  // more than any test has had
  CHECK_THROWS_WITH(work(), Catch::StartsWith("cannot start a pool of 100 threads (Resource temporarily unavailable): the limit of processes (ulimit -u, "));
  cpu::set_threads(before);
  CHECK(work() == expected);
}

TEST_CASE("threads that compute at once have the bits of each alone", "[concurrent]") {
  std::vector<double> targets(50000);
  for (std::size_t i = 0; i < targets.size(); ++i) targets[i] = static_cast<double>(i * 7919 % 2000);
  const Tensor index = from_values(targets, {50000}, {DType::i64});
  AttentionOptions linear;
  linear.scoring.kind = Scoring::Kind::polynomial, linear.scoring.coefficient[3] = 1, linear.form = AttentionForm::linear;
  const std::pair<Work, Work> pairs[] = {  // what uses the same scratch memory, as caller of a loop or in its tasks
      {gradients({{2000, 64}}, [&](const Tensors& x) { return sum(square(embedding(x[0], index))); }),
       gradients({{4, 3, 256, 8}}, [&](const Tensors& x) { return sum(square(attention(x[0], x[0], x[0], linear))); })},
      {products({1024, 512}, {512, 768}), products({16, 300, 700}, {16, 700, 900})},
      {gradients({{8, 3, 65, 64}}, [](const Tensors& x) { return sum(square(attention(x[0], x[0], x[0]))); }),
       gradients({{2048, 192}, {192}, {192}}, [](const Tensors& x) { return sum(square(layer_norm(x[0], x[1], x[2]))); })},
      {gradients({{1024, 96}, {384, 96}, {384}, {96, 384}, {96}}, [](const Tensors& x) { return sum(square(mlp(x[0], x[1], x[2], x[3], x[4]))); }),
       products({192, 4096}, {4096, 192})},
  };
#if defined(__SANITIZE_ADDRESS__)  // whose matter is where they write, not when
  constexpr int times = 8;
#else
  constexpr int times = 40;
#endif
  const test::RestoreSettings restore;
  cpu::set_threads(2);
  int number = 0;
  for (const auto& [here, there] : pairs) {
    const Values alone[] = {here(), there()};
    std::atomic<bool> done{false};
    std::atomic<int> wrong{0};
    std::thread other([&, &there = there] {
      while (!done) wrong += there() != alone[1];
    });
    for (int i = 0; i < times; ++i) wrong += here() != alone[0];
    done = true;
    other.join();
    INFO("pair " << number++);
    CHECK(wrong == 0);
  }
}

TEST_CASE("a pool has from 1 to 1024 threads", "[concurrent]") {
  const int before = cpu::threads();
  for (const int count : {0, -1, 1025, std::numeric_limits<int>::max()})
    CHECK_THROWS_WITH(cpu::set_threads(count), "threads: " + std::to_string(count) + " must be in 1..1024");
  CHECK(cpu::threads() == before);
}
