// exp and log of registers of doubles, and what follows from them; part of vmath.h.
#pragma once

#include "backends/cpu/kernels/vmath.h"

namespace norma::cpu::NORMA_ISA {

typedef std::uint64_t UL __attribute__((vector_size(register_bytes)));  // bits of a double, where sums are to wrap

/// What differs between float and double in the code that serves both. ln 2 = high + low, high so short that n * high is exact also
/// without a fused multiply-add. power_terms: (exp r - 1 - r) / r^2, |r| <= ln 2 / 2; relative to exp r - 1 to 1.4e-8 and 3.3e-17.
template <class V> struct Numbers;
template <> struct Numbers<F> {
  using Bits = U;
  static constexpr int mantissa = 23;
  static constexpr float magic = round_magic, ln2_high = cpu::NORMA_ISA::ln2_high, ln2_low = cpu::NORMA_ISA::ln2_low;
  static constexpr std::uint32_t head = ~0xfffu;
  static constexpr float power_terms[] = {0.49999997f, 0.16666539f, 0.041667752f, 0.00836709421f, 0.00138371706f};
};
template <> struct Numbers<D> {
  using Bits = UL;
  static constexpr int mantissa = 52;
  static constexpr double magic = 0x1.8p52, ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;
  static constexpr std::uint64_t head = ~0x7ffffffull;
  static constexpr double power_terms[] = {
      0.5000000000000006, 0.16666666666666588, 0.041666666666576486, 0.008333333333389573, 0.0013888888931662677,
      0.00019841269719144867, 2.4801505147214316e-05, 2.7557407240608886e-06, 2.7626091222052295e-07, 2.5053929709233582e-08};
};
template <class V> using Bits = typename Numbers<V>::Bits;

/// c - a b without the rounding of a b, where that is near c.
template <class V>
NORMA_INLINE V rest_of_product(V c, V a, V b) {
#if defined(__FMA__) || defined(__aarch64__)
  return fma(-a, b, c);
#else
  const V a_head = (V)((Bits<V>)a & Numbers<V>::head), b_head = (V)((Bits<V>)b & Numbers<V>::head);
  return ((c - a_head * b_head) - a_head * (b - b_head)) - (a - a_head) * b;
#endif
}

/// exp x = 2^n (1 + r + tail); r is exact where n is 0.
template <class V>
struct Power {
  V n, r, tail;
  Bits<V> shift;  // n, in the low bits
  NORMA_INLINE explicit Power(V x) {
    reduce(without_powers(x));
  }
  /// Of x + low.
  NORMA_INLINE Power(V x, V low) {
    const V a = without_powers(x), sum = a + low;
    reduce(sum);
    tail += low - (sum - a);
  }
  /// 1 + r + tail.
  NORMA_INLINE V mantissa() const {
    const V sum = r + Scalar<V>{1};
    return sum + ((r - (sum - Scalar<V>{1})) + tail);
  }
  /// factor 2^(sign n), a normal number.
  template <int sign = 1>
  NORMA_INLINE V scale(Scalar<V> factor = 1) const {
    const Bits<V> bits = shift << Numbers<V>::mantissa, one = (Bits<V>)splat(factor);
    return (V)(sign > 0 ? one + bits : one - bits);
  }

