// Attention backward for one head by products of packed operands (backends/cpu/packed_products.h), in the steps of
// attention_backward.cpp. dK and dV come as dK^T = Q^T dS and dV^T = dO^T A, so that of all operands that are packed
// for every block only Q and dO are transposed.
#pragma once

#include "backends/cpu/kernels/attention_differentiate.h"
#include "backends/cpu/kernels/attention_on_tiles.h"

#if defined(__AVX512F__)
namespace norma::cpu::NORMA_ISA {
namespace {

/// The sizes of blocks, and the scratch memory of one head.
template <class Stored>
struct BackwardRooms {
  Int columns, rows, ld, d_ld;  // of a block of scores, and of dK^T and dV^T; of dQ
  Int dk_size, dv_size;
  TileOperand k_scores, v_da, k_dq, q_scores, dout_da, q_dk, dout_dv;
  TileOperand by_rows, by_keys;  // dS as a left operand; A, then dS, as right ones
  float *p, *g, *dq, *dk, *dv, *panels, *zeros, *keep, *delta;
  std::uint32_t* words;
  Bits<float>* mask;
  std::int32_t* before;

  BackwardRooms(const AttentionHeadBackward<float, Stored>& h, ScratchCutter& scratch) {
    // Rows that are divided by their sum stay whole.
    const Int keys = h.key_end - h.key_begin;
    const bool whole = keys <= whole_row_keys || (h.normalize && h.phi != Phi::softmax);
    columns = whole ? keys : 256;
    // Under a causal mask a block computes all that its last row sees: without AMX that costs more than small blocks do.
    const Int most = sizeof(Stored) == 4 ? 96 : h.causal && !h.packed->amx ? tile_lines : 128;
    rows = smaller(round_up(h.rows, tile_lines), most);
    ld = round_up(columns, 16) + 16;  // an odd number of cache lines apart
    d_ld = round_up(h.d, 16);
    const auto operand = [&](Int lines, Int depth) { return take_operand(scratch, lines, depth, slice_count<Stored>); };
    k_scores = operand(columns, h.d), v_da = operand(columns, h.e);
    k_dq = operand(h.d, columns);
    q_scores = operand(rows, h.d), dout_da = operand(rows, h.e);
    q_dk = operand(h.d, rows), dout_dv = operand(h.e, rows);
    by_rows = operand(rows, columns), by_keys = operand(columns, rows);
    p = scratch.take<float>(rows * ld), g = scratch.take<float>(rows * ld);
    dq = scratch.take<float>((columns < keys ? round_up(h.rows, tile_lines) : rows) *
                            d_ld);  // sums over blocks of keys
    dk_size = round_up(h.d, tile_lines) * ld, dv_size = round_up(h.e, tile_lines) * ld;
    dk = scratch.take<float>(dk_size), dv = scratch.take<float>(dv_size);
    panels = scratch.take<float>(round_up(larger(h.d, h.e), panel_width<float>) * columns);
    zeros = scratch.take<float>(round_up(columns, 16));
    keep = scratch.take<float>(h.drop ? round_up(columns, 16) + 128 : 0);
    words = scratch.take<std::uint32_t>(h.drop ? round_up(columns, 16) + 128 : 0);
    delta = scratch.take<float>(round_up(h.rows, 16) + 2 * row_slots);
    mask = scratch.take<Bits<float>>(h.key_mask ? round_up(h.keys, 16) + 16 : 0);
    before = scratch.take<std::int32_t>(h.key_mask ? round_up(h.keys + 1, 16) : 0);
  }
};

/// to[column][row] = x[row][column], through panels.
template <class Stored>
void put_transposed(const PackedProducts& tiles, const float* x, Int ld, Int rows, Int columns, const float* zeros,
                    float* panels, Stored* to, Int to_row) {
  constexpr Int W = panel_width<float>;
  pack_transposed(x, ld, rows, columns, 1.0f, zeros, panels, columns * W);
  for (Int j = 0; j < columns; ++j)
    for (Int r = 0; r < rows; r += W)
      put_row(tiles, panels + r * columns + j * W, smaller(W, rows - r), 1, to + j * to_row + r);
}

template <class Stored>
void backward_on_tiles(const AttentionHeadBackward<float, Stored>& h) {
  ScratchCutter scratch(h.work);
  const BackwardRooms<Stored> r(h, scratch);
  const PackedProducts& tiles = *h.packed;
  const TileScope configured(tiles);
  const SplitScale<Stored> scale(h.scale);
  clear(r.zeros, 0, round_up(r.columns, 16));
  Visibility<float> visibility{h};
  visibility.set_masks(r.mask, r.before);
  const Differentiate<float> differentiate_tile =
      h.stats ? differentiate_of<float, true>(h) : differentiate_of<float, false>(h);
  Gradients<float> sums;
  const bool own_delta = h.rounded_out && r.columns == h.keys;
  if (h.normalize && !own_delta) row_products(h, r.delta);

  for (Int j0 = h.key_begin; j0 < h.key_end; j0 += r.columns) {
    const Int columns = smaller(r.columns, h.key_end - j0);
    const Stored *keys = h.k + j0 * h.k_row, *values = h.v + j0 * h.v_row;
    prefetch_rows(h.q, h.q_row, r.rows, h.d);
    prefetch_rows(h.dout, h.dout_row, r.rows, h.e);
    tiles.pack_right(columns, h.d, {keys, h.k_row, 1}, scale.of_k, r.k_scores);
    tiles.pack_right(columns, h.e, {values, h.v_row, 1}, 1, r.v_da);
    const TileOperand k_here = over(r.k_dq, columns);
    tiles.pack_right(h.d, columns, {keys, 1, h.k_row}, 1, k_here);
    clear(r.dk, 0, r.dk_size);
    clear(r.dv, 0, r.dv_size);
    for (Int i0 = 0; i0 < h.rows; i0 += r.rows) {
      const Int rows = smaller(r.rows, h.rows - i0);
      const Int seen = larger(0, smaller(columns, visibility.length(i0 + rows - 1) - j0));
      if (seen == 0 && j0 > h.key_begin) continue;
      const Stored *q = h.q + i0 * h.q_row, *dout = h.dout + i0 * h.dout_row;
      tiles.pack_left(rows, h.d, {q, h.q_row, 1}, 1, r.q_scores);
      tiles.pack_left(rows, h.e, {dout, h.dout_row, 1}, 1, r.dout_da);
      tiles.multiply(rows, seen, h.d, r.q_scores, r.k_scores, r.p, r.ld, false, nullptr);
      tiles.multiply(rows, seen, h.e, r.dout_da, r.v_da, r.g, r.ld, false, nullptr);
      for (Int i = 0; i < rows; i += row_slots) {
        const int count = static_cast<int>(smaller(row_slots, rows - i));
        float lse[row_slots] = {};
        if (h.phi == Phi::softmax)
          for (int m = 0; m < count; ++m) lse[m] = h.lse[(i0 + i + m) * h.lse_step];
        if (j0 == h.key_begin) fetch_ahead(h, i0 + i, row_slots);
        scale.finish(h.phi, r.p + i * r.ld, r.ld, count, round_up(seen, 16));
        const GradientTile<float> both{r.p + i * r.ld,     r.g + i * r.ld,        r.ld, i0 + i, count, j0, columns,
                                       round_up(seen, 16), scale.left_to(h.phi), own_delta};
        differentiate_tile(visibility, both, lse, r.delta + i0 + i, r.keep, r.words, &sums);
      }
      const TileOperand ds = over(r.by_rows, seen);
      tiles.pack_left(rows, seen, {r.g, r.ld, 1, true}, 1, ds);
      float* sum = columns < h.key_end - h.key_begin ? r.dq + i0 * r.d_ld : r.dq;
      tiles.multiply(rows, h.d, seen, ds, k_here, sum, r.d_ld, j0 > h.key_begin, nullptr);
      if (j0 + columns >= smaller(h.key_end, visibility.length(i0 + rows - 1)))
        for (Int i = 0; i < rows; ++i) {
          if (h.dq_part)
            put_row(tiles, sum + i * r.d_ld, h.d, 1, h.dq_part + (i0 + i) * h.d);
          else
            put_row(tiles, sum + i * r.d_ld, h.d, 1, h.dq + (i0 + i) * h.dq_row);
        }

      tiles.pack_left(h.e, rows, {dout, 1, h.dout_row}, 1, over(r.dout_dv, rows));
      tiles.pack_right(seen, rows, {r.p, 1, r.ld, true}, 1, over(r.by_keys, rows));
      tiles.multiply(h.e, seen, rows, over(r.dout_dv, rows), over(r.by_keys, rows), r.dv, r.ld, true, nullptr);
      tiles.pack_left(h.d, rows, {q, 1, h.q_row}, 1, over(r.q_dk, rows));
      tiles.pack_right(seen, rows, {r.g, 1, r.ld, true}, 1, over(r.by_keys, rows));
      tiles.multiply(h.d, seen, rows, over(r.q_dk, rows), over(r.by_keys, rows), r.dk, r.ld, true, nullptr);
    }
    put_transposed(tiles, r.dk, r.ld, h.d, columns, r.zeros, r.panels, h.dk + j0 * h.dk_row, h.dk_row);
    put_transposed(tiles, r.dv, r.ld, h.e, columns, r.zeros, r.panels, h.dv + j0 * h.dv_row, h.dv_row);
  }
  end_stream();
  if (h.stats) sums.write(h.stats);
}

template <class Stored>
Int backward_on_tiles_bytes(const AttentionHeadBackward<float, Stored>& h) {
  ScratchCutter count(nullptr);
  BackwardRooms<Stored>(h, count);
  return count.used();
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
