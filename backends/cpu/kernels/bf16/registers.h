// bf16 in registers: widening is a shift, rounding is to nearest even, and the dot product of pairs that AVX-512-BF16 has.
#pragma once

#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {

typedef std::uint16_t H __attribute__((vector_size(register_bytes / 2)));  // as many bf16 as F has floats

NORMA_INLINE U widen_bits(H h) {
#if defined(__AVX512F__)
  return (U)_mm512_cvtepu16_epi32((__m256i)h);  // GCC 12 makes five instructions of the other
#else
  return __builtin_convertvector(h, U);
#endif
}
NORMA_INLINE F widen(H h) { return (F)(widen_bits(h) << 16); }

/// x as bf16, the bits in the lower half of each lane; a NaN stays one. AVX-512-BF16 takes denormals as zero, as its products do.
NORMA_INLINE U round_bits(F x) {
#if defined(__AVX512BF16__)
  return widen_bits((H)_mm512_cvtneps_pbh((__m512)x));
#else
  const U u = (U)x, high = u >> 16;
  return x != x ? high | 0x40u : (u + (high & 1u) + 0x7fffu) >> 16;
#endif
}
NORMA_INLINE H narrow(F x) {
#if defined(__AVX512BF16__)
  return (H)_mm512_cvtneps_pbh((__m512)x);
#else
  const U bits = round_bits(x);
#if defined(__AVX512F__)
  return (H)_mm512_cvtepi32_epi16((__m512i)bits);
#else
  return __builtin_convertvector(bits, H);
#endif
#endif
}
/// The elements of x, then those of y, rounded: pairs of neighbours.
NORMA_INLINE U round_side_by_side(F x, F y) {
#if defined(__AVX512BF16__)
  return (U)_mm512_cvtne2ps_pbh((__m512)y, (__m512)x);
#else
  const H h[2] = {narrow(x), narrow(y)};
  U u;
  std::memcpy(&u, h, sizeof u);
  return u;
#endif
}

NORMA_INLINE F load(const std::uint16_t* p) {
  H h;
  std::memcpy(&h, p, sizeof h);
  return widen(h);
}
NORMA_INLINE F load_n(const std::uint16_t* p, int n) {
#if defined(__AVX512F__)
  return widen((H)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p));
#endif
  H h{};
  std::memcpy(&h, p, static_cast<std::size_t>(n) * 2);
  return widen(h);
}
NORMA_INLINE void store(std::uint16_t* p, F x) {
  const H h = narrow(x);
  std::memcpy(p, &h, sizeof h);
}
NORMA_INLINE void store_n(std::uint16_t* p, F x, int n) {
  const H h = narrow(x);
#if defined(__AVX512F__)
  return _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), (__m256i)h);
#endif
  std::memcpy(p, &h, static_cast<std::size_t>(n) * 2);
}

/// sum + a.low b.low + a.high b.high for lanes that are pairs of bf16. The instruction takes denormal inputs as zero and rounds
/// its sums to odd in between; the imitation rounds them to nearest.
NORMA_INLINE F dot_pairs(F sum, U a, U b) {
#if defined(__AVX512BF16__)
  return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  sum = fma((F)(a << 16), (F)(b << 16), sum);
  return fma((F)(a & 0xffff0000u), (F)(b & 0xffff0000u), sum);
#endif
}

}  // namespace norma::cpu::NORMA_ISA
