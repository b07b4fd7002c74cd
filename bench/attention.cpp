// Attention alone, forward and backward, over lengths and widths: time, GFLOP/s, share of the measured peak, and what
// the statistics cost.
//
//   norma_bench_attention [--n 64,256] [--d 64] [--scoring "softmax;x^3/sqrt(N)"] [--cases plain,causal,dropout]
//                         [--form auto,quadratic,linear] [--heads N --batch N] [--threads N] [--processor-time] [--json]
//                         [--device cpu|cuda] [--dtype f32|bf16]
//
// Times on the CPU are the best of several runs; with --device cuda they are medians over groups of calls that the
// device makes without waiting for the host, and the peak is that of a large matrix product in the same dtype.
//
// GFLOP/s count 4 N^2 d forward and 10 N^2 d backward (the scores are computed again), half of it under a causal mask,
// whatever the form; so the rate of the linear form says how much faster than the peak a quadratic one would have to
// be.
#include <algorithm>
#include <cmath>
#include <sstream>

#include "autograd/ops.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "backends/register_all.h"
#include "bench/device_time.h"
#include "bench/peak.h"
#include "nn/scoring.h"
#include "train/options.h"

namespace {

using namespace norma;

struct Case {
  std::string text, name;
  Scoring scoring;
  AttentionForm form;
  bool causal;
  double dropout;
  Index batch, heads, n, d;
  Place place;
};

/// Times of one case in milliseconds: [statistics off, on].
struct Times {
  double forward[2] = {1e30, 1e30}, backward[2] = {1e30, 1e30};
};

/// One call's tensors: q, k, v packed as a projection leaves them, out as the next one reads it.
class Call {
 public:
  explicit Call(const Case& c) : case_(c), backend_(backend(c.place.device)) {
    const Index tokens = c.batch * c.n, width = c.heads * c.d;
    qkv_ = noise({tokens, 3 * width}, 1), dout_ = noise({tokens, width}, 2);
    dqkv_ = zeros(qkv_.shape(), c.place), out_ = zeros(dout_.shape(), c.place);
    lse_ = zeros({c.batch, c.heads, c.n}, {DType::f32, c.place.device});
    stats_ = zeros({c.batch, c.heads, Index{attention_stats}}, {DType::f64, c.place.device});
  }
  bool forward(bool stats) {
    AttentionForward a;
    write(a, stats);
    a.q = packed(qkv_, 0), a.k = packed(qkv_, 1), a.v = packed(qkv_, 2), a.out = merged(out_);
    if (case_.scoring.kind == Scoring::Kind::softmax) a.row_lse = lse_.view();
    return backend_.attention(a);
  }
  bool backward(bool stats) {
    AttentionBackward a;
    write(a, stats);
    a.q = packed(qkv_, 0), a.k = packed(qkv_, 1), a.v = packed(qkv_, 2), a.out = merged(out_), a.dout = merged(dout_);
    a.row_lse = lse_.view();
    a.dq = packed(dqkv_, 0), a.dk = packed(dqkv_, 1), a.dv = packed(dqkv_, 2);
    return backend_.attention_backward(a);
  }

 private:
  /// Uniform in [-1, 1).
  Tensor noise(const Shape& shape, std::uint32_t state) const {
    std::vector<float> values(static_cast<std::size_t>(shape.numel()));
    for (float& f : values) f = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1;
    Tensor x = empty(shape, case_.place);
    copy_into(x, from_host(values.data(), shape, {DType::f32, case_.place.device}));
    return x;
  }
  void write(Attention& a, bool stats) {
    a.scoring = case_.scoring, a.scale = 1 / std::sqrt(static_cast<double>(case_.d)), a.causal = case_.causal;
    a.dropout = case_.dropout, a.stream = {3, 5}, a.form = case_.form;
    if (stats) a.stats = stats_.view();
  }
  View packed(const Tensor& x, Index part) const {
    const Index width = case_.heads * case_.d;
    return {static_cast<char*>(x.view().data) + part * width * static_cast<Index>(size_of(x.dtype())),
            Layout({case_.batch, case_.heads, case_.n, case_.d}, {case_.n * 3 * width, case_.d, 3 * width, 1}, 0),
            x.dtype()};
  }
  View merged(const Tensor& x) const {
    const Index width = case_.heads * case_.d;
    return {x.view().data,
            Layout({case_.batch, case_.heads, case_.n, case_.d}, {case_.n * width, case_.d, width, 1}, 0), x.dtype()};
  }
  Case case_;
  Backend& backend_;
  Tensor qkv_, dqkv_, out_, dout_, lse_, stats_;
};

/// The same as a user calls it, and as other libraries' ops are timed: dense q, k, v [B, H, N, d], results of their
/// own, the graph.
class OpCall {
 public:
  explicit OpCall(const Case& c)
      : cotangent_(noise(c, 4)),
        stats_(zeros({c.batch, c.heads, Index{attention_stats}}, {DType::f64, c.place.device})) {
    for (std::uint64_t i = 1; i <= 3; ++i) inputs_.push_back(noise(c, i).track());
    options_.scoring = c.scoring, options_.causal = c.causal, options_.dropout = c.dropout, options_.stream = {3, 5},
    options_.form = c.form;
  }
  bool forward(bool stats) {
    options_.stats = stats ? stats_ : Tensor();
    out_ = attention(inputs_[0], inputs_[1], inputs_[2], options_);
    return true;
  }
  bool backward(bool) {
    grad(out_, inputs_, cotangent_);
    return true;
  }

