// Attention of degree 1 without its matrix: sums of outer products over rows, in pieces that meet in order, and products of rows with
// such a sum. Under a causal mask pieces are chunks, a row's sum is that of the chunks before its own, of a key that of the chunks after
// it, and what lies in one chunk meets through the scores. f32 arithmetic for f32 and bf16 elements.
#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"
#include "backends/cuda/kernels/attention_tile.h"

namespace norma::cuda {
namespace {

constexpr int threads = 256, lanes = tile_lanes;  // 16 x 16 threads
constexpr int sum_tile = linear_sum_tile, product_tile = linear_product_tile, own_rows = product_tile / lanes;

NORMA_DEVICE float weight(const Head& head, bool of_rows, int row) {
  if (of_rows) return head.row_factor(row);
  return !head.mask || head.mask[row * head.p.mask_key] != 0 ? 1.0f : 0.0f;
}

/// A block sums one piece of one head; a thread owns `own` x `own` elements of the sum.
template <class T, int own>
NORMA_KERNEL void NORMA_BOUNDS(threads, 2) state_kernel(AttentionProblem p, LinearState s) {
  constexpr int width = own * lanes;
  const Head head(p, block_id().y);
  const int t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes, piece = static_cast<int>(block_id().x);
  const LinearCut cut = linear_pieces(p, s.of_rows);
  const int begin = cut.begin(piece), end = cut.end(piece);
  float *x = reinterpret_cast<float*>(shared_memory()), *y = x + sum_tile * width;  // zeros beyond m and n
  float sums[own][own] = {}, total[own] = {};
  for (int first = begin; first < end; first += sum_tile) {
    block_barrier();
    load_weighted<threads, sum_tile>(head.at<T>(s.x), s.x.row, first, end, s.m, x, width, width, [](int) { return 1.0f; });
    load_weighted<threads, sum_tile>(head.at<T>(s.y), s.y.row, first, end, s.n, y, width, width, [&](int row) { return weight(head, s.of_rows, row); });
    block_barrier();
    add_products(sum_tile, y, width, width, tx, sums, weights_of_columns(x + ty * own, width));
    if (ty == 0)
      for (int j = 0; j < sum_tile; ++j)
        NORMA_UNROLL
        for (int c = 0; c < own; ++c) total[c] += y[j * width + pair_column(tx, c)];
  }
  float* to = s.parts + (std::int64_t{block_id().y} * grid_size().x + piece) * (s.m + 1) * s.n;
  NORMA_UNROLL
  for (int c = 0; c < own; ++c) {
    const int column = pair_column(tx, c);
    if (column >= s.n) break;
    NORMA_UNROLL
    for (int i = 0; i < own; ++i)
      if (ty * own + i < s.m) to[(ty * own + i) * s.n + column] = sums[i][c];
    if (ty == 0) to[s.m * s.n + column] = total[c];
  }
}

/// The states of pieces meet, an element a thread: in their sum, or, under a causal mask and where they lie, each in the sum of those
/// before it, of rows of those after it.
template <bool causal>
NORMA_KERNEL void join_kernel(LinearState s, std::int32_t pieces) {
  constexpr int ahead = 8;  // loads under way at once
  const std::int32_t size = (s.m + 1) * s.n, i = static_cast<std::int32_t>(block_id().x * threads + thread_id());
  if (i >= size) return;
  float* parts = s.parts + std::int64_t{block_id().y} * pieces * size + i;
  const auto place = [&](std::int32_t n) { return std::int64_t{causal && s.of_rows ? pieces - 1 - n : n} * size; };
  float sum = 0;
  for (std::int32_t first = 0; first < pieces; first += ahead) {
    float own[ahead];
    NORMA_UNROLL
    for (int k = 0; k < ahead; ++k) own[k] = first + k < pieces ? parts[place(first + k)] : 0.0f;
    NORMA_UNROLL
    for (int k = 0; k < ahead; ++k) {
      if constexpr (causal)
        if (first + k < pieces) parts[place(first + k)] = sum;
      sum += own[k];
    }
  }
  if constexpr (!causal) s.state[std::int64_t{block_id().y} * size + i] = sum;
}

/// out += what the tile's rows (`mine`: the thread's, of x) see of the others in their own chunk, with the others' weights.
template <class T, int columns>
NORMA_DEVICE void add_chunk(const Head& head, const LinearProduct& x, int tile, const float* mine, float* space, float (&out)[own_rows][columns]) {
  const AttentionProblem& p = head.p;
  const LinearCut own = linear_cut(p, x.of_rows, product_tile), other = linear_cut(p, !x.of_rows, product_tile);
  constexpr int score_pitch = tile_pitch(product_tile);
  const int t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes, lag = other.before - own.before;
  float *y = space, *z = y + product_tile * scalar_score_pitch(x.m), *scores = y + ty * own_rows * score_pitch;
  const LinearTiles tiles = linear_tiles(tile, linear_chunk(p.d, p.e), !x.of_rows);
  for (int next = tiles.begin; next < tiles.end; ++next) {
    const int first = other.begin(next), end = other.end(next);
    if (first >= end) continue;
    block_barrier();
    load_rows<threads, product_tile>(head.at<T>(x.y), x.y.row, first, end, x.m, y);
    load_weighted<threads, product_tile>(head.at<T>(x.z), x.z.row, first, end, x.n, z, tile_pitch(x.n), tile_columns(x.n),
                                         [&](int row) { return weight(head, !x.of_rows, row); });
    block_barrier();
    float s[own_rows][own_rows];
    multiply_tile(mine, y, x.m, tx, end - first, s);
    block_barrier();  // scores take the place of y
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i)
      NORMA_UNROLL
      for (int j = 0; j < own_rows; ++j) {
        const int row = own.begin(tile) + ty * own_rows + i, from = first + tx + lanes * j + lag;
        const bool seen = x.of_rows ? from <= row : from >= row;
        scores[i * score_pitch + tx + lanes * j] = seen ? std::fma(x.slope, s[i][j], x.shift) : 0.0f;
      }
    warp_barrier();  // a row's scores are written and read by the same half warp
    add_products(product_tile, z, tile_pitch(x.n), x.n, tx, out, weights_of_rows(scores, score_pitch));
  }
}

/// A block computes 64 rows of one head.
template <class T, int columns, bool causal>
NORMA_KERNEL void NORMA_BOUNDS(threads, 2) product_kernel(AttentionProblem p, LinearProduct x) {
  const Head head(p, block_id().y);
  const int t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes, tile = static_cast<int>(block_id().x);
  const int pitch = tile_pitch(x.m), state_pitch = tile_pitch(x.n);
  const LinearCut cut = linear_cut(p, x.of_rows, product_tile);
  const int first = cut.begin(tile), end = cut.end(tile);
  if (first >= end) return;
  float *rows = reinterpret_cast<float*>(shared_memory()), *state = rows + product_tile * pitch;  // [m, n], zeros up to tile_columns of both
  const std::int64_t size = x.transposed ? std::int64_t{x.n + 1} * x.m : std::int64_t{x.m + 1} * x.n;
  const int chunk = causal ? tile * product_tile / linear_chunk(p.d, p.e) : 0;
  const float* from = x.state + (std::int64_t{block_id().y} * linear_states(p) + chunk) * size;
  load_rows<threads, product_tile>(head.at<T>(x.x), x.x.row, first, end, x.m, rows);
  for (int i = ty; i < tile_columns(x.m); i += threads / lanes)
    for (int j = tx; j < tile_columns(x.n); j += lanes)
      state[i * state_pitch + j] = i < x.m && j < x.n ? from[x.transposed ? j * x.m + i : i * x.n + j] : 0.0f;
  block_barrier();
  float out[own_rows][columns] = {};
  const float* mine = rows + ty * own_rows * pitch;
  add_products(x.m, state, state_pitch, x.n, tx, out, weights_of_rows(mine, pitch));
  NORMA_UNROLL
  for (int c = 0; c < columns; ++c) {
    const int column = pair_column(tx, c);
    if (column >= x.n) break;
    const float constant = x.shift != 0 ? x.shift * from[x.m * x.n + column] : 0.0f;
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i) out[i][c] = std::fma(x.slope, out[i][c], constant);
  }
  if constexpr (causal) add_chunk<T>(head, x, tile, mine, state, out);
  NORMA_UNROLL
  for (int i = 0; i < own_rows; ++i) {
    const int row = first + ty * own_rows + i;
    if (row >= end) break;
    const float w = weight(head, x.of_rows, row);
    T* to = head.at<T>(x.out) + row * x.out.row;
    NORMA_UNROLL
    for (int c = 0; c < columns; ++c) {
      if (pair_column(tx, c) >= x.n) break;
      to[pair_column(tx, c)] = convert<T>(w * out[i][c]);
    }
  }
}

