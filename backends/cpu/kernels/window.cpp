// Convolution with one kernel a channel: sums in registers over all elements of the kernel, one load for each product.
#include "backends/cpu/window_kernels.h"
#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {
namespace {

using Int = std::int64_t;

/// `registers` registers of outputs.
template <int registers, class T>
NORMA_INLINE void weigh_block(const T* x, Int count, const Int* offset, const T* weight, T bias, T* y) {
  Vec<T> sum[registers] = {};
  for (Int t = 0; t < count; ++t) {
    const Vec<T> w = splat(weight[t]);
    const T* from = x + offset[t];
#pragma GCC unroll 8
    for (int u = 0; u < registers; ++u) sum[u] = fma(load(from + u * lanes<T>), w, sum[u]);
  }
#pragma GCC unroll 8
  for (int u = 0; u < registers; ++u) store(y + u * lanes<T>, sum[u] + splat(bias));
}

template <class T>
void weigh(Int n, const T* x, Int count, const Int* offset, const T* weight, T bias, T* y) {
  constexpr int registers = 8;
  Int i = 0;
  for (; i + registers * lanes<T> <= n; i += registers * lanes<T>) weigh_block<registers>(x + i, count, offset, weight, bias, y + i);
  for (; i + 2 * lanes<T> <= n; i += 2 * lanes<T>) weigh_block<2>(x + i, count, offset, weight, bias, y + i);
  for (; i + lanes<T> <= n; i += lanes<T>) weigh_block<1>(x + i, count, offset, weight, bias, y + i);
  if (i == n) return;
  const int rest = static_cast<int>(n - i);
  Vec<T> sum = {};
  for (Int t = 0; t < count; ++t) sum = fma(load_n(x + i + offset[t], rest), splat(weight[t]), sum);
  store_n(y + i, sum + splat(bias), rest);
}

/// What lies beyond the end of a row is no part of the sum, whatever it is.
template <class T>
NORMA_INLINE Vec<T> first(Vec<T> v, Vec<T> positions, T count) {
  return positions < splat(count) ? v : Vec<T>{};
}

template <int taps, class T>
NORMA_INLINE void correlate_taps(Int rows, Int n, Int row, const T* g, const T* x, const Int* offset, double* sums) {
  Vec<T> positions;
  for (int i = 0; i < lanes<T>; ++i) positions[i] = static_cast<T>(i);
  Vec<T> sum[taps] = {};
  const Int whole = n / lanes<T> * lanes<T>;
  const T rest = static_cast<T>(n - whole);
  for (Int r = 0; r < rows; ++r, g += row, x += row) {
    for (Int i = 0; i < whole; i += lanes<T>) {
      const Vec<T> gradient = load(g + i);
#pragma GCC unroll 8
      for (int t = 0; t < taps; ++t) sum[t] = fma(load(x + offset[t] + i), gradient, sum[t]);
    }
    if (whole == n) continue;
    const Vec<T> gradient = first(load(g + whole), positions, rest);
#pragma GCC unroll 8
    for (int t = 0; t < taps; ++t) sum[t] = fma(first(load(x + offset[t] + whole), positions, rest), gradient, sum[t]);
  }
  for (int t = 0; t < taps; ++t) sums[t] += sum_lanes(sum[t]);
}

template <class T>
void correlate(Int rows, Int n, Int row, const T* g, const T* x, Int count, const Int* offset, double* sums) {
  Int t = 0;
  for (; t + 8 <= count; t += 8) correlate_taps<8>(rows, n, row, g, x, offset + t, sums + t);
  for (; t + 3 <= count; t += 3) correlate_taps<3>(rows, n, row, g, x, offset + t, sums + t);
  for (; t < count; ++t) correlate_taps<1>(rows, n, row, g, x, offset + t, sums + t);
}

}  // namespace

const WindowKernels window_kernels = {{weigh<float>, correlate<float>}, {weigh<double>, correlate<double>}};

}  // namespace norma::cpu::NORMA_ISA
