// What happens to a row of scores: the attention function and its derivative, masks. Kernels call it on tiles of a few
// rows that lie in the first-level cache. Names in these files: p, scores, then weights A; g, dA, then dS; delta, of each row
// the sum of dO o O.
#pragma once

#include "backends/cpu/attention_kernels.h"
#include "backends/cpu/kernels/attention_tiles.h"
#include "backends/cpu/kernels/scratch_cutter.h"
#include "backends/cpu/kernels/vmath.h"

namespace norma::cpu::NORMA_ISA {
namespace {

template <class T> struct BitsOf { using type = std::int32_t; };
template <> struct BitsOf<double> { using type = std::int64_t; };
template <class T> using Bits = typename BitsOf<T>::type;
template <class T> struct MaskOf { using type = I; };
template <> struct MaskOf<double> { using type = L; };
template <class T> using Mask = typename MaskOf<T>::type;  // -1 where a column is visible

NORMA_INLINE I first_lanes(float, Int n) {
  I lane;
  for (int i = 0; i < lanes<float>; ++i) lane[i] = i;
  return lane < static_cast<std::int32_t>(n);
}
NORMA_INLINE L first_lanes(double, Int n) {
  L lane;
  for (int i = 0; i < lanes<double>; ++i) lane[i] = i;
  return lane < n;
}

/// Which lanes of a register of columns are visible: all of them, or those of a mask.
struct AllVisible {
  template <class V> NORMA_INLINE V keep(V x) const { return x; }
  template <class V> NORMA_INLINE V select(V x, V) const { return x; }
  template <class M> NORMA_INLINE M both(M m) const { return m; }
};
template <class M>
struct SomeVisible {
  M mask;
  template <class V> NORMA_INLINE V keep(V x) const { return (V)((M)x & mask); }
  template <class V> NORMA_INLINE V select(V x, V other) const { return mask ? x : other; }
  NORMA_INLINE M both(M m) const { return m & mask; }
};

/// counts -= 1 where a < b is seen.
template <class V, class M>
NORMA_INLINE void count_below(V a, V b, const AllVisible&, M& counts) {
#if defined(__AVX512F__)
  if constexpr (__is_same(V, F)) {
    const __m512i all = (__m512i)counts;
    counts = (M)_mm512_mask_sub_epi32(all, _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ), all, _mm512_set1_epi32(1));
    return;
  }
#endif
  counts += a < b;
}
template <class V, class M>
NORMA_INLINE void count_below(V a, V b, const SomeVisible<M>& visible, M& counts) {
  counts += visible.both(a < b);
}

/// The columns one row sees: the first `length`, of those the ones `mask` allows.
template <class T>
struct Row {
  Int length;
  const Bits<T>* mask;  // null: all
  T factor;             // of the weights
};

/// f(column, visibility) for registers of columns.
template <class T, class Body>
NORMA_INLINE void for_columns(const Row<T>& row, Body body) {
  constexpr int width = lanes<T>;
  Int j = 0;
  if (!row.mask)
    for (; j + width <= row.length; j += width) body(j, AllVisible{});
  for (; j < row.length; j += width) {
    Mask<T> m = ~Mask<T>{};
    if (row.mask) __builtin_memcpy(&m, row.mask + j, sizeof m);
    if (row.length - j < width) m &= first_lanes(T{}, row.length - j);
    body(j, SomeVisible<Mask<T>>{m});
  }
}

/// How many columns row i of a head sees when no key mask hides any.
template <class Head>
Int seen_by_row(const Head& head, Int i) {
  return head.causal ? larger(0, smaller(head.keys, i + head.keys - head.rows + 1)) : head.keys;
}
/// What the weights of a row are multiplied by that sees so many columns.
template <class T, class Head>
T factor_of_row(const Head& head, Int visible) {
  if (head.row_scale == RowScale::constant) return static_cast<T>(head.factor);
  const double n = static_cast<double>(larger(1, visible));
  return static_cast<T>(head.factor / (head.row_scale == RowScale::inverse_visible ? n : __builtin_sqrt(n)));
}

/// What a row is multiplied by that is divided by its sum; 1 where that is 0, or so small that its inverse may be no number.
template <class T>
NORMA_INLINE T inverse_of_sum(T sum) {
  constexpr T normal = sizeof(T) == 4 ? static_cast<T>(__FLT_MIN__) : static_cast<T>(__DBL_MIN__);
  return sum < normal && sum > -normal ? 1 : 1 / sum;
}

/// The visible part of rows, from the task's masks.
template <class T>
struct Visibility {
  const AttentionHead<T>& head;
  Bits<T>* mask = nullptr;        // [keys rounded up], null: no key mask
  std::int32_t* before = nullptr;  // before[j]: visible keys in [0, j); with a key mask

