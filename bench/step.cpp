// The training step of ViT-Tiny (32x32 pixels, patch 4, batch 64), or of a causal decoder of characters (384 wide, 6
// blocks, 256 tokens, batch 8): time, GFLOP/s, share of the machine's measured FMA peak, memory. norma_bench_step
// --help lists the flags.
//
// With --device cuda a step is captured once and replayed (--no-graph: op by op, as are steps with statistics), its
// time ends when the device is done (and once more for steps that the host does not wait for), the peak is that of a
// large matrix product in the same dtype, and the memory is the device's.
//
// --overhead: what it costs to measure every head of every layer. Steps with and without the statistics alternate in
// one run; told by the clock and by the processor time of all threads, which other programs on the machine disturb
// less.
//
// --deal 4,8,16: what the step would take on so many threads (dealt.h).
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>

#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "backends/register_all.h"
#include "bench/dealt.h"
#include "bench/decoder.h"
#include "bench/device_time.h"
#include "bench/peak.h"
#include "bench/training_step.h"
#include "inspect/probe.h"
#include "models/vit.h"
#include "train/options.h"

namespace {

using namespace norma;

struct Setup {
  std::string model = "vit", attention = "softmax", dtype = "f32", device = "cpu", cpu, deal;
  Index threads = 0, batch = 0, width = 0, depth = 0, heads = 0, image = 32, patch = 4, classes = 10, tokens = 256,
        vocabulary = 65, steps = 7;
  double dropout = 0;
  bool json = false, stats = false, overhead = false, graph = true, launches = false, help = false;
  Device place() const { return parse_device(device); }
  bool on_cpu() const { return place().kind == Device::Kind::cpu; }
};

/// A model with the batch it is trained on.
struct Workload {
  std::shared_ptr<nn::Module> model;
  std::function<Tensor()> loss;
  double flops;
  std::string title;
};

/// `count` whole numbers below `limit`.
Tensor numbers(const Shape& shape, Index limit, Device device) {
  std::vector<double> values(static_cast<std::size_t>(shape.numel()));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<double>(static_cast<Index>(i * i + i / 3) % limit);
  return from_values(values, shape, {DType::i64, device});
}

Workload vit(const Setup& s) {
  models::ViTConfig c;
  c.image = s.image, c.patch = s.patch, c.classes = s.classes, c.dropout = s.dropout;
  c.width = s.width ? s.width : 192, c.depth = s.depth ? s.depth : 12, c.heads = s.heads ? s.heads : 3;
  c.attention = nn::parse_scoring(s.attention);
  if (s.dtype == "bf16") c.activations = DType::bf16;
  const Index batch = s.batch ? s.batch : 64;
  const Place place{DType::f32, s.place()};
  auto model = std::make_shared<models::ViT>(c, 1, place);
  const Tensor images = randn({batch, 3, s.image, s.image}, {7}, place),
               labels = numbers({batch}, s.classes, place.device);
  return {model, [=] { return cross_entropy((*model)(images), labels); }, models::training_flops(c, batch),
          fmt::format("ViT {}/{}/{}, {}x{} patch {}, batch {}", c.width, c.depth, c.heads, s.image, s.image, s.patch,
                      batch)};
}

Workload decoder(const Setup& s) {
  bench::DecoderConfig c;
  c.tokens = s.tokens, c.vocabulary = s.vocabulary, c.dropout = s.dropout, c.attention = nn::parse_scoring(s.attention);
  c.width = s.width ? s.width : 384, c.depth = s.depth ? s.depth : 6, c.heads = s.heads ? s.heads : 6;
  if (s.dtype == "bf16") c.activations = DType::bf16;
  const Index batch = s.batch ? s.batch : 8;
  auto model = std::make_shared<bench::Decoder>(c, 1, Place{DType::f32, s.place()});
  const Tensor tokens = numbers({batch, c.tokens}, c.vocabulary, s.place()),
               next = numbers({batch, c.tokens}, c.vocabulary - 1, s.place());
  return {model, [=] { return cross_entropy((*model)(tokens), next); }, bench::training_flops(c, batch),
          fmt::format("decoder {}/{}/{}, {} tokens, batch {}, dropout {}", c.width, c.depth, c.heads, c.tokens, batch,
                      c.dropout)};
}

Workload workload(const Setup& s) { return s.model == "vit" ? vit(s) : decoder(s); }

struct Row {
  double median_ms = 0, min_ms = 0, median_cpu_ms = 0, unwaited_ms = 0;
};

/// Pages this process has asked the system for: a steady step asks for none.
long page_faults() {
  rusage use;
  getrusage(RUSAGE_SELF, &use);
  return use.ru_minflt;
}

/// Of one kind of steps: by the clock, and of the processors.
struct Times {
  std::vector<double> wall, cpu;
  Row row() const {
    return wall.empty() ? Row{}
                        : Row{bench::median(wall), *std::min_element(wall.begin(), wall.end()), bench::median(cpu)};
  }
};

/// Times of steps[0] without statistics and [1] with them; --overhead alternates, else all are of one kind.
/// `faults`: page faults of all timed steps together; `replayed`: whether steps were replayed; `launches`: what a
/// replay launches.
std::array<Row, 2> time_step(const Setup& s, int threads, long& faults, bool& replayed,
                             std::vector<std::string>& launches) {
  cpu::set_threads(threads);
  const Workload work = workload(s);
  nn::Module& model = *work.model;
  bench::TrainingStep step(model, work.loss, s.dtype == "bf16" ? DType::bf16 : DType::f32,
                           s.graph && !s.stats && !s.overhead);
  std::array<Times, 2> times;
  const Index kinds = s.overhead ? 2 : 1, warm = (s.on_cpu() ? 2 : 4) * kinds;
  for (Times& t : times)
    t.wall.reserve(static_cast<std::size_t>(s.steps)), t.cpu.reserve(static_cast<std::size_t>(s.steps));
  for (Index i = 0; i < s.steps * kinds + warm; ++i) {
    // a pair is on, off or off, on in turn, so that a drift of the machine falls on both alike
    const bool stats = s.overhead ? (i % 4 == 0 || i % 4 == 3) : s.stats;
    if (i == warm) faults = page_faults();
    const auto start = std::chrono::steady_clock::now();
    const std::clock_t cpu_start = std::clock();
    inspect::Probe probe(model);
    if (stats) probe.attention("blocks.*.attn.stats");
    step.take(i);
    if (stats) probe.take_attention();
    if (i < warm) continue;
    times[stats].wall.push_back(
        std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    times[stats].cpu.push_back(1e3 * static_cast<double>(std::clock() - cpu_start) / CLOCKS_PER_SEC);
  }
  faults = page_faults() - faults;
  replayed = step.replayed();
  launches = step.launches();
  std::array<Row, 2> rows{times[0].row(), times[1].row()};
  if (replayed) {
    const auto start = std::chrono::steady_clock::now();
    const Index count = 3 * s.steps;
    for (Index i = 0; i < count; ++i) step.launch(s.steps + warm + i);
    backend(s.place()).synchronize();
    rows[0].unwaited_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count() /
                          static_cast<double>(count);
  }
  return rows;
}

std::vector<int> counts_of_threads(const std::string& text) {
  std::vector<int> counts;
  for (std::size_t at = 0; at <= text.size(); at = std::min(text.find(',', at), text.size()) + 1) {
    const std::string word = text.substr(at, text.find(',', at) - at);
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), counts.emplace_back());
    if (error != std::errc() || end != word.data() + word.size() || counts.back() < 1 || counts.back() > 1024)
      fail("--deal: \"{}\" is not a number of threads; give numbers from 1 to 1024, as in --deal 4,8,16", word);
  }
  return counts;
}

