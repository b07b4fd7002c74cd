// sin and cos; part of vmath.h. The same code for floats and doubles, in their own precision.
#pragma once

#include "backends/cpu/kernels/vmath_double.h"

namespace norma::cpu::NORMA_ISA {

/// Whether a comparison holds in some lane.
template <class Mask>
NORMA_INLINE bool any(Mask m) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask((__m512i)m, (__m512i)m) != 0;
#elif defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#else
  std::uint64_t half[2];
  std::memcpy(half, &m, sizeof half);
  return (half[0] | half[1]) != 0;
#endif
}

/// pi/2 in parts. For n up to `most`, n times each but the last is exact, and so is what x - n first leaves of x near n pi/2; that needs
/// two halves of the first part where there is no fused multiply-add.
/// sine: (sin r - r) / r^3, cosine: (cos r - 1 + r^2/2) / r^4, of r^2, |r| <= pi/4; to 4e-9 and 1e-10 of sin r and cos r, 1e-17 and 1e-18.
template <class V> struct Circle;
template <> struct Circle<F> {
  static constexpr float most = 6400.0f;
  static constexpr float first = 0x1.921fb4p+0f, first_high = 0x1.92p+0f, first_low = 0x1.fb4p-12f;
  static constexpr float second = 0x1.444p-24f, third = 0x1.68c234p-39f;
  static constexpr float sine[] = {-0.166666552f, 0.00833218824f, -0.000195180954f};
  static constexpr float cosine[] = {0.0416666456f, -0.00138873095f, 2.44323273e-05f};
};
template <> struct Circle<D> {
  static constexpr double most = 1.6e6;
  static constexpr double first = 0x1.921fb54442d18p+0, first_high = 0x1.921fb544p+0, first_low = 0x1.0b46p-34;
  static constexpr double second = 0x1.1a626331p-54, third = 0x1.1701b839a252p-88;
  static constexpr double sine[] = {-0.1666666666666663, 0.008333333333322064, -0.00019841269829543615, 2.755731360482583e-06,
                                    -2.5050745081729605e-08, 1.5896070009127804e-10};
  static constexpr double cosine[] = {0.041666666666666595, -0.0013888888888872973, 2.4801587288798446e-05, -2.755731416356256e-07,
                                      2.087569865803744e-09, -1.1358421183802818e-11};
};

/// sin(x + quarter pi / 2) where x is not too far from 0.
template <class V>
NORMA_INLINE V turned_near(V x, int quarter) {
  using C = Circle<V>;
  using T = Scalar<V>;
  const V t = fma(x, splat(static_cast<T>(0.63661977236758134)), splat(Numbers<V>::magic));
  const V n = t - Numbers<V>::magic;
  // x - n pi/2 = r + r_low.
#if defined(__FMA__) || defined(__aarch64__)
  const V a = fma(n, splat(-C::first), x);
#else
  const V a = (x - n * C::first_high) - n * C::first_low;
#endif
  const V b = fma(n, splat(-C::second), a), b_low = fma(n, splat(-C::second), a - b);
  const V r = fma(n, splat(-C::third), b), r_low = fma(n, splat(-C::third), b - r) + b_low;
  const V square = r * r;
  const V sine = r + fma(r * square, poly(square, C::sine), r_low);
  const V half = square * T(0.5), most = T{1} - half;
  const V cosine = most + (((T{1} - most) - half) + fma(square * square, poly(square, C::cosine), -(r * r_low)));
  const Bits<V> q = (Bits<V>)t + quarter;
  const V y = (q & 1) != 0 ? cosine : sine;
  return (V)((Bits<V>)y ^ ((q & 2) << (8 * sizeof(T) - 2)));
}

/// y, and what libm says where x is far.
[[gnu::noinline]] inline D turned_far(D x, D y, int quarter) {
  for (int i = 0; i < lanes<double>; ++i) {
    if (!(__builtin_fabs(x[i]) <= Circle<D>::most)) y[i] = quarter ? __builtin_cos(x[i]) : __builtin_sin(x[i]);
  }
  return y;
}
NORMA_INLINE D turned(D x, int quarter) {
  const D y = turned_near(x, quarter);
  return any(!(abs(x) <= Circle<D>::most)) ? turned_far(x, y, quarter) : y;
}
/// Floats that are far go by doubles.
[[gnu::noinline]] inline F turned_far(F x, F y, int quarter) {
  typedef float Half __attribute__((vector_size(register_bytes / 2)));
  Half half[2];
  std::memcpy(half, &x, sizeof x);
  for (Half& h : half) h = __builtin_convertvector(turned(__builtin_convertvector(h, D), quarter), Half);
  F exact;
  std::memcpy(&exact, half, sizeof exact);
  return abs(x) <= Circle<F>::most ? y : exact;
}
NORMA_INLINE F turned(F x, int quarter) {
  const F y = turned_near(x, quarter);
  return any(!(abs(x) <= Circle<F>::most)) ? turned_far(x, y, quarter) : y;
}

template <class V>
NORMA_INLINE V sin_of(V x) {
  return x == Scalar<V>{0} ? x : turned(x, 0);  // -0 too
}
NORMA_INLINE F sin(F x) { return sin_of(x); }
NORMA_INLINE D sin(D x) { return sin_of(x); }
NORMA_INLINE F cos(F x) { return turned(x, 1); }
NORMA_INLINE D cos(D x) { return turned(x, 1); }

}  // namespace norma::cpu::NORMA_ISA
