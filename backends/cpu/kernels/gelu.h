// GELU and its derivative for registers of floats; part of vmath.h. By polynomials of pieces where tables can be looked up by a register of
// indices and x is not far from 0, else by the tail of the normal distribution.
#pragma once

#include "backends/cpu/kernels/gelu_pieces.h"
#include "backends/cpu/kernels/vmath.h"

namespace norma::cpu::NORMA_ISA {

constexpr int tail_shift = 40;
constexpr float tail_scale = 0x1p-40f;

/// For 0 <= a <= 15, with Q(a) = 1 - Phi(a): a Q(a) is (y + y less) power 2^-40 for y = scaled share, Q(a) the same for y = scaled / (a + k), and
/// exp(-a^2/2) is (1 + less) power 2^-40: the results can be tiny, the factors are not.
template <int n>
struct NormalTail {
  F share[n], scaled[n], less[n], power[n];
  static constexpr float k = 2.85f;

  /// The chain from a to its tail is about a hundred cycles long: n registers go through it step by step together, so that
  /// the processor always finds work. The bits are the same for every n.
  explicit NORMA_INLINE NormalTail(const F (&x)[n]) {
    constexpr float e[] = {1.0f,             -0.5f,            1.249999851e-01f, -2.083304152e-02f,
                           2.604251495e-03f, -2.616890415e-04f, 2.162874807e-05f};
    // Q(a) exp(a^2/2) (a + k) is a polynomial of u = (a - k) / (a + k) (Shepherd and Laframboise, 1981).
    constexpr float q[] = {7.232623100e-01f, -4.889765680e-01f, 2.017695755e-01f,  -2.837465145e-02f, -1.475808863e-02f, 4.930239171e-03f,
                           2.038686303e-03f, -6.624827511e-04f, -3.928711521e-04f, 5.294522998e-05f,  4.982263636e-05f};
    F a[n], u[n], w[n], t[n];
    each<n>([&](int i) { a[i] = magnitude(x[i]), share[i] = a[i] / (a[i] + k); });
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
    each<n>([&](int i) { u[i] = fma(share[i], splat(2.0f), splat(-1.0f)); });  // the rounding errors of `share` hardly reach a Q
    each<n>([&](int i) { less[i] = splat(e[6]), scaled[i] = splat(q[10]); });
    each<5>([&](int step) {
      each<n>([&](int i) { less[i] = fma(less[i], w[i], splat(e[5 - step])); });
      each<n>([&](int i) { scaled[i] = fma(scaled[i], u[i], splat(q[9 - step])); });
    });
    each<5>([&](int step) { each<n>([&](int i) { scaled[i] = fma(scaled[i], u[i], splat(q[4 - step])); }); });
    each<n>([&](int i) { less[i] = less[i] * w[i]; });  // exp(-w/2) - 1: one rounding less in the tail
    each<n>([&](int i) { power[i] = (F)((U)splat(1.0f) + ((U)t[i] << 23)); });
  }

  static NORMA_INLINE F magnitude(F x) { return vmin(splat(15.0f), abs(x)); }

