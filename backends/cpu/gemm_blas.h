// The serial library product behind GemmProvider::openblas, for gemm.cpp only.
#pragma once

#include "backends/cpu/gemm.h"

namespace norma::cpu {

/// C[m, n] = A B (+ C when accumulate) by one serial library call; false when the library cannot take these strides or
/// sizes.
template <class T>
bool blas_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const T> a, Matrix<const T> b, T* c,
                  std::int64_t ldc, bool accumulate);

}  // namespace norma::cpu
