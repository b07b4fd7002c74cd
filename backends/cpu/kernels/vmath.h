// Elementary functions of a vector register, float or double, by own polynomials: minimax fits whose error is far below half an ulp of the
// result (scripts/vmath_fits says how). Branch-free but for arguments far from 0, so that they run at the speed of the arithmetic units.
// The parts, included at the end: vmath_double.h (exp, log and what follows from them), vmath_bounded.h (tanh, erf), vmath_trig.h,
// vmath_pow.h, gelu.h.
//
// Bounds in ulp, held over dense samples of the whole range and at the edges (tests/test_vmath.cpp):
//   float   exp, log, tanh, erf, sin, cos, pow 1; exp_fast 1.1; gelu 4 over [-8, 8]; sigmoid 3; gelu_grad 2.5e-7 absolute
//   double  exp, log, log1p, tanh, erf, sin, cos 1; exp_fast 1.1; gelu 4 over [-8, 8]; sigmoid 3; gelu_grad 5e-16 absolute
// NaN gives NaN; infinities give the limit (gelu(-inf) = -0); results too small for a normal number are denormal, not zero,
// except in exp_fast. Functions that are odd keep the sign of 0.
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
template <class V, int n>
NORMA_INLINE V poly(V x, const Scalar<V> (&c)[n]) {
  V p = splat(c[n - 1]);
#pragma GCC unroll 16
  for (int i = n - 2; i >= 0; --i) p = fma(p, x, splat(c[i]));
  return p;
}

/// The same of many terms, of which a chain would be too long to find other work meanwhile: those from x^3 on are two sums, of even and odd
/// powers. The largest still come last and singly, as their roundings count.
template <class V, int n>
NORMA_INLINE V long_poly(V x, const Scalar<V> (&c)[n]) {
  const V square = x * x;
  V p = splat(c[n - 1]), q = splat(c[n - 2]);
#pragma GCC unroll 16
  for (int i = n - 3; i >= 3; i -= 2) {
    p = fma(p, square, splat(c[i]));
    if (i > 3) q = fma(q, square, splat(c[i - 1]));
  }
  p = n % 2 ? fma(p, x, q) : fma(q, x, p);
  for (int i = 2; i >= 0; --i) p = fma(p, x, splat(c[i]));
  return p;
}

NORMA_INLINE F abs(F x) { return (F)((I)x & 0x7fffffff); }
NORMA_INLINE D abs(D x) { return (D)((L)x & 0x7fffffffffffffff); }
/// A magnitude >= 0 with a sign.
NORMA_INLINE F with_sign(F magnitude, F sign) { return (F)((I)magnitude | ((I)sign & (I)splat(-0.0f))); }
NORMA_INLINE D with_sign(D magnitude, D sign) { return (D)((L)magnitude | ((L)sign & (L)splat(-0.0))); }

/// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
constexpr float round_magic = 12582912.0f;

/// ln 2 = high + low; high has 9 bits, so that n * high is exact also without a fused multiply-add.
constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, log2_e = 1.44269504f;

/// exp(r) for |r| <= ln 2 / 2. `exact`: what 1 + r loses is added to the small terms.
template <bool exact>
NORMA_INLINE F exp_reduced(F r) {
  constexpr float c[] = {4.999999404e-01f, 1.666652113e-01f, 4.166836664e-02f, 8.368640207e-03f, 1.381518203e-03f};
  if (!exact) return fma(r * r, poly(r, c), r) + 1.0f;
  const F sum = r + 1.0f, lost = r - (sum - 1.0f);
  return fma(r * r, poly(r, c), lost) + sum;
}

NORMA_INLINE F exp(F x) {
  x = vmin(splat(89.0f), vmax(splat(-104.0f), x));  // in this order of arguments a NaN stays
  const F t = fma(x, splat(log2_e), splat(round_magic));
  const F n = t - round_magic;
  const F r = fma(n, splat(-ln2_low), fma(n, splat(-ln2_high), x));
  const I i = (I)t - (I)splat(round_magic);
  const I half = i >> 1;  // 2^n in two steps: n reaches from -150 to 128
  return exp_reduced<true>(r) * (F)((half + 127) << 23) * (F)((i - half + 127) << 23);
}

