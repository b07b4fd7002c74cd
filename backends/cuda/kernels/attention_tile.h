// Tiles of f32 in shared memory, of f32 or bf16 elements. For .cu files.
#pragma once

#include "backends/cuda/device.h"

namespace norma::cuda {

/// Rows [first, first + count) of x into `to` with `pitch`, zeros from row `rows` on. The caller's barriers.
template <int threads, class T>
NORMA_DEVICE void load_rows(const T* x, std::int64_t x_row, int first, int rows, int count, int width, float* to, int pitch) {
  for (int i = static_cast<int>(thread_id()); i < count * width; i += threads) {
    const int row = i / width, column = i % width;
    to[row * pitch + column] = first + row < rows ? convert<float>(x[(first + row) * x_row + column]) : 0.0f;
  }
}

/// product[i][j] = a_i . b_(tx + lanes j) for the thread's rows a_i and every lanes-th row of b; odd pitches keep the banks apart.
template <int own_rows, int own_columns, int lanes>
NORMA_DEVICE void multiply_tile(const float* a, const float* b, int a_pitch, int b_pitch, int width, int tx,
                                float (&product)[own_rows][own_columns]) {
  NORMA_UNROLL
  for (int i = 0; i < own_rows; ++i)
    NORMA_UNROLL
    for (int j = 0; j < own_columns; ++j) product[i][j] = 0;
  for (int x = 0; x < width; ++x) {
    float left[own_rows], right[own_columns];
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i) left[i] = a[i * a_pitch + x];
    NORMA_UNROLL
    for (int j = 0; j < own_columns; ++j) right[j] = b[(tx + lanes * j) * b_pitch + x];
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i)
      NORMA_UNROLL
      for (int j = 0; j < own_columns; ++j) product[i][j] = std::fma(left[i], right[j], product[i][j]);
  }
}

/// sums[i][c] += sum over rows j < count of weight(j, i) x[j][tx + lanes c], for the columns below `width`.
template <int own_rows, int columns, int lanes, class Weight>
NORMA_DEVICE void add_products(int count, const float* x, int pitch, int width, int tx, float (&sums)[own_rows][columns], Weight weight) {
  for (int j = 0; j < count; ++j) {
    float left[own_rows];
    NORMA_UNROLL
    for (int i = 0; i < own_rows; ++i) left[i] = weight(j, i);
    NORMA_UNROLL
    for (int c = 0; c < columns; ++c) {
      if (c * lanes + tx >= width) break;
      const float right = x[j * pitch + tx + lanes * c];
      NORMA_UNROLL
      for (int i = 0; i < own_rows; ++i) sums[i][c] = std::fma(left[i], right, sums[i][c]);
    }
  }
}

}  // namespace norma::cuda
