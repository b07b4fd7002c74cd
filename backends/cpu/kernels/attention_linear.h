// Linear-time attention in blocks of rows: monomials of a block, its part of a state, and what it reads from one. Shared by the
// forward and the backward kernels. All products are the register tiles of attention_tiles.h.
#pragma once

#include "backends/cpu/kernels/monomials.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// Rows of a block: few enough that their monomials stay in the second-level cache, many enough to amortise a state.
template <class T>
Int block_rows(const LinearHead<T>& h) {
  const Int fitting = 393216 / static_cast<Int>(sizeof(T)) / h.features;
  return larger(24, smaller(128, fitting / tile_rows * tile_rows));
}

/// Numbers of a state of `columns` columns.
template <class T>
Int state_of(const LinearHead<T>& h, Int columns) {
  return round_up(columns, panel_width<T>) * h.features;
}

/// The polynomial of a head's scores, without the factor of a row, and its derivative.
template <class T>
class Polynomial {
  using V = Vec<T>;

 public:
  explicit Polynomial(const LinearHead<T>& h) : degree_(h.degree) {
    for (int p = 0; p <= degree_; ++p) c_[p] = static_cast<T>(h.coefficient[p]), slope_[p] = static_cast<T>(p * h.coefficient[p]);
  }
  NORMA_INLINE V value(V x) const { return sum(c_, 0, x); }
  NORMA_INLINE V slope(V x) const { return sum(slope_, 1, x); }

 private:
  /// Horner's rule, down to c[last].
  NORMA_INLINE V sum(const T* c, int last, V x) const {
    V y = splat(c[degree_]);
    for (int p = degree_ - 1; p >= last; --p) y = fma(y, x, splat(c[p]));
    return y;
  }

  const int degree_;
  T c_[polynomial_terms], slope_[polynomial_terms];
};

/// What the rows of a head see.
template <class T>
struct RowsOfHead {
  const LinearHead<T>& head;
  bool hidden(Int j) const { return head.key_mask && !head.key_mask[j * head.key_mask_step]; }
  Int length(Int i) const { return seen_by_row(head, i); }
  Int visible(Int i) const { return head.key_mask ? head.before[length(i)] : length(i); }
  T factor_of(Int i) const { return factor_of_row<T>(head, visible(i)); }
};

template <class T>
class Blocks : public RowsOfHead<T> {
  using V = Vec<T>;
  static constexpr int L = lanes<T>, W = panel_width<T>;

 public:
  using RowsOfHead<T>::head, RowsOfHead<T>::hidden, RowsOfHead<T>::factor_of;
  const Int rows, width, features, x_row, v_row, f_row, s_row;  // strides of the copies, of monomials, of scores
  T *q, *k, *v, *g;   // a block each, rows hidden by the key mask zero; g = c dout
  T *f, *df;          // monomials of a block and their gradients
  T* factors;         // c of each row of a block
  T *scores, *slopes; // [rows, keys of a chunk]
  T* da;              // a tile of rows of dA
  T* mirrored;        // a state, transposed

  /// `columns`: of states wider than v, or 0.
  Blocks(const LinearHead<T>& h, void* memory, Int columns)
      : RowsOfHead<T>{h}, rows(block_rows(h)), width(larger(h.d, h.e)), features(h.features), x_row(round_up(h.d, L) + slack<T>),
        v_row(round_up(h.e, L) + slack<T>), f_row(round_up(h.features, L) + 2 * slack<T>), s_row(round_up(rows, W) + L),
        space_(memory), monomials_(h, space_) {
    q = space_.take<T>(rows * x_row), k = space_.take<T>(rows * x_row);
    v = space_.take<T>(rows * v_row), g = space_.take<T>(rows * v_row);
    f = space_.take<T>(rows * f_row), df = space_.take<T>(rows * f_row);
    factors = space_.take<T>(rows + row_slots);
    scores = space_.take<T>((rows + tile_rows) * s_row), slopes = space_.take<T>((rows + tile_rows) * s_row);
    da = space_.take<T>(tile_rows * s_row);
    mirrored = space_.take<T>(round_up(features, W) * h.e);
    panels_ = space_.take<T>(round_up(larger(width, columns), W) * rows);
    lifted_ = space_.take<T>(round_up(rows, W) * width);
    zeros_ = space_.take<T>(larger(round_up(width, L), W));
    if (!memory) return;
    for (Int j = 0; j < larger(round_up(width, L), W); ++j) zeros_[j] = 0;
    for (Int j = 0; j < rows * f_row; ++j) df[j] = 0;
  }
  Int bytes() const { return space_.used(); }
  ScratchCutter rest() const { return space_; }

