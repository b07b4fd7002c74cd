// Attention forward for one head. K is packed once, transposed and scaled, V once by rows, both in panels; then every few rows:
// scores into a block that stays in cache, the attention function over it in place, and the product with V into the output. Where rows
// are long, several tiles of them share each panel of K and each piece of V while it is in cache.
// Softmax needs no online rescaling, since a whole row is at hand. Statistics come from the same registers as the weights.
#include "backends/cpu/kernels/attention_forward_tiles.h"
#include "backends/cpu/kernels/attention_weigh.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// How rows and keys are cut, and the scratch memory of one call.
template <class T>
struct Plan {
  static constexpr Int W = panel_width<T>, slots = static_cast<Int>(sizeof(Slots<T>) / sizeof(T));
  Int k_step, v_step, ld, block_tiles;
  Int v_piece;  // keys whose rows of V, 128 KiB or less, are multiplied by all tiles of a block before the next ones
  T *k_panels, *v_panels, *block;
  T* inverse;  // 1 / sum of each row of the block, for kinds that have it
  T *zeros, *keep;
  Bits<T>* mask;
  std::int32_t* before;
  std::uint32_t* words;

  Plan(const AttentionHeadForward<T>& h, ScratchCutter& scratch) {
    k_step = h.d * W;
    v_step = h.keys * W;
    ld = round_up(h.keys, lanes<T>) + lanes<T>;  // an odd number of registers apart: rows do not share cache sets
    const Int tiles = Tiling(h.row_end - h.row_begin).count;
    // A block of about 384 KiB; of very long rows six tiles, so that K and V are not read too often.
    const Int fitting = 393216 / (tile_rows * ld * static_cast<Int>(sizeof(T)));
    block_tiles = h.keys <= 256 ? 1 : larger(1, smaller(tiles, larger(6, fitting)));
    v_piece = larger(256, smaller(512, 131072 / (larger(1, h.e) * static_cast<Int>(sizeof(T)))));
    k_panels = scratch.take<T>(round_up(h.keys, W) / W * k_step);
    v_panels = scratch.take<T>(round_up(h.e, W) / W * v_step);
    block = scratch.take<T>(block_tiles * tile_rows * ld);
    inverse = scratch.take<T>(block_tiles * slots);
    zeros = scratch.take<T>(round_up(h.d, 16));
    const Int drawn = h.drop ? round_up(h.keys, 16) + 128 : 0;
    keep = scratch.take<T>(drawn);
    mask = scratch.take<Bits<T>>(h.key_mask ? round_up(h.keys, 16) : 0);
    before = scratch.take<std::int32_t>(h.key_mask ? round_up(h.keys + 1, 16) : 0);
    words = scratch.take<std::uint32_t>(drawn);
  }
};

template <class T>
void forward(const AttentionHeadForward<T>& h) {
  if constexpr (has_packed<T>)
    if (h.packed) return forward_on_tiles(h);
  constexpr Int W = panel_width<T>;
  ScratchCutter scratch(h.work);
  const Plan<T> plan(h, scratch);
  for (Int i = 0; i < round_up(h.d, 16); ++i) plan.zeros[i] = 0;
  prefetch_rows(h.v, h.v_row, smaller(h.keys, 128), h.e);
  prefetch_rows(h.q + h.row_begin * h.q_row, h.q_row, smaller(h.row_end - h.row_begin, 128), h.d);
  const Int in_panels = h.keys - few_of<T>(h.keys);
  pack_transposed(h.k, h.k_row, in_panels, h.d, static_cast<T>(h.scale), plan.zeros, plan.k_panels, plan.k_step);
  pack_rows(h.v, h.v_row, h.keys, h.e, plan.v_panels, plan.v_step);
  Visibility<T> visibility{h};
  visibility.set_masks(plan.mask, plan.before);
  const Weigh<T> weigh_tile = h.stats ? weigh_of<T, true>(h) : weigh_of<T, false>(h);
  Statistics<T> stats;

  const Tiling tiling(h.row_end - h.row_begin);
  for (Int t0 = 0; t0 < tiling.count; t0 += plan.block_tiles) {
    const Int t1 = smaller(tiling.count, t0 + plan.block_tiles);
    const auto scores_of = [&](Int t) { return plan.block + (t - t0) * tile_rows * plan.ld; };
    const auto inverse_of = [&](Int t) { return plan.inverse + (t - t0) * plan.slots; };
    for (Int n = 0, panel = 0; n < in_panels; n += W, ++panel) {
      for (Int t = t0; t < t1; ++t) {
        const Int i = h.row_begin + tiling.begin(t);
        const int mr = tiling.rows(t);
        const Int seen = visibility.length(i + mr - 1);
        if (seen <= n) continue;
        const Int vectors = (smaller(W, smaller(seen, in_panels) - n) + lanes<T> - 1) / lanes<T>;
        tile<T, false>(mr, static_cast<int>(vectors), h.d, h.q + i * h.q_row, h.q_row, plan.k_panels + panel * plan.k_step,
                       {scores_of(t) + n, plan.ld, false, nullptr, 0});
      }
    }
    for (Int t = t0; t < t1; ++t) {
      const Int i = h.row_begin + tiling.begin(t);
      const int mr = tiling.rows(t);
      if (const Int left = visibility.length(i + mr - 1) - in_panels; left > 0)
        few_columns(mr, left, h.d, h.q + i * h.q_row, h.q_row, h.k + in_panels * h.k_row, h.k_row, static_cast<T>(h.scale),
                    scores_of(t) + in_panels, plan.ld);
      const ScoreTile<T> scores{scores_of(t), plan.ld, i, mr, round_up(visibility.length(i + mr - 1), lanes<T>)};
      Slots<T> lse;
      weigh_tile(visibility, scores, inverse_of(t), lse.value, &stats);
      if (h.lse)
        for (int m = 0; m < mr; ++m) h.lse[(i + m) * h.lse_step] = lse.value[m];
      if (h.drop) drop(visibility, scores, plan.keep, plan.words);
    }
    for (Int j = 0; j == 0 || j < h.keys; j += plan.v_piece) {
      for (Int t = t0; t < t1; ++t) {
        const Int i = h.row_begin + tiling.begin(t);
        const int mr = tiling.rows(t);
        const Int seen = smaller(plan.v_piece, visibility.length(i + mr - 1) - j);
        if (seen <= 0 && j > 0) continue;
        multiply_rows<T, false>(mr, h.e, seen, scores_of(t) + j, plan.ld, {plan.v_panels + j * W, plan.v_step}, h.out + i * h.out_row,
                                h.out_row, false, j > 0, h.normalize ? inverse_of(t) : nullptr);
      }
    }
  }
  if (h.stats) stats.write(h.stats, h.normalize);
}

template <class T>
Int work_bytes(const AttentionHeadForward<T>& h) {
  if constexpr (has_packed<T>)
    if (h.packed) return forward_on_tiles_bytes(h);
  ScratchCutter count(nullptr);
  Plan<T>(h, count);
  return count.used();
}

#if defined(__AVX512F__)
constexpr auto bf16 = AttentionKernel<AttentionHeadForward<float, Bf16Bits>>{forward_on_tiles_bytes<Bf16Bits>, forward_on_tiles<Bf16Bits>};
#else
constexpr auto bf16 = AttentionKernel<AttentionHeadForward<float, Bf16Bits>>{nullptr, nullptr};
#endif

}  // namespace

extern const AttentionForwardKernels attention_forward_kernels{{work_bytes<float>, forward<float>}, {work_bytes<double>, forward<double>}, bf16};

}  // namespace norma::cpu::NORMA_ISA
