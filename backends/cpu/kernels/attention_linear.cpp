// Linear-time attention, backward, and the table of its kernels. g = c dout. Gradients come from the two states: dq from S, dk
// and dv from U; with a causal mask a forward sweep carries S and a backward sweep U, and what lies within a chunk comes from its
// matrices of scores.
#include "backends/cpu/kernels/attention_linear_forward.h"
#include "backends/cpu/kernels/attention_linear_sampled.h"

namespace norma::cpu::NORMA_ISA {
namespace {

template <class T>
void backward_rows(const LinearHead<T>& h, const T* s, T* u) {
  Blocks<T> b(h, h.work, 0);
  __builtin_memset(u, 0, static_cast<std::size_t>(state_of(h, h.e)) * sizeof(T));
  b.mirror(s);
  for (Int i = h.begin; i < h.end; i += b.rows) {
    const Int n = smaller(b.rows, h.end - i);
    add_rows(b, i, n, u);
    b.pull(n, b.q, b.g, h.dq + i * h.dq_row, h.dq_row, false);
  }
}

/// dk and dv (+)= what the state u and its mirror image say of the keys [j, j + n).
template <class T>
void gradients_of_keys(Blocks<T>& b, Int j, Int n, const T* u, bool add) {
  const LinearHead<T>& h = b.head;
  b.load_k(j, n), b.load_v(j, n);
  b.pull(n, b.k, b.v, h.dk + j * h.dk_row, h.dk_row, add);
  b.lift(b.k, n, false);
  b.read(n, u, h.e, h.dv + j * h.dv_row, h.dv_row, add, nullptr);
}
template <class T>
void hide_keys(const Blocks<T>& b, Int j, Int n) {
  for (Int r = j; r < j + n; ++r) {
    if (!b.hidden(r)) continue;
    zero_rows(b.head.dk, b.head.dk_row, r, r + 1, b.head.d);
    zero_rows(b.head.dv, b.head.dv_row, r, r + 1, b.head.e);
  }
}

template <class T>
void backward_keys(const LinearHead<T>& h, const T* u) {
  Blocks<T> b(h, h.work, 0);
  b.mirror(u);
  for (Int j = h.begin; j < h.end; j += b.rows) {
    const Int n = smaller(b.rows, h.end - j);
    gradients_of_keys(b, j, n, u, false);
    hide_keys(b, j, n);
  }
}

/// Within a chunk: dq (+)= dS K, dk = dS^T q, dv = A^T g, all scaled, from the loaded copies.
template <class T>
void backward_within(Blocks<T>& b, Int begin, Int keys, const Chunk<T>& chunk, bool add) {
  const LinearHead<T>& h = b.head;
  score(b, begin, keys, chunk, true);
  const T scale = static_cast<T>(h.scale);
  const Panels<T> values = b.lift_transposed(b.v, b.v_row, keys, h.e, T{1});
  const Tiling rows(chunk.count), columns(keys);
  for (Int t = 0; t < rows.count; ++t) {
    const Int r = rows.begin(t);
    const int mr = rows.rows(t);
    const Int seen = b.length(chunk.first + r + mr - 1) - begin;
    multiply_rows<T, false>(mr, seen, h.e, b.g + r * b.v_row, b.v_row, values, b.da, b.s_row, true, false, nullptr);
    for (int m = 0; m < mr; ++m) {
      T* slope = b.slopes + (r + m) * b.s_row;
      for (Int j = 0; j < round_up(seen, lanes<T>); j += lanes<T>)
        store(slope + j, load(slope + j) * load(b.da + m * b.s_row + j) * scale);
    }
  }
  const Panels<T> k = b.panels_of(b.k, b.x_row, keys, h.d);
  for (Int t = 0; t < rows.count; ++t) {
    const Int r = rows.begin(t);
    const int mr = rows.rows(t);
    multiply_rows<T, false>(mr, h.d, b.length(chunk.first + r + mr - 1) - begin, b.slopes + r * b.s_row, b.s_row, k,
                            h.dq + (chunk.first + r) * h.dq_row, h.dq_row, false, add, nullptr);
  }
  const Panels<T> q = b.panels_of(b.q, b.x_row, chunk.count, h.d);
  for (Int t = 0; t < columns.count; ++t) {
    const Int c = columns.begin(t);
    multiply_rows<T, true>(columns.rows(t), h.d, chunk.count, b.slopes + c, b.s_row, q, h.dk + (begin + c) * h.dk_row, h.dk_row,
                           false, false, nullptr);
  }
  const Panels<T> g = b.panels_of(b.g, b.v_row, chunk.count, h.e);
  for (Int t = 0; t < columns.count; ++t) {
    const Int c = columns.begin(t);
    multiply_rows<T, true>(columns.rows(t), h.e, chunk.count, b.scores + c, b.s_row, g, h.dv + (begin + c) * h.dv_row, h.dv_row,
                           false, false, nullptr);
  }
}

template <class T>
void backward_causal_rows(const LinearHead<T>& h, T* s) {
  Blocks<T> b(h, h.work, 0);
  if (h.begin == 0) zero_rows(h.dq, h.dq_row, 0, smaller(h.rows, h.rows - h.keys), h.d);
  for (Int j = h.begin; j < h.end; j += b.rows) {
    const Int keys = smaller(b.rows, h.end - j);
    const Chunk<T> chunk(h, j, j + keys);
    if (chunk.count > 0) {
      b.load_q(chunk.first, chunk.count), b.load_g(chunk.first, chunk.count);
      if (j > 0) {
        b.mirror(s);
        b.pull(chunk.count, b.q, b.g, h.dq + chunk.first * h.dq_row, h.dq_row, false);
      }
      b.load_k(j, keys), b.load_v(j, keys);
      backward_within(b, j, keys, chunk, j > 0);
    } else {
      zero_rows(h.dk, h.dk_row, j, j + keys, h.d);
      zero_rows(h.dv, h.dv_row, j, j + keys, h.e);
    }
    if (j + keys < h.end) add_keys(b, j, keys, s);
  }
}

template <class T>
void backward_causal_keys(const LinearHead<T>& h, T* u) {
  Blocks<T> b(h, h.work, 0);
  const Int chunks = (h.end - h.begin + b.rows - 1) / b.rows;
  for (Int n = chunks - 1; n >= 0; --n) {
    const Int j = h.begin + n * b.rows, keys = smaller(b.rows, h.end - j);
    if (j + keys < h.keys) {  // there are later ones
      b.mirror(u);
      gradients_of_keys(b, j, keys, u, true);
    }
    hide_keys(b, j, keys);
    const Chunk<T> chunk(h, j, j + keys);
    if (n > 0 && chunk.count > 0) add_rows(b, chunk.first, chunk.count, u);
  }
}

template <class T>
Int state_size(const LinearHead<T>& h) {
  return state_of(h, h.e);
}
template <class T>
Int work_bytes(const LinearHead<T>& h, Int columns) {
  const Blocks<T> b(h, nullptr, columns);
  return columns ? Measured<T>(b, columns).bytes : b.bytes();
}

template <class T>
constexpr LinearKernels<T> kernels{state_size<T>,     work_bytes<T>,     sum_keys<T>,      sum_rows<T>,
                                   forward_rows<T>,   forward_causal<T>, backward_rows<T>, backward_keys<T>,
                                   backward_causal_rows<T>, backward_causal_keys<T>, measure<T>,
                                   sample<T>, sample_gradients<T>, sample_bytes<T>};

}  // namespace

extern const AttentionLinearKernels attention_linear_kernels{kernels<float>, kernels<double>};

}  // namespace norma::cpu::NORMA_ISA