/// exp for x <= 88, as softmax needs it: results below exp(-86.9) = 1.8e-38 are 0, so exp_fast(-inf) = 0.
NORMA_INLINE F exp_fast(F x) {
  const I zero = x < -86.9f;
  const F t = fma(x, splat(log2_e), splat(round_magic));
  const F n = t - round_magic;
  const F r = fma(n, splat(-ln2_low), fma(n, splat(-ln2_high), x));
  const F shift = vmin(t, splat(round_magic + 512.0f));  // in this order a NaN becomes 512, of which no bit is left: its own would make it a number
  return (F)(((U)exp_reduced<false>(r) + ((U)shift << 23)) & ~(U)zero);
}

/// log x, of a normal x > 0 times 2^-lost.
NORMA_INLINE F log_scaled(F x, I lost) {
  constexpr float c[] = {3.333331347e-01f,  -2.500000894e-01f, 2.000209093e-01f,  -1.666800082e-01f, 1.422004104e-01f,
                         -1.240580156e-01f, 1.188514456e-01f,  -1.167328432e-01f, 6.749992073e-02f};
  constexpr std::int32_t sqrt_half = 0x3f3504f3;
  const I bits = (I)((U)x - (std::uint32_t)sqrt_half);  // m in [sqrt(1/2), sqrt(2))
  const I exponent = (bits >> 23) - lost;
  const F f = (F)((bits & 0x7fffff) + sqrt_half) - 1.0f;
  const F e = __builtin_convertvector(exponent, F);
  const F f2 = f * f;
  const F y = fma(f * f2, poly(f, c), fma(e, splat(ln2_low), f2 * -0.5f));
  return fma(e, splat(ln2_high), f + y);
}
NORMA_INLINE F log(F x) {
  const I tiny = x < 1.17549435e-38f;
  F y = log_scaled(tiny ? x * 8388608.0f : x, tiny & 23);
  const F infinity = splat(__builtin_inff());
  y = x == 0.0f ? -infinity : y;
  y = x == infinity ? x : y;
  return x >= 0.0f ? y : splat(__builtin_nanf(""));
}

NORMA_INLINE F log1p(F x) {  // the rounding of 1 + x is undone by the factor (Kahan)
  const F u = x + 1.0f, scaled = log(u) * (x / (u - 1.0f));
  return u == 1.0f || u == __builtin_inff() ? x : scaled;
}

#if defined(__AVX512F__)
/// By 32 pieces of the mantissa: 1 / c and log c, with c near the middle of each.
struct LogPieces {
  alignas(64) float reciprocal[32], log[32];
  constexpr LogPieces() : reciprocal(), log() {
    for (int i = 0; i < 32; ++i) {
      reciprocal[i] = static_cast<float>(64.0 / (65 + 2 * i));
      // -log r = -2 artanh t
      const double r = reciprocal[i], t = (r - 1) / (r + 1);
      double sum = 0, power = t;
      for (int n = 1; n < 60; n += 2, power *= t * t) sum += power / n;
      log[i] = static_cast<float>(-2 * sum);
    }
  }
};
constexpr LogPieces log_pieces;
#endif
/// log x of a normal x > 0, for sums of logarithms: by the pieces to 1e-7, or log x / 2^24, absolute, which is many ulps near 1.
NORMA_INLINE F log_normal(F x) {
#if defined(__AVX512F__)
  constexpr float ln2 = 6.93147182e-01f;
  const __m512i piece = _mm512_srli_epi32((__m512i)x, 18);       // its low five bits
  const auto look_up = [piece](const float* table) {
    return (F)_mm512_permutex2var_ps((__m512)load(table), piece, (__m512)load(table + lanes<float>));
  };
  const F mantissa = (F)_mm512_getmant_ps((__m512)x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src), exponent = (F)_mm512_getexp_ps((__m512)x);
  const F r = fma(mantissa, look_up(log_pieces.reciprocal), splat(-1.0f));
  return fma(exponent, splat(ln2), fma(fma(fma(r, splat(1.0f / 3), splat(-0.5f)), r, splat(1.0f)), r, look_up(log_pieces.log)));
#else
  return log_scaled(x, I{});
#endif
}

NORMA_INLINE F sigmoid(F x) {
  const F e = exp(-abs(x));
  const F s = 1.0f / (e + 1.0f);
  return x >= 0.0f ? s : e * s;
}

}  // namespace norma::cpu::NORMA_ISA

#include "backends/cpu/kernels/vmath_double.h"
#include "backends/cpu/kernels/vmath_bounded.h"
#include "backends/cpu/kernels/vmath_trig.h"
#include "backends/cpu/kernels/vmath_pow.h"
#include "backends/cpu/kernels/gelu.h"
