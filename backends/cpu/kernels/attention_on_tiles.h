// What the forward and the backward pass of attention by products of packed operands (packed_products.h) share.
#pragma once

#include "backends/cpu/kernels/attention_rows.h"
#include "backends/cpu/packed_products.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// Whether this instruction set has a pass for heads that come with PackedProducts.
#if defined(__AVX512F__)
template <class T>
constexpr bool has_packed = sizeof(T) == 4;
#else
template <class T>
constexpr bool has_packed = false;
#endif

/// While one lives, PackedProducts::multiply may be called.
class TileScope {
 public:
  explicit TileScope(const PackedProducts& products) : products_(products) { products_.enter(); }
  ~TileScope() { products_.leave(); }
  TileScope(const TileScope&) = delete;

 private:
  const PackedProducts& products_;
};

constexpr Int tile_lines = 32;  // of a packed tile
constexpr Int slot_size =
    static_cast<Int>(sizeof(Slots<float>) / sizeof(float));  // numbers of a group of row_slots rows

/// Slices of operands (packed_products.h). A bf16 is one, and what is computed from bf16 is rounded to bf16 where it is
/// multiplied, the weights and the gradients of the scores; scores, statistics and sums are f32.
template <class Stored>
constexpr int slice_count = sizeof(Stored) == 2 ? 1 : 3;

/// The scale of the scores: what K is multiplied by where it is packed, and what the scores are. A bf16 stays one under
/// powers of two only.
template <class Stored>
struct SplitScale {
  float of_k, of_scores = 1;
  explicit SplitScale(double scale) : of_k(static_cast<float>(scale)) {
    if (sizeof(Stored) > 2 || scale == 0) return;
    int exponent;
    of_scores = static_cast<float>(2 * __builtin_frexp(__builtin_fabs(scale), &exponent));
    of_k = static_cast<float>(__builtin_copysign(__builtin_ldexp(1, exponent - 1), scale));
  }
  /// Softmax takes it as it reads the scores, for nothing; for the others it is done before, over whole registers.
  NORMA_INLINE float left_to(Phi phi) const { return phi == Phi::softmax ? of_scores : 1; }
  NORMA_INLINE void finish(Phi phi, float* scores, Int ld, int rows, Int columns) const {
    if (phi == Phi::softmax || of_scores == 1) return;
    const Vec<float> factor = splat(of_scores);
    for (int m = 0; m < rows; ++m)
      for (Int j = 0; j < columns; j += lanes<float>) store(scores + m * ld + j, load(scores + m * ld + j) * factor);
  }
};

inline Int operand_words(Int lines, Int depth, int slices) {
  return (lines + tile_lines - 1) / tile_lines * PackedProducts::words_of_tile(depth, slices);
}

inline TileOperand take_operand(ScratchCutter& scratch, Int lines, Int depth, int slices) {
  return {scratch.take<std::uint32_t>(operand_words(lines, depth, slices)), PackedProducts::words_of_tile(depth, slices),
          slices};
}

/// The room of x for fewer elements of k than it was made for: its tiles are shorter then.
inline TileOperand over(const TileOperand& x, Int depth) {
  return {x.words, PackedProducts::words_of_tile(depth, x.slices), x.slices};
}

/// Where a packed operand has the square of 16 lines and 32 elements of k that begins at (line, k).
inline std::uint32_t* square_of(const TileOperand& x, Int line, Int k) {
  return x.words + line / tile_lines * x.tile + PackedProducts::words_of_tile(k, x.slices) +
         line / 16 % 2 * PackedProducts::square_words;
}
/// How often a product asks what is beside it.
template <class Stored>
Int tile_turns(Int m, Int n, Int k) {
  const auto tiles = [](Int lines) { return (lines + tile_lines - 1) / tile_lines; };
  return PackedProducts::turns_of_step(slice_count<Stored>) * tiles(m) * tiles(n) * tiles(k);
}

/// to[n] = factor * from; from has room for whole registers.
NORMA_INLINE void put_row(const PackedProducts&, const float* from, Int n, float factor, float* to) {
  constexpr int L = lanes<float>;
  Int j = 0;
  for (; j + L <= n; j += L) stream(to + j, load(from + j) * factor);
  if (j < n) store_n(to + j, load(from + j) * factor, static_cast<int>(n - j));
}
NORMA_INLINE void put_row(const PackedProducts& tiles, const float* from, Int n, float factor, Bf16Bits* to) {
  tiles.put_row(from, n, factor, to);
}

/// Asks for `count` rows of what the next task reads.
inline void fetch_ahead(const AttentionHead<float>& h, Int first, Int count) {
  for (int i = 0; i < h.ahead_count; ++i) {
    const RowsAhead& x = h.ahead[i];
    for (Int r = first; r < smaller(first + count, x.rows); ++r)
      for (Int c = 0; c < x.lines; ++c) __builtin_prefetch(x.data + r * x.row + c * 64, 0, 2);
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
