// The loops of a convolution with one kernel a channel: over a plane laid out so that every element of the kernel reads it at one offset.
#pragma once

#include <cstdint>
#include <type_traits>

#include "backends/cpu/isa.h"

namespace norma::cpu {

template <class T>
struct WindowTable {
  /// y[i] = sum over t < count of weight[t] x[i + offset[t]], then + bias, for i < n.
  void (*weigh)(std::int64_t n, const T* x, std::int64_t count, const std::int64_t* offset, const T* weight, T bias, T* y);
  /// sums[t] += sum over r < rows, i < n of g[r row + i] x[r row + i + offset[t]]; a register is readable beyond the last of each.
  void (*correlate)(std::int64_t rows, std::int64_t n, std::int64_t row, const T* g, const T* x, std::int64_t count, const std::int64_t* offset,
                    double* sums);
};

struct WindowKernels {
  WindowTable<float> f32;
  WindowTable<double> f64;
  template <class T>
  const WindowTable<T>& of() const {
    if constexpr (std::is_same_v<T, float>)
      return f32;
    else
      return f64;
  }
};
NORMA_DECLARE_KERNELS(WindowKernels, window_kernels)

}  // namespace norma::cpu
