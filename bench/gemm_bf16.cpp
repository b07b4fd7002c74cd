// Products of mixed precision at the shapes of a transformer's training step, in all forms of packed operands, beside
// the same products in f32, as shares of what registers alone multiply in f32 and in bf16. norma_bench_gemm_bf16 --help
// lists the flags.
#include "backends/cpu/gemm_bf16.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "bench/layers.h"
#include "train/options.h"

namespace {

using namespace norma::cpu;
using namespace norma::bench;
using std::int64_t;

template <class T>
struct Data {
  Pooled<T> x, y, pre;
  Pooled<float> w, bias;
  explicit Data(const Layer& l)
      : x(filled<T>(l.rows * l.in)),
        y(filled<T>(l.rows * l.out)),
        pre(y),
        w(filled<float>(l.out * l.in)),
        bias(filled<float>(l.out)) {
    for (float& f : w) f /= std::sqrt(static_cast<float>(l.in));
  }
};

void run(Product product, const Layer& l, Data<Bf16Bits>& d) {
  Bf16Epilogue e;
  e.ld = l.out, e.bias = d.bias.data();
  if (product == Product::gelu) e.pre = d.pre.data(), e.gelu = true;
  if (product == Product::dx)
    return gemm_bf16(l.rows, l.in, l.out, {d.y.data(), l.out, 1}, {d.w.data(), l.in, 1}, d.x.data(), l.in, {});
  if (product == Product::dw)
    return gemm_bf16_long(l.out, l.in, l.rows, {d.y.data(), 1, l.out}, {d.x.data(), l.in, 1}, false, d.w.data(), l.in,
                          d.bias.data());
  gemm_bf16(l.rows, l.out, l.in, {d.x.data(), l.in, 1}, {d.w.data(), 1, l.in}, d.y.data(), l.out, e);
}

void run(Product product, const Layer& l, Data<float>& d) {
  Epilogue<float> e;
  e.ld = l.out, e.bias = d.bias.data();
  if (product == Product::gelu) e.pre = d.pre.data(), e.gelu = true;
  if (product == Product::dx)
    return gemm<float>(l.rows, l.in, l.out, {d.y.data(), l.out, 1}, {d.w.data(), l.in, 1}, d.x.data(), l.in);
  if (product == Product::dw)
    return gemm_with_row_sums<float>(l.out, l.in, l.rows, {d.y.data(), 1, l.out}, {d.x.data(), l.in, 1}, false,
                                     d.w.data(), l.in, d.bias.data());
  gemm<float>(l.rows, l.out, l.in, {d.x.data(), l.in, 1}, {d.w.data(), 1, l.in}, d.y.data(), l.out, false, e);
}

/// GFLOP/s of the best of several runs.
template <class T>
double rate(Product product, const Layer& l) {
  Data<T> data(l);
  return l.gigaflops() / best_time([&] { run(product, l, data); }, 0.1);
}

/// The form that the peak of bf16 is of.
Bf16Form form_of_peak() { return has(Bf16Form::tiles) ? Bf16Form::tiles : Bf16Form::pairs; }

/// Peaks over some seconds, the kinds of products in turn: the tenth, the middle and the best run of each.
void print_peaks(double duration) {
  struct Measured {
    std::string of;
    Peak peak;
    int64_t rounds;
    std::vector<double> rates = {};
  };
  const std::string bf16 = fmt::format("bf16, {} of ", name(form_of_peak()));
  Measured kinds[] = {{"multiply-adds of f32", Peak::fma, 20'000},
                      {bf16 + "numbers", Peak::bf16, 10'000},
                      {bf16 + "zeros", Peak::bf16_zeros, 10'000},
                      {"f32 in slices, loaded", Peak::slices, 600}};
  for (const double start = seconds(); seconds() < start + duration;)
    for (Measured& k : kinds)
      if (const double rate = peak_of_one_run(k.peak, threads(), k.rounds); rate > 0) k.rates.push_back(rate);
  fmt::print("{} thread{}, {}; GFLOP/s at most, over {} seconds\n{:<24} {:>8} {:>8} {:>8}\n", threads(),
             threads() == 1 ? "" : "s", name(isa()), duration, "", "a tenth", "median", "best");
  for (Measured& k : kinds) {
    if (k.rates.empty()) continue;
    std::sort(k.rates.begin(), k.rates.end());
    const auto at = [&](double share) {
      return k.rates[static_cast<std::size_t>(share * static_cast<double>(k.rates.size() - 1))];
    };
    fmt::print("{:<24} {:>8.0f} {:>8.0f} {:>8.0f}\n", k.of, at(0.1), at(0.5), at(1));
  }
}

void print_json(std::span<const Layer> layers, double peak, double bf16_peak) {
  fmt::print("{{\"form\": \"{}\", \"peak_gflops\": {:.1f}, \"bf16_peak_gflops\": {:.1f}, \"rows\": [",
             name(bf16_form()), peak, bf16_peak);
  const char* between = "";
  for (const Layer& l : layers)
    for (const Product product : products) {
      fmt::print("{}{{\"product\": \"{}\", \"rows\": {}, \"out\": {}, \"in\": {}, \"gflops\": {:.1f}}}", between,
                 name(product), l.rows, l.out, l.in, rate<Bf16Bits>(product, l));
      between = ", ";
    }
  fmt::print("]}}\n");
}

void print_table(std::span<const Layer> layers, double peak, double bf16_peak) {
  fmt::print("{} thread{}, {}; registers alone: {:.0f} GFLOP/s in f32", threads(), threads() == 1 ? "" : "s",
             name(isa()), peak);
  if (bf16_peak > 0) fmt::print(", {:.0f} in bf16", bf16_peak);
  fmt::print(
      "; bf16 takes the {} form here\nShares of bf16's peak are of the form that reaches it, all others of "
      "f32's.\n{:<8} {:>16} {:>16} {:>16} {:>16} {:>16}\n",
      name(bf16_form()), "", "rows, out, in", "f32", "bf16 widened", "bf16 pairs", "bf16 tiles");
  for (const Product product : products)
    for (const Layer& l : layers) {
      fmt::print("{:<8} {:>16}", name(product), fmt::format("{},{},{}", l.rows, l.out, l.in));
      const auto show = [&](double r, double of) { fmt::print(" {:>8.1f} {:>5.1f} %", r, 100 * r / of); };
      show(rate<float>(product, l), peak);
      for (const Bf16Form form : {Bf16Form::widened, Bf16Form::pairs, Bf16Form::tiles}) {
        if (!has(form)) continue;
        const ForceBf16Form force(form);
        show(rate<Bf16Bits>(product, l), form == form_of_peak() && bf16_peak > 0 ? bf16_peak : peak);
      }
      fmt::print("\n");
    }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::int64_t count = threads();
    bool json = false, help = false;
    double peaks = 0;
    std::string shapes;
    norma::train::Options o;
    o("threads", count, "threads");
    o("json", json, "one JSON object, with the form that is taken here only");
    o("shapes", shapes,
      "layers to measure, as in \"4160,576,192; 65,768,192\": rows, out, in; empty: those of transformers");
    o("peaks", peaks,
      "peaks instead, for so many seconds: multiply-adds and products of bf16 in registers, and slices of f32 from the "
      "first-level cache");
    o("help", help, "print this, and stop");
    o.read_flags({argv + 1, argv + argc});
    o.apply();
    if (help) {
      fmt::print("usage: norma_bench_gemm_bf16 [flags]\n{}", o.help());
      return 0;
    }
    if (count < 1) norma::fail("--threads: {} is not possible; give 1 or more", count);
    if (peaks < 0) norma::fail("--peaks: {} is not possible; give seconds", peaks);
    set_threads(static_cast<int>(count));
    if (peaks > 0) {
      print_peaks(peaks);
      return 0;
    }
    std::vector<Layer> layers = read_layers(shapes);
    if (layers.empty())
      layers.assign(transformer_layers, transformer_layers + 7);  // the wide ones, which four forms go through
    const double f32 = fma_peak(threads()), bf16 = bf16_peak(threads());
    json ? print_json(layers, f32, bf16) : print_table(layers, f32, bf16);
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_gemm_bf16: {}\n", e.what());
    return 1;
  }
}
