// Attention forward for one head by products of packed operands (backends/cpu/packed_products.h), block by block of scores: rows
// against all keys, or, where nothing is carried along a row, against some keys, whose products with V are added up.
// Under AMX, while the tile registers compute the scores of the next block and the product of the weights of the one before with
// V, the vector registers turn the scores of this one into weights and pack them.
#pragma once

#include "backends/cpu/kernels/attention_on_tiles.h"
#include "backends/cpu/kernels/attention_weigh.h"

#if defined(__AVX512F__)
namespace norma::cpu::NORMA_ISA {
namespace {

/// The sizes of blocks, and the scratch memory of one head. Pairs of rooms are for blocks, or blocks of rows, in turn.
template <class Stored>
struct ForwardRooms {
  using Head = AttentionHeadForward<float, Stored>;
  static constexpr bool two_bytes = sizeof(Stored) == 2;
  static constexpr int slices = slice_count<Stored>;
  Int rows, columns, ld, out_ld;
  Int piece;    // of a block's columns, whose weights are packed and multiplied by V before the next ones
  bool beside;  // whether a block is weighed beside the products of others: where two blocks are near, and vectors not
                // much slower than tiles
  TileOperand k, v, q[2], p[2];
  float *scores[2], *inverse[2], *out, *row_sums, *keep;
  std::uint32_t* words;
  Bits<float>* mask;
  std::int32_t* before;

  ForwardRooms(const Head& h, ScratchCutter& scratch) {
    // A block of f32 scores and what is packed of it share the second-level cache; one of bf16, whose products are
    // quicker, lies in the first, unless the keys and values that pass by for each block come from further away.
    const Int passing = 4 * (operand_words(h.keys, h.d, slices) + operand_words(h.e, h.keys, slices));
    const Int few = passing > (Int{2} << 20) ? 128 : passing > (Int{5} << 18) ? 64 : 32;
    const Int all = round_up(h.row_end - h.row_begin, tile_lines);
    const bool cut = !h.normalize && h.keys > (two_bytes ? 192 : 512);
    columns = cut ? 128 : h.keys;
    const bool at_once = all <= 96 && columns <= 96 && (h.packed->amx || !h.causal);
    rows = smaller(all, two_bytes ? (at_once ? 96 : few) : cut ? 128 : 64);
    ld = round_up(columns, 16) + 16;  // an odd number of cache lines apart
    out_ld = round_up(h.e, 16);
    piece = smaller(columns, 512);
    beside = h.packed->amx && (two_bytes ? h.normalize && columns <= 320 : columns <= piece);
    const auto operand = [&](Int lines, Int depth) { return take_operand(scratch, lines, depth, slices); };
    k = operand(h.keys, h.d);
    v = operand(h.e, h.keys);
    for (int i = 0; i < (beside ? 2 : 1); ++i) {
      q[i] = operand(rows, h.d);
      p[i] = operand(rows, piece);
      scores[i] = scratch.take<float>(rows * ld);
      inverse[i] = scratch.take<float>(rows / row_slots * slot_size);
    }
    out = scratch.take<float>(rows * out_ld);
    row_sums = scratch.take<float>(round_up(rows, 16));
    keep = scratch.take<float>(h.drop ? round_up(columns, 16) + 128 : 0);
    words = scratch.take<std::uint32_t>(h.drop ? round_up(columns, 16) + 128 : 0);
    mask = scratch.take<Bits<float>>(h.key_mask ? round_up(h.keys, 16) : 0);
    before = scratch.take<std::int32_t>(h.key_mask ? round_up(h.keys + 1, 16) : 0);
  }
};

template <class Stored>
class ForwardOnTiles {
 public:
  using Head = AttentionHeadForward<float, Stored>;
  explicit ForwardOnTiles(const Head& h) : h_(h), tiles_(*h.packed), scratch_(h.work), rooms_(h, scratch_), visibility_{h} {
    visibility_.set_masks(rooms_.mask, rooms_.before);
  }

