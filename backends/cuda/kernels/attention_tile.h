// Tiles of f32 in shared memory, of f32 or bf16 elements, for kernels without tensor cores. Rows lie a multiple of 4 floats apart, so that 4
// neighbours move by one access: what a product waits for is shared memory. For .cu files.
#pragma once

#include "backends/cuda/device.h"
#include "backends/cuda/kernels/attention_shared.h"

namespace norma::cuda {

constexpr int tile_lanes = 16;  // threads along a row of a tile, or of a tile's products; two rows a warp

/// Rows [first, end) of x, `count` at most, times their weights into `to`; zeros in the other rows and from column `width` to `filled`.
/// Eight loads of a thread are under way at a time. The caller's barriers.
template <int threads, int count, class T, class Weight>
NORMA_DEVICE void load_weighted(const T* x, std::int64_t x_row, int first, int end, int width, float* to, int pitch, int filled, Weight weight_of) {
  constexpr int step = threads / tile_lanes, each = count / step, at_once = 8 / each;
  static_assert(each * step == count && at_once * each == 8);
  const int t = static_cast<int>(thread_id()), top = t / tile_lanes, row = first + top;
  const T* from = x + row * x_row;
  float weight[each];
  NORMA_UNROLL
  for (int i = 0; i < each; ++i) weight[i] = row + i * step < end ? weight_of(row + i * step) : 0.0f;
  for (int column = t % tile_lanes; column < filled; column += at_once * tile_lanes) {
    float some[at_once][each];
    NORMA_UNROLL
    for (int c = 0; c < at_once; ++c)
      NORMA_UNROLL
      for (int i = 0; i < each; ++i) {
        const int at = column + c * tile_lanes;
        some[c][i] = row + i * step < end && at < width ? weight[i] * convert<float>(from[i * step * x_row + at]) : 0.0f;
      }
    NORMA_UNROLL
    for (int c = 0; c < at_once; ++c)
      NORMA_UNROLL
      for (int i = 0; i < each; ++i)
        if (column + c * tile_lanes < filled) to[(top + i * step) * pitch + column + c * tile_lanes] = some[c][i];
  }
}
/// The same without weights, at the pitch of its width.
template <int threads, int count, class T>
NORMA_DEVICE void load_rows(const T* x, std::int64_t x_row, int first, int end, int width, float* to) {
  load_weighted<threads, count>(x, x_row, first, end, width, to, tile_pitch(width), tile_columns(width), [](int) { return 1.0f; });
}

/// product[i][j] = a_i . b_(tx + tile_lanes j) for the thread's rows a_i and every tile_lanes-th row of b, j < taken; 0 for the others. Both of
/// tile_pitch(width), zeros up to tile_columns(width).
template <int taken, int own_rows, int own_columns>
NORMA_DEVICE void multiply_taken(const float* a, const float* b, int width, int tx, float (&product)[own_rows][own_columns]) {
  const int pitch = tile_pitch(width);
  NORMA_UNROLL
  for (int i = 0; i < own_rows; ++i)
    NORMA_UNROLL
    for (int j = 0; j < own_columns; ++j) product[i][j] = 0;
  NORMA_ROLLED  // several steps at a time would not fit into registers
  for (int x = 0; x < width; x += 4) {
    Pack<float, 4> left[own_rows];
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i) left[i] = load_pack<4>(a + i * pitch + x);
    NORMA_UNROLL
    for (int j = 0; j < taken; ++j) {
      const Pack<float, 4> right = load_pack<4>(b + (tx + tile_lanes * j) * pitch + x);
      NORMA_UNROLL
      for (int k = 0; k < 4; ++k)
        NORMA_UNROLL
        for (int i = 0; i < own_rows; ++i) product[i][j] = std::fma(left[i].v[k], right.v[k], product[i][j]);
    }
  }
}
/// The same where only the first `count` rows of b matter.
template <int own_rows, int own_columns>
NORMA_DEVICE void multiply_tile(const float* a, const float* b, int width, int tx, int count, float (&product)[own_rows][own_columns]) {
  count <= tile_lanes ? multiply_taken<1>(a, b, width, tx, product) : multiply_taken<own_columns>(a, b, width, tx, product);
}

/// Which column the thread's sum c is of: pairs of neighbours, 2 tile_lanes apart.
NORMA_DEVICE int pair_column(int tx, int c) { return 2 * (c / 2 * tile_lanes + tx) + c % 2; }
/// sums[i][c] += sum over rows j < count of weight(j, i) x[j][pair_column(c)], for the pairs that begin below `width`. weights(j, w): w[k][i] =
/// weight(j + k, i) for 4 rows from j on, a multiple of 4; zeros from row `count` on, where x has numbers.
template <int own_rows, int columns, class Weights>
NORMA_DEVICE void add_products(int count, const float* x, int pitch, int width, int tx, float (&sums)[own_rows][columns], Weights weights) {
  NORMA_ROLLED
  for (int j = 0; j < count; j += 4) {
    float left[4][own_rows];
    weights(j, left);
    NORMA_UNROLL
    for (int k = 0; k < 4; ++k)
      NORMA_UNROLL
      for (int c = 0; c < columns; c += 2) {
        if (pair_column(tx, c) >= width) break;
        const Pack<float, 2> right = load_pack<2>(x + (j + k) * pitch + pair_column(tx, c));
        NORMA_UNROLL
        for (int n = 0; n < 2; ++n)
          NORMA_UNROLL
          for (int i = 0; i < own_rows; ++i) sums[i][c + n] = std::fma(left[k][i], right.v[n], sums[i][c + n]);
      }
  }
}
/// Weights for add_products out of a matrix in shared memory: weight(j, i) lies at rows[i * pitch + j], or at columns[j * pitch + i].
NORMA_DEVICE auto weights_of_rows(const float* rows, int pitch) {
  return [rows, pitch](int j, auto& w) {
    constexpr int own_rows = std::extent_v<std::remove_reference_t<decltype(w)>, 1>;
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i) {
      const Pack<float, 4> x = load_pack<4>(rows + i * pitch + j);
      NORMA_UNROLL
      for (int k = 0; k < 4; ++k) w[k][i] = x.v[k];
    }
  };
}
NORMA_DEVICE auto weights_of_columns(const float* columns, int pitch) {
  return [columns, pitch](int j, auto& w) {
    constexpr int own_rows = std::extent_v<std::remove_reference_t<decltype(w)>, 1>;
    NORMA_UNROLL
    for (int k = 0; k < 4; ++k)
      NORMA_UNROLL
      for (int i = 0; i < own_rows; i += 4) {
        const Pack<float, 4> x = load_pack<4>(columns + (j + k) * pitch + i);
        NORMA_UNROLL
        for (int n = 0; n < 4; ++n) w[k][i + n] = x.v[n];
      }
  };
}

}  // namespace norma::cuda
