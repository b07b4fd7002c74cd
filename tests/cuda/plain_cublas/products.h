// What both libraries multiply: matrices by columns, as cuBLAS's headers describe them.
#pragma once

#include <cublas_api.h>
#include <library_types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "core/element.h"

namespace norma::cuda::emulator {
void enqueue(void* stream, std::function<void()> work);  // of the program that opens the library
}

namespace norma::plain_cublas {

/// Row r and column c lie at data[r + c ld].
struct Columns {
  const void* data = nullptr;
  cudaDataType type = CUDA_R_32F;
  std::int64_t ld = 0;

  double at(std::int64_t row, std::int64_t column) const {
    const std::int64_t i = row + column * ld;
    if (type == CUDA_R_64F) return static_cast<const double*>(data)[i];
    if (type == CUDA_R_16BF) return static_cast<float>(static_cast<const bf16*>(data)[i]);
    return static_cast<const float*>(data)[i];
  }
  void set(std::int64_t row, std::int64_t column, double x) const {
    const std::int64_t i = row + column * ld;
    void* to = const_cast<void*>(data);
    if (type == CUDA_R_64F)
      static_cast<double*>(to)[i] = x;
    else if (type == CUDA_R_16BF)
      static_cast<bf16*>(to)[i] = bf16(static_cast<float>(x));
    else
      static_cast<float*>(to)[i] = static_cast<float>(x);
  }
  Columns moved(std::int64_t elements) const {
    const std::int64_t bytes = type == CUDA_R_64F ? 8 : type == CUDA_R_16BF ? 2 : 4;
    return {static_cast<const char*>(data) + elements * bytes, type, ld};
  }
};

/// op(X)(row, column).
inline double element(const Columns& x, bool transposed, std::int64_t row, std::int64_t column) {
  return transposed ? x.at(column, row) : x.at(row, column);
}

/// D(i, j) = alpha sum over k of op(A)(i, k) op(B)(k, j) + extra(i, j), summed in the type of the sum.
template <class Sum, class Extra>
void multiply(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, const Columns& a, bool ta, const Columns& b, bool tb, const Columns& d, Extra extra) {
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < m; ++i) {
      Sum sum = 0;
      for (std::int64_t l = 0; l < k; ++l) sum += static_cast<Sum>(element(a, ta, i, l)) * static_cast<Sum>(element(b, tb, l, j));
      d.set(i, j, static_cast<double>(static_cast<Sum>(alpha) * sum + static_cast<Sum>(extra(i, j))));
    }
}

/// A handle, with its workspace, is one thread's at a time: false where another one is within a call. It lets others run, so that they come.
class Alone {
 public:
  Alone() { std::this_thread::yield(); }
  ~Alone() { --inside_; }
  Alone(const Alone&) = delete;
  explicit operator bool() const { return alone_; }

 private:
  static inline std::atomic<int> inside_{0};
  bool alone_ = inside_++ == 0;
};

inline const char* name_of(cublasStatus_t status) {
  return status == CUBLAS_STATUS_INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE" : status == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS";
}

inline bool aligned(const void* p, std::uintptr_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

}  // namespace norma::plain_cublas
