// Attention forward in bf16 on tensor cores: a block of 4 warps computes 64 rows of one head, a warp 16 of them. Keys and values
// come in tiles of 64 through two stages of asynchronous copies; the fragment that holds scores becomes, after phi, the left operand
// of the product with V without leaving the registers. Sums and statistics in f32, weights rounded to bf16 for the product.
#include "backends/cuda/kernels/attention_mma.h"
#include "backends/cuda/kernels/attention_phi.h"

namespace norma::cuda {
namespace {

static_assert(forward_block_rows == 16 * mma_warps);
constexpr int tile = mma_tile, threads = mma_threads;

/// What a thread knows of its two rows, g and g + 8 of the warp's sixteen.
struct Rows {
  int row[2];
  float top[2], sum[2], factor[2];
  float row_sum[2], a2[2], x1[2], x2[2];  // for the statistics
};

/// The scores of a tile, fragments of 16 x 8 by key, turned into unnormalised weights in place.
template <bool softmax, bool measure>
NORMA_DEVICE void weigh(const Head& head, Rows& r, float (&s)[tile / 8][4], int start, bool settled, bool last_pass, PairSums& pairs,
                        float (&rescale)[2]) {
  const AttentionProblem& p = head.p;
  const int t = static_cast<int>(thread_id()) % 4;
  const bool masks = p.causal || head.mask || start + tile > p.keys || r.row[1] >= p.rows;
  const bool normalised = softmax || p.normalize;
  std::uint32_t seen[2] = {0xffffffffu, 0xffffffffu};  // bit c: column 8 (c / 2) + 2 t + c % 2
  if (masks)
    for (int half = 0; half < 2; ++half)
      seen[half] = bits_of(tile / 4, [&](int c) { return head.visible(r.row[half], start + c / 2 * 8 + 2 * t + c % 2); });
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half) {
    float shift = 0;
    rescale[half] = 1;
    if constexpr (softmax) {
      shift = r.top[half];
      if (!settled) {
        float high = r.top[half];
        NORMA_UNROLL
        for (int c = 0; c < tile / 4; ++c) {
          const float x = s[c / 2][2 * half + c % 2] * p.scale;
          if (seen[half] >> c & 1) high = Larger{}(x, high);
        }
        shift = reduce_lanes<4>(high, Larger{});
        rescale[half] = r.top[half] == shift ? 1 : std::exp(r.top[half] - shift);
        r.sum[half] *= rescale[half];
        r.top[half] = shift;
      }
    }
    float part = 0;
    NORMA_UNROLL
    for (int c = 0; c < tile / 4; ++c) {
      float& x = s[c / 2][2 * half + c % 2];
      const float score = x * p.scale;
      const bool visible = seen[half] >> c & 1;
      const float f = !visible ? 0 : softmax ? std::exp(score - shift) : phi_value<Family::polynomials>(p, score);
      part += f;
      if constexpr (measure) {
        if (last_pass && visible) {
          const float a = f * r.factor[half], slope = softmax ? 0 : phi_slope<Family::polynomials>(p, score) * r.factor[half];
          pairs.add(score, a, p.small, normalised);
          r.row_sum[half] += a, r.a2[half] += a * a;
          r.x1[half] += softmax ? a * a * a : slope * slope;
          r.x2[half] += a * slope * slope;
        }
      }
      x = f;
    }
    if (normalised && !settled) r.sum[half] += reduce_lanes<4>(part, Plus{});
    if (p.drop && last_pass) {
      const std::uint32_t kept = bits_of(tile / 4, [&](int c) { return head.kept(r.row[half], start + c / 2 * 8 + 2 * t + c % 2); });
      NORMA_UNROLL
      for (int c = 0; c < tile / 4; ++c) s[c / 2][2 * half + c % 2] *= kept >> c & 1 ? p.keep_scale : 0;
    }
  }
}

template <int chunks, bool softmax, bool measure>
NORMA_KERNEL void NORMA_BOUNDS(threads, chunks > 4 ? 2 : 3) forward_kernel(AttentionProblem p) {
  constexpr int pitch = mma_pitch(chunks);
  const Head head(p, block_id().y);
  const int lane = static_cast<int>(thread_id()) % 32, warp = static_cast<int>(thread_id()) / 32;
  const int first = static_cast<int>(block_id().x) * tile;
  bf16* q = reinterpret_cast<bf16*>(shared_memory());
  bf16 *k = q + tile * pitch, *v = k + 2 * tile * pitch;  // two stages each
  const bool two_passes = measure && (softmax || p.normalize);
  const int last = first + tile < p.rows ? first + tile - 1 : p.rows - 1, end = head.length(last);
  const int tiles = (end + tile - 1) / tile;

  Rows r;
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half) {
    r.row[half] = first + warp * 16 + lane / 4 + 8 * half;
    r.top[half] = -INFINITY, r.sum[half] = 0;
    r.factor[half] = head.row_factor(r.row[half]);
    r.row_sum[half] = r.a2[half] = r.x1[half] = r.x2[half] = 0;
  }
  float out[chunks * 2][4] = {};
  std::uint32_t q_fragment[chunks][4];
  AttentionSums sums;
  const auto fetch = [&](int i, bool values) {
    if (i < tiles) {
      fetch_tile<chunks>(head.at<bf16>(p.k), p.k.row, i * tile, p.keys, p.d, k + i % 2 * tile * pitch);
      if (values) fetch_tile<chunks>(head.at<bf16>(p.v), p.v.row, i * tile, p.keys, p.e, v + i % 2 * tile * pitch);
    }
    commit_copies();
  };
  fetch_tile<chunks>(head.at<bf16>(p.q), p.q.row, first, p.rows, p.d, q);
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
      float s[tile / 8][4] = {};
      const bf16* keys = k + i % 2 * tile * pitch + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
      NORMA_UNROLL
      for (int c = 0; c < chunks; ++c) {
        if (c * 16 >= p.d) break;
        NORMA_UNROLL
        for (int n = 0; n < tile / 8; n += 2) {
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
        const bf16* values = v + i % 2 * tile * pitch + (lane / 8 % 2 * 8 + lane % 8) * pitch + lane / 16 * 8;
        NORMA_UNROLL
        for (int j = 0; j < tile / 16; ++j) {
          const std::uint32_t a[4] = {pack_pair(s[2 * j][0], s[2 * j][1]), pack_pair(s[2 * j][2], s[2 * j][3]),
                                      pack_pair(s[2 * j + 1][0], s[2 * j + 1][1]), pack_pair(s[2 * j + 1][2], s[2 * j + 1][3])};
          NORMA_UNROLL
          for (int n = 0; n < chunks * 2; n += 2) {
            if (n * 8 >= p.e) break;
            std::uint32_t b[4];
            load_matrices_transposed(b, values + j * 16 * pitch + n * 8);
            mma_16x8x16(out[n], a, b[0], b[1]);
            mma_16x8x16(out[n + 1], a, b[2], b[3]);
          }
        }
      }
      block_barrier();
    }
    wait_copies<0>();
    block_barrier();
    if (pass == 0)
      for (int half = 0; half < 2; ++half) r.factor[half] = r.sum[half] != 0 ? 1 / r.sum[half] : 1;
  }
  NORMA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = r.row[half];
    if constexpr (measure) {
      const float r0 = reduce_lanes<4>(r.row_sum[half], Plus{}), r1 = reduce_lanes<4>(r.a2[half], Plus{});
      const float r2 = reduce_lanes<4>(r.x1[half], Plus{}), r3 = reduce_lanes<4>(r.x2[half], Plus{});
      if (lane % 4 == 0 && row < p.rows) sums.row(p, r0, r1, r2, r3);
    }
    if (row >= p.rows) continue;
    if ((softmax || p.normalize) && !two_passes) r.factor[half] = r.sum[half] != 0 ? 1 / r.sum[half] : 1;
    store_row(out, half, r.factor[half], p.e, head.at<bf16>(p.out) + row * p.out.row);
    if (softmax && p.lse && lane % 4 == 0) *head.lse(row) = r.top[half] + std::log(r.sum[half]);
  }
  if constexpr (measure)
    write_block_stats(p, sums, reinterpret_cast<double*>(shared_memory()), block_id().y, block_id().x, grid_size().x);
}

template <int chunks, bool softmax>
void run(void* stream, const AttentionProblem& p) {
  const Extent grid{static_cast<unsigned>((p.rows + tile - 1) / tile), static_cast<unsigned>(p.batches * p.heads)};
  launch(stream, grid, threads, forward_mma_bytes(chunks),
         p.partial_stats ? forward_kernel<chunks, softmax, true> : forward_kernel<chunks, softmax, false>, p);
}

}  // namespace

void attention_forward_bf16(void* stream, const AttentionProblem& p) {
  const bool narrow = p.d <= 64 && p.e <= 64;
  if (p.phi == Phi::softmax) return narrow ? run<4, true>(stream, p) : run<8, true>(stream, p);
  narrow ? run<4, false>(stream, p) : run<8, false>(stream, p);
}

}  // namespace norma::cuda
