// Attention backward without tensor cores, for f32 and bf16 elements, all arithmetic in f32, scores computed again: one kernel owns
// rows (dQ), one owns keys (dK, dV), so that nothing is added by atomics. The first also finds what the second needs of each row: delta =
// dO . O of normalised rows, and the row's factor. A warp of 8 rows or keys leaves out what none of them sees.
#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"
#include "backends/cuda/kernels/attention_tile.h"

namespace norma::cuda {
namespace {

constexpr int tile = scalar_backward_tile, threads = 128, lanes = tile_lanes, own_rows = 4, own_columns = 2;
constexpr int warp_rows = own_rows * static_cast<int>(warp_size) / lanes, w_pitch = tile_pitch(tile);
static_assert(backward_block_rows_scalar == tile);

struct Tiles {
  float *q, *k, *v, *dout, *w, *g;  // w, g: A, dS; w_pitch
  NORMA_DEVICE Tiles(const AttentionProblem& p, char* space) {
    q = reinterpret_cast<float*>(space);
    k = q + tile * tile_pitch(p.d);
    v = k + tile * tile_pitch(p.d);
    dout = v + tile * tile_pitch(p.e);
    w = dout + tile * tile_pitch(p.e);
    g = w + tile * w_pitch;
  }
};

template <class T, int columns, bool measure>
NORMA_KERNEL void NORMA_BOUNDS(threads, columns > 4 ? 1 : 3) rows_kernel(AttentionProblem p) {
  const BlockPlace place = place_of_rows(p);
  const Head head(p, place.head);
  const int first = static_cast<int>(place.block) * tile, t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes;
  const Tiles tiles(p, shared_memory());
  const int dp = tile_pitch(p.d), ep = tile_pitch(p.e);
  load_rows<threads, tile>(head.at<T>(p.q), p.q.row, first, p.rows, p.d, tiles.q);
  load_rows<threads, tile>(head.at<T>(p.dout), p.dout.row, first, p.rows, p.e, tiles.dout);
  block_barrier();
  const int end = head.length_of_rows(first, tile), my_end = head.length_of_rows(first + t / 32 * warp_rows, warp_rows);  // the warp's
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
    if (p.phi != Phi::softmax) rows[i].slope = rows[i].factor;
    if (p.phi == Phi::softmax && row < p.rows) rows[i].shift = *head.lse(row);
  }
  float dq[own_rows][columns] = {}, sum[own_rows] = {};
  double a2 = 0, s2 = 0;
  for (int pass = p.normalize && p.phi != Phi::softmax ? 0 : 1; pass < 2; ++pass) {
    for (int start = 0; start < end; start += tile) {
      block_barrier();
      load_rows<threads, tile>(head.at<T>(p.k), p.k.row, start, p.keys, p.d, tiles.k);
      if (pass == 1) load_rows<threads, tile>(head.at<T>(p.v), p.v.row, start, p.keys, p.e, tiles.v);
      block_barrier();
      const int seen_keys = my_end - start < tile ? my_end - start : tile;
      if (seen_keys <= 0) continue;
      float s[own_rows][own_columns], da[own_rows][own_columns];
      multiply_tile(tiles.q + ty * own_rows * dp, tiles.k, p.d, tx, seen_keys, s);
      if (pass == 1) multiply_tile(tiles.dout + ty * own_rows * ep, tiles.v, p.e, tx, seen_keys, da);
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
          tiles.g[(ty * own_rows + i) * w_pitch + tx + lanes * j] = ds * p.scale;
        }
      }
      if (pass == 0) continue;
      warp_barrier();  // a row's gradients are written and read by the same half warp
      add_products(seen_keys, tiles.k, dp, p.d, tx, dq, weights_of_rows(tiles.g + ty * own_rows * w_pitch, w_pitch));
    }
    if (pass == 0)
      for (int i = 0; i < own_rows; ++i) {
        const float total = reduce_lanes<lanes>(sum[i], Plus{});
        rows[i].divide_by(total, head.lone(first + ty * own_rows + i));
      }
  }
  NORMA_UNROLL
  for (int i = 0; i < own_rows; ++i) {
    const int row = first + ty * own_rows + i;
    if (row >= p.rows) continue;
    T* to = head.at<T>(p.dq) + row * p.dq.row;
    NORMA_UNROLL
    for (int c = 0; c < columns; ++c)
      if (pair_column(tx, c) < p.d) to[pair_column(tx, c)] = convert<T>(dq[i][c]);
    if (tx == 0) {
      const std::int64_t at = std::int64_t{place.head} * p.rows + row;
      p.row_delta[at] = rows[i].delta;
      p.row_factor[at] = rows[i].factor;
    }
  }
  if constexpr (measure) write_block_gradients(p, a2, s2, place);
}