  Int length(Int i) const { return seen_by_row(head, i); }
  Int visible(Int i) const { return mask ? before[length(i)] : length(i); }
  /// Row i, for the columns [first, first + count).
  Row<T> row(Int i, Int first, Int count) const {
    return {larger(0, smaller(count, length(i) - first)), mask ? mask + first : nullptr, factor(i)};
  }
  T factor(Int i) const { return factor_of_row<T>(head, visible(i)); }
  void set_masks(Bits<T>* mask_space, std::int32_t* before_space) {
    if (!head.key_mask) return;
    mask = mask_space;
    before = before_space;
    before[0] = 0;
    for (Int j = 0; j < head.keys; ++j) {
      const bool seen = head.key_mask[j * head.key_mask_step] != 0;
      mask[j] = seen ? -1 : 0;
      before[j + 1] = before[j] + seen;
    }
    for (Int j = head.keys; j < round_up(head.keys, lanes<T>); ++j) mask[j] = 0;
  }
};

/// The element-wise functions, and their derivatives by the score; c is the row's factor.
template <class T, Phi phi>
struct Weight {
  using V = Vec<T>;
  T coefficient[polynomial_terms], slope[polynomial_terms];
  int degree;
  T bias;
  template <class Head>
  explicit Weight(const Head& h) : degree(h.degree), bias(static_cast<T>(h.bias)) {
    for (int p = 0; p < polynomial_terms; ++p) {
      coefficient[p] = static_cast<T>(h.coefficient[p]);
      slope[p] = static_cast<T>(h.coefficient[p] * p);
    }
  }
  NORMA_INLINE V value(V s, T c) const {
    if constexpr (phi == Phi::power1) return s * c;
    if constexpr (phi == Phi::power2) return (s * s) * c;
    if constexpr (phi == Phi::power3) return (s * s) * (s * c);
    if constexpr (phi == Phi::power4) return (s * s) * (s * s) * c;
    if constexpr (phi == Phi::polynomial) {
      V y = splat(coefficient[degree]);
      for (int p = degree - 1; p >= 0; --p) y = fma(y, s, splat(coefficient[p]));
      return y * c;
    }
    if constexpr (phi == Phi::sigmoid) {
      const Logistic x(s + bias);
      return (s + bias < V{} ? x.e * x.r : x.r) * c;
    }
    if constexpr (phi == Phi::relu) return vmax(V{}, s) * c;  // in this order a NaN stays
  }
  /// 1 / (1 + exp(-t)) is r, or e r where t < 0, and its derivative e r^2: no difference of like numbers, no overflow.
  struct Logistic {
    V e, r;
    NORMA_INLINE explicit Logistic(V t) : e(exp_fast(-abs(t))), r(T{1} / (e + T{1})) {}
  };
  /// Whether larger scores have larger weights, or smaller ones where c < 0.
  static constexpr bool monotone = phi == Phi::power1 || phi == Phi::power3 || phi == Phi::sigmoid || phi == Phi::relu;
  /// Whether no weight is negative unless c < 0.
  static constexpr bool one_sign = phi == Phi::power2 || phi == Phi::power4 || phi == Phi::sigmoid || phi == Phi::relu;
  /// phi'(s) without the row's factor (powers, sigmoid); factor_of_slope() is applied once to the row's sum.
  NORMA_INLINE V slope_over_factor(V s, T c) const {
    if constexpr (phi == Phi::power1) return splat(T{1});
    if constexpr (phi == Phi::power2) return s;
    if constexpr (phi == Phi::power3) return s * s;
    if constexpr (phi == Phi::power4) return (s * s) * s;
    return derivative(s, phi == Phi::sigmoid ? T{1} : c);
  }
  NORMA_INLINE T factor_of_slope(T c) const {
    constexpr int power = static_cast<int>(phi) - static_cast<int>(Phi::power1) + 1;
    return power >= 1 && power <= 4 ? power * c : phi == Phi::sigmoid ? c : T{1};
  }
  NORMA_INLINE V derivative(V s, T c) const {
    if constexpr (phi == Phi::power1) return splat(c);
    if constexpr (phi == Phi::power2) return s * (2 * c);
    if constexpr (phi == Phi::power3) return (s * s) * (3 * c);
    if constexpr (phi == Phi::power4) return (s * s) * (s * (4 * c));
    if constexpr (phi == Phi::polynomial) {
      if (degree == 0) return V{};
      V y = splat(slope[degree]);
      for (int p = degree - 1; p >= 1; --p) y = fma(y, s, splat(slope[p]));
      return y * c;
    }
    if constexpr (phi == Phi::sigmoid) {
      const Logistic x(s + bias);  // the one of `value`
      return (x.e * x.r) * x.r * c;
    }
    if constexpr (phi == Phi::relu) return (V)((Mask<T>)splat(c) & (s > V{}));
  }
};

/// Columns after the last whole panel, if at most 2 (dot products are then faster); else 0.
template <class T>
constexpr Int few_of(Int columns) {
  const Int left = columns % panel_width<T>;
  return left <= 2 ? left : 0;
}

/// Scores of a tile of rows for those columns: c[m, j] = factor * sum over k of a(m, k) b(j, k), and zeros to the end of a register.
template <class T>
__attribute__((noinline)) void few_columns(int rows, Int columns, Int depth, const T* a, Int lda, const T* b, Int ldb, T factor, T* c, Int ldc) {
  constexpr int L = lanes<T>;
  T value[2][row_slots];
  for (Int j = 0; j < columns; ++j) {
    Vec<T> lane[row_slots] = {};
    const auto add = [&](Int k, auto get) __attribute__((always_inline)) {
      const Vec<T> y = get(b + j * ldb + k);
#pragma GCC unroll 8
      for (int m = 0; m < tile_rows; ++m) lane[m] = fma(get(a + smaller(m, rows - 1) * lda + k), y, lane[m]);
    };
    Int k = 0;
    for (; k + L <= depth; k += L) add(k, [](const T* p) { return load(p); });
    if (const int rest = static_cast<int>(depth - k)) add(k, [rest](const T* p) { return load_n(p, rest); });
    combine_each(lane, value[j], Plus{});
  }
  for (int m = 0; m < rows; ++m) {
    Vec<T> x{};
    for (Int j = 0; j < columns; ++j) x[j] = value[j][m] * factor;
    store(c + m * ldc, x);
  }
}

/// One number per row of a tile, as registers.
template <class T> constexpr int slot_vectors = (row_slots + lanes<T> - 1) / lanes<T>;
template <class T>
struct Slots {
  alignas(64) T value[slot_vectors<T> * lanes<T>] = {};
};

template <class T>
NORMA_INLINE void clear(T* x, Int begin, Int end) {
  for (Int j = begin; j < end; j += lanes<T>) store(x + j, Vec<T>{});
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
