// Attention of degree 1 without its matrix: sums of outer products over rows, in pieces that meet in order, and products of rows with
// such a sum. f32 arithmetic for f32 and bf16 elements.
#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"
#include "backends/cuda/kernels/attention_tile.h"

namespace norma::cuda {
namespace {

constexpr int threads = 256, lanes = 16;  // 16 x 16 threads
constexpr int sum_tile = linear_sum_tile, product_tile = linear_product_tile, own_rows = product_tile / lanes;

NORMA_DEVICE float weight(const Head& head, bool of_rows, int row) {
  if (of_rows) return head.row_factor(row);
  return !head.mask || head.mask[row * head.p.mask_key] != 0 ? 1.0f : 0.0f;
}

/// A block sums one piece of one head; a thread owns `own` x `own` elements of the sum.
template <class T, int own>
NORMA_KERNEL void NORMA_BOUNDS(threads, 1) state_kernel(AttentionProblem p, LinearState s) {
  constexpr int width = own * lanes;
  const Head head(p, block_id().y);
  const int t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes, piece = static_cast<int>(block_id().x);
  const int begin = piece * linear_piece, end = begin + linear_piece < s.count ? begin + linear_piece : s.count;
  const T *from_x = head.at<T>(s.x), *from_y = head.at<T>(s.y);
  float *x = reinterpret_cast<float*>(shared_memory()), *y = x + sum_tile * width;  // zeros beyond m and n
  float sums[own][own] = {}, total[own] = {};
  for (int first = begin; first < end; first += sum_tile) {
    block_barrier();
    for (int i = t; i < sum_tile * width; i += threads) {
      const int row = first + i / width, column = i % width;
      const bool there = row < end;
      x[i] = there && column < s.m ? convert<float>(from_x[row * s.x.row + column]) : 0.0f;
      y[i] = there && column < s.n ? weight(head, s.of_rows, row) * convert<float>(from_y[row * s.y.row + column]) : 0.0f;
    }
    block_barrier();
    add_products<own, own, lanes>(sum_tile, y, width, width, tx, sums, [&](int j, int i) { return x[j * width + ty + lanes * i]; });
    if (ty == 0)
      for (int j = 0; j < sum_tile; ++j)
        NORMA_UNROLL
        for (int c = 0; c < own; ++c) total[c] += y[j * width + tx + lanes * c];
  }
  const std::int64_t size = std::int64_t{s.m + 1} * s.n;
  float* to = grid_size().x == 1 ? s.state + block_id().y * size : s.partial + (std::int64_t{block_id().y} * grid_size().x + piece) * size;
  NORMA_UNROLL
  for (int c = 0; c < own; ++c) {
    const int column = tx + lanes * c;
    if (column >= s.n) break;
    NORMA_UNROLL
    for (int i = 0; i < own; ++i)
      if (ty + lanes * i < s.m) to[(ty + lanes * i) * s.n + column] = sums[i][c];
    if (ty == 0) to[s.m * s.n + column] = total[c];
  }
}

NORMA_KERNEL void join_kernel(LinearState s, std::int32_t pieces) {
  const std::int32_t size = (s.m + 1) * s.n, i = static_cast<std::int32_t>(block_id().x * threads + thread_id());
  if (i >= size) return;
  const float* partial = s.partial + std::int64_t{block_id().y} * pieces * size + i;
  float sum = 0;
  for (std::int32_t piece = 0; piece < pieces; ++piece) sum += partial[std::int64_t{piece} * size];
  s.state[std::int64_t{block_id().y} * size + i] = sum;
}

/// A block computes 64 rows of one head.
template <class T, int columns>
NORMA_KERNEL void NORMA_BOUNDS(threads, 1) product_kernel(AttentionProblem p, LinearProduct x) {
  const Head head(p, block_id().y);
  const int t = static_cast<int>(thread_id()), ty = t / lanes, tx = t % lanes, pitch = x.m + 1;
  const int first = static_cast<int>(block_id().x) * product_tile;
  float *rows = reinterpret_cast<float*>(shared_memory()), *state = rows + product_tile * pitch;  // [m, n]
  const std::int64_t size = x.transposed ? std::int64_t{x.n + 1} * x.m : std::int64_t{x.m + 1} * x.n;
  const float* from = x.state + block_id().y * size;
  load_rows<threads>(head.at<T>(x.x), x.x.row, first, x.count, product_tile, x.m, rows, pitch);
  for (int i = t; i < x.m * x.n; i += threads) state[i] = x.transposed ? from[i % x.n * x.m + i / x.n] : from[i];
  block_barrier();
  float out[own_rows][columns] = {};
  const float* mine = rows + ty * own_rows * pitch;
  add_products<own_rows, columns, lanes>(x.m, state, x.n, x.n, tx, out, [&](int j, int i) { return mine[i * pitch + j]; });
  NORMA_UNROLL
  for (int i = 0; i < own_rows; ++i) {
    const int row = first + ty * own_rows + i;
    if (row >= x.count) break;
    const float w = weight(head, x.of_rows, row);
    T* to = head.at<T>(x.out) + row * x.out.row;
    NORMA_UNROLL
    for (int c = 0; c < columns; ++c) {
      const int column = tx + lanes * c;
      if (column >= x.n) break;
      const float constant = x.shift != 0 ? x.shift * from[x.m * x.n + column] : 0.0f;
      to[column] = convert<T>(w * std::fma(x.slope, out[i][c], constant));
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
  const auto pieces = static_cast<unsigned>(s.pieces()), heads = static_cast<unsigned>(p.batches * p.heads);
  const bool small = s.m <= narrow && s.n <= narrow;
  const std::size_t shared = linear_state_bytes(small ? narrow : attention_max_width);
  by_type(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, {pieces, heads}, threads, shared, small ? state_kernel<T, narrow / lanes> : state_kernel<T, attention_max_width / lanes>, p, s);
  });
  const auto blocks = static_cast<unsigned>(((s.m + 1) * s.n + threads - 1) / threads);
  if (pieces > 1) launch(stream, {blocks, heads}, threads, 0, join_kernel, s, s.pieces());
}

void linear_product(void* stream, const AttentionProblem& p, const LinearProduct& x, DType dtype) {
  const Extent grid{static_cast<unsigned>((x.count + product_tile - 1) / product_tile), static_cast<unsigned>(p.batches * p.heads)};
  const std::size_t shared = linear_product_bytes(x.m, x.n);
  by_type(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, grid, threads, shared, x.n <= narrow ? product_kernel<T, narrow / lanes> : product_kernel<T, attention_max_width / lanes>, p, x);
  });
}

}  // namespace norma::cuda