constexpr double loop_cost = 2e-6;  // seconds that oneTBB takes to begin and end a loop, measured with 16 empty tasks

void deal(const Setup& s) {
  for (const int threads : counts_of_threads(s.deal)) {
    cpu::set_threads(threads);
    const Workload work = workload(s);
    bench::TrainingStep step(*work.model, work.loss, s.dtype == "bf16" ? DType::bf16 : DType::f32, false);
    step.take(0);
    bench::Dealt dealt;
    for (Index i = 0; i < s.steps; ++i) step.take(i + 1), dealt.end_step();
    const bench::Dealt::Times t = dealt.times(threads, loop_cost);
    const double waiting = 1 - t.alone / threads / t.dealt;
    if (s.json)
      fmt::print(
          "{{\"threads\": {}, \"dealt_ms\": {:.3f}, \"alone_ms\": {:.3f}, \"between_ms\": {:.3f}, \"waiting\": {:.4f}, "
          "\"loops\": {}}}\n",
          threads, 1e3 * t.dealt, 1e3 * t.alone, 1e3 * t.between, waiting, t.loops);
    else
      fmt::print(
          "{} threads: {:.1f} ms dealt out, {:.1f} one task after the other, {:.2f} of them between {} loops; {:.0f} % "
          "of the time of all threads is waiting\n",
          threads, 1e3 * t.dealt, 1e3 * t.alone, 1e3 * t.between, t.loops, 100 * waiting);
  }
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
    o("device", s.device, "cpu, or cuda");
    o("graph", s.graph, "cuda: replay a captured step");
    o("launches", s.launches, "cuda: list what a replay launches, by kind");
    o("cpu", s.cpu,
      "instruction set: base, avx2, avx512, avx512bf16, amx; empty: what NORMA_CPU names, else the best there is");
    o("threads", s.threads, "threads; 0: both 1 and all cores");
    o("batch", s.batch, "images or sequences a step; 0: 64, decoder 8");
    o("width", s.width, "width; 0: 192, decoder 384");
    o("depth", s.depth, "blocks; 0: 12, decoder 6");
    o("heads", s.heads, "heads; 0: 3, decoder 6");
    o("image", s.image, "vit: image side");
    o("patch", s.patch, "vit: patch side");
    o("classes", s.classes, "vit: classes");
    o("tokens", s.tokens, "decoder: tokens of a sequence");
    o("vocabulary", s.vocabulary, "decoder: different tokens");
    o("dropout", s.dropout, "dropout of attention weights; decoder: also of both branches and the embedding");
    o("steps", s.steps, "timed steps");
    o("stats", s.stats, "measure every head's norms in every step");
    o("overhead", s.overhead, "steps with and without the statistics in turn, and what these cost");
    o("deal", s.deal,
      "numbers of threads: time each task on one thread, and deal them out to so many, whatever the machine has");
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
    Backend& there = backend(s.place());  // throws where the device is not there
    const auto [title, flops] = [&] {
      const Workload work = workload(s);
      return std::pair(work.title, work.flops);
    }();
    const std::vector<int> counts = s.threads || !s.on_cpu()
                                        ? std::vector<int>{static_cast<int>(s.threads ? s.threads : 1)}
                                        : std::vector<int>{1, cpu::threads()};
    if (!s.json)
      fmt::print("{}, {}, {}, {}, {:.1f} GFLOP a step\n", title, s.dtype, s.attention,
                 s.on_cpu() ? fmt::format("{} instructions", cpu::name(cpu::isa())) : name(s.place()), flops / 1e9);
    if (!s.deal.empty()) {
      if (!s.on_cpu() || s.stats || s.overhead || s.threads)
        fail("--deal goes with a step on the CPU alone, and not with --threads, --stats or --overhead");
      deal(s);
      return 0;
    }
    for (int t : counts) {
      const double peak = s.on_cpu() ? bench::fma_peak(t)
                                     : bench::product_peak(s.place(), s.dtype == "bf16" ? DType::bf16 : DType::f32);
      there.reset_peak();
      long faults = 0;
      bool replayed = false;
      std::vector<std::string> launches;
      const std::array<Row, 2> rows = time_step(s, t, faults, replayed, launches);
      if (s.overhead) {
        const auto percent = [&](double Row::*which) { return 100 * (rows[1].*which / rows[0].*which - 1); };
        const double median = percent(&Row::median_ms), best = percent(&Row::min_ms),
                     cpu = percent(&Row::median_cpu_ms);
        if (s.json)
          fmt::print(
              "{{\"threads\": {}, \"off_ms\": {:.2f}, \"on_ms\": {:.2f}, \"overhead_percent\": {:.2f}, "
              "\"overhead_percent_best\": {:.2f}, \"overhead_percent_cpu\": {:.2f}}}\n",
              t, rows[0].median_ms, rows[1].median_ms, median, best, cpu);
        else
          fmt::print(
              "{} thread{}: median {:.2f} ms without statistics, {:.2f} with: {:+.1f} %; best {:.2f} and {:.2f}: "
              "{:+.1f} %; processor time {:.1f} and {:.1f}: {:+.1f} %\n",
              t, t == 1 ? " " : "s", rows[0].median_ms, rows[1].median_ms, median, rows[0].min_ms, rows[1].min_ms, best,
              rows[0].median_cpu_ms, rows[1].median_cpu_ms, cpu);
        continue;
      }
      const Row r = rows[s.stats];
      rusage use;
      getrusage(RUSAGE_SELF, &use);
      const double rate = flops / r.median_ms / 1e6;
      const double mib =
          s.on_cpu() ? static_cast<double>(use.ru_maxrss) / 1024 : static_cast<double>(there.memory().peak) / (1 << 20);
      const double apart = s.on_cpu() ? bench::core_round_trip() : 0;
      if (!s.on_cpu()) {
        if (s.json)
          fmt::print(
              "{{\"device\": \"{}\", \"replayed\": {}, \"launches\": {}, \"median_ms\": {:.4f}, \"min_ms\": {:.4f}, "
              "\"unwaited_ms\": {:.4f}, \"gflops\": {:.1f}, \"peak_gflops\": {:.1f}, \"peak_mib\": {:.0f}}}\n",
              name(s.place()), replayed, launches.size(), r.median_ms, r.min_ms, r.unwaited_ms, rate, peak, mib);
        else
          fmt::print(
              "{}: {:.3f} ms median, {:.3f} ms best{}, {:.0f} GFLOP/s = {:.0f} % of the {:.0f} of a large product, "
              "{:.0f} MiB of the device in use at most\n",
              replayed ? fmt::format("{} launches replayed", launches.size()) : "op by op", r.median_ms, r.min_ms,
              replayed ? fmt::format(", {:.3f} ms where the host does not wait", r.unwaited_ms) : "", rate,
              100 * rate / peak, peak, mib);
        if (s.launches)
          for (const auto& [count, kind] : bench::by_kind(launches))
            fmt::print(s.json ? stderr : stdout, "{:5} {}\n", count, kind);
        continue;
      }
      if (s.json)
        fmt::print(
            "{{\"threads\": {}, \"median_ms\": {:.2f}, \"min_ms\": {:.2f}, \"gflops\": {:.1f}, \"peak_gflops\": "
            "{:.1f}, \"peak_mib\": {:.0f}, \"page_faults\": {}, \"core_round_trip_ns\": {:.0f}}}\n",
            t, r.median_ms, r.min_ms, rate, peak, mib, faults, apart);
      else
        fmt::print(
            "{} thread{}: {:.0f} ms median, {:.0f} ms best, {:.0f} GFLOP/s = {:.0f} % of the measured {:.0f}, {:.0f} "
            "MiB resident at most, {} page faults in {} steps{}\n",
            t, t == 1 ? " " : "s", r.median_ms, r.min_ms, rate, 100 * rate / peak, peak, mib, faults, s.steps,
            apart > 0 ? fmt::format(", cores {:.0f} ns apart", apart) : "");
    }
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_step: {}\n", e.what());
    return 2;
  }
}