template <class T, int columns>
NORMA_KERNEL void NORMA_BOUNDS(threads, columns > 4 ? 1 : 3) keys_kernel(AttentionProblem p) {
  const BlockPlace place = place_of_keys(p);
  const Head head(p, place.head);
  const int first = static_cast<int>(place.block) * tile, t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes;
  const Tiles tiles(p, shared_memory());
  const int dp = tile_pitch(p.d), ep = tile_pitch(p.e), keys = p.keys - first < tile ? p.keys - first : tile;
  load_rows<threads, tile>(head.at<T>(p.k), p.k.row, first, p.keys, p.d, tiles.k);
  load_rows<threads, tile>(head.at<T>(p.v), p.v.row, first, p.keys, p.e, tiles.v);
  float dk[own_rows][columns] = {}, dv[own_rows][columns] = {};
  int begin = 0;  // rows before it see none of these keys
  if (p.causal && first + p.rows - p.keys > 0) begin = (first + p.rows - p.keys) / tile * tile;
  for (int start = begin; start < p.rows; start += tile) {
    block_barrier();
    load_rows<threads, tile>(head.at<T>(p.q), p.q.row, start, p.rows, p.d, tiles.q);
    load_rows<threads, tile>(head.at<T>(p.dout), p.dout.row, start, p.rows, p.e, tiles.dout);
    block_barrier();
    const bool any = head.length_of_rows(start + t / 32 * warp_rows, warp_rows) > first;  // of the warp's rows sees one of the keys
    float s[own_rows][own_columns], da[own_rows][own_columns];
    if (any) {
      multiply_tile(tiles.q + ty * own_rows * dp, tiles.k, p.d, tx, keys, s);
      multiply_tile(tiles.dout + ty * own_rows * ep, tiles.v, p.e, tx, keys, da);
    }
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i) {
      if (!any) {
        NORMA_UNROLL
        for (int j = 0; j < own_columns; ++j) {
          const int at = (ty * own_rows + i) * w_pitch + tx + lanes * j;
          tiles.w[at] = tiles.g[at] = 0;
        }
        continue;
      }
      const int row = start + ty * own_rows + i;
      RowState state;
      if (row < p.rows) {
        const std::int64_t at = std::int64_t{place.head} * p.rows + row;
        const float factor = p.row_factor[at];
        state = {p.phi == Phi::softmax ? *head.lse(row) : head.lone(row) ? 0 : factor, factor, p.row_delta[at]};
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
        const int at = (ty * own_rows + i) * w_pitch + tx + lanes * j;
        tiles.w[at] = seen[j] ? g[j].a * keep[j] : 0;
        tiles.g[at] = seen[j] ? g[j].ds * p.scale : 0;
      }
    }
    block_barrier();
    if (t / 32 * warp_rows >= keys) continue;  // the warp's
    const int rows = p.rows - start < tile ? p.rows - start : tile;
    add_products(rows, tiles.dout, ep, p.e, tx, dv, weights_of_columns(tiles.w + ty * own_rows, w_pitch));
    add_products(rows, tiles.q, dp, p.d, tx, dk, weights_of_columns(tiles.g + ty * own_rows, w_pitch));
  }
  NORMA_UNROLL
  for (int i = 0; i < own_rows; ++i) {
    const int key = first + ty * own_rows + i;
    if (key >= p.keys) continue;
    T *to_k = head.at<T>(p.dk) + key * p.dk.row, *to_v = head.at<T>(p.dv) + key * p.dv.row;
    NORMA_UNROLL
    for (int c = 0; c < columns; ++c) {
      const int column = pair_column(tx, c);
      if (column < p.d) to_k[column] = convert<T>(dk[i][c]);
      if (column < p.e) to_v[column] = convert<T>(dv[i][c]);
    }
  }
}

}  // namespace

void attention_backward_scalar(void* stream, const AttentionProblem& p, DType dtype) {
  const Extent rows = attention_grid(p, p.rows, tile), keys = attention_grid(p, p.keys, tile);
  const auto run = [&](auto tag, auto width) {
    using T = typename decltype(tag)::type;
    constexpr int columns = decltype(width)::value;
    const std::size_t shared = backward_scalar_bytes(p.d, p.e);
    launch(stream, rows, threads, shared, p.partial_stats ? rows_kernel<T, columns, true> : rows_kernel<T, columns, false>, p);
    launch(stream, keys, threads, shared, keys_kernel<T, columns>, p);
  };
  const auto run_type = [&](auto tag) {
    scalar_columns(p.d, p.e) > 4 ? run(tag, std::integral_constant<int, 8>{}) : run(tag, std::integral_constant<int, 4>{});
  };
  dtype == DType::f32 ? run_type(TypeTag<float>{}) : run_type(TypeTag<bf16>{});
}

}  // namespace norma::cuda