 private:
  using N = Numbers<V>;
  NORMA_INLINE V without_powers(V x) {
    const V t = fma(x, splat(static_cast<Scalar<V>>(1.4426950408889634)), splat(N::magic));
    n = t - N::magic, shift = (Bits<V>)t;
    return fma(n, splat(-N::ln2_high), x);
  }
  NORMA_INLINE void reduce(V a) {
    r = fma(n, splat(-N::ln2_low), a);
    tail = fma(r * r, poly(r, N::power_terms), fma(n, splat(-N::ln2_low), a - r));
  }
};

NORMA_INLINE D exp(D x) {
  const Power<D> p(vmin(splat(710.0), vmax(splat(-746.0), x)));  // in this order of arguments a NaN stays
#if defined(__AVX512F__)
  return (D)_mm512_scalef_pd((__m512d)p.mantissa(), (__m512d)p.n);
#else
  const UL n = (p.shift & 0xfff) ^ 0x800;  // plus 2048; 2^n in two steps: n reaches from -1076 to 1024
  const UL half = n >> 1;
  return p.mantissa() * (D)((half - 1) << 52) * (D)((n - half - 1) << 52);
#endif
}

/// exp for x <= 709; results below exp(-708) = 3.3e-308 are 0.
NORMA_INLINE D exp_fast(D x) {
  const Power<D> p(vmax(splat(-709.0), x));
  const D y = (p.r + p.tail + 1.0) * p.scale();
  return x < -708.0 ? D{} : y;
}

/// x = 2^e (1 + f), of a normal x > 0; 1 + f in [sqrt(1/2), sqrt(2)).
NORMA_INLINE D split(D x, D& e) {
  constexpr std::uint64_t sqrt_half = 0x3fe6a09e667f3bcd;
  const UL bits = (UL)x - sqrt_half;
  e = (D)(((bits + (std::uint64_t{1024} << 52)) >> 52) | 0x4330000000000000) - (0x1p52 + 1024);
  return (D)((bits & 0xfffffffffffff) + sqrt_half) - 1.0;
}
/// log(2^e (1 + f)) + low: by 2 artanh s, s = f / (2 + f), without the rounding of s in its first term, which is f - s f. The fit is
/// exact to 1.6e-18 of the result.
NORMA_INLINE D log_of(D e, D f, D low) {
  constexpr double c[] = {0.6666666666666735, 0.3999999999941114, 0.28571428743249166, 0.22222198477561445, 0.18183569652106518,
                          0.153139055767458, 0.14797483908123948};
  const D s = f / (f + 2.0), square = s * s, half = f * f * 0.5;
  const D small = fma(s, fma(square, poly(square, c), half), fma(e, splat(Numbers<D>::ln2_low), low));
  return fma(e, splat(Numbers<D>::ln2_high), f - (half - small));
}
NORMA_INLINE D log_normal(D x) {
  D e;
  const D f = split(x, e);
  return log_of(e, f, D{});
}
NORMA_INLINE D log(D x) {
  const L tiny = x < 0x1p-1022;
  D e;
  const D f = split(tiny ? x * 0x1p54 : x, e);
  D y = log_of(tiny ? e - 54.0 : e, f, D{});
  const D infinity = splat(__builtin_inf());
  y = x == 0.0 ? -infinity : y;
  y = x == infinity ? x : y;
  return x >= 0.0 ? y : splat(__builtin_nan(""));
}
NORMA_INLINE D log1p(D x) {
  const D u = x + 1.0, moved = u - 1.0;
  const D lost = (1.0 - (u - moved)) + (x - moved);  // u + lost = 1 + x
  D e;
  D f = split(u, e);
  const D scale = (D)((1023 + (std::uint64_t{1} << 51) - (UL)(e + 0x1.8p52)) << 52);  // 2^-e
  const D low = u < 0x1p54 ? lost * scale : D{};
  const L near = e == 0.0;
  f = near ? x : f;
  D y = log_of(e, f, near ? D{} : low * fma(f, f - 1.0, splat(1.0)));  // low / (1 + f), of which few digits matter
  const D infinity = splat(__builtin_inf());
  y = u == 0.0 ? -infinity : y;
  y = ((x == infinity) | (x == 0.0)) ? x : y;
  return u >= 0.0 ? y : splat(__builtin_nan(""));
}

NORMA_INLINE D sqrt(D x) {
#if defined(__AVX512F__)
  return (D)_mm512_sqrt_pd((__m512d)x);
#elif defined(__AVX2__)
  return (D)_mm256_sqrt_pd((__m256d)x);
#else
  for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}
NORMA_INLINE D sigmoid(D x) {
  const D e = exp(-abs(x));
  const D s = 1.0 / (e + 1.0);
  return x >= 0.0 ? s : e * s;
}

}  // namespace norma::cpu::NORMA_ISA
