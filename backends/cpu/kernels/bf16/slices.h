// Floats as sums of three bf16, for products of f32 under AMX, whose tiles multiply bf16 sixteen times as fast as fused multiply-adds
// multiply f32.
//
// x = x1 + x2 + x3, exactly: x1 is x rounded to 8 significant bits, x2 the rest rounded to 8, x3 what is left, which has at most 8. Of the nine
// products in a b = (a1 + a2 + a3)(b1 + b2 + b3), six are summed; a2 b3, a3 b2 and a3 b3 are below 2^-25 |a b| together, less than half the
// unit of rounding that the sum in f32 makes anyway. The products of bf16 are exact in f32 and summed in f32, so that C has the error
// of f32 arithmetic: tests/test_gemm.cpp holds both ways to the same bound.
// What differs: x with |x| < 2^-109 has bits of x3 below the least normal number, which AMX takes as zero (an error below 2^-126 |b|), and an
// infinity in A or B makes NaN, since its x2 is infinity - infinity.
//
// A word is two elements of k, 16 apart, since such pairs need no shuffle: word i of a step of 32 holds elements i and 16 + i.
#pragma once

#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/kernels/bf16/forms.h"
#include "backends/cpu/kernels/bf16/tile_registers.h"
#include "backends/cpu/kernels/vmath.h"

