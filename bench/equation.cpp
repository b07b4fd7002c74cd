// norma_bench_equation: a training step with second derivatives, that of the physics-informed transformer of
// docs/your-equation.md: what is left of the heat equation at every point, backpropagated through attention's second
// derivatives. norma_bench_equation --help lists the flags.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numbers>

#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "backends/register_all.h"
#include "bench/device_time.h"
#include "bench/training_step.h"
#include "nn/layers.h"
#include "train/options.h"

namespace {

using namespace norma;

struct Setup {
  std::string attention = "x^3/sqrt(N)", dtype = "f64", cpu;
  Index points = 64, width = 32, heads = 2, tokens = 5, threads = 2, steps = 20;
  bool json = false, help = false;
};

/// u(x, t), [B, 1] from [B, 1] twice: attention over `tokens` moments from t on, and an MLP, each behind a sine.
class Solution : public nn::Module {
 public:
  Solution(const Setup& s, nn::Init& init)
      : tokens_(s.tokens),
        embed_(2, s.width, init, 1.0),
        attn_({.width = s.width, .heads = s.heads, .scoring = nn::parse_scoring(s.attention), .std = 0.2}, init),
        mlp_(s.width, 2 * s.width, init, 0.2),
        head_(s.width, 1, init, 0.2) {}
  Tensor operator()(const Tensor& x, const Tensor& t) const {
    Tensors sequence;
    for (Index j = 0; j < tokens_; ++j) sequence.push_back(cat({x, t + 0.05 * static_cast<double>(j)}, 1));
    Tensor y = embed_(stack(sequence, 1));  // [B, tokens, width]
    y = attn_(sin(y), y);
    y = mlp_(sin(y), y);
    return head_(select(y, 1, 0));
  }
  void visit(nn::Visitor& v) override { v("embed", embed_), v("attn", attn_), v("mlp", mlp_), v("head", head_); }

 private:
  Index tokens_;
  nn::Linear embed_;
  nn::SelfAttention attn_;
  nn::MLP mlp_;
  nn::Linear head_;
};

/// The mean square of u_t - 0.1 u_xx at new random points, and ten times those of u at t = 0 and at x = 0.
Tensor loss_of(const Solution& u, const Setup& s, DType dtype) {
  const auto points = [&] { return rand({s.points, 1}, RandomScope::next(), {dtype}); };
  const Tensor x = points().track(), t = points().track();
  const Tensors slopes = grad(sum(u(x, t)), {x, t}, {.create_graph = true});
  const Tensor curvature = grad(sum(slopes[0]), x, {.create_graph = true});
  const Tensor start = points(), end = points();
  const Tensor at_first = u(start, zeros_like(start)) - sin(std::numbers::pi * start),
               at_side = u(zeros_like(end), end);
  return mean(square(slopes[1] - 0.1 * curvature)) + 10.0 * mean(square(at_first)) + 10.0 * mean(square(at_side));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    register_backends();
    Setup s;
    train::Options o;
    o("attention", s.attention, "attention function");
    o("dtype", s.dtype, "f64 or f32");
    o("cpu", s.cpu, "instruction set: base, avx2, avx512; empty: what NORMA_CPU names, else the best there is");
    o("points", s.points, "points of the equation, of the start and of the side");
    o("width", s.width, "width");
    o("heads", s.heads, "heads");
    o("tokens", s.tokens, "moments of a point");
    o("threads", s.threads, "threads");
    o("steps", s.steps, "timed steps");
    o("json", s.json, "one JSON object");
    o("help", s.help, "print this, and stop");
    o.read_flags({argv + 1, argv + argc});
    o.apply();
    if (s.help) {
      fmt::print("usage: norma_bench_equation [flags]\n{}", o.help());
      return 0;
    }
    if (!s.cpu.empty()) cpu::set_isa(s.cpu);
    if (s.dtype != "f64" && s.dtype != "f32") fail("--dtype: \"{}\" is not possible; there are f64, f32", s.dtype);
    if (s.points < 1 || s.tokens < 1 || s.steps < 1) fail("--points, --tokens and --steps must be at least 1");
    cpu::set_threads(static_cast<int>(s.threads));
    const DType dtype = s.dtype == "f64" ? DType::f64 : DType::f32;
    nn::Init init(7, {dtype});
    Solution u(s, init);
    bench::TrainingStep step(
        u, [&] { return loss_of(u, s, dtype); }, dtype, false);
    constexpr Index warm = 3;
    std::vector<double> times;
    for (Index i = 0; i < warm + s.steps; ++i) {
      const auto start = std::chrono::steady_clock::now();
      const double loss = step.take(i);
      if (!std::isfinite(loss)) fail("the loss of step {} is {}", i, loss);
      if (i >= warm)
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    rusage use;
    getrusage(RUSAGE_SELF, &use);
    const double median = bench::median(times), best = *std::min_element(times.begin(), times.end()),
                 mib = static_cast<double>(use.ru_maxrss) / 1024;
    if (s.json)
      fmt::print("{{\"threads\": {}, \"median_ms\": {:.3f}, \"min_ms\": {:.3f}, \"peak_mib\": {:.0f}}}\n", s.threads,
                 median, best, mib);
    else
      fmt::print(
          "{} points, {} tokens, width {}, {} heads, {}, {}, {} instructions, {} threads: {:.2f} ms median, {:.2f} "
          "best, {:.0f} MiB resident at most\n",
          s.points, s.tokens, s.width, s.heads, s.dtype, s.attention, cpu::name(cpu::isa()), s.threads, median, best,
          mib);
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_equation: {}\n", e.what());
    return 2;
  }
}
