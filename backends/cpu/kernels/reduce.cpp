// Sums, maxima and minima of rows and columns. Sums of floats are kept in double: 1e7 terms lose nothing that a float could show. Loops
// that name no registers are the compiler's to vectorize.
#include <type_traits>

#include "backends/cpu/kernels/strips.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// As many doubles as one register of T has elements, in registers of doubles: a vector type wider than a register would live in memory.
template <class T>
constexpr int wide_parts = static_cast<int>(sizeof(double) / sizeof(T));
template <class T>
struct Wide {
  D part[wide_parts<T>] = {};
};
NORMA_INLINE Wide<double> widen(D v) { return {{v}}; }
NORMA_INLINE Wide<float> widen(F v) {
  const Doubles d = to_doubles(v);
  return {{d.low, d.high}};
}

template <class T, class Term>
NORMA_INLINE double sum_of(std::int64_t n, const T* x, Term term) {
  Wide<T> sum[chains];
  strips<T>(n, [&](auto strip, std::int64_t i, int chain) __attribute__((always_inline)) {
    const Wide<T> v = widen(strip.get(x + i));
    for (int p = 0; p < wide_parts<T>; ++p) sum[chain].part[p] += term(v.part[p]);
  });
  D total{};
  for (int p = 0; p < wide_parts<T>; ++p) {
    const D all = (sum[0].part[p] + sum[1].part[p]) + (sum[2].part[p] + sum[3].part[p]);
    total = p == 0 ? all : total + all;
  }
  return sum_lanes(total);
}
template <class T>
double sum(std::int64_t n, const T* x) {
  return sum_of(n, x, [](D v) __attribute__((always_inline)) { return v; });
}
template <class T>
double sum_of_squares(std::int64_t n, const T* x) {
  return sum_of(n, x, [](D v) __attribute__((always_inline)) { return v * v; });
}

/// Whether x, met after best, replaces it: the first NaN stays.
struct Larger {
  template <class V>
  NORMA_INLINE auto operator()(V x, V best) const { return (x > best) | (x != x); }
  /// The better of two; `best` where they are equal or no numbers.
  template <class V>
  static NORMA_INLINE V of(V x, V best) { return vmax(x, best); }
};
struct Smaller {
  template <class V>
  NORMA_INLINE auto operator()(V x, V best) const { return (x < best) | (x != x); }
  template <class V>
  static NORMA_INLINE V of(V x, V best) { return vmin(x, best); }
};

template <class Better, class T>
T extreme(std::int64_t n, const T* x) {
  using V = Vec<T>;
  V best[chains], sum[chains];  // of sums of v - v, which are NaN beside a NaN or an infinity, and 0 else
  for (int c = 0; c < chains; ++c) best[c] = splat(x[0]), sum[c] = V{};
  strips<T>(n, [&](auto strip, std::int64_t i, int chain) __attribute__((always_inline)) {
    const V v = strip.get(x + i, x[0]);
    best[chain] = Better::of(v, best[chain]), sum[chain] += v - v;
  });
  if (sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) != 0)
    for (std::int64_t i = 0; i < n; ++i)
      if (x[i] != x[i]) return x[i];
  T result[lanes<T>];
  store(result, Better::of(Better::of(best[3], best[2]), Better::of(best[1], best[0])));
  for (int w = lanes<T> / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) result[i] = Better{}(result[i + w], result[i]) ? result[i + w] : result[i];
  return result[0];
}

/// Columns are taken in strips of some registers, each summed over all rows before the next.
template <class T>
void add_rows(std::int64_t rows, std::int64_t n, const T* x, std::int64_t row, double* sums) {
  constexpr int width = lanes<T>;
  std::int64_t j = 0;
  const auto strip = [&](auto count) __attribute__((always_inline)) {
    constexpr int registers = decltype(count)::value, parts = wide_parts<T>;
    D sum[registers * parts];
#pragma GCC unroll 8
    for (int k = 0; k < registers * parts; ++k) sum[k] = load(sums + j + k * lanes<double>);
    for (std::int64_t i = 0; i < rows; ++i) {
      const T* p = x + i * row + j;
#pragma GCC unroll 4
      for (int c = 0; c < registers; ++c) {
        const Wide<T> v = widen(load(p + c * width));
        for (int k = 0; k < parts; ++k) sum[c * parts + k] += v.part[k];
      }
    }
#pragma GCC unroll 8
    for (int k = 0; k < registers * parts; ++k) store(sums + j + k * lanes<double>, sum[k]);
    j += registers * width;
  };
  while (j + 4 * width <= n) strip(std::integral_constant<int, 4>{});
  while (j + width <= n) strip(std::integral_constant<int, 1>{});
  for (; j < n; ++j)
    for (std::int64_t i = 0; i < rows; ++i) sums[j] += static_cast<double>(x[i * row + j]);
}

