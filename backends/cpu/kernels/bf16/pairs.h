// Operands of products of bf16 in the squares of slices.h, where a word is two neighbours of k: what was bf16 is packed
// as it lies in memory, and two registers of floats are rounded into one. Attention on bf16 multiplies these; operands
// of one product are packed alike.
#pragma once

#include "backends/cpu/kernels/bf16/slices.h"
#include "backends/cpu/kernels/bf16/turning.h"

#if defined(__AVX512BF16__)
namespace norma::cpu::NORMA_ISA {
namespace {

/// The first n of 32 elements, n of any size.
NORMA_INLINE __mmask32 first_elements(int64_t n) {
  return n >= step_k ? ~__mmask32{0} : n > 0 ? (__mmask32{1} << n) - 1 : __mmask32{0};
}

/// Words of one line, from elements side by side: the first `depth` of 32, the others zero.
NORMA_INLINE U words_along(const Bf16Bits* p, int64_t depth) {
  return (U)_mm512_maskz_loadu_epi16(first_elements(depth), p);
}
NORMA_INLINE U words_along(const float* p, int64_t depth) {
  if (depth >= step_k) return round_side_by_side(load(p), load(p + tile_side));
  return round_side_by_side(load_first(p, depth), load_first(p + tile_side, depth - tile_side));
}
/// Words of 16 lines that lie side by side, from two rows of k; a row that is not there is null.
NORMA_INLINE U words_across(U elements) {  // of the first row, then of the second
  alignas(64) static constexpr std::uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                          8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return (U)_mm512_permutexvar_epi16(_mm512_load_si512(order), (__m512i)elements);
}
NORMA_INLINE U words_across(const float* p, const float* q, int64_t lines) {
  if (lines >= tile_side && q) return words_across(round_side_by_side(load(p), load(q)));
  return words_across(round_side_by_side(load_first(p, lines), q ? load_first(q, lines) : F{}));
}
NORMA_INLINE U words_across(const Bf16Bits* p, const Bf16Bits* q, int64_t lines) {
  const __mmask16 m = first(lines);
  const __m256i upper = q ? _mm256_maskz_loadu_epi16(m, q) : __m256i{};
  return words_across((U)_mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(m, p)), upper, 1));
}

/// A square whose words lie along the lines in memory.
template <bool of_b, class T>
NORMA_INLINE void pair_along(Source<T> x, int64_t lines, int64_t depth, Word* out) {
  if constexpr (of_b && std::is_same_v<T, Bf16Bits>)
    if (lines >= tile_side && depth >= step_k && x.across % 2 == 0)
      return turn_words(reinterpret_cast<const Word*>(x.data), x.across / 2, out);
  alignas(64) Word rows[square];
  Word* to = of_b ? rows : out;
#pragma GCC unroll 4
  for (int i = 0; i < tile_side; ++i)
    store_words(to + i * tile_side, i < lines ? words_along(x.data + i * x.across, depth) : U{});
  if (of_b) turn_words(rows, tile_side, out);
}
/// A square whose lines lie side by side.
template <bool of_b, class T>
NORMA_INLINE void pair_across(Source<T> x, int64_t lines, int64_t depth, Word* out) {
  if constexpr (!of_b && std::is_same_v<T, Bf16Bits>)
    if (lines >= tile_side && depth >= step_k) {
      transpose_columns(x.data, x.along, out, nullptr);
      return transpose_columns(x.data + tile_side / 2, x.along, out + tile_side * tile_side / 2, nullptr);
    }
  alignas(64) Word rows[square];
  Word* to = of_b ? out : rows;
#pragma GCC unroll 4
  for (int i = 0; i < tile_side; ++i) {
    const T* p = x.data + 2 * i * x.along;
    store_words(to + i * tile_side,
                2 * i < depth ? words_across(p, 2 * i + 1 < depth ? p + x.along : nullptr, lines) : U{});
  }
  if (!of_b) turn_words(rows, tile_side, out);
}

/// All tiles of an operand, `tile` words apart. Of a tile's last lines squares of which a product reads nothing are
/// left out.
template <bool of_b, class T>
void pack_pairs(int64_t lines, int64_t k, Source<T> x, Word* out, int64_t tile) {
  for (int64_t i = 0; i < lines; i += side, out += tile) {
    Word* to = out;
    for (int64_t p = 0; p < k; p += step_k, to += slice_words)
      for (int64_t h = 0; h < least(side, lines - i); h += tile_side) {
        const Source<T> here = x.at(i + h, p);
        Word* half = to + h / tile_side * square;
        if (x.along == 1)
          pair_along<of_b>(here, lines - i - h, k - p, half);
        else
          pair_across<of_b>(here, lines - i - h, k - p, half);
      }
  }
}

/// Columns of bf16 that lie along k, times a power of two.
inline void pack_scaled_pairs(int64_t lines, int64_t k, Source<Bf16Bits> x, float factor, Word* out, int64_t tile) {
  constexpr std::uint32_t high = 0xffff0000u;
  for (int64_t i = 0; i < lines; i += side, out += tile) {
    Word* to = out;
    for (int64_t p = 0; p < k; p += step_k, to += slice_words)
      for (int64_t h = 0; h < least(side, lines - i); h += tile_side) {
        alignas(64) Word rows[square];
        for (int64_t r = 0; r < tile_side; ++r) {
          const U words = i + h + r < lines ? words_along(x.at(i + h + r, p).data, k - p) : U{};
          const F lower = (F)(words << 16) * factor, upper = (F)(words & high) * factor;
          store_words(rows + r * tile_side, (U)lower >> 16 | ((U)upper & high));
        }
        turn_words(rows, tile_side, to + h / tile_side * square);
      }
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
