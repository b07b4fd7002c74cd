#include "bench/gemm.h"

#include <fmt/core.h>

#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"

namespace norma::bench {
namespace {

/// Operands of order one, and results of their own: read again as operands, they would grow until gelu makes denormals,
/// which some processors multiply a hundred times slower.
struct Data {
  Pooled<float> x, w, dy, bias, y, pre, dx, dw, db;
  explicit Data(const Layer& l) {
    x = filled<float>(l.rows * l.in);
    w = filled<float>(l.out * l.in);
    for (float& f : w) f /= std::sqrt(static_cast<float>(l.in));
    dy = y = pre = filled<float>(l.rows * l.out);
    dx = x, dw = w;
    db = bias = filled<float>(l.out);
  }
};

void run(Product product, const Layer& l, Data& d) {
  using cpu::Matrix;
  const Matrix<const float> x{d.x.data(), l.in, 1}, w{d.w.data(), l.in, 1}, dy{d.dy.data(), l.out, 1};
  const Matrix<const float> w_transposed{d.w.data(), 1, l.in}, dy_transposed{d.dy.data(), 1, l.out};
  cpu::Epilogue<float> e;
  e.bias = d.bias.data();
  e.ld = l.out;
  switch (product) {
    case Product::gelu:
      e.pre = d.pre.data();
      e.gelu = true;
      [[fallthrough]];
    case Product::forward: return cpu::gemm<float>(l.rows, l.out, l.in, x, w_transposed, d.y.data(), l.out, false, e);
    case Product::dx: return cpu::gemm<float>(l.rows, l.in, l.out, dy, w, d.dx.data(), l.in);
    case Product::dw:
      return cpu::gemm_with_row_sums<float>(l.out, l.in, l.rows, dy_transposed, x, false, d.dw.data(), l.in,
                                            d.db.data());
  }
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

void bench_gemm(int threads, std::span<const Layer> layers, std::string_view filter,
                const std::function<void(const GemmRate&)>& row) {
  const cpu::GemmProvider provider = cpu::gemm_provider();
  const int before = cpu::threads();
  double peak = 0, tiles = 0;  // measured when the first product is
  const std::string wanted = with_single_blanks(filter);
  cpu::set_threads(threads);
  for (const Layer& l : layers) {
    std::optional<Data> data;
    for (const Product product : products) {
      GemmRate r{name(product), l.rows, l.out, l.in, threads, 0, 0, 0, 0, 0};
      if (fmt::format("{} {} {} {}", r.product, r.rows, r.out, r.in).find(wanted) == std::string::npos) continue;
      if (!data) data.emplace(l);
      if (peak == 0) {
        peak = fma_peak(threads);
        if (cpu::isa() == cpu::Isa::amx) tiles = bf16_peak(threads);
      }
      r.peak = peak, r.bf16_peak = tiles;
      for (const auto& [p, rate] : {std::pair{cpu::GemmProvider::own, &r.own},
                                    {cpu::GemmProvider::fma, &r.fma},
                                    {cpu::GemmProvider::openblas, &r.openblas}}) {
        cpu::set_gemm_provider(p);
        *rate = l.gigaflops() / best_time([&] { run(product, l, *data); }, 0.2);
      }
      row(r);
    }
  }
  cpu::set_threads(before);
  cpu::set_gemm_provider(provider);
}

}  // namespace norma::bench
