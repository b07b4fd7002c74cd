// The test program: registers the backends, then runs Catch2. Each test file's cases carry the tag of its name:
// tests/test_gemm.cpp has [gemm].
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include "backends/register_all.h"

int main(int argc, char** argv) {
  norma::register_backends();
  return Catch::Session().run(argc, argv);
}
