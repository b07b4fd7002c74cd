// Elementary functions of a vector register. For float: own polynomials (minimax fits, relative error below half an ulp of the
// result), branch-free, so that they run at the speed of the arithmetic units; for double: libm, lane by lane.
//
// Measured against long double over dense samples of the whole range and at the edges (tests/test_vmath.cpp), in ulp:
//   exp 1.1, exp_fast 1.1, log 0.9, tanh 1.4, erf 1.5, sin 1.6, cos 1.6, sigmoid 2.7, gelu 6; gelu_grad 2.5e-7 absolute.
// NaN gives NaN; infinities give the limit (gelu(-inf) = -0); results too small for a normal float are denormal, not zero,
// except in exp_fast.
#pragma once

#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {

/// f(0), f(1), ... f(n - 1), unrolled.
template <int n, class Function>
NORMA_INLINE void each(Function f) {
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) f(i);
}

/// c[0] + c[1] x + ... + c[n-1] x^(n-1), by Horner's rule: the arithmetic units are the limit here, not the latency.
template <int n>
NORMA_INLINE F poly(F x, const float (&c)[n]) {
  F p = splat(c[n - 1]);
#pragma GCC unroll 16
  for (int i = n - 2; i >= 0; --i) p = fma(p, x, splat(c[i]));
  return p;
}

NORMA_INLINE F abs(F x) { return (F)((I)x & 0x7fffffff); }
NORMA_INLINE F copysign(F magnitude, F sign) { return (F)(((I)magnitude & 0x7fffffff) | ((I)sign & (I)splat(-0.0f))); }

/// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
constexpr float round_magic = 12582912.0f;

/// ln 2 = high + low; high has 9 bits, so that n * high is exact also without a fused multiply-add.
constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, log2_e = 1.44269504f;

/// exp(r) for |r| <= ln 2 / 2.
NORMA_INLINE F exp_reduced(F r) {
  constexpr float c[] = {4.999999404e-01f, 1.666652113e-01f, 4.166836664e-02f, 8.368640207e-03f, 1.381518203e-03f};
  return fma(r * r, poly(r, c), r) + 1.0f;
}

NORMA_INLINE F exp(F x) {
  x = vmin(splat(89.0f), vmax(splat(-104.0f), x));  // in this order of arguments a NaN stays
  const F t = fma(x, splat(log2_e), splat(round_magic));
  const F n = t - round_magic;
  const F r = fma(n, splat(-ln2_low), fma(n, splat(-ln2_high), x));
  const I i = (I)t - (I)splat(round_magic);
  const I half = i >> 1;  // 2^n in two steps: n reaches from -150 to 128
  return exp_reduced(r) * (F)((half + 127) << 23) * (F)((i - half + 127) << 23);
}

/// exp for x <= 88, as softmax needs it: results below exp(-86.9) = 1.8e-38 are 0, so exp_fast(-inf) = 0.
NORMA_INLINE F exp_fast(F x) {
  const I zero = x < -86.9f;
  const F t = fma(x, splat(log2_e), splat(round_magic));
  const F n = t - round_magic;
  const F r = fma(n, splat(-ln2_low), fma(n, splat(-ln2_high), x));
  return (F)(((U)exp_reduced(r) + ((U)t << 23)) & ~(U)zero);
}

NORMA_INLINE F log(F x) {
  constexpr float c[] = {3.333331347e-01f,  -2.500000894e-01f, 2.000209093e-01f,  -1.666800082e-01f, 1.422004104e-01f,
                         -1.240580156e-01f, 1.188514456e-01f,  -1.167328432e-01f, 6.749992073e-02f};
  constexpr std::int32_t sqrt_half = 0x3f3504f3;
  const I tiny = x < 1.17549435e-38f;
  const F normal = tiny ? x * 8388608.0f : x;
  const I bits = (I)((U)normal - (std::uint32_t)sqrt_half);  // m in [sqrt(1/2), sqrt(2))
  const I exponent = (bits >> 23) - (tiny & 23);
  const F f = (F)((bits & 0x7fffff) + sqrt_half) - 1.0f;
  const F e = __builtin_convertvector(exponent, F);
  const F f2 = f * f;
  F y = fma(f * f2, poly(f, c), fma(e, splat(ln2_low), f2 * -0.5f));
  y = fma(e, splat(ln2_high), f + y);
  const F infinity = splat(__builtin_inff());
  y = x == 0.0f ? -infinity : y;
  y = x == infinity ? x : y;
  return x >= 0.0f ? y : splat(__builtin_nanf(""));
}

