// What the forward and the backward pass of attention with AMX's products share.
#pragma once

#include "backends/cpu/kernels/attention_rows.h"
#include "backends/cpu/tile_products.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// Whether this instruction set has a pass for heads that come with TileProducts.
#if defined(__AVX512F__)
template <class T> constexpr bool has_tiles = sizeof(T) == 4;
#else
template <class T> constexpr bool has_tiles = false;
#endif

/// While one lives, TileProducts::multiply may be called.
class TileScope {
 public:
  explicit TileScope(const TileProducts& products) : products_(products) { products_.enter(); }
  ~TileScope() { products_.leave(); }
  TileScope(const TileScope&) = delete;

 private:
  const TileProducts& products_;
};

constexpr Int tile_lines = 32;                                                     // of a packed tile
constexpr Int slot_size = static_cast<Int>(sizeof(Slots<float>) / sizeof(float));  // numbers of a group of row_slots rows

/// Slices of operands (tile_products.h). What was bf16 needs one, and then what is computed gets two: 16 bits, far more than bf16 has.
struct SliceCounts {
  int given, computed, scaled_k;
  explicit SliceCounts(const AttentionHead<float>& h) : given(h.from_bf16 ? 1 : 3), computed(h.from_bf16 ? 2 : 3) {
    int exponent;
    const bool exact = __builtin_frexp(h.scale, &exponent) == 0.5;  // a power of two leaves a bf16 a bf16
    scaled_k = exact ? given : computed;
  }
};

inline Int operand_words(Int lines, Int depth, int slices) {
  return (lines + tile_lines - 1) / tile_lines * TileProducts::words_of_tile(depth, slices);
}

/// The room of x for fewer elements of k than it was made for: its tiles are shorter then.
inline TileOperand over(const TileOperand& x, Int depth) { return {x.words, TileProducts::words_of_tile(depth, x.slices), x.slices}; }

/// to[n] = factor * from (+ to where `add`); from has room for whole registers.
NORMA_INLINE void put_row(const float* from, Int n, float factor, bool add, float* to) {
  constexpr int L = lanes<float>;
  Int j = 0;
  for (; j + L <= n; j += L) {
    const F x = load(from + j) * factor;
    add ? store(to + j, load(to + j) + x) : stream(to + j, x);
  }
  if (const int rest = static_cast<int>(n - j)) {
    const F x = load(from + j) * factor;
    store_n(to + j, add ? load_n(to + j, rest) + x : x, rest);
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
