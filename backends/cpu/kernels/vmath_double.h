// The functions of vmath.h for registers of doubles: libm, lane by lane. Included by vmath.h.
#pragma once

#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {

/// f(lane) for every lane.
template <class V, class Function>
NORMA_INLINE V map_lanes(V x, Function f) {
  for (int i = 0; i < lanes<Scalar<V>>; ++i) x[i] = f(x[i]);
  return x;
}

NORMA_INLINE D abs(D x) { return (D)((L)x & 0x7fffffffffffffff); }
NORMA_INLINE D exp(D x) { return map_lanes(x, [](double v) { return __builtin_exp(v); }); }
NORMA_INLINE D exp_fast(D x) { return exp(x); }
NORMA_INLINE D log(D x) { return map_lanes(x, [](double v) { return __builtin_log(v); }); }
NORMA_INLINE D log_normal(D x) { return log(x); }
NORMA_INLINE D tanh(D x) { return map_lanes(x, [](double v) { return __builtin_tanh(v); }); }
NORMA_INLINE D erf(D x) { return map_lanes(x, [](double v) { return __builtin_erf(v); }); }
NORMA_INLINE D sin(D x) { return map_lanes(x, [](double v) { return __builtin_sin(v); }); }
NORMA_INLINE D cos(D x) { return map_lanes(x, [](double v) { return __builtin_cos(v); }); }
NORMA_INLINE D sqrt(D x) { return map_lanes(x, [](double v) { return __builtin_sqrt(v); }); }
NORMA_INLINE D sigmoid(D x) {
  return map_lanes(x, [](double v) {
    const double e = __builtin_exp(-__builtin_fabs(v));
    return v >= 0 ? 1 / (1 + e) : e / (1 + e);
  });
}
NORMA_INLINE D gelu(D x) {
  return map_lanes(x, [](double v) {
    return v == -__builtin_inf() ? -0.0 : 0.5 * v * __builtin_erfc(v * -0.70710678118654752440);
  });
}
NORMA_INLINE D gelu_grad(D x) {
  return map_lanes(x, [](double v) {
    const double bounded = v > 40 ? 40 : v < -40 ? -40 : v;  // inf * 0 would be NaN
    return 0.5 * __builtin_erfc(bounded * -0.70710678118654752440) +
           bounded * 0.39894228040143267794 * __builtin_exp(-0.5 * bounded * bounded);
  });
}

template <int n>
NORMA_INLINE void gelu(D (&x)[n]) {
  each<n>([&](int i) { x[i] = gelu(x[i]); });
}
template <int n>
NORMA_INLINE void gelu_grad(D (&x)[n]) {
  each<n>([&](int i) { x[i] = gelu_grad(x[i]); });
}
template <int n>
NORMA_INLINE void gelu_with_grad(D (&x)[n], D (&slope)[n]) {
  each<n>([&](int i) { slope[i] = gelu_grad(x[i]), x[i] = gelu(x[i]); });
}

}  // namespace norma::cpu::NORMA_ISA
