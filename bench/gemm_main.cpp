// norma_bench_gemm [--cpu base|avx2|avx512] [THREADS [FILTER]]: the table of bench/gemm.h.
#include <fmt/core.h>

#include <cstdlib>
#include <exception>
#include <string_view>

#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "bench/gemm.h"

int main(int argc, char** argv) {
  try {
    if (argc > 1 && std::string_view(argv[1]) == "--help") {
      fmt::print("usage: norma_bench_gemm [--cpu base|avx2|avx512] [THREADS [FILTER]]\n"
                 "  Products of a transformer's shapes, own kernels and OpenBLAS: GF/s and share of the measured peak.\n"
                 "  FILTER: only rows whose line has this in it\n");
      return 0;
    }
    if (argc > 2 && std::string_view(argv[1]) == "--cpu") {
      norma::cpu::set_isa(argv[2]);
      argc -= 2, argv += 2;
    }
    norma::bench::bench_gemm(argc > 1 ? std::atoi(argv[1]) : norma::cpu::threads(), argc > 2 ? argv[2] : "");
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