template <class Better, class T>
void extreme_rows(std::int64_t rows, std::int64_t n, const T* x, std::int64_t row, T* best) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const T* p = x + i * row;
    strips<T>(n, [&](auto strip, std::int64_t j, int) __attribute__((always_inline)) {
      const Vec<T> v = strip.get(p + j), b = strip.get(best + j);
      strip.put(best + j, (Better{}(v, b) & (b == b)) ? v : b);
    });
  }
}

template <class T>
std::int64_t sum_integers(std::int64_t n, const T* x) {
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<std::uint64_t>(x[i]);
  return static_cast<std::int64_t>(sum);
}

template <class T>
void add_integer_rows(std::int64_t rows, std::int64_t n, const T* __restrict x, std::int64_t row, std::int64_t* __restrict sums) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < n; ++j)
      sums[j] = static_cast<std::int64_t>(static_cast<std::uint64_t>(sums[j]) + static_cast<std::uint64_t>(x[i * row + j]));
}

template <class Better, class T>
T extreme_integer(std::int64_t n, const T* x) {
  T best = x[0];
  for (std::int64_t i = 1; i < n; ++i) best = Better{}(x[i], best) ? x[i] : best;
  return best;
}

template <class Better, class T>
void extreme_integer_rows(std::int64_t rows, std::int64_t n, const T* __restrict x, std::int64_t row, T* __restrict best) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < n; ++j) best[j] = Better{}(x[i * row + j], best[j]) ? x[i * row + j] : best[j];
}

template <class Better, class T>
void extreme_places(std::int64_t rows, std::int64_t n, const T* __restrict x, std::int64_t row, T* __restrict best,
                    RowPlace<T>* __restrict place) {
  for (std::int64_t j = 0; j < n; ++j) best[j] = x[j], place[j] = 0;
  for (std::int64_t i = 1; i < rows; ++i) {
    const auto here = static_cast<RowPlace<T>>(i);
    for (std::int64_t j = 0; j < n; ++j) {
      const T v = x[i * row + j], b = best[j];
      const bool better = Better{}(v, b) & (b == b);
      best[j] = better ? v : b;
      place[j] = better ? here : place[j];
    }
  }
}

template <class T>
void running_sums(std::int64_t rows, std::int64_t n, const T* __restrict x, std::int64_t row, Total<T>* __restrict sums, T* __restrict out,
                  std::int64_t out_row) {
  using Wrapping = std::conditional_t<std::is_integral_v<T>, std::uint64_t, double>;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      sums[j] = static_cast<Total<T>>(static_cast<Wrapping>(sums[j]) + static_cast<Wrapping>(x[i * row + j]));
      out[i * out_row + j] = static_cast<T>(sums[j]);
    }
}

template <class T>
constexpr ReduceTable<T> table = {sum<T>,      sum_of_squares<T>,        extreme<Larger, T>,      extreme<Smaller, T>,
                                  add_rows<T>, extreme_rows<Larger, T>, extreme_rows<Smaller, T>};
template <class T>
constexpr ReduceTable<T> integer_table = {
    sum_integers<T>,     nullptr,                         extreme_integer<Larger, T>,      extreme_integer<Smaller, T>,
    add_integer_rows<T>, extreme_integer_rows<Larger, T>, extreme_integer_rows<Smaller, T>};
template <class T>
constexpr ColumnTable<T> columns = {extreme_places<Larger, T>, extreme_places<Smaller, T>, running_sums<T>};

}  // namespace

const ReduceKernels reduce_kernels = {
    {table<float>, table<double>}, integer_table<std::uint8_t>, integer_table<std::int32_t>, integer_table<std::int64_t>};
const ColumnKernels column_kernels = {
    {columns<float>, columns<double>}, columns<std::uint8_t>, columns<std::int32_t>, columns<std::int64_t>};

}  // namespace norma::cpu::NORMA_ISA
