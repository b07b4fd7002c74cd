// Squares of words turned, for operands of AMX: in quarters of registers, which memory loads put where they belong.
#pragma once

#include "backends/cpu/kernels/bf16/forms.h"
#include "backends/cpu/kernels/bf16/tile_registers.h"

#if defined(__AVX512BF16__)
namespace norma::cpu::NORMA_ISA {
namespace {

/// 32 elements of k by 8 columns -> 8 rows of 16 words, transposed in quarters of registers; adds the rows' sums, four
/// to a row, to sums[2] unless null.
inline void transpose_columns(const Bf16Bits* in, int64_t ld, Word* out, F* sums) {
  using V = __m512i;
  const auto quarter = [&](int64_t p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + p * ld)); };
  V x[8], y[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    x[i] = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(i)), quarter(i + 8), 1);
    x[i] = _mm512_inserti32x4(_mm512_inserti32x4(x[i], quarter(i + 16), 2), quarter(i + 24), 3);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {  // pairs of columns 0..3 in y[0..3], of 4..7 in y[4..7]
    y[i] = _mm512_unpacklo_epi16(x[2 * i], x[2 * i + 1]);
    y[i + 4] = _mm512_unpackhi_epi16(x[2 * i], x[2 * i + 1]);
  }
  if (sums) {
    const U ones = U{} + 0x3f803f80u;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[i / 4] = dot_pairs(sums[i / 4], (U)y[i], ones);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[2 * i] = _mm512_unpacklo_epi32(y[2 * i], y[2 * i + 1]);
    x[2 * i + 1] = _mm512_unpackhi_epi32(y[2 * i], y[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const V first = x[i / 2 * 4 + i % 2], second = x[i / 2 * 4 + i % 2 + 2];
    _mm512_storeu_si512(out + (2 * i) * tile_side, _mm512_unpacklo_epi64(first, second));
    _mm512_storeu_si512(out + (2 * i + 1) * tile_side, _mm512_unpackhi_epi64(first, second));
  }
}

/// 16 lines of 16 words -> word by word, transposed in quarters of registers.
inline void turn_words(const Word* in, int64_t line, Word* out) {
  const auto quarter = [&](int i, int c) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i * line + 4 * c));
  };
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    __m512i x[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      x[i] = _mm512_inserti32x4(_mm512_castsi128_si512(quarter(i, c)), quarter(4 + i, c), 1);
      x[i] = _mm512_inserti32x4(_mm512_inserti32x4(x[i], quarter(8 + i, c), 2), quarter(12 + i, c), 3);
    }
    const __m512i a = _mm512_unpacklo_epi32(x[0], x[1]), b = _mm512_unpackhi_epi32(x[0], x[1]);
    const __m512i d = _mm512_unpacklo_epi32(x[2], x[3]), e = _mm512_unpackhi_epi32(x[2], x[3]);
    _mm512_storeu_si512(out + (4 * c) * tile_side, _mm512_unpacklo_epi64(a, d));
    _mm512_storeu_si512(out + (4 * c + 1) * tile_side, _mm512_unpackhi_epi64(a, d));
    _mm512_storeu_si512(out + (4 * c + 2) * tile_side, _mm512_unpacklo_epi64(b, e));
    _mm512_storeu_si512(out + (4 * c + 3) * tile_side, _mm512_unpackhi_epi64(b, e));
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