  void run() {
    const TileScope configured(tiles_);
    prefetch_rows(h_.v, h_.v_row, smaller(h_.keys, 128), h_.e);
    tiles_.pack_right(h_.keys, h_.d, {h_.k, h_.k_row, 1}, scale_.of_k, rooms_.k);
    tiles_.pack_right(h_.e, h_.keys, {h_.v, 1, h_.v_row}, 1, rooms_.v);
    rooms_.beside ? run_beside() : run_in_turn();
    end_stream();
    if (h_.stats) stats_.write(h_.stats, h_.normalize);
  }

 private:
  /// Rows [i, i + rows) against the columns [j, j + seen) that one of them sees at least.
  struct Block {
    Int i = 0, rows = 0, j = 0, seen = 0;
    bool last = false;  // of its rows
    int room = 0, row_room = 0;
  };
  Block block(Int i, Int j) const {
    const Int rows = smaller(rooms_.rows, h_.row_end - i), length = visibility_.length(i + rows - 1);
    return {i, rows, j, smaller(rooms_.columns, length - j), j + rooms_.columns >= length};
  }
  Block after(const Block& b) const {
    if (b.last && b.i + b.rows >= h_.row_end) return {};
    Block next = b.last ? block(b.i + b.rows, 0) : block(b.i, b.j + rooms_.columns);
    if (rooms_.beside) next.room = 1 - b.room, next.row_room = b.last ? 1 - b.row_room : b.row_room;
    return next;
  }

  void run_in_turn() {
    for (Block b = block(h_.row_begin, 0); b.rows; b = after(b)) {
      score(b, nullptr);
      for (Int r = 0; r < b.rows; r += row_slots) weigh_rows(b, r);
      collect(b, nullptr);
    }
  }
  void run_beside() {
    Block before, now = block(h_.row_begin, 0), next;
    score(now, nullptr);
    for (; now.rows; before = now, now = next) {
      next = after(now);
      Weighing weighing{*this, now, turns_beside(before, next)};
      const TileAside aside{[](void* w) { static_cast<Weighing*>(w)->step(); }, &weighing};
      if (before.rows) collect(before, &aside);
      if (next.rows) score(next, &aside);
      weighing.finish();
    }
    collect(before, nullptr);
  }
  Int turns_beside(const Block& before, const Block& next) const {
    return tile_turns<Stored>(before.rows, h_.e, before.seen) + tile_turns<Stored>(next.rows, next.seen, h_.d);
  }

  void score(const Block& b, const TileAside* aside) {
    const TileOperand &q = rooms_.q[b.row_room], &k = rooms_.k;
    if (b.j == 0) tiles_.pack_left(b.rows, h_.d, {h_.q + b.i * h_.q_row, h_.q_row, 1}, 1, q);
    tiles_.multiply(b.rows, b.seen, h_.d, q, {k.words + b.j / tile_lines * k.tile, k.tile, k.slices},
                    rooms_.scores[b.room], rooms_.ld, false, aside);
  }

  /// A block's scores become weights, and those a packed operand: 32 rows after another, a few rows or a square at a
  /// time.
  struct Weighing {
    ForwardOnTiles& head;
    const Block& b;
    Int turns;
    Int squares = (b.seen + tile_lines - 1) / tile_lines * 2, each = tile_lines / row_slots + squares;
    Int units = (b.rows + tile_lines - 1) / tile_lines * each, turn = 0, next = 0;
    void step() { ++turn, advance(units * turn / turns); }
    void finish() { advance(units); }

   private:
    void advance(Int stop) {
      for (; next < stop; ++next) {
        const Int first = next / each * tile_lines, unit = next % each, square = unit - (each - squares);
        square < 0 ? head.weigh_rows(b, first + unit * row_slots)
                   : head.pack_weights(b, first + square % 2 * 16, square / 2 * tile_lines);
      }
    }
  };

