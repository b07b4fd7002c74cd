// Kernels' names for people.
#pragma once

#include <string>

namespace norma::cuda {

/// "norm_part_kernel<bf16, float, 2>" of a function's symbol as the linker has it; the symbol itself where it is no such function's.
std::string kernel_name(const char* symbol);

}  // namespace norma::cuda
