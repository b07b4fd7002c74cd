// How an operand becomes words, and the sizes of the micro-tiles that multiply them. Packing and epilogues are templates over
// a form.
#pragma once

#include "backends/cpu/gemm_bf16_kernels.h"
#include "backends/cpu/kernels/bf16/registers.h"
#include "backends/cpu/kernels/micro_tile.h"

namespace norma::cpu::NORMA_ISA {

using std::int64_t;

constexpr int width = lanes<float>;

/// A word is a float.
struct Widened {
  static constexpr int depth = 1, unit = 1, rows = tile_rows, vectors = tile_vectors;
  /// Elements as the lower halves of lanes, one for each of `depth`.
  static NORMA_INLINE U join(const U (&bits)[1]) { return bits[0] << 16; }
  /// `depth` vectors of floats that lie side by side.
  static NORMA_INLINE U round(const F (&x)[1]) { return round_bits(x[0]) << 16; }
  static NORMA_INLINE F add(F sum, U a, U b) { return fma((F)a, (F)b, sum); }
};
/// A word is two elements of k. With 32 registers a panel is as wide as two cache lines of results.
struct Pairs {
  static constexpr int depth = 2, unit = 1, rows = register_count == 32 ? 6 : tile_rows, vectors = register_count == 32 ? 4 : tile_vectors;
  static NORMA_INLINE U join(const U (&bits)[2]) { return bits[0] | (bits[1] << 16); }
  static NORMA_INLINE U round(const F (&x)[2]) { return round_side_by_side(x[0], x[1]); }
  static NORMA_INLINE F add(F sum, U a, U b) { return dot_pairs(sum, a, b); }
};

template <class Form>
constexpr int columns = Form::vectors * width;  // of a panel

template <class Form>
NORMA_INLINE int64_t words_of(int64_t k) {
  constexpr int64_t elements = Form::depth * Form::unit;
  return (k + elements - 1) / elements * Form::unit;
}
NORMA_INLINE U load_words(const void* p) {
  U u;
  std::memcpy(&u, p, sizeof u);
  return u;
}
NORMA_INLINE void store_words(void* p, U u) { std::memcpy(p, &u, sizeof u); }

}  // namespace norma::cpu::NORMA_ISA
