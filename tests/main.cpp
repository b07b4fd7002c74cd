// The test program: registers the backends, then runs Catch2. Each test file's cases carry the tag of its name:
// tests/test_gemm.cpp has [gemm].
#include "backends/register_all.h"
#include "tests/catch/run_tests.h"
#include "tests/tested_device.h"

norma::Device norma::tested_device() { return {Device::Kind::cpu, 0}; }

int main(int argc, char** argv) {
  norma::register_backends();
  return run_tests(argc, argv);
}
