// Where test_ops.cpp, test_random_cases.cpp, test_golden.cpp and test_parameters.cpp run. They are compiled once for all test programs.
#pragma once

#include <cstdlib>
#include <filesystem>

#include "core/device.h"

namespace norma {

/// Each program's main.cpp says it: the CPU, or in tests/cuda the CUDA backend.
Device tested_device();

/// The folder of the sources; NORMA_SOURCE_DIR in the environment says where it is when the tests were built elsewhere.
inline std::filesystem::path source_folder() {
  const char* moved = std::getenv("NORMA_SOURCE_DIR");
  return moved ? moved : NORMA_SOURCE_DIR;
}

}  // namespace norma
