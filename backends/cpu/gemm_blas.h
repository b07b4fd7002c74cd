// The serial library product behind GemmProvider::openblas, for gemm.cpp only, and what benchmarks tell of that library.
#pragma once

#include <string>

#include "backends/cpu/gemm.h"

namespace norma::cpu {

/// C[m, n] = A B (+ C when accumulate) by one serial library call; false when the library cannot take these strides or
/// sizes.
template <class T>
bool blas_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const T> a, Matrix<const T> b, T* c,
                  std::int64_t ldc, bool accumulate);

/// A library that is older than the processor takes kernels for one of long ago, unless the environment variable OPENBLAS_CORETYPE names a newer one.
struct BlasLibrary {
  std::string kernels;  // the processor they are for: "Haswell"
  bool one_at_a_time;   // its calls take turns, since it was built for one thread
};
BlasLibrary blas_library();

}  // namespace norma::cpu
