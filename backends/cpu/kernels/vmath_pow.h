// Powers; part of vmath.h.
#pragma once

#include "backends/cpu/kernels/vmath_double.h"

namespace norma::cpu::NORMA_ISA {

/// |a|^b of floats in double, of finite a > 0; to 2e-9, so that rounding it is nearly all the error.
NORMA_INLINE D power_of_floats(D a, D b) {
  // 2 artanh s / (s ln 2), of s^2, to 4e-12, and 2^r, |r| <= 1/2, to 1.9e-9.
  constexpr double l[] = {2.8853900817902067, 0.9617966731982605, 0.5770836117304032, 0.41167113153266516, 0.3407593464863696};
  constexpr double p[] = {1.0000000005553897, 0.6931472057618602, 0.2402264688471132, 0.055503287235911275, 0.009618489456617512,
                          0.001339995336599467, 0.00015345722331169264};
  D e;
  const D f = split(a, e), s = f / (f + 2.0);
  const D y = vmin(splat(200.0), vmax(splat(-200.0), fma(s, poly(s * s, l), e) * b));
  const D t = y + Numbers<D>::magic, r = y - (t - Numbers<D>::magic);
  return (D)((UL)poly(r, p) + ((UL)t << 52));
}
NORMA_INLINE F pow(F a, F b) {
  typedef float Half __attribute__((vector_size(register_bytes / 2)));
  const F size = abs(a), infinity = splat(__builtin_inff());
  Half base[2], exponent[2];
  std::memcpy(base, &size, sizeof base);
  std::memcpy(exponent, &b, sizeof exponent);
  for (int i = 0; i < 2; ++i) {
    base[i] = __builtin_convertvector(power_of_floats(__builtin_convertvector(base[i], D), __builtin_convertvector(exponent[i], D)), Half);
  }
  F y;
  std::memcpy(&y, base, sizeof y);
  const F b_size = abs(b), unit = b_size < 0x1p23f ? b_size + 0x1p23f : b_size;  // where b is integral, its last bit stands last here
  const I whole = (unit - 0x1p23f == b_size) | (b_size >= 0x1p23f);
  const I odd = whole & (b_size < 0x1p24f) & -((I)unit & 1);
  y = size == 0.0f ? (b < 0.0f ? infinity : F{}) : y;
  y = size == infinity ? (b < 0.0f ? F{} : infinity) : y;
  y = (F)((I)y ^ (odd & (I)a & (I)splat(-0.0f)));
  y = ((a < 0.0f) & ~whole & (size != infinity)) ? splat(__builtin_nanf("")) : y;
  y = ((a != a) | (b != b)) ? a + b : y;
  return ((b == 0.0f) | (a == 1.0f) | ((size == 1.0f) & (b_size == infinity))) ? splat(1.0f) : y;
}
/// libm, lane by lane.
NORMA_INLINE D pow(D a, D b) {
  for (int i = 0; i < lanes<double>; ++i) a[i] = __builtin_pow(a[i], b[i]);
  return a;
}

}  // namespace norma::cpu::NORMA_ISA
