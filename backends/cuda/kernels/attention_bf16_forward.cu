// Attention forward in bf16 on tensor cores: a block of 4 or 5 warps computes rows of one head, a warp 16 of them. Keys and values
// come in tiles of 64 through two stages of asynchronous copies; the fragment that holds scores becomes, after phi, the left operand
// of the product with V without leaving the registers. Sums and statistics in f32, weights rounded to bf16 for the product.
#include "backends/cuda/kernels/attention_forward.h"
#include "backends/cuda/kernels/attention_mma.h"

namespace norma::cuda {
namespace {

static_assert(forward_block_rows == 16 * mma_warps);
constexpr int tile = mma_tile;
constexpr int tail = 16;  // so many keys of a tile are taken alone where the rows see no more: images of 8 x 8 patches make 65

template <int chunks, bool softmax, bool measure, int warps>
NORMA_KERNEL void NORMA_BOUNDS(32 * warps, measure ? 2 : mma_blocks(chunks) - (warps > mma_warps ? 1 : 0)) forward_kernel(AttentionProblem p) {
  constexpr int pitch = mma_pitch(chunks), threads = 32 * warps, own_rows = 16 * warps;
  const Head head(p, block_id().y);
  const int lane = static_cast<int>(thread_id()) % 32, warp = static_cast<int>(thread_id()) / 32;
  const int first = static_cast<int>(block_id().x) * own_rows;
  bf16* q = reinterpret_cast<bf16*>(shared_memory());
  bf16 *k = q + own_rows * pitch, *v = k + 2 * tile * pitch;  // two stages each
  const bool two_passes = measure && (softmax || p.normalize);
  const int tiles = (head.length_of_rows(first, own_rows) + tile - 1) / tile;
  const int my_end = head.length_of_rows(first + warp * 16, 16);  // of what the warp's rows see; 0 past the last row

  ForwardRows r(head, first + warp * 16);
  float out[chunks * 2][4] = {};
  std::uint32_t q_fragment[chunks][4];
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
    float s[count / 8][4] = {};
    const bf16* keys = k + i % 2 * tile * pitch + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
    NORMA_UNROLL
    for (int c = 0; c < chunks; ++c) {
      NORMA_UNROLL
      for (int n = 0; n < count / 8; n += 2) {
        std::uint32_t b[4];
        load_matrices(b, keys + n * 8 * pitch + c * 16);
        mma_16x8x16(s[n], q_fragment[c], b[0], b[1]);
        mma_16x8x16(s[n + 1], q_fragment[c], b[2], b[3]);
      }
    }
    PairSums pairs;
    float rescale[2];
    weigh<softmax, measure>(head, r, s, i * tile, two_passes && pass == 1, pass == 1, pairs, rescale);
    if constexpr (measure) sums.pairs(pairs);
    if (pass == 1) {
      if constexpr (softmax) {
        NORMA_UNROLL
        for (int n = 0; n < chunks * 2; ++n) {
          out[n][0] *= rescale[0], out[n][1] *= rescale[0];
          out[n][2] *= rescale[1], out[n][3] *= rescale[1];
        }
      }
      add_weighted<chunks>(s, v + i % 2 * tile * pitch, out);
    }
  };
  fetch_rows<chunks, own_rows, threads>(head.at<bf16>(p.q), p.q.row, first, p.rows, p.d, q);
  for (int pass = two_passes ? 0 : 1; pass < 2; ++pass) {
    fetch(0, pass == 1);
    for (int i = 0; i < tiles; ++i) {
      fetch(i + 1, pass == 1);
      wait_copies<1>();
      block_barrier();
      if (i == 0) {
        NORMA_UNROLL
        for (int c = 0; c < chunks; ++c)
          load_matrices(q_fragment[c], q + (warp * 16 + lane % 16) * pitch + c * 16 + lane / 16 * 8);
      }
      if (i * tile + tail >= my_end) {
        if (i * tile < my_end) take(std::integral_constant<int, tail>{}, i, pass);
      } else {
        take(std::integral_constant<int, tile>{}, i, pass);
      }
      block_barrier();
    }
    wait_copies<0>();
    block_barrier();
    if (pass == 0)
      for (int half = 0; half < 2; ++half) r.divide_by_sum(half);
  }
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half)
    if (finish_row<softmax, measure>(head, r, half, two_passes, sums))
      store_row(out, half, r.factor[half], p.e, head.at<bf16>(p.out) + r.row[half] * p.out.row);
  if constexpr (measure)
    write_block_stats(p, sums, reinterpret_cast<double*>(shared_memory()), block_id().y, block_id().x, grid_size().x);
}

template <int chunks, bool softmax, int warps>
void run_warps(void* stream, const AttentionProblem& p) {
  constexpr int rows = 16 * warps;
  const auto kernel = [&] {
    if constexpr (warps == mma_warps)
      if (p.partial_stats) return forward_kernel<chunks, softmax, true, warps>;
    return forward_kernel<chunks, softmax, false, warps>;
  }();
  const Extent grid{static_cast<unsigned>((p.rows + rows - 1) / rows), static_cast<unsigned>(p.batches * p.heads)};
  launch(stream, grid, 32 * warps, forward_mma_bytes(chunks, warps), kernel, p);
}
template <int chunks, bool softmax>
void run(void* stream, const AttentionProblem& p) {
  if constexpr (chunks <= 4)  // wide rows take the registers of more warps; statistics are of blocks of forward_block_rows
    if (!p.partial_stats && forward_mma_warps(p.rows) == 5) return run_warps<chunks, softmax, 5>(stream, p);
  run_warps<chunks, softmax, mma_warps>(stream, p);
}

}  // namespace

void attention_forward_bf16(void* stream, const AttentionProblem& p) {
  with_width(p, [&](auto chunks) {
    constexpr int of_width = decltype(chunks)::value;
    p.phi == Phi::softmax ? run<of_width, true>(stream, p) : run<of_width, false>(stream, p);
  });
}

}  // namespace norma::cuda
