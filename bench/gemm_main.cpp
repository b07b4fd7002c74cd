// norma_bench_gemm [THREADS [FILTER]]: the table of bench/gemm.h.
#include <fmt/core.h>

#include <cstdlib>
#include <exception>

#include "backends/cpu/parallel.h"
#include "bench/gemm.h"

int main(int argc, char** argv) {
  try {
    norma::bench::bench_gemm(argc > 1 ? std::atoi(argv[1]) : norma::cpu::threads(), argc > 2 ? argv[2] : "");
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 1;
  }
}
