// The tests of the CUDA backend without a device: its kernels run on the host (backends/cuda/emulator), registered as Device cuda.
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>

#include "backends/cpu/register.h"
#include "backends/cuda/register.h"
#include "backends/reference/reference.h"

int main(int argc, char** argv) {
  norma::register_reference();
  norma::register_cpu();
  norma::register_cuda();
  return Catch::Session().run(argc, argv);
}