/// For 0 <= a <= 15: exp(-a^2/2) times 2^40 (it is tiny), and the ratio of Q(a) = 1 - Phi(a) to it. Q = ratio exponential.
template <int n>
struct NormalTail {
  F ratio[n], exponential[n];
};
constexpr int tail_shift = 40;
constexpr float tail_scale = 0x1p-40f;

/// The chain from a to its tail is about a hundred cycles long: n registers go through it step by step together, so that
/// the processor always finds work. The bits are the same for every n.
template <int n>
NORMA_INLINE NormalTail<n> normal_tail(const F (&a)[n]) {
  constexpr float e[] = {1.0f,             -0.5f,            1.249999851e-01f, -2.083304152e-02f,
                         2.604251495e-03f, -2.616890415e-04f, 2.162874807e-05f};
  // Q(a) exp(a^2/2) (a + k) is a polynomial of u = (a - k) / (a + k) (Shepherd and Laframboise, 1981).
  constexpr float k = 2.85f;
  constexpr float q[] = {7.232623100e-01f,  -4.889767468e-01f, 2.017691880e-01f, -2.836988494e-02f, -1.475169417e-02f,
                         4.899884574e-03f,  2.006583381e-03f,  -5.926557351e-04f, -3.258980578e-04f};
  F inverse[n], u[n], w[n], t[n];
  NormalTail<n> out;
  each<n>([&](int i) { inverse[i] = 1.0f / (a[i] + k); });
  each<n>([&](int i) {
    // exp(-a^2/2) = 2^m exp(-w/2), w = a^2 + m 2 ln 2. a^2 must not be rounded by itself: the error would show in the exponential.
    const F square = a[i] * a[i];
    t[i] = fma(square, splat(-0.5f * log2_e), splat(round_magic + tail_shift));
    const F m = t[i] - (round_magic + tail_shift);
#if defined(__FMA__) || defined(__aarch64__)
    w[i] = fma(m, splat(2 * ln2_low), fma(a[i], a[i], m * (2 * ln2_high)));  // the product with m is exact
#else
    const F head = (F)((I)a[i] & ~0xfff);
    w[i] = fma(m, splat(2 * ln2_low), fma(m, splat(2 * ln2_high), head * head)) + (a[i] - head) * (a[i] + head);
#endif
  });
  F x[n], y[n];
  each<n>([&](int i) { u[i] = fma(inverse[i], splat(-2 * k), splat(1.0f)); });
  each<n>([&](int i) { x[i] = splat(e[6]), y[i] = splat(q[8] * tail_scale); });
  each<6>([&](int step) {
    each<n>([&](int i) { x[i] = fma(x[i], w[i], splat(e[5 - step])); });
    each<n>([&](int i) { y[i] = fma(y[i], u[i], splat(q[7 - step] * tail_scale)); });
  });
  each<2>([&](int step) { each<n>([&](int i) { y[i] = fma(y[i], u[i], splat(q[1 - step] * tail_scale)); }); });
  each<n>([&](int i) { out.exponential[i] = (F)((U)x[i] + ((U)t[i] << 23)); });
  each<n>([&](int i) { out.ratio[i] = y[i] * inverse[i]; });
  return out;
}

/// x[i] = GELU(x[i]) = x Phi(x) = max(x, 0) - |x| Q(|x|)
template <int n>
NORMA_INLINE void gelu(F (&x)[n]) {
  F a[n];
  each<n>([&](int i) { a[i] = vmin(splat(15.0f), abs(x[i])); });
  const NormalTail<n> normal = normal_tail(a);
  each<n>([&](int i) { x[i] = fma(-(a[i] * normal.ratio[i]), normal.exponential[i], vmax(splat(0.0f), x[i])); });
}
NORMA_INLINE F gelu(F x) {
  F one[1] = {x};
  gelu(one);
  return one[0];
}

