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
  Blocks<T> b(h, h.work, 0);
  __builtin_memset(state, 0, static_cast<std::size_t>(state_of(h, h.e)) * sizeof(T));
  for (Int j = h.begin; j < h.end; j += b.rows) add_keys(b, j, smaller(b.rows, h.end - j), state);
}
/// Causal: over the rows that end in the keys of the piece.
template <class T>
void sum_rows(const LinearHead<T>& h, T* state) {
  Blocks<T> b(h, h.work, 0);
  __builtin_memset(state, 0, static_cast<std::size_t>(state_of(h, h.e)) * sizeof(T));
  for (Int j = h.begin; j < h.end; j += b.rows) {
    const Chunk<T> chunk(h, j, smaller(h.end, j + b.rows));
    if (chunk.count > 0) add_rows(b, chunk.first, chunk.count, state);
  }
}

template <class T>
void forward_rows(const LinearHead<T>& h, const T* state) {
  Blocks<T> b(h, h.work, 0);
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
  Blocks<T> b(h, h.work, 0);
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

/// What `measure` needs beside the blocks. Of symmetric states only what is not below the diagonal counts.
template <class T>
struct Measured {
  Int row, size, bytes;
  T *sum;              // of the keys' weighted monomials
  T *keys, *rows;      // states: of the keys' weighted monomials by themselves; of the rows' times c^2, all or those of a chunk
  T *value;            // of a block
  Measured(const Blocks<T>& b, Int columns) : row(round_up(columns, panel_width<T>)), size(state_of(b.head, columns)) {
    ScratchCutter space = b.rest();
    sum = space.take<T>(round_up(b.features, lanes<T>));
    keys = space.take<T>(size), rows = space.take<T>(size);
    value = space.take<T>(b.rows * row);
    bytes = space.used();
  }
};

/// The sum of x[i], or of x[i] y[i].
template <class T, class... Y>
double sum_of_products(Int n, const T* x, const Y*... y) {
  constexpr int L = lanes<T>;
  Vec<T> sum{};
  Int i = 0;
  for (; i + L <= n; i += L) sum += (load(x + i) * ... * load(y + i));
  if (i < n) sum += (load_n(x + i, static_cast<int>(n - i)) * ... * load_n(y + i, static_cast<int>(n - i)));
  return static_cast<double>(sum_lanes(sum));
}

/// trace(X Y) of two symmetric states.
template <class T>
double trace_of_product(Int features, const T* x, const T* y) {
  constexpr Int W = panel_width<T>;
  double diagonal = 0, above = 0;
  for (Int s = 0; s < features; ++s)
    for (Int c = s / W * W; c < features; c += W) {
      const Int from = larger(c, s), at = (c * features + s * W) + from - c, count = smaller(c + W, features) - from;
      const Int first = from == s ? 1 : 0;
      if (first) diagonal += static_cast<double>(x[at]) * static_cast<double>(y[at]);
      above += sum_of_products(count - first, x + at + first, y + at + first);
    }
  return diagonal + 2 * above;
}

/// Statistics: rows sum up to c F(q)^T s with s = sum of w F(k), and their squares to c^2 F(q)^T G F(q) with G = sum of (w F(k)) (w F(k))^T, so
/// that ||A||_F^2 = trace(G sum of c^2 F(q) F(q)^T).
template <class T>
LinearSums measure(const LinearHead<T>& h, bool norm) {
  constexpr int L = lanes<T>;
  const Int columns = norm ? h.features : 0;
  Blocks<T> b(h, h.work, columns + 1);
  const Measured<T> m(b, columns + 1);
  LinearSums sums{};
  const auto clear_state = [&](T* state) { __builtin_memset(state, 0, static_cast<std::size_t>(m.size) * sizeof(T)); };
  clear(m.sum, 0, round_up(h.features, L)), clear_state(m.keys), clear_state(m.rows);
  const auto add_block = [&](Int j, Int n) {
    b.load_k(j, n);
    b.lift(b.k, n, true);
    for (Int r = 0; r < n; ++r) {
      T* f = b.f + r * b.f_row;
      if (b.hidden(j + r)) clear(f, 0, round_up(h.features, L));  // a constant has a monomial without factors
      for (Int t = 0; t < h.features; t += L) store(m.sum + t, load(m.sum + t) + load(f + t));
    }
    if (norm) b.accumulate(n, b.f, b.f_row, columns, m.keys, true);
  };
  const auto read_block = [&](Int i, Int n, Int chunk_begin, const Chunk<T>* chunk) {
    b.load_q(i, n), b.load_factors(i, n);
    b.lift(b.q, n, false);
    if (chunk) score(b, chunk_begin, smaller(b.rows, h.keys - chunk_begin), *chunk, false);
    for (Int r = 0; r < n; ++r) {
      const T c = b.factors[r], *f = b.f + r * b.f_row;
      double row = sum_of_products(h.features, m.sum, f), squares = 0;
      if (chunk) {  // what it sees of its own chunk
        T* own = b.scores + r * b.s_row;
        const Int length = b.length(i + r) - chunk_begin;
        for (Int j = 0; h.key_mask && j < length; ++j)
          if (b.hidden(chunk_begin + j)) own[j] = 0;
        row += sum_of_products(length, own), squares = sum_of_products(length, own, own);
      }
      const double factor = c;
      sums.entries += static_cast<double>(b.visible(i + r));
      sums.row_sum += factor * row, sums.row_sum2 += factor * factor * row * row, sums.fro2 += factor * factor * squares;
      for (Int t = 0; t < columns; t += L) store(m.value + r * m.row + t, load(f + t) * (c * c));
    }
    if (norm) b.accumulate(n, m.value, m.row, columns, m.rows, true);
  };
  if (!h.causal) {
    for (Int j = 0; j < h.keys; j += b.rows) add_block(j, smaller(b.rows, h.keys - j));
    for (Int i = 0; i < h.rows; i += b.rows) read_block(i, smaller(b.rows, h.rows - i), 0, nullptr);
    if (norm) sums.fro2 += trace_of_product(columns, m.keys, m.rows);
    return sums;
  }
  for (Int j = 0; j < h.keys; j += b.rows) {
    const Int keys = smaller(b.rows, h.keys - j);
    const Chunk<T> chunk(h, j, j + keys);
    if (chunk.count > 0) {
      b.load_k(j, keys);
      read_block(chunk.first, chunk.count, j, &chunk);
      if (norm) sums.fro2 += trace_of_product(columns, m.keys, m.rows), clear_state(m.rows);
    }
    add_block(j, keys);
  }
  return sums;
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
