// Attention forward in bf16 on tensor cores: a block of 4 or 5 warps computes rows of one head, a warp 16 of them or, of 4 warps, 32. Keys and values
// come in tiles of 64 through two stages of asynchronous copies; the fragment that holds scores becomes, after phi, the left operand
// of the product with V without leaving the registers. Sums and statistics in f32, weights rounded to bf16 for the product.
//
// A warp reads every tile whole, and what shared memory gives bounds the products: with 32 rows it reads half as much for each. A row's
// arithmetic is the same in both forms.
#include "backends/cuda/kernels/attention_forward.h"
#include "backends/cuda/kernels/attention_mma.h"

namespace norma::cuda {
namespace {

static_assert(forward_block_rows == 16 * mma_warps);
constexpr int tile = mma_tile;
constexpr int tail = 16;  // so many keys of a tile are taken alone where the rows see no more: images of 8 x 8 patches make 65

/// sums[g] += w[g] b for each group of 16 rows: w rounded to bf16, the 8 * fragments rows at `b` read once.
template <int chunks, int groups, int fragments>
NORMA_DEVICE void add_groups(const float (&w)[groups][fragments][4], const bf16* b, float (&sums)[groups][chunks * 2][4]) {
  const int lane = static_cast<int>(thread_id()) % 32;
  NORMA_UNROLL
  for (int j = 0; j < fragments / 2; ++j) {
    std::uint32_t left[groups][4];
    NORMA_UNROLL
    for (int g = 0; g < groups; ++g) NORMA_UNROLL
    for (int x = 0; x < 4; ++x) left[g][x] = pack_pair(w[g][2 * j + x / 2][x % 2 * 2], w[g][2 * j + x / 2][x % 2 * 2 + 1]);
    NORMA_UNROLL
    for (int n = 0; n < chunks * 2; n += 2) {
      std::uint32_t right[4];
      load_matrices_transposed(right, b + (j * 16 + lane / 8 % 2 * 8 + lane % 8) * mma_pitch(chunks) + n * 8 + lane / 16 * 8);
      NORMA_UNROLL
      for (int g = 0; g < groups; ++g) {
        mma_16x8x16(sums[g][n], left[g], right[0], right[1]);
        mma_16x8x16(sums[g][n + 1], left[g], right[2], right[3]);
      }
    }
  }
}

/// `groups`: of 16 rows, that a warp owns.
template <int chunks, int groups, bool softmax, bool measure, int warps>
NORMA_KERNEL void NORMA_BOUNDS(32 * warps, groups > 1 || measure ? 2 : mma_blocks(chunks) - (warps > mma_warps ? 1 : 0)) forward_kernel(AttentionProblem p) {
  constexpr int pitch = mma_pitch(chunks), threads = 32 * warps, warp_rows = 16 * groups, block_rows = warp_rows * warps;
  const BlockPlace place = place_of_rows(p);
  const Head head(p, place.head);
  const int lane = static_cast<int>(thread_id()) % 32, warp = static_cast<int>(thread_id()) / 32;
  const int first = static_cast<int>(place.block) * block_rows;
  bf16* q = reinterpret_cast<bf16*>(shared_memory());
  bf16 *k = q + block_rows * pitch, *v = k + 2 * tile * pitch;  // two stages each
  const bool two_passes = measure && (softmax || p.normalize);
  const int tiles = (head.length_of_rows(first, block_rows) + tile - 1) / tile;
  const int mine = first + warp * warp_rows, my_end = head.length_of_rows(mine, warp_rows);  // the warp's; 0 past the rows

  ForwardRows r[groups];
  NORMA_UNROLL
  for (int g = 0; g < groups; ++g) r[g] = ForwardRows(head, mine + 16 * g);
  float out[groups][chunks * 2][4] = {};
  std::uint32_t q_fragment[groups][chunks][4];
  AttentionSums sums;
  const auto fetch = [&](int i, bool values) {
    if (i < tiles) {
      fetch_rows<chunks, tile, threads>(head.at<bf16>(p.k), p.k.row, i * tile, p.keys, p.d, k + i % 2 * tile * pitch);
      if (values) fetch_rows<chunks, tile, threads>(head.at<bf16>(p.v), p.v.row, i * tile, p.keys, p.e, v + i % 2 * tile * pitch);
    }
    commit_copies();
  };
  const auto take = [&](auto of_keys, int i, int pass) {  // the first so many keys of tile i
    constexpr int count = decltype(of_keys)::value;
    float s[groups][count / 8][4] = {};
    const bf16* keys = k + i % 2 * tile * pitch + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
    NORMA_UNROLL
    for (int c = 0; c < chunks; ++c) {
      NORMA_UNROLL
      for (int n = 0; n < count / 8; n += 2) {
        std::uint32_t b[4];
        load_matrices(b, keys + n * 8 * pitch + c * 16);
        NORMA_UNROLL
        for (int g = 0; g < groups; ++g) {
          mma_16x8x16(s[g][n], q_fragment[g][c], b[0], b[1]);
          mma_16x8x16(s[g][n + 1], q_fragment[g][c], b[2], b[3]);
        }
      }
    }
    NORMA_UNROLL
    for (int g = 0; g < groups; ++g) {
      PairSums pairs;
      float rescale[2];
      weigh<softmax, measure>(head, r[g], s[g], i * tile, two_passes && pass == 1, pass == 1, pairs, rescale);
      if constexpr (measure) sums.pairs(pairs);
      if (softmax && pass == 1) {
        NORMA_UNROLL
        for (int n = 0; n < chunks * 2; ++n) {
          out[g][n][0] *= rescale[0], out[g][n][1] *= rescale[0];
          out[g][n][2] *= rescale[1], out[g][n][3] *= rescale[1];
        }
      }
    }
    if (pass == 1) add_groups<chunks>(s, v + i % 2 * tile * pitch, out);
  };
  fetch_rows<chunks, block_rows, threads>(head.at<bf16>(p.q), p.q.row, first, p.rows, p.d, q);
  commit_copies();
  fetch(0, !two_passes);
  wait_copies<1>();
  block_barrier();
  NORMA_UNROLL
  for (int g = 0; g < groups; ++g) NORMA_UNROLL
  for (int c = 0; c < chunks; ++c)
    load_matrices(q_fragment[g][c], q + (warp * warp_rows + 16 * g + lane % 16) * pitch + c * 16 + lane / 16 * 8);
  for (int pass = two_passes ? 0 : 1; pass < 2; ++pass) {
    for (int i = 0; i < tiles; ++i) {
      fetch(i + 1, pass == 1);
      wait_copies<1>();
      block_barrier();
      if (i * tile + tail >= my_end) {
        if (i * tile < my_end) take(std::integral_constant<int, tail>{}, i, pass);
      } else {
        take(std::integral_constant<int, tile>{}, i, pass);
      }
      block_barrier();
    }
    wait_copies<0>();
    block_barrier();
    if (pass == 0) {
      fetch(0, true);
      for (int half = 0; half < 2 * groups; ++half) r[half / 2].divide_by_sum(half % 2);
    }
  }
  NORMA_UNROLL
  for (int g = 0; g < groups; ++g) NORMA_UNROLL
  for (int half = 0; half < 2; ++half)
    if (finish_row<softmax, measure>(head, r[g], half, two_passes, sums))
      store_row(out[g], half, r[g].factor[half], p.e, head.at<bf16>(p.out) + r[g].row[half] * p.out.row);
  if constexpr (measure)
    write_block_stats(p, sums, reinterpret_cast<double*>(shared_memory()), place);
}

template <int chunks, int groups, bool softmax, bool measure, int warps = mma_warps>
void start(void* stream, const AttentionProblem& p) {
  constexpr int block_rows = 16 * groups * warps;
  launch(stream, attention_grid(p, p.rows, block_rows), 32 * warps, forward_mma_bytes(chunks, block_rows),
         forward_kernel<chunks, groups, softmax, measure, warps>, p);
}
/// 32 rows a warp where at least one block is full of them. That, and a fifth warp, take registers that wide rows leave no room for;
/// statistics are of blocks of forward_block_rows.
template <int chunks, bool softmax>
void run(void* stream, const AttentionProblem& p) {
  if (p.partial_stats) return start<chunks, 1, softmax, true>(stream, p);
  if constexpr (chunks <= 4) {
    if (p.rows >= 2 * tile) return start<chunks, 2, softmax, false>(stream, p);
    if (forward_mma_warps(p.rows) == 5) return start<chunks, 1, softmax, false, 5>(stream, p);
  }
  start<chunks, 1, softmax, false>(stream, p);
}

}  // namespace

void attention_forward_bf16(void* stream, const AttentionProblem& p) {
  with_width(p, [&](auto chunks, auto softmax) { run<chunks(), softmax()>(stream, p); });
}

}  // namespace norma::cuda