/// x[i] = GELU'(x[i]) = Phi(x) + x phi(x)
template <int n>
NORMA_INLINE void gelu_grad(F (&x)[n]) {
  F a[n];
  each<n>([&](int i) { a[i] = vmin(splat(15.0f), abs(x[i])); });
  const NormalTail<n> normal = normal_tail(a);
  each<n>([&](int i) {
    const F slope = fma(a[i], splat(-0.39894228f * tail_scale), normal.ratio[i]);  // at -a, over the exponential
    x[i] = fma(x[i] >= 0.0f ? -slope : slope, normal.exponential[i], x[i] >= 0.0f ? splat(1.0f) : F{});
  });
}
NORMA_INLINE F gelu_grad(F x) {
  F one[1] = {x};
  gelu_grad(one);
  return one[0];
}

NORMA_INLINE F erf(F x) {
  constexpr float c[] = {1.283791661e-01f,  -3.761262596e-01f, 1.128358543e-01f, -2.685381472e-02f,
                         5.188330077e-03f, -8.010199526e-04f, 7.853840361e-05f};
  const F a = abs(x);
  const F small = fma(x, poly(x * x, c), x);
  const F scaled[1] = {vmin(splat(6.0f), a * 1.41421356f)};
  const NormalTail<1> normal = normal_tail(scaled);
  const F large = fma(normal.ratio[0] * -2.0f, normal.exponential[0], splat(1.0f));
  return a >= 1.0f ? copysign(large, x) : small;
}

NORMA_INLINE F tanh(F x) {
  constexpr float c[] = {-3.333328366e-01f, 1.333146691e-01f, -5.374139175e-02f, 2.064376324e-02f, -5.709578283e-03f};
  const F a = abs(x);
  const F s = x * x;
  const F small = fma(x * s, poly(s, c), x);
  const F large = 1.0f - 2.0f / (exp_fast(vmin(splat(10.0f), a) * 2.0f) + 1.0f);
  return copysign(a >= 0.625f ? large : small, x);
}

NORMA_INLINE F sigmoid(F x) {
  const F e = exp(-abs(x));
  const F s = 1.0f / (e + 1.0f);
  return x >= 0.0f ? s : e * s;
}

/// sin(x + quarter pi / 2).
NORMA_INLINE F sin_shifted(F x, int quarter) {
  constexpr float s[] = {-1.666665524e-01f, 8.332180791e-03f, -1.951752638e-04f};
  constexpr float c[] = {4.166664556e-02f, -1.388736884e-03f, 2.443851736e-05f};
  typedef double Wide __attribute__((vector_size(2 * register_bytes)));
  // The reduction by multiples of pi/2 happens in double, where the three parts of pi/2 multiply exactly.
  const F inside = abs(x) < 1e8f ? x : splat(0.0f);
  const Wide wide = __builtin_convertvector(inside, Wide);
  const Wide n = (wide * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0;
  const Wide reduced = ((wide - n * 0x1.921fb5p+0) - n * 0x1.110b46p-26) - n * 0x1.1a62633145c07p-54;
  const F r = __builtin_convertvector(reduced, F);
  const I q = __builtin_convertvector(n, I) + quarter;
  const F r2 = r * r;
  const F sine = fma(r * r2, poly(r2, s), r);
  const F cosine = fma(r2 * r2, poly(r2, c), fma(r2, splat(-0.5f), splat(1.0f)));
  F y = (q & 1) != 0 ? cosine : sine;
  y = (F)((U)y ^ ((U)(q & 2) << 30));
  for (int i = 0; i < lanes<float>; ++i) {  // rare, and then libm
    if (!(__builtin_fabsf(x[i]) < 1e8f)) y[i] = quarter ? __builtin_cosf(x[i]) : __builtin_sinf(x[i]);
  }
  return y;
}
NORMA_INLINE F sin(F x) { return sin_shifted(x, 0); }
NORMA_INLINE F cos(F x) { return sin_shifted(x, 1); }

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

}  // namespace norma::cpu::NORMA_ISA
