#include "bench/device_time.h"

#include <algorithm>
#include <cmath>

#include "bench/peak.h"

namespace norma::bench {
namespace {

constexpr double group_seconds = 4e-3;  // long against the two ends of a group, at which host and device meet
constexpr int most_calls = 200;

}  // namespace

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

double call_ms(Device device, const std::function<void()>& call, double seconds_all) {
  Backend& there = backend(device);
  const auto timed = [&](const std::function<void()>& work) {
    there.synchronize();
    const double start = seconds();
    work();
    there.synchronize();
    return seconds() - start;
  };
  call();  // loads what is loaded once
  const int calls =
      static_cast<int>(std::clamp(group_seconds / std::max(timed(call), 1e-9), 1.0, static_cast<double>(most_calls)));
  const auto group = [&] {
    for (int i = 0; i < calls; ++i) call();
  };
  const std::unique_ptr<Backend::Graph> graph = there.capture(group);
  const std::function<void()> run = graph ? std::function<void()>([&] { graph->replay(); }) : group;
  timed(run);
  std::vector<double> ms;
  for (double spent = 0; ms.size() < 3 || (spent < seconds_all && ms.size() < 1000);) {
    const double one = timed(run);
    spent += one;
    ms.push_back(1e3 * one / calls);
  }
  return median(ms);
}

double product_peak(Device device, DType dtype) {
  constexpr Index n = 8192;
  const Place wide{DType::f32, device};
  Tensor a = empty({n, n}, wide), b = empty({n, n}, wide);
  Backend& there = backend(device);
  there.random(RandomKind::normal, {1, 1}, 0, a.view());
  there.random(RandomKind::normal, {1, 2}, 0, b.view());
  const auto in = [&](const Tensor& x) {
    Tensor y = empty(x.shape(), {dtype, device});
    there.copy(x.view(), y.view());
    return y;
  };
  a = in(a), b = in(b);
  const Tensor out = empty({n, n}, {dtype, device});
  const double ms = call_ms(
      device, [&] { there.matmul(a.view(), b.view(), out.view()); }, 0.3);
  return 2.0 * std::pow(static_cast<double>(n), 3) / ms / 1e6;
}

}  // namespace norma::bench
