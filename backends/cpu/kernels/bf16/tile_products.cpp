#include "backends/cpu/tile_products.h"

#include "backends/cpu/kernels/bf16/sliced_tile.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(__AMX_BF16__)
static_assert(TileProducts::words_of_tile(step_k, 1) == slice_words);

template <bool of_b>
void pack_operand(int64_t lines, int64_t k, TileSource x, float factor, TileOperand to) {
  const Source from{x.data, x.across, x.along, x.near};
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

template <int left, int right>
void multiply_slices(int64_t m, int64_t n, int64_t k, const TileOperand& a, const TileOperand& b, float* c, int64_t ld, bool add) {
  const int64_t steps = steps_of(k), most = piece_steps<left, right>(steps);
  for (int64_t j = 0; j < n; j += side) {
    int64_t from = 0;
    do {
      const int64_t count = least(most, steps - from);
      const Word* columns = b.words + j / side * b.tile + from * right * slice_words;
      for (int64_t i = 0; i < m; i += side) {
        const Word* rows = a.words + i / side * a.tile + from * left * slice_words;
        const Sums<float> to{c + i * ld + j, ld};
        const Sums<const float> before{add || from > 0 ? to.data : nullptr, ld};
        const bool low = m - i <= tile_side, narrow = n - j <= tile_side;
        const auto f = low ? narrow ? tile<left, right, true, true> : tile<left, right, true, false>
                           : narrow ? tile<left, right, false, true> : tile<left, right, false, false>;
        f(count, rows, columns, before, to, 0, nullptr);
      }
      from += count;
    } while (from < steps);
  }
}

void multiply(int64_t m, int64_t n, int64_t k, TileOperand left, TileOperand right, float* c, int64_t ld, bool add) {
  if (left.slices == 3) return multiply_slices<3, 3>(m, n, k, left, right, c, ld, add);
  if (left.slices == 2) return multiply_slices<2, 1>(m, n, k, left, right, c, ld, add);
  if (right.slices == 2) return multiply_slices<1, 2>(m, n, k, left, right, c, ld, add);
  multiply_slices<1, 1>(m, n, k, left, right, c, ld, add);
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
