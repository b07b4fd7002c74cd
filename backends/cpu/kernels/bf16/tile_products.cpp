#include "backends/cpu/tile_products.h"

#include "backends/cpu/kernels/bf16/sliced_tile.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(__AMX_BF16__)
static_assert(TileProducts::words_of_tile(step_k, 1) == slice_words);

template <bool of_b>
void pack_operand(int64_t lines, int64_t k, TileSource x, float factor, TileOperand to) {
  const Source<float> from{x.data, x.across, x.along, x.near};
  const auto with = [&](auto map) {
    if (to.slices == 3) return pack<3, of_b>(lines, k, from, map, to.words, to.tile);
    if (to.slices == 2) return pack<2, of_b>(lines, k, from, map, to.words, to.tile);
    pack<1, of_b>(lines, k, from, map, to.words, to.tile);
  };
  if (factor == 1)
    with(AsTheyAre{});
  else
    with(Times{factor});
}

void multiply(int64_t m, int64_t n, int64_t k, TileOperand left, TileOperand right, float* c, int64_t ld, bool add) {
  const int64_t steps = steps_of(k);
  const Packed a{left.words, left.tile}, b{right.words, right.tile};
  if (left.slices == 3) return product<3, 3>(m, n, steps, a, b, c, ld, add);
  if (left.slices == 2) return product<2, 1>(m, n, steps, a, b, c, ld, add);
  if (right.slices == 2) return product<1, 2>(m, n, steps, a, b, c, ld, add);
  product<1, 1>(m, n, steps, a, b, c, ld, add);
}

constexpr TileProducts products = {enter_tiles, leave_tiles, pack_operand<false>, pack_operand<true>, multiply};
constexpr const TileProducts* products_or_null = &products;
#else
constexpr const TileProducts* products_or_null = nullptr;
#endif

}  // namespace

extern const TileProducts* const tile_products;
const TileProducts* const tile_products = products_or_null;

}  // namespace norma::cpu::NORMA_ISA