  void weigh_rows(const Block& b, Int r) {
    if (r >= b.rows) return;
    if (b.j == 0) fetch_ahead(h_, b.i + r, row_slots);
    const bool whole = rooms_.columns == h_.keys;
    const int rows = static_cast<int>(smaller(row_slots, b.rows - r));
    float* scores = rooms_.scores[b.room] + r * rooms_.ld;
    const Int columns = round_up(b.seen, 16);
    scale_.finish(h_.phi, scores, rooms_.ld, rows, columns);
    ScoreTile<float> tile{scores, rooms_.ld, b.i + r, rows, columns, scale_.left_to(h_.phi)};
    if (!whole) {
      tile.column = b.j, tile.columns = rooms_.columns, tile.row_sums = rooms_.row_sums + r;
      if (b.j == 0)
        for (Int i = 0; i < tile.rows; ++i) tile.row_sums[i] = 0;
    }
    Slots<float> lse;
    weigh_(visibility_, tile, rooms_.inverse[b.row_room] + r / row_slots * slot_size, lse.value, &stats_);
    if (h_.lse)
      for (int m = 0; m < tile.rows; ++m) h_.lse[(b.i + r + m) * h_.lse_step] = lse.value[m];
    if (h_.drop) drop(visibility_, tile, rooms_.keep, rooms_.words);
    if (h_.stats && !whole && b.last)
      for (int m = 0; m < tile.rows; ++m) stats_.add_row_sum(tile.row_sums[m]);
  }
  void pack_weights(const Block& b, Int r, Int c) {
    if (r >= b.rows) return;
    tiles_.pack_square(rooms_.scores[b.room] + r * rooms_.ld + c, rooms_.ld, smaller(16, b.rows - r), b.seen - c,
                       square_of(over(rooms_.p[b.room], b.seen), r, c), slice_count<Stored>);
  }

  /// out (+)= weights V; behind the last of its rows' blocks they are written.
  void collect(const Block& b, const TileAside* aside) {
    const TileOperand& v = rooms_.v;
    for (Int c = 0; c == 0 || c < b.seen; c += rooms_.piece) {
      const Int piece = smaller(rooms_.piece, b.seen - c);
      const TileOperand p = over(rooms_.p[b.room], piece);
      if (!rooms_.beside) tiles_.pack_left(b.rows, piece, {rooms_.scores[b.room] + c, rooms_.ld, 1, true}, 1, p);
      // Of v's steps the first ones are behind.
      tiles_.multiply(b.rows, h_.e, piece, p,
                      {v.words + PackedProducts::words_of_tile(b.j + c, v.slices), v.tile, v.slices}, rooms_.out,
                      rooms_.out_ld, b.j + c > 0, aside);
    }
    if (!b.last) return;
    for (Int i = 0; i < b.rows; ++i) {
      const float factor = h_.normalize ? rooms_.inverse[b.row_room][i / row_slots * slot_size + i % row_slots] : 1.0f;
      put_row(tiles_, rooms_.out + i * rooms_.out_ld, h_.e, factor, h_.out + (b.i + i) * h_.out_row);
    }
  }

  const Head& h_;
  const PackedProducts& tiles_;
  ScratchCutter scratch_;
  ForwardRooms<Stored> rooms_;
  Visibility<float> visibility_;
  const SplitScale<Stored> scale_{h_.scale};
  Weigh<float> weigh_ = h_.stats ? weigh_of<float, true>(h_) : weigh_of<float, false>(h_);
  Statistics<float> stats_;
};

template <class Stored>
void forward_on_tiles(const AttentionHeadForward<float, Stored>& h) {
  ForwardOnTiles<Stored>(h).run();
}
template <class Stored>
Int forward_on_tiles_bytes(const AttentionHeadForward<float, Stored>& h) {
  ScratchCutter count(nullptr);
  ForwardRooms<Stored>(h, count);
  return count.used();
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
