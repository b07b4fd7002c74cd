// Products with what follows them in one kernel: cuBLASLt, for Blas (blas_cuda.cpp).
#pragma once

#include "backends/cuda/runtime.h"

namespace norma::cuda {

class LtBlas {
 public:
  virtual ~LtBlas() = default;
  /// Blas::multiply_with.
  virtual bool multiply(const Gemm& gemm) = 0;
};

/// `workspace` is one that products of the same stream share. Null where there is no libcublasLt, or it lacks what is needed, or the environment
/// variable NORMA_CUDA_LT is "off"; where it is "forward", gradients of biases are left to others. "verbose" is "all", and tells on stderr the
/// library's version and, once for each kind of product, its algorithms. Throws at another word.
std::unique_ptr<LtBlas> make_lt_blas(Runtime& runtime, void* workspace, std::size_t workspace_bytes);

}  // namespace norma::cuda
