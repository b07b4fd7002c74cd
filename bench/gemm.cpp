#include "bench/gemm.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "bench/peak.h"
#include "bench/pooled.h"

namespace norma::bench {
namespace {

using std::int64_t;

/// A layer y[rows, out] = x[rows, in] w[out, in]^T + bias: its forward product and the two of its backward pass.
struct Layer {
  int64_t rows, out, in;
};
constexpr Layer layers[] = {{4160, 576, 192},  {4160, 192, 192},  {4160, 768, 192}, {4160, 192, 768},
                            {8192, 384, 1536}, {8192, 1536, 384}, {4096, 768, 768}, {4096, 288, 96},
                            {4096, 96, 96},    {4096, 384, 96},   {4096, 96, 384},  {3136, 64, 64},
                            {3136, 192, 64},   {3136, 256, 64},   {3136, 64, 256}};
enum class Kind { forward, gelu, dx, dw };
constexpr const char* names[] = {"Y=XW'", "Y=gelu", "dX=dYW", "dW=dY'X"};

/// Operands of order one, and results of their own: read again as operands, they would grow until gelu makes denormals, which some
/// processors multiply a hundred times slower.
struct Data {
  Pooled<float> x, w, dy, bias, y, pre, dx, dw, db;
  explicit Data(const Layer& l) {
    const auto filled = [](int64_t count) {
      Pooled<float> v(static_cast<std::size_t>(count));
      std::uint32_t state = 1;
      for (float& f : v) f = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1;
      return v;
    };
    x = filled(l.rows * l.in);
    w = filled(l.out * l.in);
    for (float& f : w) f /= std::sqrt(static_cast<float>(l.in));
    dy = y = pre = filled(l.rows * l.out);
    dx = x, dw = w;
    db = bias = filled(l.out);
  }
};

void run(Kind kind, const Layer& l, Data& d) {
  using cpu::Matrix;
  const Matrix<const float> x{d.x.data(), l.in, 1}, w{d.w.data(), l.in, 1}, dy{d.dy.data(), l.out, 1};
  const Matrix<const float> w_transposed{d.w.data(), 1, l.in}, dy_transposed{d.dy.data(), 1, l.out};
  cpu::Epilogue<float> e;
  e.bias = d.bias.data();
  e.ld = l.out;
  switch (kind) {
    case Kind::gelu:
      e.pre = d.pre.data();
      e.gelu = true;
      [[fallthrough]];
    case Kind::forward:
      return cpu::gemm<float>(l.rows, l.out, l.in, x, w_transposed, d.y.data(), l.out, false, e);
    case Kind::dx:
      return cpu::gemm<float>(l.rows, l.in, l.out, dy, w, d.dx.data(), l.in);
    case Kind::dw:
      return cpu::gemm_with_row_sums<float>(l.out, l.in, l.rows, dy_transposed, x, false, d.dw.data(), l.in,
                                            d.db.data());
  }
}

/// Best time of several runs of `work`, over about a fifth of a second.
template <class Work>
double best_time(Work&& work) {
  work();
  double best = 1e30, total = 0;
  for (int i = 0; i < 4 || (total < 0.2 && i < 400); ++i) {
    const double start = seconds();
    work();
    const double time = seconds() - start;
    best = std::min(best, time);
    total += time;
  }
  return best;
}

/// Words with one blank between them, as a product's line has them; a blank at the ends stays one.
std::string with_single_blanks(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const char letter = c == ',' || c == '\t' ? ' ' : c;
    if (letter != ' ' || out.empty() || out.back() != ' ') out += letter;
  }
  return out;
}

}  // namespace

void bench_gemm(int threads, std::string_view filter, const std::function<void(const GemmRate&)>& row) {
  const cpu::GemmProvider provider = cpu::gemm_provider();
  const int before = cpu::threads();
  double peak = 0, tiles = 0;  // measured when the first product is
  const std::string wanted = with_single_blanks(filter);
  cpu::set_threads(threads);
  for (const Layer& l : layers) {
    std::optional<Data> data;
    for (Kind kind : {Kind::forward, Kind::gelu, Kind::dx, Kind::dw}) {
      GemmRate r{names[static_cast<int>(kind)], l.rows, l.out, l.in, threads, 0, 0, 0, 0, 0};
      if (fmt::format("{} {} {} {}", r.product, r.rows, r.out, r.in).find(wanted) == std::string::npos) continue;
      if (!data) data.emplace(l);
      if (peak == 0) {
        peak = fma_peak(threads);
        if (cpu::isa() == cpu::Isa::amx) tiles = bf16_peak(threads);
      }
      r.peak = peak, r.bf16_peak = tiles;
      const double flops = 2e-9 * static_cast<double>(l.rows * l.out * l.in);
      for (const auto& [p, rate] : {std::pair{cpu::GemmProvider::own, &r.own}, {cpu::GemmProvider::fma, &r.fma}, {cpu::GemmProvider::openblas, &r.openblas}}) {
        cpu::set_gemm_provider(p);
        *rate = flops / best_time([&] { run(kind, l, *data); });
      }
      row(r);
    }
  }
  cpu::set_threads(before);
  cpu::set_gemm_provider(provider);
}

}  // namespace norma::bench
