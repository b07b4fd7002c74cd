// The training step of ViT-Tiny (32x32 pixels, patch 4, batch 64), or of a causal decoder of characters (384 wide, 6 blocks, 256
// tokens, batch 8): time, GFLOP/s, share of the machine's measured FMA peak, memory. norma_bench_step --help lists the flags.
//
// --overhead: what it costs to measure every head of every layer. Steps with and without the statistics alternate in one run; told by
// the clock and by the processor time of all threads, which other programs on the machine disturb less.
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>

#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "backends/register_all.h"
#include "bench/decoder.h"
#include "bench/peak.h"
#include "inspect/probe.h"
#include "models/vit.h"
#include "train/optimizer.h"
#include "train/options.h"

namespace {

using namespace norma;

struct Setup {
  std::string model = "vit", attention = "softmax", dtype = "f32", cpu;
  Index threads = 0, batch = 0, width = 0, depth = 0, heads = 0, image = 32, patch = 4, tokens = 256, steps = 7;
  double dropout = 0;
  bool json = false, stats = false, overhead = false, help = false;
};

/// A model with the batch it is trained on.
struct Workload {
  std::shared_ptr<nn::Module> model;
  std::function<Tensor()> loss;
  double flops;
  std::string title;
};

/// `count` whole numbers below `limit`.
Tensor numbers(const Shape& shape, Index limit) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(static_cast<Index>(i * i + i / 3) % limit);
  return from_values(values, shape, {DType::i64});
}

Workload vit(const Setup& s) {
  models::ViTConfig c;
  c.image = s.image, c.patch = s.patch, c.classes = 10, c.dropout = s.dropout;
  c.width = s.width ? s.width : 192, c.depth = s.depth ? s.depth : 12, c.heads = s.heads ? s.heads : 3;
  c.attention = nn::parse_scoring(s.attention);
  if (s.dtype == "bf16") c.activations = DType::bf16;
  const Index batch = s.batch ? s.batch : 64;
  auto model = std::make_shared<models::ViT>(c, 1);
  const Tensor images = empty({batch, 3, s.image, s.image}), labels = numbers({batch}, 10);
  backend({}).random(RandomKind::normal, {7, 0}, 0, images.view());
  return {model, [=] { return cross_entropy((*model)(images), labels); }, models::training_flops(c, batch),
          fmt::format("ViT {}/{}/{}, {}x{} patch {}, batch {}", c.width, c.depth, c.heads, s.image, s.image, s.patch, batch)};
}

Workload decoder(const Setup& s) {
  bench::DecoderConfig c;
  c.tokens = s.tokens, c.dropout = s.dropout, c.attention = nn::parse_scoring(s.attention);
  c.width = s.width ? s.width : 384, c.depth = s.depth ? s.depth : 6, c.heads = s.heads ? s.heads : 6;
  if (s.dtype == "bf16") c.activations = DType::bf16;
  const Index batch = s.batch ? s.batch : 8;
  auto model = std::make_shared<bench::Decoder>(c, 1);
  const Tensor tokens = numbers({batch, c.tokens}, c.vocabulary), next = numbers({batch, c.tokens}, c.vocabulary - 1);
  return {model, [=] { return cross_entropy((*model)(tokens), next); }, bench::training_flops(c, batch),
          fmt::format("decoder {}/{}/{}, {} tokens, batch {}, dropout {}", c.width, c.depth, c.heads, c.tokens, batch, c.dropout)};
}

Workload workload(const Setup& s) { return s.model == "vit" ? vit(s) : decoder(s); }

struct Row {
  double median_ms = 0, min_ms = 0, median_cpu_ms = 0;
};