template <class F>
void by_type(DType dtype, F&& f) {
  dtype == DType::f32 ? f(TypeTag<float>{}) : f(TypeTag<bf16>{});
}
constexpr std::int32_t narrow = 64;

}  // namespace

void linear_state(void* stream, const AttentionProblem& p, const LinearState& s, DType dtype) {
  const auto pieces = static_cast<unsigned>(linear_pieces(p, s.of_rows).pieces()), heads = static_cast<unsigned>(p.batches * p.heads);
  const bool small = s.m <= narrow && s.n <= narrow;
  const std::size_t shared = linear_state_bytes(small ? narrow : attention_max_width);
  by_type(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, {pieces, heads}, threads, shared, small ? state_kernel<T, narrow / lanes> : state_kernel<T, attention_max_width / lanes>, p, s);
  });
  const auto blocks = static_cast<unsigned>(((s.m + 1) * s.n + threads - 1) / threads);
  if (p.causal || pieces > 1) launch(stream, {blocks, heads}, threads, 0, p.causal ? join_kernel<true> : join_kernel<false>, s, pieces);
}

void linear_product(void* stream, const AttentionProblem& p, const LinearProduct& x, DType dtype) {
  const Extent grid{static_cast<unsigned>(linear_cut(p, x.of_rows, product_tile).pieces()), static_cast<unsigned>(p.batches * p.heads)};
  const std::size_t shared = linear_product_bytes(x.m, x.n, p.causal);
  const auto run = [&](auto tag, auto causal) {
    using T = typename decltype(tag)::type;
    constexpr bool masked = decltype(causal)::value;
    launch(stream, grid, threads, shared,
           x.n <= narrow ? product_kernel<T, narrow / lanes, masked> : product_kernel<T, attention_max_width / lanes, masked>, p, x);
  };
  by_type(dtype, [&](auto tag) { p.causal ? run(tag, std::true_type{}) : run(tag, std::false_type{}); });
}

}  // namespace norma::cuda