#if defined(__AVX512BF16__)
namespace norma::cpu::NORMA_ISA {
namespace {

constexpr int64_t step_k = 32, side = 32;      // elements of k in a step; lines of a tile: rows of A, columns of B
constexpr int square = tile_side * tile_side;  // words of one tile register
constexpr int64_t slice_words = 2 * square;    // a slice of a step: two squares, [row of A or word of k][word of k or column of B]
NORMA_INLINE int64_t steps_of(int64_t k) { return (k + step_k - 1) / step_k; }

/// Packed lines in tiles of 32, `tile` words apart.
struct Packed {
  const Word* words;
  int64_t tile;
};

struct Pair {
  F lower, upper;  // elements i and 16 + i of k
};

/// The words of the first `slices` slices; a single one is x rounded to nearest even.
template <int slices>
NORMA_INLINE void slice(Pair x, U (&words)[slices]) {
  if constexpr (slices == 1) {
    words[0] = round_bits(x.lower) | (round_bits(x.upper) << 16);
    return;
  }
  constexpr std::uint32_t half = 0x8000u, high = 0xffff0000u;
#pragma GCC unroll 3
  for (int s = 0; s < slices; ++s) {
    const bool last = s == 2;  // what is left needs no rounding
    const U lower = last ? (U)x.lower : ((U)x.lower + half) & high, upper = last ? (U)x.upper : ((U)x.upper + half) & high;
    words[s] = (lower >> 16) | (upper & high);
    if (s + 1 < slices) x.lower -= (F)lower, x.upper -= (F)upper;
  }
}

/// Sixteen pairs of registers -> a square of each slice: pair i becomes line i, or column i where `turned`.
template <int slices, bool turned, class Get>
NORMA_INLINE void slice_square(Get&& get, Word* out) {
  if constexpr (!turned) {
#pragma GCC unroll 4
    for (int i = 0; i < tile_side; ++i) {
      U words[slices];
      slice(get(i), words);
      for (int s = 0; s < slices; ++s) store_words(out + s * slice_words + i * tile_side, words[s]);
    }
  } else {
    alignas(64) Word lines[slices * square];
#pragma GCC unroll 4
    for (int i = 0; i < tile_side; ++i) {
      U words[slices];
      slice(get(i), words);
      for (int s = 0; s < slices; ++s) store_words(lines + s * square + i * tile_side, words[s]);
    }
    for (int s = 0; s < slices; ++s) {
      U x[tile_side];
#pragma GCC unroll 16
      for (int i = 0; i < tile_side; ++i) x[i] = load_words(lines + s * square + i * tile_side);
      transpose(x);
#pragma GCC unroll 16
      for (int i = 0; i < tile_side; ++i) store_words(out + s * slice_words + i * tile_side, x[i]);
    }
  }
}

/// An operand: element (line, p) lies at data[line * across + p * along]; lines are rows of A or columns of B, p counts k. T is float, or
/// Bf16Bits, of which one slice has all.
template <class T>
struct Source {
  const T* data;
  int64_t across, along;
  bool near = false;  // in a near cache already: what is packed next need not be asked for
  NORMA_INLINE Source<T> at(int64_t line, int64_t p) const { return {data + line * across + p * along, across, along, near}; }
};

/// What elements pass through before they are cut.
struct AsTheyAre {
  NORMA_INLINE void operator()(F (&)[2]) const {}
};
struct ThroughGelu {
  NORMA_INLINE void operator()(F (&x)[2]) const { gelu(x); }
};
struct Times {
  float factor;
  NORMA_INLINE void operator()(F (&x)[2]) const { x[0] *= factor, x[1] *= factor; }
};

/// The first n elements, the others zero; n of any size.
NORMA_INLINE __mmask16 first(int64_t n) { return static_cast<__mmask16>(n >= width ? 0xffffu : n > 0 ? (1u << n) - 1 : 0u); }
NORMA_INLINE F load_first(const float* p, int64_t n) { return (F)_mm512_maskz_loadu_ps(first(n), p); }
NORMA_INLINE F load_first(const Bf16Bits* p, int64_t n) { return widen((H)_mm256_maskz_loadu_epi16(first(n), p)); }

/// Half a step of a tile: up to 16 lines by up to 32 elements of k, zero where there are none. Words of k lie along the lines of a square of
/// A and across those of B.
template <int slices, bool of_b, bool whole, class T, class Map>
NORMA_INLINE void pack_square(Source<T> x, int64_t lines, int64_t depth, Map map, Word* out) {
  const auto pair = [&](const T* lower, const T* upper, int64_t n_lower, int64_t n_upper) {
    F both[2] = {whole ? load(lower) : load_first(lower, n_lower), whole ? load(upper) : load_first(upper, n_upper)};
    map(both);
    return Pair{both[0], both[1]};
  };
  if (x.along == 1)
    slice_square<slices, of_b>(
        [&](int i) {
          const T* p = x.data + i * x.across;
          return pair(p, p + tile_side, i < lines ? depth : 0, i < lines ? depth - tile_side : 0);
        },
        out);
  else
    slice_square<slices, !of_b>(
        [&](int i) {
          const T* p = x.data + i * x.along;
          return pair(p, p + tile_side * x.along, i < depth ? lines : 0, i + tile_side < depth ? lines : 0);
        },
        out);
}
/// A whole step.
template <int slices, bool of_b, bool whole, class T, class Map>
NORMA_INLINE void pack_step(Source<T> x, int64_t lines, int64_t depth, Map map, Word* out) {
  for (int h = 0; h < 2; ++h)
    pack_square<slices, of_b, whole>(x.at(h * tile_side, 0), lines - h * tile_side, depth, map, out + h * square);
}

/// Asks for a step that is packed later.
template <class T>
NORMA_INLINE void fetch(Source<T> x) {
  const int64_t stride = x.along == 1 ? x.across : x.along;
#pragma GCC unroll 4
  for (int64_t i = 0; i < side; ++i) {
    __builtin_prefetch(x.data + i * stride);
    __builtin_prefetch(x.data + i * stride + tile_side);
  }
}

/// A copy of a step whose elements lie apart in both directions: [p][line].
template <class T>
struct Gathered {
  alignas(64) T copy[step_k * side];
  NORMA_INLINE Source<T> operator()(Source<T> x, int64_t lines, int64_t depth) {
    std::memset(copy, 0, sizeof copy);
    for (int64_t p = 0; p < depth; ++p)
      for (int64_t i = 0; i < lines; ++i) copy[p * side + i] = x.data[i * x.across + p * x.along];
    return {copy, 1, side};
  }
};

/// All steps of one tile of up to 32 lines. What is packed next is asked for.
template <int slices, bool of_b, class T, class Map>
void pack_lines(int64_t lines, int64_t k, Source<T> x, Map map, Word* out) {
  for (int64_t p = 0; p < k; p += step_k, out += slices * slice_words) {
    const int64_t depth = least(step_k, k - p);
    const Source<T> here = x.at(0, p);
    if (!x.near && (x.along == 1 || x.across == 1)) fetch(x.along == 1 ? here.at(side, 0) : here.at(0, step_k));
    if (x.along != 1 && x.across != 1) {
      Gathered<T> gathered;
      pack_step<slices, of_b, true>(gathered(here, lines, depth), side, step_k, map, out);
    } else if (lines == side && depth == step_k) {
      pack_step<slices, of_b, true>(here, side, step_k, map, out);
    } else {
      pack_step<slices, of_b, false>(here, lines, depth, map, out);
    }
  }
}

/// All tiles of an operand, `tile` words apart.
template <int slices, bool of_b, class T, class Map>
void pack(int64_t lines, int64_t k, Source<T> x, Map map, Word* out, int64_t tile) {
  for (int64_t i = 0; i < lines; i += side, out += tile)
    pack_lines<slices, of_b>(least(side, lines - i), k, x.at(i, 0), map, out);
}

/// sums[i] += sum over k of line i: four interleaved sums, then their tree.
NORMA_INLINE void add_lines(int64_t lines, int64_t k, Source<float> x, float* sums) {
  if (lines == side && x.across == 1) {
    F part[2][4] = {};
    const auto add = [&](int64_t p, int q) {
      for (int h = 0; h < 2; ++h) part[h][q] += load(x.data + p * x.along + h * tile_side);
    };
    int64_t p = 0;
    for (; p + 4 <= k; p += 4) each<4>([&](int q) { add(p + q, q); });
    for (; p < k; ++p) add(p, 0);
    for (int h = 0; h < 2; ++h) {
      float* to = sums + h * tile_side;
      store(to, load(to) + ((part[h][0] + part[h][1]) + (part[h][2] + part[h][3])));
    }
    return;
  }
  for (int64_t i = 0; i < lines; ++i) {
    float part[4] = {};
    for (int64_t p = 0; p < k; ++p) part[p < k / 4 * 4 ? p % 4 : 0] += x.data[i * x.across + p * x.along];
    sums[i] += (part[0] + part[1]) + (part[2] + part[3]);
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
