// Where test_ops.cpp and test_golden.cpp run: on the CPU, or, compiled a second time for tests/cuda, on the CUDA backend.
#pragma once

#include <cstdlib>
#include <filesystem>

#include "core/device.h"

namespace norma {

inline Device tested_device() {
#if defined(NORMA_TEST_CUDA)
  return {Device::Kind::cuda, 0};
#else
  return {Device::Kind::cpu, 0};
#endif
}

/// The folder of the sources; NORMA_SOURCE_DIR in the environment says where it is when the tests were built elsewhere.
inline std::filesystem::path source_folder() {
  const char* moved = std::getenv("NORMA_SOURCE_DIR");
  return moved ? moved : NORMA_SOURCE_DIR;
}

}  // namespace norma
