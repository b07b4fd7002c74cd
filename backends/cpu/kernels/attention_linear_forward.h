// Linear-time attention, forward: states, what rows read from them, and the exact statistics. Without a causal mask every row
// reads the one state of all keys; with one, chunk after chunk, rows read the state of all earlier chunks, and what they see
// within their own chunk comes from its small matrix of scores.
#pragma once

#include "backends/cpu/kernels/attention_linear.h"

namespace norma::cpu::NORMA_ISA {
namespace {

template <class T>
void add_keys(Blocks<T>& b, Int begin, Int n, T* state) {
  b.load_k(begin, n), b.load_v(begin, n);
  b.lift(b.k, n, true);
  b.accumulate(n, b.v, b.v_row, b.head.e, state);
}
template <class T>
void add_rows(Blocks<T>& b, Int begin, Int n, T* state) {
  b.load_q(begin, n), b.load_g(begin, n);
  b.lift(b.q, n, true);
  b.accumulate(n, b.g, b.v_row, b.head.e, state);
}

template <class T>
void sum_keys(const LinearHead<T>& h, T* state) {
  Blocks<T> b(h, static_cast<char*>(h.work), 0);
  __builtin_memset(state, 0, static_cast<std::size_t>(state_of(h, h.e)) * sizeof(T));
  for (Int j = h.begin; j < h.end; j += b.rows) add_keys(b, j, smaller(b.rows, h.end - j), state);
}
/// Causal: over the rows that end in the keys of the piece.
template <class T>
void sum_rows(const LinearHead<T>& h, T* state) {
  Blocks<T> b(h, static_cast<char*>(h.work), 0);
  __builtin_memset(state, 0, static_cast<std::size_t>(state_of(h, h.e)) * sizeof(T));
  for (Int j = h.begin; j < h.end; j += b.rows) {
    const Chunk<T> chunk(h, j, smaller(h.end, j + b.rows));
    if (chunk.count > 0) add_rows(b, chunk.first, chunk.count, state);
  }
}

template <class T>
void forward_rows(const LinearHead<T>& h, const T* state) {
  Blocks<T> b(h, static_cast<char*>(h.work), 0);
  for (Int i = h.begin; i < h.end; i += b.rows) {
    const Int n = smaller(b.rows, h.end - i);
    b.load_q(i, n), b.load_factors(i, n);
    b.lift(b.q, n, false);
    b.read(n, state, h.e, h.out + i * h.out_row, h.out_row, false, b.factors);
  }
}

template <class T>
void zero_rows(T* x, Int row, Int begin, Int end, Int width) {
  for (Int i = begin; i < end; ++i)
    for (Int c = 0; c < width; ++c) x[i * row + c] = 0;
}

template <class T>
void forward_causal(const LinearHead<T>& h, T* state) {
  Blocks<T> b(h, static_cast<char*>(h.work), 0);
  if (h.begin == 0) zero_rows(h.out, h.out_row, 0, smaller(h.rows, h.rows - h.keys), h.e);  // rows that see nothing
  for (Int j = h.begin; j < h.end; j += b.rows) {
    const Int keys = smaller(b.rows, h.end - j);
    const Chunk<T> chunk(h, j, j + keys);
    if (chunk.count > 0) {
      T* out = h.out + chunk.first * h.out_row;
      b.load_q(chunk.first, chunk.count), b.load_factors(chunk.first, chunk.count);
      if (j > 0) {
        b.lift(b.q, chunk.count, false);
        b.read(chunk.count, state, h.e, out, h.out_row, false, b.factors);
      }
      b.load_k(j, keys), b.load_v(j, keys);
      score(b, j, keys, chunk, false);
      const Panels<T> values = b.panels_of(b.v, b.v_row, keys, h.e);
      const Tiling tiling(chunk.count);
      for (Int t = 0; t < tiling.count; ++t) {
        const Int r = tiling.begin(t);
        const int mr = tiling.rows(t);
        multiply_rows<T, false>(mr, h.e, b.length(chunk.first + r + mr - 1) - j, b.scores + r * b.s_row, b.s_row, values,
                                out + r * h.out_row, h.out_row, false, j > 0, b.factors + r);
      }
    }
    if (j + keys < h.end) add_keys(b, j, keys, state);
  }
}

/// What `measure` needs beside the blocks.
template <class T>
struct Wide {
  Int row, bytes;
  T *state, *value, *seen;  // of all keys; of a block of keys; what a block of rows reads
  Wide(const Blocks<T>& b, Int columns, char* base) : row(round_up(columns, panel_width<T>)) {
    Space space{base, b.bytes()};
    state = space.take<T>(state_of(b.head, columns));
    value = space.take<T>(b.rows * row);
    seen = space.take<T>(b.rows * row);
    bytes = space.used;
  }
};

/// Statistics: the state of the "values" [1 | F(k)], which rows read as [sum of the row / c | F(k)^T A / c].
template <class T>
LinearSums measure(const LinearHead<T>& h, bool norm) {
  const Int columns = norm ? h.features : 0;
  Blocks<T> b(h, static_cast<char*>(h.work), columns + 1);
  const Wide<T> room(b, columns + 1, static_cast<char*>(h.work));
  const Int wide = room.row;
  T *state = room.state, *value = room.value, *seen = room.seen;
  LinearSums sums{};
  __builtin_memset(state, 0, static_cast<std::size_t>(state_of(h, columns + 1)) * sizeof(T));
  auto add_block = [&](Int j, Int n) {
    b.load_k(j, n);
    b.lift(b.k, n, false);
    for (Int r = 0; r < n; ++r) {
      value[r * wide] = b.hidden(j + r) ? 0 : 1;
      for (Int c = 0; c < columns; ++c) value[r * wide + 1 + c] = value[r * wide] * b.f[r * b.f_row + c];
    }
    b.lift(b.k, n, true);
    b.accumulate(n, value, wide, columns + 1, state);
  };
  auto read_block = [&](Int i, Int n, Int chunk_begin, const Chunk<T>* chunk) {
    b.load_q(i, n), b.load_factors(i, n);
    b.lift(b.q, n, false);
    b.read(n, state, columns + 1, seen, wide, false, nullptr);
    if (chunk) score(b, chunk_begin, smaller(b.rows, h.keys - chunk_begin), *chunk, false);
    for (Int r = 0; r < n; ++r) {
      const double c = b.factors[r];
      double row = seen[r * wide], squares = 0;
      for (Int t = 0; t < columns; ++t)
        squares += static_cast<double>(seen[r * wide + 1 + t]) * static_cast<double>(b.f[r * b.f_row + t] * h.weights[t]);
      for (Int j = chunk_begin; chunk && j < b.length(i + r); ++j) {
        const double a = b.hidden(j) ? 0 : static_cast<double>(b.scores[r * b.s_row + j - chunk_begin]);
        row += a, squares += a * a;
      }
      sums.row_sum += c * row, sums.row_sum2 += c * c * row * row, sums.fro2 += c * c * squares;
    }
  };
  if (!h.causal) {
    for (Int j = 0; j < h.keys; j += b.rows) add_block(j, smaller(b.rows, h.keys - j));
    for (Int i = 0; i < h.rows; i += b.rows) read_block(i, smaller(b.rows, h.rows - i), 0, nullptr);
    return sums;
  }
  for (Int j = 0; j < h.keys; j += b.rows) {
    const Int keys = smaller(b.rows, h.keys - j);
    const Chunk<T> chunk(h, j, j + keys);
    if (chunk.count > 0) {
      b.load_k(j, keys);
      read_block(chunk.first, chunk.count, j, &chunk);
    }
    add_block(j, keys);
  }
  return sums;
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