 private:
  static Tensor noise(const Case& c, std::uint64_t stream) {
    return cast(rand({c.batch, c.heads, c.n, c.d}, {1, stream}, {DType::f32, c.place.device}) * 2.0 - 1.0,
                c.place.dtype)
        .detach();
  }
  AttentionOptions options_;
  Tensors inputs_;
  Tensor cotangent_, stats_, out_;
};

/// Empty where the backend declines the case.
template <class Call>
std::optional<Times> measure(const Case& c, double budget, bool with_stats, double (*clock)()) {
  Call call(c);
  if (!call.forward(false) || !call.backward(false)) return {};
  Times best;
  if (c.place.device.kind != Device::Kind::cpu) {
    for (int stats = 0; stats < (with_stats ? 2 : 1); ++stats) {
      best.forward[stats] = bench::call_ms(
          c.place.device, [&] { call.forward(stats != 0); }, budget);
      best.backward[stats] = bench::call_ms(
          c.place.device, [&] { call.backward(stats != 0); }, budget);
    }
    if (!with_stats) best.forward[1] = best.forward[0], best.backward[1] = best.backward[0];
    return best;
  }
  const double start = bench::seconds();
  for (int i = 0; i < 4 || (bench::seconds() - start < budget && i < 400); ++i) {
    for (int j = 0; j < (with_stats ? 2 : 1); ++j) {
      const bool stats = with_stats && (i + j) % 2;  // in turn, so that a drift of the machine falls on both alike
      const double a = clock();
      call.forward(stats);
      const double b = clock();
      call.backward(stats);
      best.forward[stats] = std::min(best.forward[stats], 1e3 * (b - a));
      best.backward[stats] = std::min(best.backward[stats], 1e3 * (clock() - b));
    }
  }
  if (!with_stats) best.forward[1] = best.forward[0], best.backward[1] = best.backward[0];
  return best;
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> all;
  std::istringstream in(text);
  for (std::string s; std::getline(in, s, at);)
    if (!s.empty()) all.push_back(s);
  return all;
}

void print(const Case& c, const Times& t, double peak, int threads, bool json) {
  const double area = static_cast<double>(c.batch * c.heads * c.d) * static_cast<double>(c.n) *
                      static_cast<double>(c.n) * (c.causal ? 0.5 : 1);
  const double forward = 4e-6 * area / t.forward[0], backward = 10e-6 * area / t.backward[0];
  const double watch_forward = 100 * (t.forward[1] / t.forward[0] - 1),
               watch_backward = 100 * (t.backward[1] / t.backward[0] - 1);
  if (json) {
    fmt::print(
        "{{\"scoring\": \"{}\", \"case\": \"{}\", \"form\": \"{}\", \"batch\": {}, \"heads\": {}, \"n\": {}, \"d\": "
        "{}, "
        "\"dtype\": \"{}\", \"device\": \"{}\", \"threads\": {}, \"forward_ms\": {:.4f}, \"forward_gflops\": {:.1f}, "
        "\"forward_stats_percent\": {:.1f}, "
        "\"backward_ms\": {:.4f}, \"backward_gflops\": {:.1f}, \"backward_stats_percent\": {:.1f}, \"peak_gflops\": "
        "{:.1f}}}\n",
        c.text, c.name, nn::name(c.form), c.batch, c.heads, c.n, c.d, name(c.place.dtype), name(c.place.device),
        threads, t.forward[0], forward, watch_forward, t.backward[0], backward, watch_backward, peak);
    return;
  }
  fmt::print(
      "{:<12} {:<8} {:<9} {:>4} {:>3} {:>6} {:>4} | {:>9.3f} {:>7.1f} {:>5.1f} {:>+6.1f} | {:>9.3f} {:>7.1f} {:>5.1f} "
      "{:>+6.1f}\n",
      c.text, c.name, nn::name(c.form), c.batch, c.heads, c.n, c.d, t.forward[0], forward, 100 * forward / peak,
      watch_forward, t.backward[0], backward, 100 * backward / peak, watch_backward);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    register_backends();
    std::string n = "64,65,197,256,512,1024,2048,4096", d = "32,64,128", scorings = "softmax;x^3/sqrt(N)";
    std::string cases = "plain", form = "auto", device = "cpu", dtype = "f32";
    Index batch = 0, heads = 0, threads = 0;
    double seconds_each = 0.2;
    bool ops = false, json = false, processor_time = false, stats = true, help = false;
    train::Options o;
    o("n", n, "sequence lengths");
    o("d", d, "widths of a head");
    o("scoring", scorings, "attention functions, separated by ;");
    o("cases", cases, "of: plain, causal, dropout (0.2), causal+dropout");
    o("form", form, "auto, quadratic, linear; several separated by commas");
    o("batch", batch, "batch; 0: so that a call has about 0.3 GFLOP");
    o("heads", heads, "heads; 0: 4");
    o("device", device, "cpu, or cuda");
    o("dtype", dtype, "f32, or bf16: of q, k, v and the gradients");
    o("threads", threads, "threads; 0: all cores");
    o("stats", stats, "measure with the statistics in turn; --no-stats: only without");
    o("ops", ops,
      "attention() and grad() on dense [B, H, N, d], with their graph; else the backend's calls alone, on what a "
      "projection leaves");
    o("seconds", seconds_each, "time for each row");
    o("processor_time", processor_time,
      "measure processor time, not the wall clock: for a machine that others use; one thread");
    o("json", json, "one JSON object a row");
    o("help", help, "print this, and stop");
    o.read_flags({argv + 1, argv + argc});
    o.apply();
    if (help) {
      fmt::print("usage: norma_bench_attention [flags]\n{}", o.help());
      return 0;
    }
    const int t = threads ? static_cast<int>(threads) : cpu::threads();
    cpu::set_threads(t);
    if (processor_time && t != 1)
      throw Error("--processor-time counts the time of all threads: use it with --threads 1");
    double (*const clock)() = processor_time ? bench::processor_seconds : bench::seconds;
    if (dtype != "f32" && dtype != "bf16")
      throw Error(fmt::format("--dtype: \"{}\" is not possible; there are f32, bf16", dtype));
    const Place place{dtype == "bf16" ? DType::bf16 : DType::f32, parse_device(device)};
    const bool on_cpu = place.device.kind == Device::Kind::cpu;
    backend(place.device);  // throws where the device is not there
    const double peak = on_cpu ? bench::fma_peak(t, clock) : bench::product_peak(place.device, place.dtype);
    if (!json)
      fmt::print(
          "{}, {}, peak {:.1f} GF/s; ms and GF/s without statistics, stat%: what they add\n"
          "{:<12} {:<8} {:<9} {:>4} {:>3} {:>6} {:>4} | {:>9} {:>7} {:>5} {:>6} | {:>9} {:>7} {:>5} {:>6}\n",
          dtype,
          on_cpu ? fmt::format("{} thread{}, {} instructions", t, t == 1 ? "" : "s", cpu::name(cpu::isa()))
                 : name(place.device),
          peak, "scoring", "case", "form", "B", "H", "N", "d", "fwd ms", "GF/s", "%", "stat%", "bwd ms", "GF/s", "%",
          "stat%");
    for (const std::string& text : split(scorings, ';'))
      for (const std::string& kind : split(cases, ','))
        for (const std::string& width : split(d, ','))
          for (const std::string& length : split(n, ','))
            for (const std::string& f : split(form, ',')) {
              Case c{text,
                     kind,
                     nn::parse_scoring(text),
                     nn::parse_attention_form(f),
                     kind.find("causal") != std::string::npos,
                     kind.find("dropout") != std::string::npos ? 0.2 : 0,
                     batch,
                     heads ? heads : 4,
                     std::stoll(length),
                     std::stoll(width),
                     place};
              if (!c.batch) c.batch = std::clamp<Index>(300'000'000 / (14 * c.heads * c.n * c.n * c.d), 1, 64);
              if (const auto times = ops ? measure<OpCall>(c, seconds_each, stats, clock)
                                         : measure<Call>(c, seconds_each, stats, clock))
                print(c, *times, peak, t, json);
              std::fflush(stdout);
            }
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_attention: {}\n", e.what());
    return 2;
  }
}
