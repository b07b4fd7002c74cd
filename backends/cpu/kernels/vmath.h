// Elementary functions of a vector register. For float: own polynomials (minimax fits, relative error below half an ulp of the
// result), branch-free but for gelu far from 0, so that they run at the speed of the arithmetic units; for double: libm, lane by lane. gelu.h and vmath_double.h
// belong to it and are included at the end.
//
// Bounds in ulp, held against float64 over dense samples of the whole range and at the edges (tests/test_vmath.cpp):
//   exp, log, tanh, erf, sin, cos 1; exp_fast 1.1; gelu 4 over [-8, 8]; sigmoid 3; gelu_grad 2.5e-7 absolute.
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

// Where the last half ulp would be lost in floats, the rest is computed in doubles and rounded once.
typedef double Wide __attribute__((vector_size(2 * register_bytes)));  // as many doubles as F has floats
NORMA_INLINE Wide to_wide(F x) { return __builtin_convertvector(x, Wide); }
NORMA_INLINE F from_wide(Wide x) { return __builtin_convertvector(x, F); }
template <int n>
NORMA_INLINE Wide wide_poly(Wide x, const double (&c)[n]) {
  Wide p = x * c[n - 1] + c[n - 2];
#pragma GCC unroll 16
  for (int i = n - 3; i >= 0; --i) p = p * x + c[i];
  return p;
}

NORMA_INLINE F erf(F x) {
  constexpr float c[] = {1.283791661e-01f,  -3.761262596e-01f, 1.128358543e-01f, -2.685381472e-02f,
                         5.188330077e-03f, -8.010199526e-04f, 7.853840361e-05f};
  // erf(2.425 + 1.575 t), to 1e-9; it rounds to 1 from 3.9 on
  constexpr double d[] = {9.993952355734e-01, 4.963777960484e-03, -1.895874079557e-02, 4.416917542712e-02, -6.866812774352e-02,
                          7.203534521040e-02, -4.632502788424e-02, 8.038307225059e-03, 1.710719435513e-02, -1.855253032316e-02,
                          6.282673756653e-03, 3.539250671007e-03, -4.198868941671e-03, 7.589575343374e-04, 6.996851123233e-04,
                          -2.863230825199e-04};
  const F a = abs(x);
  const F small = fma(x, poly(x * x, c), x);
  const F capped = a < 4.0f ? a : splat(4.0f);
  const F large = from_wide(wide_poly((to_wide(capped) - 2.425) / 1.575, d));
  return x != x ? x : a >= 0.9f ? copysign(large, x) : small;
}

NORMA_INLINE F tanh(F x) {
  constexpr float c[] = {-3.333328366e-01f, 1.333146691e-01f, -5.374139175e-02f, 2.064376324e-02f, -5.709578283e-03f};
  // exp(r) for |r| <= ln 2 / 2, to 3e-9
  constexpr double e[] = {1.000000000000e+00, 1.000000037943e+00, 5.000000047401e-01, 1.666641450717e-01, 4.166635163848e-02,
                          8.375210201006e-03, 1.394121309740e-03};
  const F a = abs(x);
  const F s = x * x;
  const F small = fma(x * s, poly(s, c), x);
  const F twice = a < 10.0f ? a * 2.0f : splat(20.0f);
  const F n = fma(twice, splat(log2_e), splat(round_magic)) - round_magic;
  const Wide r = to_wide(twice) - to_wide(n) * 0.69314718055994531;
  const F power = (F)((__builtin_convertvector(n, I) + 127) << 23);
  const F large = from_wide(1.0 - 2.0 / (wide_poly(r, e) * to_wide(power) + 1.0));
  return x != x ? x : copysign(a >= 0.55f ? large : small, x);
}

NORMA_INLINE F sigmoid(F x) {
  const F e = exp(-abs(x));
  const F s = 1.0f / (e + 1.0f);
  return x >= 0.0f ? s : e * s;
}

/// sin(x + quarter pi / 2).
NORMA_INLINE F sin_shifted(F x, int quarter) {
  // sin(r) / r and cos(r) as polynomials of r^2, to 3e-9 and 5e-11
  constexpr double s[] = {9.999999968930e-01, -1.666665057816e-01, 8.332030613940e-03, -1.950323439176e-04};
  constexpr double c[] = {9.999999999520e-01, -4.999999961177e-01, 4.166661639300e-02, -1.388660894682e-03, 2.437899362425e-05};
  // The reduction by multiples of pi/2 happens in double, where the three parts of pi/2 multiply exactly.
  const F inside = abs(x) < 1e8f ? x : splat(0.0f);
  const Wide wide = to_wide(inside);
  const Wide n = (wide * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0;
  const Wide reduced = ((wide - n * 0x1.921fb5p+0) - n * 0x1.110b46p-26) - n * 0x1.1a62633145c07p-54;
  const Wide square = reduced * reduced;
  const I q = __builtin_convertvector(n, I) + quarter;
  const F sine = from_wide(reduced * wide_poly(square, s)), cosine = from_wide(wide_poly(square, c));
  F y = (q & 1) != 0 ? cosine : sine;
  y = (F)((U)y ^ ((U)(q & 2) << 30));
  for (int i = 0; i < lanes<float>; ++i) {  // rare, and then libm
    if (!(__builtin_fabsf(x[i]) < 1e8f)) y[i] = quarter ? __builtin_cosf(x[i]) : __builtin_sinf(x[i]);
  }
  return y;
}
NORMA_INLINE F sin(F x) { return sin_shifted(x, 0); }
NORMA_INLINE F cos(F x) { return sin_shifted(x, 1); }

}  // namespace norma::cpu::NORMA_ISA

#include "backends/cpu/kernels/gelu.h"
#include "backends/cpu/kernels/vmath_double.h"
