// Loops over a row in registers, the last one partly filled.
#pragma once

#include "backends/cpu/kernels/bf16/registers.h"
#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {

/// How a strip is read and written: whole registers, or the first `count` elements with `rest` behind them. bf16 is widened and
/// rounded on the way.
struct Whole {
  NORMA_INLINE F get(const std::uint16_t* p, float /*rest*/ = 0) const { return load(p); }
  NORMA_INLINE void put(std::uint16_t* p, F v) const { store(p, v); }
  template <class T>
  NORMA_INLINE Vec<T> get(const T* p, T /*rest*/ = 0) const {
    return load(p);
  }
  template <class T>
  NORMA_INLINE void put(T* p, Vec<T> v) const {
    store(p, v);
  }
};
struct Part {
  int count;
  NORMA_INLINE F get(const std::uint16_t* p, float rest = 0) const {
    const F v = load_n(p, count);
    return load_n(reinterpret_cast<const float*>(&v), count, rest);
  }
  NORMA_INLINE void put(std::uint16_t* p, F v) const { store_n(p, v, count); }
  template <class T>
  NORMA_INLINE Vec<T> get(const T* p, T rest = 0) const {
    return load_n(p, count, rest);
  }
  template <class T>
  NORMA_INLINE void put(T* p, Vec<T> v) const {
    store_n(p, v, count);
  }
};

/// Independent accumulators of a row: the latency of an addition is four of them.
constexpr int chains = 4;

/// body(strip, i, chain) for the strips that start at element i of n; chain cycles through [0, chains).
template <class T, class Body>
NORMA_INLINE void strips(std::int64_t n, Body&& body) {
  constexpr int width = lanes<T>;
  std::int64_t i = 0;
  for (; i + chains * width <= n; i += chains * width) {
#pragma GCC unroll 4
    for (int chain = 0; chain < chains; ++chain) body(Whole{}, i + chain * width, chain);
  }
  for (; i + width <= n; i += width) body(Whole{}, i, 0);
  if (i < n) body(Part{static_cast<int>(n - i)}, i, 0);
}

/// Such a body, in braces.
#define NORMA_STRIP [&](auto strip, std::int64_t i, [[maybe_unused]] int chain) __attribute__((always_inline))

template <class T>
struct Sums {
  Vec<T> chain[chains] = {};
  NORMA_INLINE Vec<T> lanes() const { return (chain[0] + chain[1]) + (chain[2] + chain[3]); }
  NORMA_INLINE T total() const { return sum_lanes(lanes()); }
};

template <class T>
constexpr T minus_infinity = -static_cast<T>(__builtin_inf());

template <class T, class Stored>
NORMA_INLINE T row_max(std::int64_t n, const Stored* x) {
  Vec<T> best[chains];
  for (auto& b : best) b = splat(minus_infinity<T>);
  strips<T>(n, NORMA_STRIP { best[chain] = vmax(best[chain], strip.get(x + i, minus_infinity<T>)); });
  return max_lanes(vmax(vmax(best[0], best[1]), vmax(best[2], best[3])));
}

}  // namespace norma::cpu::NORMA_ISA
