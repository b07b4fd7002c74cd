// Attention forward without tensor cores, for f32 and bf16 elements, all arithmetic in f32: a block computes 64 rows of one head,
// going over tiles of 64 keys through shared memory; scores never leave the chip. A warp of 8 rows leaves out keys that none of them sees.
// Softmax keeps a running maximum and sum by row; with statistics, normalised rows are first summed in a pass of their own, so that every
// weight is known when it is measured.
#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"
#include "backends/cuda/kernels/attention_tile.h"

namespace norma::cuda {
namespace {

constexpr int tile = scalar_forward_tile, threads = 256, lanes = tile_lanes, own = 4;  // a thread owns 4 rows x 4 columns, of 16 x 16 threads
constexpr int w_pitch = tile_pitch(tile);
static_assert(forward_block_rows == tile);

template <class T, int columns, bool measure>
NORMA_KERNEL void NORMA_BOUNDS(threads, columns > 4 || measure ? 1 : 2) forward_kernel(AttentionProblem p) {
  const BlockPlace place = place_of_rows(p);
  const Head head(p, place.head);
  const int first = static_cast<int>(place.block) * tile, t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes;
  const int d_pitch = tile_pitch(p.d), e_pitch = tile_pitch(p.e);
  float* q = reinterpret_cast<float*>(shared_memory());
  float *k = q + tile * d_pitch, *v = k + tile * scalar_score_pitch(p.d), *w = k;  // w: weights, w_pitch
  const bool normalised = p.normalize || p.phi == Phi::softmax, softmax = p.phi == Phi::softmax;
  load_rows<threads, tile>(head.at<T>(p.q), p.q.row, first, p.rows, p.d, q);

  float top[own], sum[own], factor[own], out[own][columns] = {};
  float row_sum[own] = {}, a2[own] = {}, x1[own] = {}, x2[own] = {};
  AttentionSums sums;
  for (int i = 0; i < own; ++i) {
    top[i] = -INFINITY, sum[i] = 0;
    factor[i] = head.row_factor(first + ty * own + i);
  }
  constexpr int warp_rows = own * static_cast<int>(warp_size) / lanes;
  const int end = head.length_of_rows(first, tile), my_end = head.length_of_rows(first + t / 32 * warp_rows, warp_rows);  // the warp's
  const bool two_passes = measure && normalised;
  for (int pass = two_passes ? 0 : 1; pass < 2; ++pass) {
    for (int start = 0; start < end; start += tile) {
      block_barrier();
      load_rows<threads, tile>(head.at<T>(p.k), p.k.row, start, p.keys, p.d, k);
      if (pass == 1) load_rows<threads, tile>(head.at<T>(p.v), p.v.row, start, p.keys, p.e, v);
      block_barrier();
      const int seen_keys = my_end - start < tile ? my_end - start : tile;
      float s[own][own];
      if (seen_keys > 0) multiply_tile(q + ty * own * d_pitch, k, p.d, tx, seen_keys, s);
      block_barrier();  // weights take the place of the keys
      if (seen_keys <= 0) continue;
      PairSums pairs;
      NORMA_UNROLL
      for (int i = 0; i < own; ++i) {
        const int row = first + ty * own + i;
        bool seen[own];
        float high = -INFINITY;
        NORMA_UNROLL
        for (int j = 0; j < own; ++j) {
          s[i][j] *= p.scale;
          seen[j] = head.visible(row, start + tx + lanes * j);
          if (seen[j]) high = Larger{}(s[i][j], high);
        }
        float shift = 0;
        if (softmax) {
          const bool settled = two_passes && pass == 1;
          const float new_top = settled ? top[i] : Larger{}(reduce_lanes<lanes>(high, Larger{}), top[i]);
          const float rescale = top[i] == new_top ? 1 : std::exp(top[i] - new_top);  // also -inf = -inf
          if (!settled) {
            sum[i] *= rescale;
            NORMA_UNROLL
            for (int c = 0; c < columns; ++c) out[i][c] *= rescale;
            top[i] = new_top;
          }
          shift = new_top;
        }
        float part = 0, value[own] = {}, steep[own] = {};
        if (!softmax) evaluate<Family::all, measure>(p, s[i], value, steep);
        NORMA_UNROLL
        for (int j = 0; j < own; ++j) {
          const float f = !seen[j] ? 0 : softmax ? std::exp(s[i][j] - shift) : value[j];
          part += f;
          if (pass == 0) continue;
          const float a = f * factor[i];
          if constexpr (measure) {
            if (seen[j]) {
              pairs.add(s[i][j], a, normalised);
              row_sum[i] += a, a2[i] = std::fma(a, a, a2[i]);
              const float slope = softmax ? 0 : steep[j] * factor[i];
              x1[i] += softmax ? a * a * a : slope * slope;
              x2[i] += a * slope * slope;
            }
          }
          const float kept = seen[j] && p.drop ? a * head.keep(row, start + tx + lanes * j) : a;
          w[(ty * own + i) * w_pitch + tx + lanes * j] = kept;
        }
        if (normalised && !(two_passes && pass == 1)) sum[i] += reduce_lanes<lanes>(part, Plus{});
      }
      if (pass == 0) continue;
      if constexpr (measure) sums.pairs(pairs);
      warp_barrier();  // a row's weights are written and read by the same half warp
      add_products(seen_keys, v, e_pitch, p.e, tx, out, weights_of_rows(w + ty * own * w_pitch, w_pitch));
    }
    if (pass == 0)
      for (int i = 0; i < own; ++i) factor[i] = inverse_of_sum(sum[i]);
  }
  NORMA_UNROLL
  for (int i = 0; i < own; ++i) {
    const int row = first + ty * own + i;
    if constexpr (measure) {
      const float r0 = reduce_lanes<lanes>(row_sum[i], Plus{}), r1 = reduce_lanes<lanes>(a2[i], Plus{});
      const float r2 = reduce_lanes<lanes>(x1[i], Plus{}), r3 = reduce_lanes<lanes>(x2[i], Plus{});
      if (tx == 0 && row < p.rows) sums.row(p, head.lone(row), r0, r1, r2, r3);
    }
    if (row >= p.rows) continue;
    const float last_factor = normalised && !two_passes ? inverse_of_sum(sum[i]) : 1;
    T* to = head.at<T>(p.out) + row * p.out.row;
    NORMA_UNROLL
    for (int c = 0; c < columns; ++c)
      if (pair_column(tx, c) < p.e) to[pair_column(tx, c)] = convert<T>(out[i][c] * last_factor);
    if (p.lse && softmax && tx == 0) *head.lse(row) = top[i] + std::log(sum[i]);
  }
  if constexpr (measure)
    write_block_stats(p, sums, reinterpret_cast<double*>(shared_memory()), place);
}

}  // namespace

void attention_forward_scalar(void* stream, const AttentionProblem& p, DType dtype) {
  const Extent grid = attention_grid(p, p.rows, tile);
  const auto run = [&](auto tag, auto width) {
    using T = typename decltype(tag)::type;
    constexpr int columns = decltype(width)::value;
    launch(stream, grid, threads, forward_scalar_bytes(p.d, p.e),
           p.partial_stats ? forward_kernel<T, columns, true> : forward_kernel<T, columns, false>, p);
  };
  const auto run_type = [&](auto tag) {
    scalar_columns(p.e, p.e) > 4 ? run(tag, std::integral_constant<int, 8>{}) : run(tag, std::integral_constant<int, 4>{});
  };
  dtype == DType::f32 ? run_type(TypeTag<float>{}) : run_type(TypeTag<bf16>{});
}

}  // namespace norma::cuda
