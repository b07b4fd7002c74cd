#include "backends/cpu/packed_products.h"

#include "backends/cpu/kernels/bf16/pair_product.h"
#include "backends/cpu/kernels/bf16/sliced_tile.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(__AVX512BF16__)
static_assert(PackedProducts::words_of_tile(step_k, 1) == slice_words && PackedProducts::square_words == square);

template <class T>
Source<T> elements(const TileSource& x) {
  return {static_cast<const T*>(x.data), x.across, x.along, x.near};
}

template <bool of_b>
void pack_as_pairs(int64_t lines, int64_t k, TileSource x, float factor, TileOperand to) {
  if (factor != 1) return pack_scaled_pairs(lines, k, elements<Bf16Bits>(x), factor, to.words, to.tile);
  if (x.bf16) return pack_pairs<of_b>(lines, k, elements<Bf16Bits>(x), to.words, to.tile);
  pack_pairs<of_b>(lines, k, elements<float>(x), to.words, to.tile);
}
void pack_square_as_pairs(const float* x, int64_t row, int64_t rows, int64_t k, Word* words) {
  pair_along<false>(Source<float>{x, row, 1, true}, rows, k, words);
}

void put_row(const float* from, int64_t n, float factor, Bf16Bits* to) {
  int64_t j = 0;
  for (; j + 2 * width <= n; j += 2 * width)
    stream(to + j, round_side_by_side(load(from + j) * factor, load(from + j + width) * factor));
  for (; j < n; j += width) store_n(to + j, load(from + j) * factor, static_cast<int>(least(width, n - j)));
}
#endif

#if defined(NORMA_AMX)
template <bool of_b>
void pack_operand(int64_t lines, int64_t k, TileSource x, float factor, TileOperand to) {
  if (to.slices == 1) return pack_as_pairs<of_b>(lines, k, x, factor, to);
  if (factor == 1) return pack<3, of_b>(lines, k, elements<float>(x), AsTheyAre{}, to.words, to.tile);
  pack<3, of_b>(lines, k, elements<float>(x), Times{factor}, to.words, to.tile);
}

void pack_near_square(const float* x, int64_t row, int64_t rows, int64_t k, Word* words, int slices) {
  const Source<float> from{x, row, 1, true};
  if (slices == 1) return pack_square_as_pairs(x, row, rows, k, words);
  if (rows >= tile_side && k >= step_k)
    pack_square<3, false, true>(from, tile_side, step_k, AsTheyAre{}, words);
  else
    pack_square<3, false, false>(from, rows, k, AsTheyAre{}, words);
}

struct Calling {
  static constexpr bool often = true;
  const TileAside& what;
  NORMA_INLINE void step() { what.step(what.context); }
};

template <class Aside>
void multiply_beside(int64_t m, int64_t n, int64_t k, TileOperand left, TileOperand right, float* c, int64_t ld,
                     bool add, Aside aside) {
  const int64_t steps = steps_of(k);
  const Packed a{left.words, left.tile}, b{right.words, right.tile};
  left.slices == 3 ? product<3>(m, n, steps, a, b, c, ld, add, aside) : product<1>(m, n, steps, a, b, c, ld, add, aside);
}
void multiply(int64_t m, int64_t n, int64_t k, TileOperand left, TileOperand right, float* c, int64_t ld, bool add,
              const TileAside* aside) {
  aside ? multiply_beside(m, n, k, left, right, c, ld, add, Calling{*aside})
        : multiply_beside(m, n, k, left, right, c, ld, add, NothingAside{});
}

constexpr PackedProducts products = {true,         enter_tiles, leave_tiles, pack_operand<false>, pack_operand<true>, pack_near_square,
                                     multiply,     put_row};
constexpr const PackedProducts* products_or_null = &products;
#elif defined(__AVX512BF16__)
void nothing() {}
void pack_near_square(const float* x, int64_t row, int64_t rows, int64_t k, Word* words, int /*slices*/) {
  pack_square_as_pairs(x, row, rows, k, words);
}
void multiply(int64_t m, int64_t n, int64_t k, TileOperand left, TileOperand right, float* c, int64_t ld, bool add,
              const TileAside* /*aside*/) {
  pair_product(m, n, k, {left.words, left.tile}, {right.words, right.tile}, c, ld, add);
}

constexpr PackedProducts products = {false,    nothing, nothing, pack_as_pairs<false>, pack_as_pairs<true>, pack_near_square,
                                     multiply, put_row};
constexpr const PackedProducts* products_or_null = &products;
#else
constexpr const PackedProducts* products_or_null = nullptr;
#endif

}  // namespace

extern const PackedProducts* const packed_products;
const PackedProducts* const packed_products = products_or_null;

}  // namespace norma::cpu::NORMA_ISA
