// norma bench: measurements of this machine.
#include <cstdlib>

#include "apps/model_flags.h"
#include "backends/cpu/gemm_blas.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "bench/gemm.h"

namespace norma::apps {
namespace {

constexpr const char* usage = R"(usage: norma bench gemm [flags]

Matrix products at the shapes of a transformer's training step, by the own kernels and by OpenBLAS, in GFLOP/s and as shares of the
peak of fused multiply-adds that the same process has measured before. Best of several runs each, in f32. With AMX the own kernels
cut each f32 into three bf16 and multiply six pairs of slices by tiles, with the error of f32 arithmetic: they may go beyond that peak, up to a
sixth of that of tiles, which a busy host slows down. FMA is what they reach without (norma train --gemm fma).
)";

struct Flags {
  std::string shapes, filter, cpu;
  Index threads = 0;

  template <class V>
  void fields(V& v) {
    v("threads", threads, "CPU threads; 0: all cores");
    v("shapes", shapes,
      "layers to measure, as in \"4160,576,192; 65,768,192\": rows, out, in; empty: those of transformers");
    v("filter", filter, "only products whose line contains this, as in \"dW=dY'X 4160\"");
    v("cpu", cpu,
      "instruction set: base, avx2, avx512, avx512bf16, amx; empty: what NORMA_CPU names, else the best there is");
  }
};

}  // namespace

int bench_verb(const Args& args) {
  Flags flags;
  train::Options options;
  flags.fields(options);
  const auto given = read_given(options, args, usage);
  if (!given) return ok;
  const auto& [words, json] = *given;
  if (words != Args{"gemm"})
    throw UsageError(words.empty()
                         ? "bench: name what is to be measured: gemm"
                         : fmt::format("bench: there is gemm, not \"{}\"", words[0] == "gemm" ? words[1] : words[0]));
  check_threads(flags.threads);
  std::vector<bench::Layer> layers(std::begin(bench::transformer_layers), std::end(bench::transformer_layers));
  as_usage("", [&] {
    if (!flags.cpu.empty()) cpu::set_isa(flags.cpu);
    if (!flags.shapes.empty()) layers = bench::read_layers(flags.shapes);
  });

  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  const int threads = flags.threads ? static_cast<int>(flags.threads) : cpu::threads();
  bool first = true;
  Index own_is_slower = 0, products = 0;
  bench::bench_gemm(threads, layers, flags.filter, [&, json = json](const bench::GemmRate& r) {
    if (json) {
      rows.push_back({{"product", r.product},
                      {"rows", r.rows},
                      {"out", r.out},
                      {"in", r.in},
                      {"own_gflops", r.own},
                      {"fma_gflops", r.fma},
                      {"openblas_gflops", r.openblas},
                      {"peak_gflops", r.peak},
                      {"bf16_peak_gflops", r.bf16_peak}});
      return;
    }
    if (std::exchange(first, false)) {
      fmt::print("{} instructions, {} thread{}, peak {:.0f} GFLOP/s", cpu::name(cpu::isa()), threads,
                 threads == 1 ? "" : "s", r.peak);
      if (r.bf16_peak > 0) fmt::print("; tiles of bf16 {:.0f}, a sixth of it {:.0f}", r.bf16_peak, r.bf16_peak / 6);
      const cpu::BlasLibrary blas = cpu::blas_library();
      fmt::print("\nOpenBLAS takes its kernels for {}{}{}\n", blas.kernels, blas.one_at_a_time ? ", on one thread" : "",
                 std::getenv("OPENBLAS_CORETYPE") ? "" : "; OPENBLAS_CORETYPE=SkylakeX, say, names others");
      fmt::print("{:<8} {:>5} {:>5} {:>5}  {:>6} {:>5}  {:>6} {:>5}  {:>8} {:>5}\n", "product", "rows", "out", "in",
                 "own", "%", "FMA", "%", "OpenBLAS", "%");
    }
    fmt::print("{:<8} {:>5} {:>5} {:>5}  {:>6.1f} {:>5.1f}  {:>6.1f} {:>5.1f}  {:>8.1f} {:>5.1f}\n", r.product, r.rows,
               r.out, r.in, r.own, 100 * r.own / r.peak, r.fma, 100 * r.fma / r.peak, r.openblas,
               100 * r.openblas / r.peak);
    std::fflush(stdout);
    ++products, own_is_slower += r.own < 0.95 * r.fma;
  });
  if (json ? rows.empty() : first)
    throw UsageError(fmt::format("--filter: no product's line contains \"{}\"", flags.filter));
  if (json) print_result({{"threads", threads}, {"rows", rows}}, true);
  if (!json && 2 * own_is_slower > products)
    fmt::print("Here and now multiply-adds are faster: norma train --gemm fma\n");
  return ok;
}

}  // namespace norma::apps
