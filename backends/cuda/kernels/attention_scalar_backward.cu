// Attention backward without tensor cores, for f32 and bf16 elements, all arithmetic in f32, scores computed again: one kernel owns
// rows (dQ), one owns keys (dK, dV), so that nothing is added by atomics. The first also finds what the second needs of each row: delta = dO . O of normalised rows, and the row's factor.
#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"
#include "backends/cuda/kernels/attention_tile.h"

namespace norma::cuda {
namespace {

constexpr int tile = scalar_backward_tile, threads = 128, lanes = 16, own_rows = 4, own_columns = 2;
constexpr int out_columns = attention_max_width / lanes;
static_assert(backward_block_rows_scalar == tile);

struct Tiles {
  float *q, *k, *v, *dout, *w, *g;  // pitches d + 1, d + 1, e + 1, e + 1, tile + 1, tile + 1
  NORMA_DEVICE Tiles(const AttentionProblem& p, char* space) {
    q = reinterpret_cast<float*>(space);
    k = q + tile * (p.d + 1);
    v = k + tile * (p.d + 1);
    dout = v + tile * (p.e + 1);
    w = dout + tile * (p.e + 1);
    g = w + tile * (tile + 1);
  }
};

template <class T, bool measure>
NORMA_KERNEL void NORMA_BOUNDS(threads, 1) rows_kernel(AttentionProblem p) {
  const Head head(p, block_id().y);
  const int first = static_cast<int>(block_id().x) * tile, t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes;
  const Tiles tiles(p, shared_memory());
  const int dp = p.d + 1, ep = p.e + 1;
  load_rows<threads>(head.at<T>(p.q), p.q.row, first, p.rows, tile, p.d, tiles.q, dp);
  load_rows<threads>(head.at<T>(p.dout), p.dout.row, first, p.rows, tile, p.e, tiles.dout, ep);
  block_barrier();
  const int last = first + tile < p.rows ? first + tile - 1 : p.rows - 1, end = head.length(last);
  const bool normalised = p.normalize || p.phi == Phi::softmax;
  RowState rows[own_rows];
  for (int i = 0; i < own_rows; ++i) {
    const int row = first + ty * own_rows + i;
    rows[i].factor = head.row_factor(row);
    float delta = 0;
    if (normalised && row < p.rows) {
      const T* out = head.at<T>(p.out) + row * p.out.row;
      for (int c = tx; c < p.e; c += lanes) delta = std::fma(tiles.dout[(ty * own_rows + i) * ep + c], convert<float>(out[c]), delta);
    }
    rows[i].delta = reduce_lanes<lanes>(delta, Plus{});
    if (p.phi == Phi::softmax && row < p.rows) rows[i].shift = *head.lse(row);
  }
  float dq[own_rows][out_columns] = {}, sum[own_rows] = {};
  double a2 = 0, s2 = 0;
  for (int pass = p.normalize && p.phi != Phi::softmax ? 0 : 1; pass < 2; ++pass) {
    for (int start = 0; start < end; start += tile) {
      block_barrier();
      load_rows<threads>(head.at<T>(p.k), p.k.row, start, p.keys, tile, p.d, tiles.k, dp);
      load_rows<threads>(head.at<T>(p.v), p.v.row, start, p.keys, tile, p.e, tiles.v, ep);
      block_barrier();
      float s[own_rows][own_columns], da[own_rows][own_columns];
      multiply_tile<own_rows, own_columns, lanes>(tiles.q + ty * own_rows * dp, tiles.k, dp, dp, p.d, tx, s);
      if (pass == 1) multiply_tile<own_rows, own_columns, lanes>(tiles.dout + ty * own_rows * ep, tiles.v, ep, ep, p.e, tx, da);
      NORMA_UNROLL
      for (int i = 0; i < own_rows; ++i) {
        const int row = first + ty * own_rows + i;
        const auto seen = [&](int j) { return head.visible(row, start + tx + lanes * j); };
        if (pass == 0) {
          float score[own_columns], value[own_columns], unused[own_columns];
          NORMA_UNROLL
          for (int j = 0; j < own_columns; ++j) score[j] = s[i][j] * p.scale;
          evaluate<Family::all, false>(p, score, value, unused);
          NORMA_UNROLL
          for (int j = 0; j < own_columns; ++j)
            if (seen(j)) sum[i] += value[j];
          continue;
        }
        PairGradient g[own_columns];
        differentiate<Family::all>(
            p, s[i], da[i], [&](int) -> const RowState& { return rows[i]; },
            [&](int j) { return p.drop && seen(j) ? head.keep(row, start + tx + lanes * j) : 1; }, g);
        NORMA_UNROLL
        for (int j = 0; j < own_columns; ++j) {
          const float ds = seen(j) ? g[j].ds : 0;
          if constexpr (measure)
            if (seen(j)) a2 += static_cast<double>(g[j].da) * g[j].da, s2 += static_cast<double>(ds) * ds;
          tiles.g[(ty * own_rows + i) * (tile + 1) + tx + lanes * j] = ds * p.scale;
        }
      }
      if (pass == 0) continue;
      warp_barrier();  // a row's gradients are written and read by the same half warp
      const float* mine = tiles.g + ty * own_rows * (tile + 1);
      add_products<own_rows, out_columns, lanes>(tile, tiles.k, dp, p.d, tx, dq,
                                                 [&](int j, int i) { return mine[i * (tile + 1) + j]; });
    }
    if (pass == 0)
      for (int i = 0; i < own_rows; ++i) {
        const float total = reduce_lanes<lanes>(sum[i], Plus{});
        rows[i].factor = total != 0 ? 1 / total : 1;
      }
  }
  NORMA_UNROLL
  for (int i = 0; i < own_rows; ++i) {
    const int row = first + ty * own_rows + i;
    if (row >= p.rows) continue;
    T* to = head.at<T>(p.dq) + row * p.dq.row;
    NORMA_UNROLL
    for (int c = 0; c < out_columns; ++c)
      if (tx + lanes * c < p.d) to[tx + lanes * c] = convert<T>(dq[i][c]);
    if (tx == 0) {
      const std::int64_t at = std::int64_t{block_id().y} * p.rows + row;
      p.row_delta[at] = rows[i].delta;
      p.row_factor[at] = rows[i].factor;
    }
  }
  if constexpr (measure) write_block_gradients(p, a2, s2, block_id().y, block_id().x, grid_size().x);
}

template <class T>
NORMA_KERNEL void NORMA_BOUNDS(threads, 1) keys_kernel(AttentionProblem p) {
  const Head head(p, block_id().y);
  const int first = static_cast<int>(block_id().x) * tile, t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes;
  const Tiles tiles(p, shared_memory());
  const int dp = p.d + 1, ep = p.e + 1;
  load_rows<threads>(head.at<T>(p.k), p.k.row, first, p.keys, tile, p.d, tiles.k, dp);
  load_rows<threads>(head.at<T>(p.v), p.v.row, first, p.keys, tile, p.e, tiles.v, ep);
  float dk[own_rows][out_columns] = {}, dv[own_rows][out_columns] = {};
  int begin = 0;  // rows before it see none of these keys
  if (p.causal && first + p.rows - p.keys > 0) begin = (first + p.rows - p.keys) / tile * tile;
  for (int start = begin; start < p.rows; start += tile) {
    block_barrier();
    load_rows<threads>(head.at<T>(p.q), p.q.row, start, p.rows, tile, p.d, tiles.q, dp);
    load_rows<threads>(head.at<T>(p.dout), p.dout.row, start, p.rows, tile, p.e, tiles.dout, ep);
    block_barrier();
    float s[own_rows][own_columns], da[own_rows][own_columns];
    multiply_tile<own_rows, own_columns, lanes>(tiles.q + ty * own_rows * dp, tiles.k, dp, dp, p.d, tx, s);
    multiply_tile<own_rows, own_columns, lanes>(tiles.dout + ty * own_rows * ep, tiles.v, ep, ep, p.e, tx, da);
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i) {
      const int row = start + ty * own_rows + i;
      RowState state;
      if (row < p.rows) {
        const std::int64_t at = std::int64_t{block_id().y} * p.rows + row;
        state = {p.phi == Phi::softmax ? *head.lse(row) : 0, p.row_factor[at], p.row_delta[at]};
      }
      float keep[own_columns];
      bool seen[own_columns];
      NORMA_UNROLL
      for (int j = 0; j < own_columns; ++j) {
        const int column = first + tx + lanes * j;
        seen[j] = head.visible(row, column);
        keep[j] = p.drop && seen[j] ? head.keep(row, column) : 1;
      }
      PairGradient g[own_columns];
      differentiate<Family::all>(
          p, s[i], da[i], [&](int) -> const RowState& { return state; }, [&](int j) { return keep[j]; }, g);
      NORMA_UNROLL
      for (int j = 0; j < own_columns; ++j) {
        const int at = (ty * own_rows + i) * (tile + 1) + tx + lanes * j;
        tiles.w[at] = seen[j] ? g[j].a * keep[j] : 0;
        tiles.g[at] = seen[j] ? g[j].ds * p.scale : 0;
      }
    }
    block_barrier();
    add_products<own_rows, out_columns, lanes>(tile, tiles.dout, ep, p.e, tx, dv,
                                               [&](int j, int i) { return tiles.w[j * (tile + 1) + ty * own_rows + i]; });
    add_products<own_rows, out_columns, lanes>(tile, tiles.q, dp, p.d, tx, dk,
                                               [&](int j, int i) { return tiles.g[j * (tile + 1) + ty * own_rows + i]; });
  }
  NORMA_UNROLL
  for (int i = 0; i < own_rows; ++i) {
    const int key = first + ty * own_rows + i;
    if (key >= p.keys) continue;
    T *to_k = head.at<T>(p.dk) + key * p.dk.row, *to_v = head.at<T>(p.dv) + key * p.dv.row;
    NORMA_UNROLL
    for (int c = 0; c < out_columns; ++c) {
      if (tx + lanes * c < p.d) to_k[tx + lanes * c] = convert<T>(dk[i][c]);
      if (tx + lanes * c < p.e) to_v[tx + lanes * c] = convert<T>(dv[i][c]);
    }
  }
}

}  // namespace

void attention_backward_scalar(void* stream, const AttentionProblem& p, DType dtype) {
  const unsigned heads = static_cast<unsigned>(p.batches * p.heads);
  const Extent rows{static_cast<unsigned>((p.rows + tile - 1) / tile), heads};
  const Extent keys{static_cast<unsigned>((p.keys + tile - 1) / tile), heads};
  const auto run = [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, rows, threads, backward_scalar_bytes(p.d, p.e), p.partial_stats ? rows_kernel<T, true> : rows_kernel<T, false>, p);
    launch(stream, keys, threads, backward_scalar_bytes(p.d, p.e), keys_kernel<T>, p);
  };
  dtype == DType::f32 ? run(TypeTag<float>{}) : run(TypeTag<bf16>{});
}

}  // namespace norma::cuda
