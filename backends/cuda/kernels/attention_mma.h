// Products of bf16 tiles in shared memory on tensor cores, as fragments of 16 rows a warp, and what a row of them needs. For .cu files.
#pragma once

#include "backends/cuda/kernels/attention_phi.h"
#include "backends/cuda/kernels/attention_shared.h"

namespace norma::cuda {

constexpr int mma_warps = 4, mma_threads = 32 * mma_warps;

/// Starts copying rows [first, first + count) of x into `to`, by a block of `threads`; zeros beyond the rows and the width.
template <int chunks>
NORMA_DEVICE void fetch_rows(const bf16* x, std::int64_t x_row, int first, int rows, int width, bf16* to, int count, int threads) {
  constexpr int pieces = chunks * 2;
  for (int i = static_cast<int>(thread_id()); i < count * pieces; i += threads) {
    const int row = i / pieces, column = i % pieces * 8;
    const bool present = first + row < rows && column < width;
    copy_async(to + row * mma_pitch(chunks) + column, present ? x + (first + row) * x_row + column : x, present);
  }
}
/// The same for rows [first, first + 64) and a block of mma_threads.
template <int chunks>
NORMA_DEVICE void fetch_tile(const bf16* x, std::int64_t x_row, int first, int rows, int width, bf16* to) {
  fetch_rows<chunks>(x, x_row, first, rows, width, to, mma_tile, mma_threads);
}

NORMA_DEVICE std::uint32_t pack_pair(float low, float high) {
  return static_cast<std::uint32_t>(bf16(low).bits) | static_cast<std::uint32_t>(bf16(high).bits) << 16;
}

/// s[n] = the 16 x 8 fragment of a_i . b_j for the 16 rows at `a` and rows 8 n.. of the 8 * fragments at `b`.
template <int chunks, int fragments>
NORMA_DEVICE void multiply_rows(const bf16* a, const bf16* b, int width, float (&s)[fragments][4]) {
  constexpr int pitch = mma_pitch(chunks);
  const int lane = static_cast<int>(thread_id()) % 32;
  NORMA_UNROLL
  for (int n = 0; n < fragments; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
  NORMA_UNROLL
  for (int c = 0; c < chunks; ++c) {
    if (c * 16 >= width) break;
    std::uint32_t left[4];
    load_matrices(left, a + lane % 16 * pitch + c * 16 + lane / 16 * 8);
    NORMA_UNROLL
    for (int n = 0; n < fragments; n += 2) {
      std::uint32_t right[4];
      load_matrices(right, b + (n * 8 + lane / 16 * 8 + lane % 8) * pitch + c * 16 + lane / 8 % 2 * 8);
      mma_16x8x16(s[n], left, right[0], right[1]);
      mma_16x8x16(s[n + 1], left, right[2], right[3]);
    }
  }
}

/// sums += w b for fragments w, 16 x 8 * fragments, rounded to bf16, and the 8 * fragments rows at `b`.
template <int chunks, int fragments>
NORMA_DEVICE void add_weighted(const float (&w)[fragments][4], const bf16* b, int width, float (&sums)[chunks * 2][4]) {
  const int lane = static_cast<int>(thread_id()) % 32;
  NORMA_UNROLL
  for (int j = 0; j < fragments / 2; ++j) {
    const std::uint32_t left[4] = {pack_pair(w[2 * j][0], w[2 * j][1]), pack_pair(w[2 * j][2], w[2 * j][3]),
                                   pack_pair(w[2 * j + 1][0], w[2 * j + 1][1]), pack_pair(w[2 * j + 1][2], w[2 * j + 1][3])};
    NORMA_UNROLL
    for (int n = 0; n < chunks * 2; n += 2) {
      if (n * 8 >= width) break;
      std::uint32_t right[4];
      load_matrices_transposed(right,
                               b + (j * 16 + lane / 8 % 2 * 8 + lane % 8) * mma_pitch(chunks) + n * 8 + lane / 16 * 8);
      mma_16x8x16(sums[n], left, right[0], right[1]);
      mma_16x8x16(sums[n + 1], left, right[2], right[3]);
    }
  }
}

/// Row g or g + 8 of the warp's fragments times `factor`, as bf16.
template <int fragments>
NORMA_DEVICE void store_row(const float (&sums)[fragments][4], int half, float factor, int width, bf16* row) {
  const int t = static_cast<int>(thread_id()) % 4;
  NORMA_UNROLL
  for (int n = 0; n < fragments; ++n)
    if (n * 8 < width)
      *reinterpret_cast<std::uint32_t*>(row + n * 8 + 2 * t) = pack_pair(sums[n][2 * half] * factor, sums[n][2 * half + 1] * factor);
}

/// dO_i . O_i for rows whose weights sum to 1, else 0. The four lanes of a fragment's row call it together.
template <bool softmax>
NORMA_DEVICE float row_delta(const Head& head, int row) {
  const AttentionProblem& p = head.p;
  float delta = 0;
  if ((softmax || p.normalize) && row < p.rows) {
    const bf16 *out = head.at<bf16>(p.out) + row * p.out.row, *dout = head.at<bf16>(p.dout) + row * p.dout.row;
    for (int c = static_cast<int>(thread_id()) % 4; c < p.e; c += 4) delta = std::fma(convert<float>(dout[c]), convert<float>(out[c]), delta);
  }
  return reduce_lanes<4>(delta, Plus{});
}

}  // namespace norma::cuda
