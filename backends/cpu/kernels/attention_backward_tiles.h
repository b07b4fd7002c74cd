// Attention backward for one head with AMX's products (backends/cpu/tile_products.h), in the steps of attention_backward.cpp. dK and dV come
// as dK^T = Q^T dS and dV^T = dO^T A, so that of all operands that are packed for every block only Q and dO are transposed.
#pragma once

#include "backends/cpu/kernels/attention_differentiate.h"
#include "backends/cpu/kernels/attention_on_tiles.h"

#if defined(__AVX512F__)
namespace norma::cpu::NORMA_ISA {
namespace {

template <class Stored>
struct TilePlan {
  SliceCounts<Stored> slices;
  Int columns, rows, ld, d_ld;  // of a block of scores, and of dK^T and dV^T; of dQ
  Int block_size, dq_size, dk_size, dv_size, panel_size, zero_size, keep_size, mask_size, before_size, row_size;
  explicit TilePlan(const AttentionHeadBackward<float, Stored>& h) : slices(h.scale) {
    const bool whole = h.keys <= 320 || (h.normalize && h.phi != Phi::softmax);  // rows that are divided by their sum stay whole
    columns = whole ? h.keys : 256;
    rows = smaller(round_up(h.rows, tile_lines), sizeof(Stored) == 2 ? 128 : 96);
    ld = round_up(columns, 16) + 16;  // an odd number of cache lines apart
    d_ld = round_up(h.d, 16);
    block_size = rows * ld;
    dq_size = (columns < h.keys ? round_up(h.rows, tile_lines) : rows) * d_ld;  // sums over blocks of keys
    dk_size = round_up(h.d, tile_lines) * ld;
    dv_size = round_up(h.e, tile_lines) * ld;
    panel_size = round_up(larger(h.d, h.e), panel_width<float>) * columns;
    zero_size = round_up(columns, 16);
    keep_size = h.drop ? round_up(columns, 16) + 128 : 0;
    mask_size = h.key_mask ? round_up(h.keys, 16) + 16 : 0;
    before_size = h.key_mask ? round_up(h.keys + 1, 16) : 0;
    row_size = round_up(h.rows, 16) + 2 * row_slots;
  }
  Int bytes(const AttentionHeadBackward<float, Stored>& h) const {
    const Int words = operand_words(columns, h.d, slices.scaled_k) + operand_words(columns, h.e, slices.given) +
                      operand_words(h.d, columns, slices.given) + operand_words(rows, h.d, slices.given) +
                      operand_words(rows, h.e, slices.given) + operand_words(h.d, rows, slices.given) +
                      operand_words(h.e, rows, slices.given) + operand_words(rows, columns, slices.computed) +
                      operand_words(columns, rows, slices.computed);
    return (words + 2 * block_size + dq_size + dk_size + dv_size + panel_size + zero_size + 2 * keep_size + mask_size + before_size +
            row_size) * 4 + 22 * 64;
  }
};

/// to[column][row] = x[row][column], through panels.
template <class Stored>
void put_transposed(const TileProducts& tiles, const float* x, Int ld, Int rows, Int columns, const float* zeros, float* panels, Stored* to, Int to_row) {
  constexpr Int W = panel_width<float>;
  pack_transposed(x, ld, rows, columns, 1.0f, zeros, panels, columns * W);
  for (Int j = 0; j < columns; ++j)
    for (Int r = 0; r < rows; r += W) put_row(tiles, panels + r * columns + j * W, smaller(W, rows - r), 1, to + j * to_row + r);
}

template <class Stored>
void backward_on_tiles(const AttentionHeadBackward<float, Stored>& h) {
  const TilePlan<Stored> plan(h);
  const TileProducts& tiles = *h.tiles;
  const TileScope configured(tiles);
  const int given = plan.slices.given, computed = plan.slices.computed;
  Pieces pieces{static_cast<char*>(h.work)};
  const auto operand = [&](Int lines, Int depth, int slices) {
    return TileOperand{pieces.take<std::uint32_t>(operand_words(lines, depth, slices)), TileProducts::words_of_tile(depth, slices), slices};
  };
  const TileOperand k_scores = operand(plan.columns, h.d, plan.slices.scaled_k), v_da = operand(plan.columns, h.e, given);
  const TileOperand k_dq = operand(h.d, plan.columns, given);
  const TileOperand q_scores = operand(plan.rows, h.d, given), dout_da = operand(plan.rows, h.e, given);
  const TileOperand q_dk = operand(h.d, plan.rows, given), dout_dv = operand(h.e, plan.rows, given);
  const TileOperand by_rows = operand(plan.rows, plan.columns, computed), by_keys = operand(plan.columns, plan.rows, computed);
  float* p = pieces.take<float>(plan.block_size);
  float* g = pieces.take<float>(plan.block_size);
  float* dq = pieces.take<float>(plan.dq_size);
  float* dk = pieces.take<float>(plan.dk_size);
  float* dv = pieces.take<float>(plan.dv_size);
  float* panels = pieces.take<float>(plan.panel_size);
  float* zeros = pieces.take<float>(plan.zero_size);
  float* keep = pieces.take<float>(plan.keep_size);
  float* delta = pieces.take<float>(plan.row_size);
  Bits<float>* mask = pieces.take<Bits<float>>(plan.mask_size);
  std::int32_t* before = pieces.take<std::int32_t>(plan.before_size);
  std::uint32_t* words = pieces.take<std::uint32_t>(plan.keep_size);

  clear(zeros, 0, plan.zero_size);
  Sight<float> sight{h};
  sight.set_masks(mask, before);
  const Differentiate<float> differentiate_tile = h.stats ? differentiate_of<float, true>(h) : differentiate_of<float, false>(h);
  Gradients<float> sums;
  if (h.normalize) row_products(h, delta);

  for (Int j0 = 0; j0 < h.keys; j0 += plan.columns) {
    const Int columns = smaller(plan.columns, h.keys - j0);
    const Stored *keys = h.k + j0 * h.k_row, *values = h.v + j0 * h.v_row;
    prefetch_rows(h.q, h.q_row, plan.rows, h.d);
    prefetch_rows(h.dout, h.dout_row, plan.rows, h.e);
    tiles.pack_right(columns, h.d, {keys, h.k_row, 1}, static_cast<float>(h.scale), k_scores);
    tiles.pack_right(columns, h.e, {values, h.v_row, 1}, 1, v_da);
    const TileOperand k_here = over(k_dq, columns);
    tiles.pack_right(h.d, columns, {keys, 1, h.k_row}, 1, k_here);
    clear(dk, 0, plan.dk_size);
    clear(dv, 0, plan.dv_size);
    for (Int i0 = 0; i0 < h.rows; i0 += plan.rows) {
      const Int rows = smaller(plan.rows, h.rows - i0);
      const Int seen = larger(0, smaller(columns, sight.length(i0 + rows - 1) - j0));
      if (seen == 0 && j0 > 0) continue;
      const Stored *q = h.q + i0 * h.q_row, *dout = h.dout + i0 * h.dout_row;
      tiles.pack_left(rows, h.d, {q, h.q_row, 1}, 1, q_scores);
      tiles.pack_left(rows, h.e, {dout, h.dout_row, 1}, 1, dout_da);
      tiles.multiply(rows, seen, h.d, q_scores, k_scores, p, plan.ld, false, nullptr);
      tiles.multiply(rows, seen, h.e, dout_da, v_da, g, plan.ld, false, nullptr);
      for (Int i = 0; i < rows; i += row_slots) {
        const int count = static_cast<int>(smaller(row_slots, rows - i));
        float lse[row_slots] = {};
        if (h.phi == Phi::softmax)
          for (int m = 0; m < count; ++m) lse[m] = h.lse[(i0 + i + m) * h.lse_step];
        if (j0 == 0) fetch_ahead(h, i0 + i, row_slots);
        const Tile<float> both{p + i * plan.ld, g + i * plan.ld, plan.ld, i0 + i, count, j0, columns, round_up(seen, 16)};
        differentiate_tile(sight, both, lse, delta + i0 + i, keep, words, &sums);
      }
      const TileOperand ds = over(by_rows, seen);
      tiles.pack_left(rows, seen, {g, plan.ld, 1, true}, 1, ds);
      float* sum = columns < h.keys ? dq + i0 * plan.d_ld : dq;
      tiles.multiply(rows, h.d, seen, ds, k_here, sum, plan.d_ld, j0 > 0, nullptr);
      if (j0 + columns >= sight.length(i0 + rows - 1))
        for (Int i = 0; i < rows; ++i) put_row(tiles, sum + i * plan.d_ld, h.d, 1, h.dq + (i0 + i) * h.dq_row);

      tiles.pack_left(h.e, rows, {dout, 1, h.dout_row}, 1, over(dout_dv, rows));
      tiles.pack_right(seen, rows, {p, 1, plan.ld, true}, 1, over(by_keys, rows));
      tiles.multiply(h.e, seen, rows, over(dout_dv, rows), over(by_keys, rows), dv, plan.ld, true, nullptr);
      tiles.pack_left(h.d, rows, {q, 1, h.q_row}, 1, over(q_dk, rows));
      tiles.pack_right(seen, rows, {g, 1, plan.ld, true}, 1, over(by_keys, rows));
      tiles.multiply(h.d, seen, rows, over(q_dk, rows), over(by_keys, rows), dk, plan.ld, true, nullptr);
    }
    put_transposed(tiles, dk, plan.ld, h.d, columns, zeros, panels, h.dk + j0 * h.dk_row, h.dk_row);
    put_transposed(tiles, dv, plan.ld, h.e, columns, zeros, panels, h.dv + j0 * h.dv_row, h.dv_row);
  }
  end_stream();
  if (h.stats) sums.write(h.stats);
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
