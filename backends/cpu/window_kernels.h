// The loops of convolutions: over planes laid out so that every element of the kernel, a tap, reads them at one offset from the output.
#pragma once

#include <cstdint>
#include <type_traits>

#include "backends/cpu/isa.h"

namespace norma::cpu {

/// What the windows of some outputs read: tap t of channel c at data[c * channel + offset[t]], for output (r, q) row[r] + q further on.
template <class T>
struct WindowLines {
  const T* data;
  std::int64_t channels, channel, taps;
  const std::int64_t* offset;
  std::int64_t rows, columns;  // of the outputs
  const std::int64_t* row;
};

template <class T>
struct WindowTable {
  /// y[i] = sum over t < count of weight[t] x[i + offset[t]], then + bias, for i < n.
  void (*weigh)(std::int64_t n, const T* x, std::int64_t count, const std::int64_t* offset, const T* weight, T bias, T* y);
  /// sums[t] += sum over r < rows, i < n of g[r row + i] x[r row + i + offset[t]]; a register is readable beyond the last of each.
  void (*correlate)(std::int64_t rows, std::int64_t n, std::int64_t row, const T* g, const T* x, std::int64_t count, const std::int64_t* offset,
                    double* sums);
  /// The columns of windows as the right operand of a product: row c * taps + t, a column an output, in panels as GemmTable::pack_b makes them. The
  /// width of a panel is readable beyond the lines, and is written beyond the panels.
  void (*lay_panels)(const WindowLines<T>& lines, T* panels);
  /// The same in rows that lie `row` apart; a register is readable and written beyond.
  void (*lay_rows)(const WindowLines<T>& lines, T* to, std::int64_t row);
  /// x[i * row + j] += bias[i * step], for i < m and j < n.
  void (*add_bias)(std::int64_t m, std::int64_t n, const T* bias, std::int64_t step, T* x, std::int64_t row);
  /// Whether none of n numbers is infinite or NaN. Where one is, its product with the zeros that pad an image is no longer nothing.
  bool (*all_finite)(std::int64_t n, const T* x);
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
