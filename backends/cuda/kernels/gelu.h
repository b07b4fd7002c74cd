// GELU in the arithmetic of its elements. For .cu files; float's error is of float's size.
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

}  // namespace norma::cuda
