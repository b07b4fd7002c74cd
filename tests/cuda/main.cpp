// The tests of the CUDA backend. norma_cuda_tests runs its kernels on the host (backends/cuda/emulator), registered as Device cuda;
// norma_gpu_tests is the same with a device: where there is none it says so and exits with 77, where there is one that cannot be used with 1.
#include <cstdio>
#include <filesystem>

#include "backends/cpu/cpu_backend.h"
#include "backends/cuda/cuda_backend.h"
#include "backends/reference/reference.h"
#include "tests/catch/run_tests.h"
#include "tests/cuda/on_device.h"
#include "tests/tested_device.h"

norma::Device norma::tested_device() { return {Device::Kind::cuda, 0}; }

bool norma::on_device() {
#if defined(NORMA_TEST_DEVICE)
  return true;
#else
  return false;
#endif
}

int main(int argc, char** argv) {
  norma::register_reference();
  norma::register_cpu();
  norma::register_cuda();
#if defined(NORMA_TEST_DEVICE)
  try {
    norma::backend({norma::Device::Kind::cuda, 0});
  } catch (const norma::Error& e) {
    const bool driver = std::filesystem::exists("/dev/nvidiactl");
    std::printf("%s, nothing tested: %s\n", driver ? "a device that cannot be used" : "no device", e.what());
    return driver ? 1 : 77;
  }
#endif
  return run_tests(argc, argv) == 0 ? 0 : 1;  // not the number of failures, which may be 77
}
