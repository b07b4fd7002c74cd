// tanh and erf; part of vmath.h. The same code for floats and doubles, in their own precision.
#pragma once

#include "backends/cpu/kernels/vmath_double.h"

namespace norma::cpu::NORMA_ISA {

/// 1 / x, near enough for a quotient that is corrected by what is left.
NORMA_INLINE F near_inverse(F x) {
#if defined(__AVX512F__)
  return (F)_mm512_rcp14_ps((__m512)x);
#else
  return 1.0f / x;
#endif
}
NORMA_INLINE D near_inverse(D x) {
#if defined(__AVX512F__)
  const D y = (D)_mm512_rcp14_pd((__m512d)x);
  return fma(fma(-x, y, splat(1.0)), y, y);
#else
  return 1.0 / x;
#endif
}

/// tanh a = (exp(2a) - 1) / (exp(2a) + 1), both divided by a power of 2, as sums of two numbers; the quotient is corrected by what is left.
template <class V>
NORMA_INLINE V tanh_of(V x, Scalar<V> end) {
  using T = Scalar<V>;
  const V a = vmin(splat(end), abs(x));
  const Power<V> p(a + a);
  const V q = p.r + p.tail, q_low = p.tail - (q - p.r);
  const V power = p.template scale<-1>(), below = T{1} - power, above = power + T{1};
  const V top = below + q, top_low = (q - (top - below)) + (((T{1} - below) - power) + q_low);
  const V bottom = above + q, bottom_low = (q - (bottom - above)) + ((power - (above - T{1})) + q_low);
  const V inverse = near_inverse(bottom), y = top * inverse;
  return with_sign(fma(rest_of_product(top, y, bottom) + fma(-y, bottom_low, top_low), inverse, y), x);
}
NORMA_INLINE F tanh(F x) { return tanh_of(x, 10.0f); }
NORMA_INLINE D tanh(D x) { return tanh_of(x, 20.0); }

/// Up to 3/4 x + x p(x^2); from there to `end`, where erf rounds to 1, 1 - exp(c + t q(t)), with t = |x| - 3/4 and c = ln erfc 3/4.
template <class V, int small_terms, int large_terms>
NORMA_INLINE V erf_of(V x, const Scalar<V> (&small)[small_terms], const Scalar<V> (&large)[large_terms], Scalar<V> c, Scalar<V> c_low, Scalar<V> end) {
  using T = Scalar<V>;
  const V a = vmin(splat(end), abs(x)), t = a - T(0.75), q = long_poly(t, large);
  const V y = fma(t, q, splat(c));
  const Power<V> p(y, fma(t, q, c - y) + c_low);
  const V power = p.scale();
  const V far = (T{1} - power) - power * (p.r + p.tail);
  return a >= T(0.75) ? with_sign(far, x) : fma(x, long_poly(x * x, small), x);
}
NORMA_INLINE F erf(F x) {
  constexpr float small[] = {0.128379166f, -0.3761262f, 0.11283379f, -0.0268343352f, 0.00511316909f, -0.000673781557f};
  constexpr float large[] = {-2.22587323f, -0.807859361f, -0.0528606363f, 0.0126351258f, -0.00225250749f, 0.000214498548f};
  return erf_of(x, small, large, -0x1.3deb04p+0f, 0x1.72d278p-25f, 4.0f);
}
NORMA_INLINE D erf(D x) {
  constexpr double small[] = {0.1283791670955126, -0.37612638903183715, 0.11283791670952481, -0.026866170644402457, 0.005223977615122085,
                              -0.0008548326169080754, 0.00012055288776903577, -1.4924176631660363e-05, 1.6430388166385554e-06,
                              -1.5937599869224806e-07, 1.1463758150163372e-08};
  constexpr double large[] = {-2.2258736679806814, -0.8078515419197285, -0.05289998956888404, 0.012705625116259367, -0.0022704462144928074,
                              0.00012961453168584762, 0.00010590097983726292, -5.431398059129713e-05, 1.4351361488488222e-05,
                              -1.4328316998888956e-06, -7.077567087502501e-07, 4.739138465909083e-07, -1.6343637888563124e-07,
                              3.893195438927802e-08, -6.619117213404387e-09, 7.726290615135999e-10, -5.561318141393094e-11,
                              1.8598827337509952e-12};
  return erf_of(x, small, large, -0x1.3deb034696c3ep+0, -0x1.2c7da3a05acccp-54, 6.0);
}

}  // namespace norma::cpu::NORMA_ISA