/// Pages this process has asked the system for: a steady step asks for none.
long page_faults() {
  rusage use;
  getrusage(RUSAGE_SELF, &use);
  return use.ru_minflt;
}

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
/// `faults`: page faults of all timed steps together.
std::array<Row, 2> time_step(const Setup& s, int threads, long& faults) {
  cpu::set_threads(threads);
  const Workload work = workload(s);
  nn::Module& model = *work.model;
  auto optimizer = train::Optimizer::make({}, model);
  std::array<Times, 2> times;
  const Index kinds = s.overhead ? 2 : 1, warm = 2 * kinds;
  for (Times& t : times) t.wall.reserve(static_cast<std::size_t>(s.steps)), t.cpu.reserve(static_cast<std::size_t>(s.steps));
  for (Index i = 0; i < s.steps * kinds + warm; ++i) {
    // a pair is on, off or off, on in turn, so that a drift of the machine falls on both alike
    const bool stats = s.overhead ? (i % 4 == 0 || i % 4 == 3) : s.stats;
    if (i == warm) faults = page_faults();
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    inspect::Probe probe(model);
    if (stats) probe.attention("blocks.*.attn.stats");
    {
      nn::Training training;
      RandomScope random(1, static_cast<std::uint64_t>(i));
      backward(work.loss());
    }
    const double norm = train::gradient_norm(model);
    optimizer->step(1e-3, norm > 1 ? 1 / norm : 1);
    if (stats) probe.take_attention();
    if (i < warm) continue;
    times[stats].wall.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    times[stats].cpu.push_back(1e3 * static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC);
  }
  faults = page_faults() - faults;
  return {times[0].row(), times[1].row()};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    register_backends();
    Setup s;
    train::Options o;
    o("model", s.model, "vit or decoder");
    o("attention", s.attention, "attention function");
    o("dtype", s.dtype, "f32, or bf16: mixed precision");
    o("cpu", s.cpu, "instruction set: base, avx2, avx512, avx512bf16, amx; empty: the best there is");
    o("threads", s.threads, "threads; 0: both 1 and all cores");
    o("batch", s.batch, "images or sequences a step; 0: 64, decoder 8");
    o("width", s.width, "width; 0: 192, decoder 384");
    o("depth", s.depth, "blocks; 0: 12, decoder 6");
    o("heads", s.heads, "heads; 0: 3, decoder 6");
    o("image", s.image, "vit: image side");
    o("patch", s.patch, "vit: patch side");
    o("tokens", s.tokens, "decoder: tokens of a sequence");
    o("dropout", s.dropout, "dropout of attention weights; decoder: also of both branches and the embedding");
    o("steps", s.steps, "timed steps");
    o("stats", s.stats, "measure every head's norms in every step");
    o("overhead", s.overhead, "steps with and without the statistics in turn, and what these cost");
    o("json", s.json, "one JSON object a row");
    o("help", s.help, "print this, and stop");
    o.read_flags({argv + 1, argv + argc});
    o.apply();
    if (s.help) {
      fmt::print("usage: norma_bench_step [flags]\n{}", o.help());
      return 0;
    }
    if (!s.cpu.empty()) cpu::set_isa(s.cpu);
    if (s.dtype != "f32" && s.dtype != "bf16") fail("--dtype: \"{}\" is not possible; there are f32, bf16", s.dtype);
    if (s.model != "vit" && s.model != "decoder") fail("--model: \"{}\" is unknown; there are vit, decoder", s.model);
    const auto [title, flops] = [&] {
      const Workload work = workload(s);
      return std::pair(work.title, work.flops);
    }();
    std::vector<int> counts =
        s.threads ? std::vector<int>{static_cast<int>(s.threads)} : std::vector<int>{1, cpu::threads()};
    if (!s.json)
      fmt::print("{}, {}, {}, {} instructions, {:.1f} GFLOP a step\n", title, s.dtype, s.attention, cpu::name(cpu::isa()), flops / 1e9);
    for (int t : counts) {
      const double peak = bench::fma_peak(t);
      long faults = 0;
      const std::array<Row, 2> rows = time_step(s, t, faults);
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
            "{:.1f}, \"peak_mib\": {:.0f}, \"page_faults\": {}}}\n",
            t, r.median_ms, r.min_ms, rate, peak, mib, faults);
      else
        fmt::print(
            "{} thread{}: {:.0f} ms median, {:.0f} ms best, {:.0f} GFLOP/s = {:.0f} % of the measured {:.0f}, {:.0f} "
            "MiB resident at most, {} page faults in {} steps\n",
            t, t == 1 ? " " : "s", r.median_ms, r.min_ms, rate, 100 * rate / peak, peak, mib, faults, s.steps);
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_step: {}\n", e.what());
    return 2;
  }
}