  /// GELU(x) = max(x, 0) - |x| Q(|x|), of any x.
  NORMA_INLINE F gelu(F x, int i) const {
    const F y = scaled[i] * share[i];
    return fma(fma(y, less[i], y) * power[i], splat(-tail_scale), vmax(splat(0.0f), x));
  }
  /// GELU'(x) = Phi(x) + x phi(x), of any x. 1 / (a + k) = (1 - share) / k.
  NORMA_INLINE F gelu_grad(F x, int i) const {
    const F y = scaled[i] * fma(share[i], splat(-1 / k), splat(1 / k));
    const F lower = fma(magnitude(x) * -0.39894228f, less[i] + 1.0f, fma(y, less[i], y)) * power[i];  // for -a, times 2^40
    return x >= 0.0f ? fma(lower, splat(-tail_scale), splat(1.0f)) : lower * tail_scale;
  }
};

template <int n>
NORMA_INLINE void gelu_by_tail(F (&x)[n]) {
  const NormalTail<n> normal(x);
  each<n>([&](int i) { x[i] = normal.gelu(x[i], i); });
}
template <int n>
NORMA_INLINE void gelu_grad_by_tail(F (&x)[n]) {
  const NormalTail<n> normal(x);
  each<n>([&](int i) { x[i] = normal.gelu_grad(x[i], i); });
}

#if defined(__AVX512F__)
/// Where 0 <= a < gelu_pieces_end lies: in which piece (the low bits), and how far from its middle.
template <int n>
struct InPieces {
  I piece[n];
  F offset[n];
  explicit NORMA_INLINE InPieces(const F (&a)[n]) {
    each<n>([&](int i) {
      const F shifted = fma(a[i], splat(1 / gelu_piece_width), splat(round_magic));
      piece[i] = (I)shifted, offset[i] = fma(shifted - round_magic, splat(-gelu_piece_width), a[i]);
    });
  }
};
/// y = the polynomials of the pieces. A register looks up sixteen coefficients in a table of 32 by one instruction, so that this takes a third
/// of the time of NormalTail.
template <int terms, int n>
NORMA_INLINE void by_pieces(const float (&table)[gelu_piece_terms][gelu_piece_count], const InPieces<n>& at, F (&y)[n]) {
  const auto coefficients = [&](int term, auto&& use) {
    const F low = load(table[term]), high = load(table[term] + lanes<float>);
    each<n>([&](int i) { use(i, (F)_mm512_permutex2var_ps((__m512)low, (__m512i)at.piece[i], (__m512)high)); });
  };
  coefficients(terms - 1, [&](int i, F c) { y[i] = c; });
#pragma GCC unroll 8
  for (int term = terms - 2; term >= 0; --term)
    coefficients(term, [&](int i, F c) { y[i] = fma(y[i], at.offset[i], c); });
}

/// y[i] = far(x[i]) in the lanes from gelu_pieces_end on. A lane's bits are the same whatever its neighbours are.
template <int n, class Far>
NORMA_INLINE void beyond_pieces(const F (&x)[n], F (&y)[n], Far far) {
  I any = abs(x[0]) >= gelu_pieces_end;
  each<n - 1>([&](int i) { any |= abs(x[i + 1]) >= gelu_pieces_end; });
  if (_mm512_test_epi32_mask((__m512i)any, (__m512i)any) == 0) [[likely]]
    return;
  for (int i = 0; i < n; ++i) {
    const I away = abs(x[i]) >= gelu_pieces_end;
    if (_mm512_test_epi32_mask((__m512i)away, (__m512i)away) != 0) y[i] = away ? far(x[i]) : y[i];
  }
}
[[gnu::noinline]] inline F gelu_far(F x) {
  F one[1] = {x};
  gelu_by_tail(one);
  return one[0];
}
[[gnu::noinline]] inline F gelu_grad_far(F x) {
  F one[1] = {x};
  gelu_grad_by_tail(one);
  return one[0];
}
#endif

/// What follows takes so many terms of the pieces' polynomials: all of them, or as many as results need that are rounded to bf16, where
/// the others would add less than a fifth of that rounding.
constexpr int all_gelu_terms = gelu_piece_terms, gelu_terms_for_bf16 = 4;

/// x[i] = GELU(x[i]) = x Phi(x).
template <int terms = all_gelu_terms, int n>
NORMA_INLINE void gelu(F (&x)[n]) {
#if defined(__AVX512F__)
  F y[n];
  each<n>([&](int i) { y[i] = abs(x[i]); });
  by_pieces<terms>(gelu_tail_pieces, InPieces<n>(y), y);
  each<n>([&](int i) { y[i] = x[i] * (x[i] < 0.0f ? y[i] : 1.0f - y[i]); });
  beyond_pieces(x, y, gelu_far);
  each<n>([&](int i) { x[i] = y[i]; });
#else
  gelu_by_tail(x);
#endif
}
NORMA_INLINE F gelu(F x) {
  F one[1] = {x};
  gelu(one);
  return one[0];
}

/// x[i] = GELU'(x[i]) = Phi(x) + x phi(x).
template <int terms = all_gelu_terms, int n>
NORMA_INLINE void gelu_grad(F (&x)[n]) {
#if defined(__AVX512F__)
  F y[n];
  each<n>([&](int i) { y[i] = abs(x[i]); });
  by_pieces<terms>(gelu_slope_pieces, InPieces<n>(y), y);
  each<n>([&](int i) { y[i] = x[i] < 0.0f ? y[i] : 1.0f - y[i]; });
  beyond_pieces(x, y, gelu_grad_far);
  each<n>([&](int i) { x[i] = y[i]; });
#else
  gelu_grad_by_tail(x);
#endif
}
NORMA_INLINE F gelu_grad(F x) {
  F one[1] = {x};
  gelu_grad(one);
  return one[0];
}

/// slope[i] = GELU'(x[i]), then x[i] = GELU(x[i]); the same bits as one by one.
template <int terms = all_gelu_terms, int n>
NORMA_INLINE void gelu_with_grad(F (&x)[n], F (&slope)[n]) {
#if defined(__AVX512F__)
  F y[n];
  each<n>([&](int i) { y[i] = abs(x[i]); });
  const InPieces<n> at(y);
  by_pieces<terms>(gelu_slope_pieces, at, slope);
  each<n>([&](int i) { slope[i] = x[i] < 0.0f ? slope[i] : 1.0f - slope[i]; });
  by_pieces<terms>(gelu_tail_pieces, at, y);
  each<n>([&](int i) { y[i] = x[i] * (x[i] < 0.0f ? y[i] : 1.0f - y[i]); });
  beyond_pieces(x, slope, gelu_grad_far);
  beyond_pieces(x, y, gelu_far);
  each<n>([&](int i) { x[i] = y[i]; });
#else
  const NormalTail<n> normal(x);
  each<n>([&](int i) { slope[i] = normal.gelu_grad(x[i], i), x[i] = normal.gelu(x[i], i); });
#endif
}

/// Doubles go by the tail everywhere, with k = 4.5: Q(a) exp(a^2/2) (a + k) is the polynomial to 2e-16, up to a = 39, where Q is less
/// than any number. The power carries 1 / wide_scale.
constexpr double wide_scale = 0x1p-200;
template <bool times_a>
struct WideTail {
  D tail, exponential, power;
  NORMA_INLINE explicit WideTail(D a) {
    constexpr double q[] = {0.7632305289702032, -0.640257760252617, 0.44645251705567984, -0.2531417999509676, 0.11138259657011895,
                            -0.03387132617715912, 0.0042236133826502615, 0.0017488305675666305, -0.0009177465336465398,
                            6.3811561440833465e-06, 0.00011204292544600383, -1.5933113516053113e-05, -1.4236843419620386e-05,
                            3.190280812833108e-06, 2.145284344949523e-06, -5.002775373803598e-07, -3.831715874343818e-07,
                            6.152299674251877e-08, 7.429268144519398e-08, -2.331689334234606e-09, -1.32485371659545e-08,
                            -1.6550096222846278e-09, 1.5180904731490149e-09, 4.3300016813014725e-10};
    constexpr double k = 4.5;
    const D square = a * a;
    const Power<D> p(square * -0.5, rest_of_product(square, a, a) * 0.5);
    const D v = (times_a ? a : splat(1.0)) / (a + k), u = times_a ? fma(v, splat(2.0), splat(-1.0)) : fma(v, splat(-2 * k), splat(1.0));
    const D y = long_poly(u, q) * v, x = p.r + p.tail;
    tail = fma(y, x, y), exponential = x + 1.0, power = p.scale(1 / wide_scale);
  }
};
NORMA_INLINE D gelu(D x) {
  const WideTail<true> normal(vmin(splat(39.0), abs(x)));
  return fma(normal.tail * normal.power, splat(-wide_scale), vmax(splat(0.0), x));
}
NORMA_INLINE D gelu_grad(D x) {
  const D a = vmin(splat(39.0), abs(x));
  const WideTail<false> normal(a);
  const D lower = fma(a * -0.39894228040143267794, normal.exponential, normal.tail) * normal.power;  // for -a
  return x >= 0.0 ? fma(lower, splat(-wide_scale), splat(1.0)) : lower * wide_scale;
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
