// Convolution with one kernel a channel: sums in registers over all elements of the kernel, one load for each product. Of other convolutions what
// windows read, laid out as operands of a product.
#include "backends/cpu/window_kernels.h"

#include "backends/cpu/kernels/micro_tile.h"
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

/// f(where the tap reads, row c * taps + t) for each tap of each channel.
template <class T, class Body>
NORMA_INLINE void each_tap(const WindowLines<T>& lines, Body f) {
  Int row = 0;
  for (Int c = 0; c < lines.channels; ++c)
    for (Int t = 0; t < lines.taps; ++t, ++row) f(lines.data + c * lines.channel + lines.offset[t], row);
}

/// Of the outputs of a panel those of one row are neighbours in the lines. What is copied beyond them is written over by what follows.
template <class T>
void lay_panels(const WindowLines<T>& lines, T* panels) {
  constexpr Int width = tile_vectors * lanes<T>;
  const auto copy = [](const T* from, T* to) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int v = 0; v < tile_vectors; ++v) store(to + v * lanes<T>, load(from + v * lanes<T>));
  };
  const Int outputs = lines.rows * lines.columns;
  for (Int first = 0; first < outputs; first += width) {
    Int from[width], to[width], runs = 0;
    for (Int i = first; i < least(outputs, first + width); i = (i / lines.columns + 1) * lines.columns, ++runs)
      from[runs] = lines.row[i / lines.columns] + i % lines.columns, to[runs] = i - first;
    T* panel = panels + first * lines.channels * lines.taps;
    each_tap(lines, [&](const T* x, Int row) __attribute__((always_inline)) {
      T* out = panel + row * width;
      copy(x + from[0], out);
      for (Int r = 1; r < runs; ++r) copy(x + from[r], out + to[r]);
    });
  }
}

template <class T>
void lay_rows(const WindowLines<T>& lines, T* to, Int row_length) {
  each_tap(lines, [&](const T* x, Int row) __attribute__((always_inline)) {
    T* out = to + row * row_length;
    for (Int r = 0; r < lines.rows; ++r, out += lines.columns)
      for (Int q = 0; q < lines.columns; q += lanes<T>) store(out + q, load(x + lines.row[r] + q));
  });
}

template <class T>
void add_bias(Int m, Int n, const T* bias, Int step, T* x, Int row) {
  for (Int i = 0; i < m; ++i, x += row) {
    const Vec<T> b = splat(bias[i * step]);
    Int j = 0;
    for (; j + lanes<T> <= n; j += lanes<T>) store(x + j, load(x + j) + b);
    if (const int rest = static_cast<int>(n - j)) store_n(x + j, load_n(x + j, rest) + b, rest);
  }
}

template <class T>
bool all_finite(Int n, const T* x) {
  Vec<T> nothing = {};
  Int i = 0;
  for (; i + lanes<T> <= n; i += lanes<T>) nothing += load(x + i) * splat(T{0});
  if (i < n) nothing += load_n(x + i, static_cast<int>(n - i)) * splat(T{0});
  return sum_lanes(nothing) == 0;
}

template <class T>
constexpr WindowTable<T> make_table() {
  return {weigh<T>, correlate<T>, lay_panels<T>, lay_rows<T>, add_bias<T>, all_finite<T>};
}

}  // namespace

const WindowKernels window_kernels = {make_table<float>(), make_table<double>()};

}  // namespace norma::cpu::NORMA_ISA
