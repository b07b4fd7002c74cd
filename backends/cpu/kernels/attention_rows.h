// What happens to a row of scores: the attention function and its derivative, masks, dropout. Kernels call it on tiles of a few
// rows that lie in the first-level cache.
#pragma once

#include "backends/cpu/attention_kernels.h"
#include "backends/cpu/kernels/attention_tiles.h"
#include "backends/cpu/kernels/vmath.h"

namespace norma::cpu::NORMA_ISA {
namespace {

template <class T> struct BitsOf { using type = std::int32_t; };
template <> struct BitsOf<double> { using type = std::int64_t; };
template <class T> using Bits = typename BitsOf<T>::type;
template <class T> struct MaskOf { using type = I; };
template <> struct MaskOf<double> { using type = L; };
template <class T> using Mask = typename MaskOf<T>::type;  // -1 where a column is visible

constexpr int row_slots = 8;  // rows of a tile, rounded up for reductions

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

/// The visible part of rows, from the task's masks.
template <class T>
struct Sight {
  const AttentionHead<T>& head;
  Bits<T>* mask = nullptr;        // [keys rounded up], null: no key mask
  std::int32_t* before = nullptr;  // before[j]: visible keys in [0, j); with a key mask

  /// How many columns row i sees when no key mask hides any.
  Int length(Int i) const {
    return head.causal ? larger(0, smaller(head.keys, i + head.keys - head.rows + 1)) : head.keys;
  }
  Int visible(Int i) const { return mask ? before[length(i)] : length(i); }
  /// Row i, for the columns [first, first + count).
  Row<T> row(Int i, Int first, Int count) const {
    return {larger(0, smaller(count, length(i) - first)), mask ? mask + first : nullptr, factor(i)};
  }
  T factor(Int i) const {
    if (head.row_scale == RowScale::constant) return static_cast<T>(head.factor);
    const double n = static_cast<double>(larger(1, visible(i)));
    return static_cast<T>(head.factor / (head.row_scale == RowScale::inverse_visible ? n : __builtin_sqrt(n)));
  }
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
  T coefficient[9], slope[9];
  int degree;
  T bias;
  explicit Weight(const AttentionHead<T>& h) : degree(h.degree), bias(static_cast<T>(h.bias)) {
    for (int p = 0; p < 9; ++p) {
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
    if constexpr (phi == Phi::sigmoid) return c / (exp(-(s + bias)) + T{1});
    if constexpr (phi == Phi::relu) return vmax(V{}, s) * c;  // in this order a NaN stays
  }
  /// `a` is value(s, c).
  NORMA_INLINE V derivative(V s, V a, T c) const {
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
    if constexpr (phi == Phi::sigmoid) return a / (exp(s + bias) + T{1});
    if constexpr (phi == Phi::relu) return (V)((Mask<T>)splat(c) & (s > V{}));
  }
};

/// out[r] = x[r]'s lanes combined by `op`, for row_slots registers, always by the same tree.
template <class Op>
NORMA_INLINE void combine_each(const F* x, float* out, Op op) {
  constexpr int n = lanes<float>;
  auto four = [&](const F* y) __attribute__((always_inline)) {  // piece by piece: element r combines y[r]'s piece
    const F ab = op(NORMA_IN_PIECES(y[0], y[1], 0, 1, n, n + 1), NORMA_IN_PIECES(y[0], y[1], 2, 3, n + 2, n + 3));
    const F cd = op(NORMA_IN_PIECES(y[2], y[3], 0, 1, n, n + 1), NORMA_IN_PIECES(y[2], y[3], 2, 3, n + 2, n + 3));
    const F all = op(NORMA_IN_PIECES(ab, cd, 0, 2, n, n + 2), NORMA_IN_PIECES(ab, cd, 1, 3, n + 1, n + 3));
    Piece piece[n / 4];
    __builtin_memcpy(piece, &all, sizeof all);
    for (int g = n / 4; g > 1; g /= 2)
      for (int i = 0; i < g / 2; ++i) piece[i] = op(piece[i], piece[i + g / 2]);
    return piece[0];
  };
  const Piece low = four(x), high = four(x + 4);
  __builtin_memcpy(out, &low, sizeof low);
  __builtin_memcpy(out + 4, &high, sizeof high);
}
template <class Op>
NORMA_INLINE void combine_each(const D* x, double* out, Op op) {
  for (int r = 0; r < row_slots; ++r) {
    double y[lanes<double>];
    __builtin_memcpy(y, x + r, sizeof y);
    for (int w = lanes<double> / 2; w > 0; w /= 2)
      for (int i = 0; i < w; ++i) y[i] = op(y[i], y[i + w]);
    out[r] = y[0];
  }
}
struct Plus { template <class V> NORMA_INLINE V operator()(V a, V b) const { return a + b; } };
struct Larger { template <class V> NORMA_INLINE V operator()(V a, V b) const { return a > b ? a : b; } };
struct Smaller { template <class V> NORMA_INLINE V operator()(V a, V b) const { return a < b ? a : b; } };

/// One number per row of a tile, as registers.
template <class T> constexpr int slot_vectors = (row_slots + lanes<T> - 1) / lanes<T>;
template <class T>
struct Slots {
  alignas(64) T value[slot_vectors<T> * lanes<T>] = {};
};

/// Lane b of x and of y, 16 bytes together, is block b of the stream.
template <class UL>
NORMA_INLINE void store_blocks(UL x, UL y, std::uint32_t* to) {
#if defined(__AVX512F__)
  const UL low = __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11), high = __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
#elif defined(__AVX2__)
  const UL low = __builtin_shufflevector(x, y, 0, 4, 1, 5), high = __builtin_shufflevector(x, y, 2, 6, 3, 7);
#else
  const UL low = __builtin_shufflevector(x, y, 0, 2), high = __builtin_shufflevector(x, y, 1, 3);
#endif
  std::memcpy(to, &low, sizeof low);
  std::memcpy(to + sizeof low / sizeof *to, &high, sizeof high);
}

/// keep[j] for j < count: keep_scale, or 0 where the draw of element `index` + j says so; keep has room for 16 more.
template <class T>
void draw_keep(const AttentionHead<T>& h, std::uint64_t index, Int count, T* keep, std::uint32_t* words) {
  typedef std::uint64_t UL __attribute__((vector_size(register_bytes)));
  constexpr int blocks = register_bytes / 8;
  auto times = [](UL a, std::uint64_t b) __attribute__((always_inline)) -> UL {  // of the low 32 bits
#if defined(__AVX512F__)
    return (UL)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(static_cast<long long>(b)));
#elif defined(__AVX2__)
    return (UL)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(static_cast<long long>(b)));
#else
    return (a & 0xffffffffu) * b;
#endif
  };
  UL lane, key0[10], key1[10];
  for (int i = 0; i < blocks; ++i) lane[i] = static_cast<std::uint64_t>(i);
  std::uint64_t k0 = h.seed & 0xffffffffu, k1 = h.seed >> 32;
  for (int round = 0; round < 10; ++round) {
    key0[round] = UL{} + k0, key1[round] = UL{} + k1;
    k0 = (k0 + 0x9E3779B9u) & 0xffffffffu;
    k1 = (k1 + 0xBB67AE85u) & 0xffffffffu;
  }
  const UL stream_low = UL{} + (h.stream & 0xffffffffu), stream_high = UL{} + (h.stream >> 32);
  const Int skip = static_cast<Int>(index % 4);
  constexpr int chains = 2;  // a round waits for its multiplication: two registers of blocks take turns
  for (Int n = 0; n < count + skip; n += 4 * blocks * chains) {
    UL c0[chains], c1[chains], c2[chains], c3[chains];
#pragma GCC unroll 2
    for (int c = 0; c < chains; ++c) {
      c0[c] = lane + (index / 4 + static_cast<std::uint64_t>(n / 4 + c * blocks));
      c1[c] = c0[c] >> 32, c2[c] = stream_low, c3[c] = stream_high;
    }
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {  // the upper halves of c1 and c3 hold rubbish that no multiplication reads
#pragma GCC unroll 2
      for (int c = 0; c < chains; ++c) {
        const UL p0 = times(c0[c], 0xD2511F53u), p1 = times(c2[c], 0xCD9E8D57u);
        c0[c] = (p1 >> 32) ^ (c1[c] ^ key0[round]);
        c1[c] = p1;
        c2[c] = (p0 >> 32) ^ (c3[c] ^ key1[round]);
        c3[c] = p0;
      }
    }
#pragma GCC unroll 2
    for (int c = 0; c < chains; ++c)
      store_blocks((c0[c] & 0xffffffffu) | (c1[c] << 32), (c2[c] & 0xffffffffu) | (c3[c] << 32), words + n + 4 * blocks * c);
  }
  const T scale = static_cast<T>(h.keep_scale);
  for (Int j = 0; j < count; ++j) keep[j] = words[skip + j] >= h.drop_below ? scale : T{0};
  for (Int j = count; j < round_up(count, lanes<T>); ++j) keep[j] = 0;
}

template <class T>
NORMA_INLINE void multiply_by(const T* keep, Int count, T* x) {
  for (Int j = 0; j < count; j += lanes<T>) store(x + j, load(x + j) * load(keep + j));
}

template <class T>
NORMA_INLINE void clear(T* x, Int begin, Int end) {
  for (Int j = begin; j < end; j += lanes<T>) store(x + j, Vec<T>{});
}

/// Hands out pieces of scratch memory, each on a cache line of its own.
struct Pieces {
  char* at;
  template <class P>
  P* take(Int count) {
    P* p = reinterpret_cast<P*>(at);
    at += round_up(count * static_cast<Int>(sizeof(P)), 64);
    return p;
  }
};

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
