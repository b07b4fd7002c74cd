// Attention forward for one head with AMX's products (backends/cpu/tile_products.h): a block of rows against all keys, in the steps of
// attention_forward.cpp; or, where rows are long and nothing is carried along them, more rows against blocks of keys, whose products with V
// are added up.
#pragma once

#include "backends/cpu/kernels/attention_on_tiles.h"
#include "backends/cpu/kernels/attention_weigh.h"

#if defined(__AVX512F__)
namespace norma::cpu::NORMA_ISA {
namespace {

template <class Stored>
struct TilePlan {
  SliceCounts<Stored> slices;
  Int rows, columns, ld, out_ld;  // of a block of scores; of its result
  Int piece;                      // of its columns, whose weights are packed and multiplied by V before the next ones
  Int k_words, v_words, q_words, p_words;
  Int score_size, out_size, inverse_size, sum_size, keep_size, mask_size, before_size;
  explicit TilePlan(const AttentionHeadForward<float, Stored>& h) : slices(h.scale) {
    // Scores lie in the second-level cache, those of bf16, whose products are quicker, in the first.
    constexpr bool two_bytes = sizeof(Stored) == 2;
    const Int all = round_up(h.row_end - h.row_begin, tile_lines);
    const bool blocks = !h.normalize && h.keys > (two_bytes ? 192 : 512);  // of keys: nothing is carried along a row
    columns = !blocks ? h.keys : two_bytes ? 128 : 256;
    rows = smaller(all, !two_bytes ? (blocks ? 256 : 64) : all <= 96 && columns <= 96 ? 96 : 32);
    ld = round_up(columns, 16) + 16;  // an odd number of cache lines apart
    out_ld = round_up(h.e, 16);
    k_words = operand_words(h.keys, h.d, slices.scaled_k);
    v_words = operand_words(h.e, h.keys, slices.given);
    q_words = operand_words(rows, h.d, slices.given);
    piece = smaller(columns, 512);
    p_words = operand_words(rows, piece, slices.computed);
    score_size = rows * ld;
    out_size = rows * out_ld;
    inverse_size = rows / row_slots * static_cast<Int>(sizeof(Slots<float>) / sizeof(float));
    sum_size = round_up(rows, 16);
    keep_size = h.drop ? round_up(columns, 16) + 128 : 0;
    mask_size = h.key_mask ? round_up(h.keys, 16) : 0;
    before_size = h.key_mask ? round_up(h.keys + 1, 16) : 0;
  }
  Int bytes() const {
    return (k_words + v_words + q_words + p_words + score_size + out_size + inverse_size + sum_size + 2 * keep_size + mask_size +
            before_size) * 4 + 12 * 64;
  }
};

template <class Stored>
void forward_on_tiles(const AttentionHeadForward<float, Stored>& h) {
  const TilePlan<Stored> plan(h);
  const TileProducts& tiles = *h.tiles;
  const TileScope configured(tiles);
  Pieces pieces{static_cast<char*>(h.work)};
  const auto operand = [&](Int words, Int depth, int slices) {
    return TileOperand{pieces.take<std::uint32_t>(words), TileProducts::words_of_tile(depth, slices), slices};
  };
  const TileOperand k = operand(plan.k_words, h.d, plan.slices.scaled_k), v = operand(plan.v_words, h.keys, plan.slices.given);
  const TileOperand q = operand(plan.q_words, h.d, plan.slices.given), p = operand(plan.p_words, plan.piece, plan.slices.computed);
  float* scores = pieces.take<float>(plan.score_size);
  float* out = pieces.take<float>(plan.out_size);
  float* inverse = pieces.take<float>(plan.inverse_size);
  float* row_sums = pieces.take<float>(plan.sum_size);
  float* keep = pieces.take<float>(plan.keep_size);
  std::uint32_t* words = pieces.take<std::uint32_t>(plan.keep_size);
  Bits<float>* mask = pieces.take<Bits<float>>(plan.mask_size);
  std::int32_t* before = pieces.take<std::int32_t>(plan.before_size);

  prefetch_rows(h.v, h.v_row, smaller(h.keys, 128), h.e);
  tiles.pack_right(h.keys, h.d, {h.k, h.k_row, 1}, static_cast<float>(h.scale), k);
  tiles.pack_right(h.e, h.keys, {h.v, 1, h.v_row}, 1, v);
  Sight<float> sight{h};
  sight.set_masks(mask, before);
  const Weigh<float> weigh_tile = h.stats ? weigh_of<float, true>(h) : weigh_of<float, false>(h);
  Statistics<float> stats;

  const bool whole = plan.columns == h.keys;
  for (Int i0 = h.row_begin; i0 < h.row_end; i0 += plan.rows) {
    const Int rows = smaller(plan.rows, h.row_end - i0), length = sight.length(i0 + rows - 1);
    tiles.pack_left(rows, h.d, {h.q + i0 * h.q_row, h.q_row, 1}, 1, q);
    clear(row_sums, 0, plan.sum_size);
    for (Int j0 = 0; j0 == 0 || j0 < length; j0 += plan.columns) {
      const Int seen = smaller(plan.columns, length - j0);
      tiles.multiply(rows, seen, h.d, q, {k.words + j0 / tile_lines * k.tile, k.tile, k.slices}, scores, plan.ld, false);
      for (Int i = 0; i < rows; i += row_slots) {
        Tile<float> tile{scores + i * plan.ld, plan.ld, i0 + i, static_cast<int>(smaller(row_slots, rows - i)), round_up(seen, 16)};
        if (!whole) tile.column = j0, tile.columns = plan.columns, tile.row_sums = row_sums + i;
        Slots<float> lse;
        if (j0 == 0) fetch_ahead(h, i0 + i, row_slots);
        weigh_tile(sight, tile, inverse + i / row_slots * slot_size, lse.value, &stats);
        if (h.lse)
          for (int m = 0; m < tile.rows; ++m) h.lse[(i0 + i + m) * h.lse_step] = lse.value[m];
        if (h.drop) drop(sight, tile, keep, words);
      }
      for (Int c = 0; c == 0 || c < seen; c += plan.piece) {
        const Int piece = smaller(plan.piece, seen - c);
        tiles.pack_left(rows, piece, {scores + c, plan.ld, 1, true}, 1, over(p, piece));
        // Of v's steps the first ones are behind.
        tiles.multiply(rows, h.e, piece, over(p, piece), {v.words + TileProducts::words_of_tile(j0 + c, v.slices), v.tile, v.slices}, out, plan.out_ld, j0 + c > 0);
      }
    }
    if (h.stats && !whole)
      for (Int i = 0; i < rows; ++i) stats.add_row_sum(row_sums[i]);
    for (Int i = 0; i < rows; ++i) {
      const float factor = h.normalize ? inverse[i / row_slots * slot_size + i % row_slots] : 1.0f;
      put_row(tiles, out + i * plan.out_ld, h.e, factor, h.out + (i0 + i) * h.out_row);
    }
  }
  end_stream();
  if (h.stats) stats.write(h.stats, h.normalize);
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