  // Copies of rows [first, first + n), each followed by zeros.
  void load_q(Int first, Int n) { copy(head.q, head.q_row, first, n, head.d, false, nullptr, q, x_row); }
  void load_k(Int first, Int n) { copy(head.k, head.k_row, first, n, head.d, true, nullptr, k, x_row); }
  void load_v(Int first, Int n) { copy(head.v, head.v_row, first, n, head.e, true, nullptr, v, v_row); }
  void load_g(Int first, Int n) {
    load_factors(first, n);
    copy(head.dout, head.dout_row, first, n, head.e, false, factors, g, v_row);
  }
  void load_factors(Int first, Int n) {
    for (Int i = 0; i < n; ++i) factors[i] = factor_of(first + i);
  }

  /// f = F(x) of n rows; `weighted`: times w, for the side that is summed into a state.
  void lift(const T* x, Int n, bool weighted) {
    for (Int r = 0; r < n; ++r) {
      T* to = f + r * f_row;
      monomials_.values(x + r * x_row, to);
    }
    if (weighted) weigh(n);
  }
  /// f *= w, for n rows.
  void weigh(Int n) {
    for (Int r = 0; r < n; ++r) {
      T* to = f + r * f_row;
      Int j = 0;
      for (; j + L <= features; j += L) store(to + j, load(to + j) * load(head.weights + j));
      for (; j < features; ++j) to[j] *= head.weights[j];
    }
  }
  /// state[features, columns] += f^T y over n rows. `upper`: at least where columns are not below the diagonal.
  void accumulate(Int n, const T* y, Int y_row, Int columns, T* state, bool upper = false) {
    pack_rows(y, y_row, n, columns, panels_, rows * W);
    const Tiling tiling(features);
    for (Int t = 0; t < tiling.count; ++t) {
      const Int at = tiling.begin(t);
      for (Int c = 0, p = 0; c < columns; c += W, ++p) {
        const Int left = upper && at > c ? (at - c) / L : 0;  // registers that are left out
        if (left >= vectors(columns - c)) continue;
        tile<T, true>(tiling.rows(t), static_cast<int>(vectors(columns - c) - left), n, f + at, f_row, panels_ + p * rows * W + left * L,
                      {state + (p * features + at) * W + left * L, W, true, nullptr, 0});
      }
    }
  }
  /// to[n, columns] (+)= factor f state.
  void read(Int n, const T* state, Int columns, T* to, Int to_row, bool add, const T* factor) const {
    const Int depth = 16384 / (W * static_cast<Int>(sizeof(T)));  // half of the first-level cache holds a piece of a panel
    const Tiling tiling(n);
    for (Int at = 0; at < features; at += depth) {
      const Int length = smaller(depth, features - at);
      for (Int c = 0, p = 0; c < columns; c += W, ++p) {
        const Int left = smaller(W, columns - c);
        for (Int t = 0; t < tiling.count; ++t) {
          const Int r = tiling.begin(t);
          tile<T, false>(tiling.rows(t), vectors(left), length, f + r * f_row + at, f_row, state + (p * features + at) * W,
                         {to + r * to_row + c, to_row, add || at > 0, factor ? factor + r : nullptr, static_cast<int>(left % L)});
        }
      }
    }
  }
  /// mirrored = state^T, for `pull`.
  void mirror(const T* state) {
    for (Int c = 0, p = 0; c < head.e; c += W, ++p)
      pack_transposed(state + p * features * W, W, features, smaller(W, head.e - c), T{1}, zeros_, mirrored + c * W, head.e * W);
  }
  /// to[n, d] (+)= the gradient of <y, F(x) state> by x, with y[n, e] and the state that was mirrored.
  void pull(Int n, const T* x, const T* y, T* to, Int to_row, bool add) {
    const Tiling tiling(n);
    for (Int c = 0, p = 0; c < features; c += W, ++p)
      for (Int t = 0; t < tiling.count; ++t) {
        const Int r = tiling.begin(t);
        tile<T, false>(tiling.rows(t), vectors(features - c), head.e, y + r * v_row, v_row, mirrored + p * head.e * W,
                       {df + r * f_row + c, f_row, false, nullptr, 0});
      }
    for (Int r = 0; r < n; ++r) monomials_.jacobian(x + r * x_row, df + r * f_row, to + r * to_row, add);
  }

