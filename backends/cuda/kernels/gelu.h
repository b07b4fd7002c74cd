// GELU in the arithmetic of its elements. For .cu files; float's error is of float's size, and where a result is rounded to bf16 it is some
// 1e-5 of the result (3e-3 is what rounding costs) for a third of the instructions: at the sizes of an MLP these bound the kernel.
#pragma once

#include "backends/cuda/device.h"

namespace norma::cuda {

NORMA_DEVICE float normal_cdf(float x) { return 0.5f * std::erfc(-0.70710678f * x); }
NORMA_DEVICE double normal_cdf(double x) { return detail::normal_cdf(x); }

template <class C>
NORMA_DEVICE C gelu(C x) {
  return x == -INFINITY ? C(0) : x * normal_cdf(x);
}
/// The tanh form, as functors.h has it.
template <class C>
NORMA_DEVICE C gelu_tanh(C x) {
  const C u = x * std::fma(static_cast<C>(0.044715) * x, x, C(1));
  return x == -INFINITY ? C(0) : x * detail::sigmoid(static_cast<C>(1.5957691216057308) * u);
}
/// gelu'(x) = Phi(x) + x phi(x).
template <class C>
NORMA_DEVICE C gelu_slope(C x) {
  const C density = static_cast<C>(0.3989422804014327) * std::exp(C(-0.5) * x * x);
  return density == 0 ? normal_cdf(x) : std::fma(x, density, normal_cdf(x));
}

/// Phi(x) and e^(-x^2 / 2) for results that are rounded to bf16. Phi(-|x|) = e^(-x^2 / 2) P(t), t = 1 / (1 + 0.31 |x|): P is of degree 6, without
/// constant term, off by at most 5e-6 of its value, by the smallest such error over |x| <= 13.5, where the exponential ends.
struct QuickNormal {
  float cdf, bell;
  NORMA_DEVICE explicit QuickNormal(float x) {
    const float t = quick_reciprocal(std::fma(0.31f, std::fabs(x), 1.0f)), s = x * 0.8493218f;  // s^2 = x^2 / 2 log2 e
    float p = std::fma(-0.07392793f, t, 0.18044693f);
    p = std::fma(p, t, 0.015748373f);
    p = std::fma(p, t, 0.13342793f);
    p = std::fma(p, t, 0.12044172f);
    p = std::fma(p, t, 0.12386066f) * t;
    bell = quick_exp2(-s * s);
    cdf = x < 0 ? bell * p : std::fma(-bell, p, 1.0f);
  }
};
/// Of elements T in their arithmetic C.
template <class T, class C>
NORMA_DEVICE C gelu_of(C x) {
  if constexpr (std::is_same_v<T, bf16>)
    return x == -INFINITY ? 0 : x * QuickNormal(x).cdf;
  else
    return gelu(x);
}
template <class T, class C>
NORMA_DEVICE C gelu_slope_of(C x) {
  if constexpr (std::is_same_v<T, bf16>) {
    const QuickNormal n(x);
    return n.bell == 0 ? n.cdf : std::fma(x * 0.39894228f, n.bell, n.cdf);
  } else {
    return gelu_slope(x);
  }
}

}  // namespace norma::cuda
