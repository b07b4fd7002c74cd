// The test program: registers the backends, then runs Catch2. Each test file's cases carry the tag of its name:
// tests/test_gemm.cpp has [gemm]. NORMA_CPU_AGAIN=ISA runs them on another instruction set than a plain run does; where there is
// no such one, the program says so and exits with 77.
#include <cstdio>
#include <cstdlib>

#include "backends/cpu/isa.h"
#include "backends/register_all.h"
#include "core/error.h"
#include "tests/catch/run_tests.h"
#include "tests/tested_device.h"

norma::Device norma::tested_device() { return {Device::Kind::cpu, 0}; }

int main(int argc, char** argv) {
  norma::register_backends();
  if (const char* again = std::getenv("NORMA_CPU_AGAIN")) {
    if (norma::cpu::name(norma::cpu::isa()) == again) {
      std::printf("%s is what a plain run tests\n", again);
      return 77;
    }
    try {
      norma::cpu::set_isa(again);
    } catch (const norma::Error& e) {
      std::printf("%s\n", e.what());
      return 77;
    }
  }
  return run_tests(argc, argv);
}
