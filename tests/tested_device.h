// The device that test_ops.cpp and test_golden.cpp put to the test: the CPU, or, where they are compiled a second time for
// tests/cuda, the CUDA backend.
#pragma once

#include "core/device.h"

namespace norma {

inline Device tested_device() {
#if defined(NORMA_TEST_CUDA)
  return {Device::Kind::cuda, 0};
#else
  return {Device::Kind::cpu, 0};
#endif
}

}  // namespace norma
