// The training step of ViT-Tiny (32x32 pixels, patch 4, batch 64): time, GFLOP/s, share of the machine's measured FMA
// peak, memory.
//
//   norma_bench_step [--json] [--threads N] [--attention TEXT] [--dtype f32|bf16] [--batch N] [--width N --depth N --heads N] [--steps N]
//                    [--stats | --overhead]
//
// --overhead: what it costs to measure every head of every layer. Steps with and without the statistics alternate in one run; told by
// the clock and by the processor time of all threads, which other programs on the machine disturb less.
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>

#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "backends/register_all.h"
#include "bench/peak.h"
#include "inspect/probe.h"
#include "models/vit.h"
#include "train/optimizer.h"
#include "train/options.h"

namespace {

using namespace norma;

struct Setup {
  std::string attention = "softmax", dtype = "f32";
  Index threads = 0, batch = 64, width = 192, depth = 12, heads = 3, image = 32, patch = 4, steps = 7;
  bool json = false, stats = false, overhead = false;
};

struct Row {
  double median_ms = 0, min_ms = 0, median_cpu_ms = 0;
};

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

/// Of one kind of steps: by the clock, and of the processors.
struct Times {
  std::vector<double> wall, cpu;
  Row row() const { return wall.empty() ? Row{} : Row{median(wall), *std::min_element(wall.begin(), wall.end()), median(cpu)}; }
};

/// Times of steps[0] without statistics and [1] with them; --overhead alternates, else all are of one kind.
std::array<Row, 2> time_step(const Setup& s, int threads) {
  cpu::set_threads(threads);
  models::ViTConfig c;
  c.image = s.image, c.patch = s.patch, c.classes = 10, c.width = s.width, c.depth = s.depth, c.heads = s.heads;
  c.attention = nn::parse_scoring(s.attention);
  if (s.dtype == "bf16") c.activations = DType::bf16;
  models::ViT model(c, 1);
  auto optimizer = train::Optimizer::make({}, model);
  Tensor images = empty({s.batch, 3, s.image, s.image});
  backend({}).random(RandomKind::normal, {7, 0}, 0, images.view());
  std::vector<double> label(static_cast<std::size_t>(s.batch));
  for (std::size_t i = 0; i < label.size(); ++i) label[i] = static_cast<double>(i % 10);
  Tensor labels = from_values(label, {s.batch}, {DType::i64});
  std::array<Times, 2> times;
  const Index kinds = s.overhead ? 2 : 1, warm = 2 * kinds;
  for (Index i = 0; i < s.steps * kinds + warm; ++i) {
    // a pair is on, off or off, on in turn, so that a drift of the machine falls on both alike
    const bool stats = s.overhead ? (i % 4 == 0 || i % 4 == 3) : s.stats;
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    inspect::Probe probe(model);
    if (stats) probe.attention("blocks.*.attn.stats");
    {
      nn::Training training;
      RandomScope random(1, static_cast<std::uint64_t>(i));
      backward(cross_entropy(model(images), labels));
    }
    const double norm = train::gradient_norm(model);
    optimizer->step(1e-3, norm > 1 ? 1 / norm : 1);
    if (stats) probe.take_attention();
    if (i < warm) continue;
    times[stats].wall.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    times[stats].cpu.push_back(1e3 * static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC);
  }
  return {times[0].row(), times[1].row()};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    register_backends();
    Setup s;
    train::Options o;
    o("attention", s.attention, "attention function");
    o("dtype", s.dtype, "f32, or bf16: mixed precision");
    o("threads", s.threads, "threads; 0: both 1 and all cores");
    o("batch", s.batch, "images a step");
    o("width", s.width, "width");
    o("depth", s.depth, "blocks");
    o("heads", s.heads, "heads");
    o("image", s.image, "image side");
    o("patch", s.patch, "patch side");
    o("steps", s.steps, "timed steps");
    o("stats", s.stats, "measure every head's norms in every step");
    o("overhead", s.overhead, "steps with and without the statistics in turn, and what these cost");
    o("json", s.json, "one JSON object a row");
    o.read_flags({argv + 1, argv + argc});
    o.apply();
    if (s.dtype != "f32" && s.dtype != "bf16") fail("--dtype: \"{}\" is not possible; there are f32, bf16", s.dtype);
    models::ViTConfig c;
    c.image = s.image, c.patch = s.patch, c.classes = 10, c.width = s.width, c.depth = s.depth, c.heads = s.heads;
    const double flops = models::training_flops(c, s.batch);
    std::vector<int> counts =
        s.threads ? std::vector<int>{static_cast<int>(s.threads)} : std::vector<int>{1, cpu::threads()};
    if (!s.json)
      fmt::print("ViT {}/{}/{}, {}x{} patch {}, batch {}, {}, {}, {} instructions, {:.1f} GFLOP a step\n", s.width,
                 s.depth, s.heads, s.image, s.image, s.patch, s.batch, s.dtype, s.attention, cpu::name(cpu::isa()), flops / 1e9);
    for (int t : counts) {
      const double peak = bench::fma_peak(t);
      const std::array<Row, 2> rows = time_step(s, t);
      if (s.overhead) {
        const auto percent = [&](double Row::*which) { return 100 * (rows[1].*which / rows[0].*which - 1); };
        const double median = percent(&Row::median_ms), best = percent(&Row::min_ms), cpu = percent(&Row::median_cpu_ms);
        if (s.json)
          fmt::print("{{\"threads\": {}, \"off_ms\": {:.2f}, \"on_ms\": {:.2f}, \"overhead_percent\": {:.2f}, \"overhead_percent_best\": {:.2f}, \"overhead_percent_cpu\": {:.2f}}}\n", t,
                     rows[0].median_ms, rows[1].median_ms, median, best, cpu);
        else
          fmt::print("{} thread{}: median {:.1f} ms without statistics, {:.1f} with: {:+.1f} %; best {:.1f} and {:.1f}: {:+.1f} %; processor time {:.1f} and {:.1f}: {:+.1f} %\n",
                     t, t == 1 ? " " : "s", rows[0].median_ms, rows[1].median_ms, median, rows[0].min_ms, rows[1].min_ms, best, rows[0].median_cpu_ms,
                     rows[1].median_cpu_ms, cpu);
        continue;
      }
      const Row r = rows[s.stats];
      rusage use;
      getrusage(RUSAGE_SELF, &use);
      const double rate = flops / r.median_ms / 1e6, mib = static_cast<double>(use.ru_maxrss) / 1024;
      if (s.json)
        fmt::print(
            "{{\"threads\": {}, \"median_ms\": {:.2f}, \"min_ms\": {:.2f}, \"gflops\": {:.1f}, \"peak_gflops\": "
            "{:.1f}, \"peak_mib\": {:.0f}}}\n",
            t, r.median_ms, r.min_ms, rate, peak, mib);
      else
        fmt::print(
            "{} thread{}: {:.0f} ms median, {:.0f} ms best, {:.0f} GFLOP/s = {:.0f} % of the measured {:.0f}, {:.0f} "
            "MiB resident at most\n",
            t, t == 1 ? " " : "s", r.median_ms, r.min_ms, rate, 100 * rate / peak, peak, mib);
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_step: {}\n", e.what());
    return 2;
  }
}
