// norma_bench_gemm_bf16 [THREADS] [--json]: products of mixed precision at the shapes of a transformer's training step, in all forms of packed
// operands, beside the same products in f32 and as shares of the f32 peak. With AVX-512-BF16 the peak of pairs may be twice that, with
// AMX that of tiles sixteen times. --json: one object, with the form that is taken here only.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <string_view>

#include "backends/cpu/gemm_bf16.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "bench/peak.h"
#include "bench/pooled.h"
#include "core/dtype.h"

namespace {

using namespace norma::cpu;
using std::int64_t;

struct Layer {
  int64_t rows, out, in;
};
constexpr Layer layers[] = {{4160, 576, 192},  {4160, 192, 192},  {4160, 768, 192}, {4160, 192, 768},
                            {8192, 1536, 384}, {8192, 384, 1536}, {4096, 768, 768}};
enum Kind { forward, gelu, dx, dw };
constexpr const char* names[] = {"Y=XW'", "Y=gelu", "dX=dYW", "dW=dY'X"};

template <class T>
norma::bench::Pooled<T> filled(int64_t count) {
  norma::bench::Pooled<T> v(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (T& x : v) {
    const float f = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1;
    if constexpr (sizeof(T) == 2)
      x = norma::bf16(f).bits;
    else
      x = f;
  }
  return v;
}

template <class T>
struct Data {
  norma::bench::Pooled<T> x, y, pre;
  norma::bench::Pooled<float> w, bias;
  explicit Data(const Layer& l)
      : x(filled<T>(l.rows * l.in)), y(filled<T>(l.rows * l.out)), pre(y), w(filled<float>(l.out * l.in)), bias(filled<float>(l.out)) {
    for (float& f : w) f /= std::sqrt(static_cast<float>(l.in));
  }
};

void run(Kind kind, const Layer& l, Data<Bf16Bits>& d) {
  Bf16Epilogue e;
  e.ld = l.out, e.bias = d.bias.data();
  if (kind == gelu) e.pre = d.pre.data(), e.gelu = true;
  if (kind == dx) return gemm_bf16(l.rows, l.in, l.out, {d.y.data(), l.out, 1}, {d.w.data(), l.in, 1}, d.x.data(), l.in, {});
  if (kind == dw)
    return gemm_bf16_long(l.out, l.in, l.rows, {d.y.data(), 1, l.out}, {d.x.data(), l.in, 1}, false, d.w.data(), l.in, d.bias.data());
  gemm_bf16(l.rows, l.out, l.in, {d.x.data(), l.in, 1}, {d.w.data(), 1, l.in}, d.y.data(), l.out, e);
}

void run(Kind kind, const Layer& l, Data<float>& d) {
  Epilogue<float> e;
  e.ld = l.out, e.bias = d.bias.data();
  if (kind == gelu) e.pre = d.pre.data(), e.gelu = true;
  if (kind == dx) return gemm<float>(l.rows, l.in, l.out, {d.y.data(), l.out, 1}, {d.w.data(), l.in, 1}, d.x.data(), l.in);
  if (kind == dw)
    return gemm_with_row_sums<float>(l.out, l.in, l.rows, {d.y.data(), 1, l.out}, {d.x.data(), l.in, 1}, false, d.w.data(), l.in,
                                     d.bias.data());
  gemm<float>(l.rows, l.out, l.in, {d.x.data(), l.in, 1}, {d.w.data(), 1, l.in}, d.y.data(), l.out, false, e);
}

/// GFLOP/s of the best of several runs over about a tenth of a second.
template <class T>
double rate(Kind kind, const Layer& l) {
  Data<T> data(l);
  double best = 1e30, total = 0;
  for (int i = 0; i < 4 || (total < 0.1 && i < 200); ++i) {
    const double start = norma::bench::seconds();
    run(kind, l, data);
    const double time = norma::bench::seconds() - start;
    best = std::min(best, time), total += time;
  }
  return 2e-9 * static_cast<double>(l.rows * l.out * l.in) / best;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    bool json = false;
    for (int i = 1; i < argc; ++i) {
      if (const std::string_view flag = argv[i]; flag == "--json")
        json = true;
      else
        set_threads(std::atoi(argv[i]));
    }
    const double peak = norma::bench::fma_peak(threads());
    if (json) {
      fmt::print("{{\"form\": \"{}\", \"peak_gflops\": {:.1f}, \"rows\": [", name(bf16_form()), peak);
      const char* between = "";
      for (const Layer& l : layers)
        for (const Kind kind : {forward, gelu, dx, dw}) {
          fmt::print("{}{{\"product\": \"{}\", \"rows\": {}, \"out\": {}, \"in\": {}, \"gflops\": {:.1f}}}", between, names[kind], l.rows, l.out, l.in,
                     rate<Bf16Bits>(kind, l));
          between = ", ";
        }
      fmt::print("]}}\n");
      return 0;
    }
    fmt::print("{} threads, {}, f32 peak {:.0f} GFLOP/s; bf16 takes the {} form here\n{:<8} {:>16} {:>16} {:>16} {:>16} {:>16}\n", threads(),
               name(isa()), peak, name(bf16_form()), "", "rows, out, in", "f32", "bf16 widened", "bf16 pairs", "bf16 tiles");
    for (const Kind kind : {forward, gelu, dx, dw})
      for (const Layer& l : layers) {
        fmt::print("{:<8} {:>16}", names[kind], fmt::format("{},{},{}", l.rows, l.out, l.in));
        const auto show = [&](double r) { fmt::print(" {:>8.1f} {:>5.1f} %", r, 100 * r / peak); };
        show(rate<float>(kind, l));
        for (const Bf16Form form : {Bf16Form::widened, Bf16Form::pairs, Bf16Form::tiles}) {
          if (!has(form)) continue;
          const ForceBf16Form force(form);
          show(rate<Bf16Bits>(kind, l));
        }
        fmt::print("\n");
      }
  } catch (const std::exception& e) {
    fmt::print(stderr, "norma_bench_gemm_bf16: {}\n", e.what());
    return 1;
  }
}
