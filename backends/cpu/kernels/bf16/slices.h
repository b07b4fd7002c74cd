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

#if defined(__AMX_BF16__)
namespace norma::cpu::NORMA_ISA {
namespace {

constexpr int slices = 3;
constexpr int64_t step_k = 32, side = 32;              // elements of k in a step; rows of A or columns of B in a tile
constexpr int square = tile_side * tile_side;          // words of one tile register
constexpr int64_t slice_words = 2 * square;            // a slice of a step: two squares
constexpr int64_t step_words = slices * slice_words;   // [slice][square][row or word of k][word of k or column]

struct Pair {
  F lower, upper;  // elements i and 16 + i of k
};

/// The words of three slices.
NORMA_INLINE void slice(Pair x, U (&words)[slices]) {
  constexpr std::uint32_t half = 0x8000u, high = 0xffff0000u;
#pragma GCC unroll 3
  for (int s = 0; s < slices; ++s) {
    const bool last = s + 1 == slices;
    const U lower = last ? (U)x.lower : ((U)x.lower + half) & high, upper = last ? (U)x.upper : ((U)x.upper + half) & high;
    words[s] = (lower >> 16) | (upper & high);
    if (!last) x.lower -= (F)lower, x.upper -= (F)upper;
  }
}

/// Sixteen pairs of registers -> a square of each slice: pair i becomes line i, or column i where `turned`.
template <bool turned, class Get>
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

/// One step of one tile: `count` lines (rows of A or columns of B) by `depth` elements of k, all 32 of both where they are there.
/// Element (line, p) lies at data[line * across + p * along].
struct Source {
  const float* data;
  int64_t across, along;
};

/// A copy of what is there of a step, [p][line], with zeros for the rest.
struct Edge {
  alignas(64) float copy[step_k * side];
  NORMA_INLINE Source operator()(Source x, int64_t lines, int64_t depth) {
    std::memset(copy, 0, sizeof copy);
    for (int64_t p = 0; p < depth; ++p)
      for (int64_t i = 0; i < lines; ++i) copy[p * side + i] = x.data[i * x.across + p * x.along];
    return {copy, 1, side};
  }
};

/// Packs a step. Words of k lie along the lines of a square of A, and across those of B.
template <bool of_b, bool through_gelu>
NORMA_INLINE void pack_step(Source x, Word* out) {
  const auto pair = [&](const float* lower, int64_t upper) {
    F both[2] = {load(lower), load(lower + upper)};
    if (through_gelu) gelu(both);
    return Pair{both[0], both[1]};
  };
  for (int h = 0; h < 2; ++h, out += square) {
    const float* from = x.data + h * tile_side * x.across;
    if (x.along == 1)
      slice_square<of_b>([&](int i) { return pair(from + i * x.across, tile_side); }, out);
    else
      slice_square<!of_b>([&](int i) { return pair(from + i * x.along, tile_side * x.along); }, out);
  }
}

/// Asks for a step that is packed later.
NORMA_INLINE void fetch(Source x) {
  const int64_t stride = x.along == 1 ? x.across : x.along;
#pragma GCC unroll 4
  for (int64_t i = 0; i < side; ++i) {
    __builtin_prefetch(x.data + i * stride);
    __builtin_prefetch(x.data + i * stride + tile_side);
  }
}

/// All steps of one tile of up to 32 lines. The next one follows where lines lie along k.
template <bool of_b, bool through_gelu>
void pack_lines(int64_t lines, int64_t k, Source x, Word* out) {
  for (int64_t p = 0; p < k; p += step_k, out += step_words) {
    const int64_t depth = least(step_k, k - p);
    const Source here{x.data + p * x.along, x.across, x.along};
    if (x.along == 1)
      fetch({here.data + side * x.across, x.across, 1});
    else if (x.across == 1)
      fetch({here.data + step_k * x.along, 1, x.along});
    if (lines == side && depth == step_k && (x.along == 1 || x.across == 1)) {
      pack_step<of_b, through_gelu>(here, out);
    } else {
      Edge edge;
      pack_step<of_b, through_gelu>(edge(here, lines, depth), out);
    }
  }
}

/// sums[i] += sum over k of line i: four interleaved sums, then their tree.
NORMA_INLINE void add_lines(int64_t lines, int64_t k, Source x, float* sums) {
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
