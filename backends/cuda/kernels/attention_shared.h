// Shared memory of attention kernels: how their blocks' tiles lie in it and how many bytes a block asks for. Index
// arithmetic only, tested on the host. What a head needs that stays there whole is in attention_resident.h.
#pragma once

#include <cstddef>

namespace norma::cuda {

/// What a block may have on every card (compute capability 8.6, 8.9, 12.x; others give more). Only forms for which
/// there is another one ask for more.
constexpr std::size_t least_block_shared = std::size_t{99} << 10;

// bf16 on tensor cores. The bucket of the widths is 16 * chunks columns, zeros beyond them.
constexpr int mma_chunks(int d, int e) {
  const int width = d > e ? d : e;
  return width <= 32 ? 2 : width <= 64 ? 4 : 8;
}
constexpr int mma_tile = 64;  // rows or keys that a block owns
constexpr int mma_step = 32;  // columns of scores that the backward pass holds at a time
/// Elements from row to row of a tile: 16 bytes more than the columns, so that 8 rows lie in different banks.
constexpr int mma_pitch(int chunks) { return chunks * 16 + 8; }
/// Rows of a tile that streams past in the backward pass: with wide rows half as many, so that two stages of two
/// tensors fit.
constexpr int mma_passing(int chunks) { return chunks > 4 ? mma_step : mma_tile; }

/// Warps of a forward block, of 16 rows each: five where of four the last block's would have rows for one (images of 8 x 8 patches make 65).
constexpr int forward_mma_warps(int rows) { return rows > mma_tile && (rows + 15) / 16 % 4 == 1 ? 5 : 4; }
/// Words that a keys' kernel keeps of each row that passes: `pairs`, of softmax alone: shift and delta, so that 16 bytes hold two rows; else all
/// three of its state.
constexpr int mma_state_words(bool pairs) { return pairs ? 2 : 3; }

/// Q of the block's rows, and two stages of K and V.
constexpr std::size_t forward_mma_bytes(int chunks, int block_rows) {
  return std::size_t{2} * static_cast<std::size_t>((block_rows + 4 * mma_tile) * mma_pitch(chunks));
}
/// Two tensors that stay and two stages of two that stream, with `state_words` for each row that does.
constexpr std::size_t backward_mma_bytes(int chunks, int state_words) {
  const auto passing = static_cast<std::size_t>(mma_passing(chunks)),
             pitch = static_cast<std::size_t>(mma_pitch(chunks));
  return 2 * (2 * mma_tile + 4 * passing) * pitch + 2 * passing * sizeof(float) * static_cast<std::size_t>(state_words);
}

// Scalar kernels, f32 in shared memory; widths d and e.
constexpr int scalar_forward_tile = 64, scalar_backward_tile = 32;
/// Columns that 4 floats at a time cover, and from row to row an odd number of such: 8 rows of them lie in different banks.
constexpr int tile_columns(int width) { return (width + 3) / 4 * 4; }
constexpr int tile_pitch(int width) { return 4 * ((width + 3) / 4 | 1); }
/// A thread's columns of sums: by the wider of two widths, for fewer registers.
constexpr int scalar_columns(int d, int e) { return (d > e ? d : e) > 64 ? 8 : 4; }
/// Q; K, whose place the weights [64, 64] take when the scores are there; V.
constexpr int scalar_score_pitch(int d) { return tile_pitch(d > scalar_forward_tile ? d : scalar_forward_tile); }
constexpr std::size_t forward_scalar_bytes(int d, int e) {
  return sizeof(float) * static_cast<std::size_t>(scalar_forward_tile * (tile_pitch(d) + scalar_score_pitch(d) + tile_pitch(e)));
}
/// Q, K; V, dO; A, dS [32, 32].
constexpr std::size_t backward_scalar_bytes(int d, int e) {
  return sizeof(float) *
         static_cast<std::size_t>(2 * scalar_backward_tile * (tile_pitch(d) + tile_pitch(e) + tile_pitch(scalar_backward_tile)));
}

// The linear form: rows of x [m] and y [n].
constexpr int linear_sum_tile = 32, linear_product_tile = 64, linear_piece = 512;
/// Places between two states of a causal head. A state is (m + 1) n floats, so that a head's states take what its y
/// takes in f32, and 1/64 more at most. Longer chunks would take less memory, and more products within each chunk.
constexpr int linear_chunk(int m, int n) { return m <= 64 && n <= 64 ? 64 : 128; }

/// The rows or the keys of a head, cut into pieces of `size` places, row or key r at place before + r. With a causal
/// mask rows and keys end at the same place, so that a row sees the keys up to its own.
struct LinearCut {
  int count, before, size;
  constexpr int pieces() const { return (before + count + size - 1) / size; }
  constexpr int begin(int piece) const { return piece * size > before ? piece * size - before : 0; }
  /// At most begin(piece) where none lie in the piece.
  constexpr int end(int piece) const {
    return (piece + 1) * size < before + count ? (piece + 1) * size - before : count;
  }
};
constexpr LinearCut linear_cut(int count, int others, bool causal, int size) {
  return {count, causal && others > count ? others - count : 0, size};
}

/// Of the tiles of others, [begin, end) that a tile meets one by one: those of its own chunk up to itself, or with
/// `after` from itself on. What lies beyond the chunk is in its state.
struct LinearTiles {
  int begin, end;
};
constexpr LinearTiles linear_tiles(int tile, int chunk, bool after) {
  const int each = chunk / linear_product_tile, first = tile / each * each;
  return after ? LinearTiles{tile, first + each} : LinearTiles{first, tile + 1};
}

/// A tile of x and one of y, of `width` columns each.
constexpr std::size_t linear_state_bytes(int width) {
  return sizeof(float) * static_cast<std::size_t>(2 * linear_sum_tile * width);
}
/// A tile of x and a state [m, n]; in whose place come, with a causal mask, a tile of the others' x, whose own place
/// their scores take as in the scalar forward kernel, and one of their y.
constexpr std::size_t linear_product_bytes(int m, int n, bool causal) {
  const int state = tile_columns(m) * tile_pitch(n),
            others = causal ? linear_product_tile * (scalar_score_pitch(m) + tile_pitch(n)) : 0;
  return sizeof(float) *
         static_cast<std::size_t>(linear_product_tile * tile_pitch(m) + (others > state ? others : state));
}
static_assert(linear_product_tile == scalar_forward_tile);

}  // namespace norma::cuda