  /// Panels of x^T, factor x, for products along the width: scores and the like against n rows of x.
  Panels<T> lift_transposed(const T* x, Int row, Int n, Int columns, T factor) {
    pack_transposed(x, row, n, columns, factor, zeros_, lifted_, columns * W);
    return {lifted_, columns * W};
  }
  Panels<T> panels_of(const T* x, Int row, Int n, Int columns) {
    pack_rows(x, row, n, columns, panels_, rows * W);
    return {panels_, rows * W};
  }
  static int vectors(Int columns) { return static_cast<int>((smaller(W, columns) + L - 1) / L); }

 private:
  void copy(const T* from, Int from_row, Int first, Int n, Int columns, bool keys, const T* factor, T* to, Int to_row) const {
    for (Int r = 0; r < n; ++r, to += to_row) {
      const T* x = from + (first + r) * from_row;
      const bool zero = keys && hidden(first + r);
      for (Int c = columns / L * L; c < to_row; c += L) store(to + c, V{});  // rows are whole registers
      if (zero) {
        for (Int c = 0; c < columns; c += L) store(to + c, V{});
      } else if (factor) {
        const V by = splat(factor[r]);
        Int c = 0;
        for (; c + L <= columns; c += L) store(to + c, load(x + c) * by);
        if (c < columns) store(to + c, load_n(x + c, static_cast<int>(columns - c)) * by);
      } else {
        __builtin_memcpy(to, x, static_cast<std::size_t>(columns) * sizeof(T));
      }
    }
  }

  ScratchCutter space_;
  Monomials<T> monomials_;
  T *panels_, *lifted_, *zeros_;
};

/// Rows whose last visible column lies in the keys [begin, end): what a chunk of a causal head works on.
template <class T>
struct Chunk {
  Int first, count;
  Chunk(const LinearHead<T>& h, Int begin, Int end) {
    const Int shift = h.keys - h.rows;
    first = larger(0, begin - shift);
    count = larger(0, end - shift - first);
  }
};

/// The polynomial of every visible score of a chunk, and its derivative where `slopes` are wanted; zero elsewhere.
template <class T>
void score(Blocks<T>& b, Int begin, Int keys, const Chunk<T>& chunk, bool slopes) {
  using V = Vec<T>;
  constexpr int L = lanes<T>;
  const LinearHead<T>& h = b.head;
  const Polynomial<T> polynomial(h);
  const Panels<T> panels = b.lift_transposed(b.k, b.x_row, keys, h.d, static_cast<T>(h.scale));
  const Tiling tiling(chunk.count);
  for (Int t = 0; t < tiling.count; ++t) {
    const Int r = tiling.begin(t);
    const int mr = tiling.rows(t);
    const Int seen = b.length(chunk.first + r + mr - 1) - begin;  // of the last row
    multiply_rows<T, false>(mr, seen, h.d, b.q + r * b.x_row, b.x_row, panels, b.scores + r * b.s_row, b.s_row, true, false, nullptr);
    for (Int i = r; i < r + mr; ++i) {
      const Int own = b.length(chunk.first + i) - begin;
      T *s = b.scores + i * b.s_row, *d = b.slopes + i * b.s_row;
      for (Int j = 0; j < round_up(seen, L); j += L) {
        const Mask<T> m = own - j >= L ? ~Mask<T>{} : first_lanes(T{}, larger(0, own - j));
        const V x = load(s + j);
        store(s + j, SomeVisible<Mask<T>>{m}.keep(polynomial.value(x)));
        if (slopes) store(d + j, SomeVisible<Mask<T>>{m}.keep(polynomial.slope(x)));
      }
      clear(s, round_up(seen, L), b.s_row), clear(d, round_up(seen, L), b.s_row);
    }
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
