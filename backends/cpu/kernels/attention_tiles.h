// The small matrix products of attention: register tiles over packed panels, and the packing. Everything is sized so that one
// head's operands stay in the first two cache levels; see attention_forward.cpp for how the pieces are put together.
#pragma once

#include <cstdint>

#include "backends/cpu/kernels/bf16/registers.h"
#include "backends/cpu/kernels/combine.h"

namespace norma::cpu::NORMA_ISA {
namespace {

using Int = std::int64_t;

constexpr int tile_rows = 6;                                // accumulators: tile_rows x panel_vectors registers
constexpr int panel_vectors = register_count == 32 ? 4 : 2;
constexpr int unrolled_depth = register_count == 32 ? 1 : 4;  // small tiles have few products beside a loop's own instructions
template <class T> constexpr int panel_width = panel_vectors * lanes<T>;

constexpr Int round_up(Int n, Int multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr Int smaller(Int a, Int b) { return a < b ? a : b; }
constexpr Int larger(Int a, Int b) { return a > b ? a : b; }

/// Cuts n rows into tiles of at most tile_rows whose sizes differ by at most one: 49 = 5 * 5 + 4 * 6, never 8 * 6 + 1.
struct Tiling {
  Int count, size, longer;  // the first `longer` tiles have size + 1 rows
  explicit Tiling(Int n) : count((n + tile_rows - 1) / tile_rows), size(count ? n / count : 0), longer(count ? n % count : 0) {}
  Int begin(Int t) const { return t * size + smaller(t, longer); }
  int rows(Int t) const { return static_cast<int>(size + (t < longer)); }
};

/// A right operand in panels of panel_width columns: panel p starts at data + p * step and has rows of panel_width elements.
template <class T>
struct Panels {
  const T* data;
  Int step;
};

/// Where a tile goes: c[m * ld + column]. `add`: onto what is there. `factor`: one number per row, multiplied before. `tail`:
/// columns that exist in the last register of the tile, 0 for all.
template <class T>
struct Target {
  T* c;
  Int ld;
  bool add;
  const T* factor;
  int tail;
};

/// Stores a tile whose last register is partly outside.
template <class T, int MR, int NV>
__attribute__((noinline)) void store_tail(const Vec<T> (&x)[MR][NV], const Target<T>& to) {
  for (int m = 0; m < MR; ++m) {
    for (int n = 0; n < NV; ++n) {
      T* p = to.c + m * to.ld + n * lanes<T>;
      const int count = n == NV - 1 ? to.tail : lanes<T>;
      T value[lanes<T>];
      __builtin_memcpy(value, &x[m][n], sizeof value);
      for (int i = 0; i < count; ++i) p[i] = to.add ? p[i] + value[i] : value[i];
    }
  }
}

/// MR rows times NV registers of columns: sum over k of a(m, k) b(k, :), the left operand at a[m * lda + k], or, transposed, at
/// a[k * lda + m]. `to` by reference: by value it is copied in pieces wider than it was written in, which no store is forwarded to.
template <class T, int MR, int NV, bool Transposed>
__attribute__((noinline)) void tile_product(Int depth, const T* __restrict a, Int lda, const T* __restrict b, const Target<T>& to) {
  using V = Vec<T>;
  constexpr int L = lanes<T>, W = panel_width<T>;
  // Fewer than eight chains would leave the two multiply-add units waiting: then even and odd k get chains of their own.
  constexpr int chains = MR * NV >= 8 ? 1 : 2;
  V c[chains][MR][NV];
#pragma GCC unroll 2
  for (int i = 0; i < chains; ++i)
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < NV; ++n) c[i][m][n] = V{};
  const T* row[MR];
#pragma GCC unroll 8
  for (int m = 0; m < MR; ++m) row[m] = a + m * (Transposed ? 1 : lda);
  auto step = [&](V(&sum)[MR][NV], Int k) __attribute__((always_inline)) {
    V bv[NV];
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) bv[n] = load(b + k * W + n * L);
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m) {
      const V av = splat(Transposed ? a[k * lda + m] : row[m][k]);
#pragma GCC unroll 8
      for (int n = 0; n < NV; ++n) sum[m][n] = fma(av, bv[n], sum[m][n]);
    }
  };
  Int k = 0;
  if constexpr (chains == 2) {
    for (; k + 2 <= depth; k += 2) {
      step(c[0], k);
      step(c[1], k + 1);
    }
  }
#pragma GCC unroll unrolled_depth
  for (; k < depth; ++k) step(c[0], k);
  auto each = [&](auto what) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < NV; ++n) what(c[0][m][n], m, n);
  };
  if constexpr (chains == 2) each([&](V& x, int m, int n) { x += c[1][m][n]; });
  if (to.factor) each([&](V& x, int m, int) { x *= to.factor[m]; });
  if (to.tail) {  // from a copy: accumulators whose address is taken would live in memory all along
    V copy[MR][NV];
    each([&](V& x, int m, int n) { copy[m][n] = x; });
    return store_tail<T, MR, NV>(copy, to);
  }
  if (to.add) each([&](V& x, int m, int n) { x += load(to.c + m * to.ld + n * L); });
  each([&](V& x, int m, int n) { store(to.c + m * to.ld + n * L, x); });
}

template <class T, bool Transposed, int NV>
NORMA_INLINE void tile_of_width(int mr, Int depth, const T* a, Int lda, const T* b, const Target<T>& to) {
  switch (mr) {
    case 6: return tile_product<T, 6, NV, Transposed>(depth, a, lda, b, to);
    case 5: return tile_product<T, 5, NV, Transposed>(depth, a, lda, b, to);
    case 4: return tile_product<T, 4, NV, Transposed>(depth, a, lda, b, to);
    case 3: return tile_product<T, 3, NV, Transposed>(depth, a, lda, b, to);
    case 2: return tile_product<T, 2, NV, Transposed>(depth, a, lda, b, to);
    case 1: return tile_product<T, 1, NV, Transposed>(depth, a, lda, b, to);
    default: return;
  }
}
template <class T, bool Transposed>
NORMA_INLINE void tile(int mr, int vectors, Int depth, const T* a, Int lda, const T* b, const Target<T>& to) {
  if constexpr (panel_vectors == 4) {
    if (vectors == 4) return tile_of_width<T, Transposed, panel_vectors>(mr, depth, a, lda, b, to);
    if (vectors == 3) return tile_of_width<T, Transposed, panel_vectors - 1>(mr, depth, a, lda, b, to);
  }
  if (vectors == 2) return tile_of_width<T, Transposed, 2>(mr, depth, a, lda, b, to);
  tile_of_width<T, Transposed, 1>(mr, depth, a, lda, b, to);
}

/// One tile of rows times all panels: c[mr, cols] (+)= a[mr, depth] b[depth, cols]. With `whole`, c's rows have room for whole
/// registers, which are then written.
template <class T, bool Transposed>
void multiply_rows(int mr, Int cols, Int depth, const T* a, Int lda, Panels<T> b, T* c, Int ldc, bool whole, bool add,
                   const T* factor) {
  constexpr int L = lanes<T>, W = panel_width<T>;
  for (Int n = 0, p = 0; n < cols; n += W, ++p) {
    const Int left = smaller(W, cols - n);
    tile<T, Transposed>(mr, static_cast<int>((left + L - 1) / L), depth, a, lda, b.data + p * b.step,
                        {c + n, ldc, add, factor, whole ? 0 : static_cast<int>(left % L)});
  }
}

/// Asks for rows that will be read soon, while something else is packed: rows of a head lie far apart, where no hardware
/// prefetcher finds them.
template <class T>
NORMA_INLINE void prefetch_rows(const T* x, Int row, Int rows, Int cols) {
  constexpr Int line = 64 / static_cast<Int>(sizeof(T));
  for (Int r = 0; r < rows; ++r)
    for (Int c = 0; c < cols; c += line) __builtin_prefetch(x + r * row + c);
}

/// x[rows, cols] into panels; columns beyond the last one are zero.
template <class T>
void pack_rows(const T* x, Int row, Int rows, Int cols, T* panels, Int step) {
  constexpr int L = lanes<T>, W = panel_width<T>;
  for (Int n = 0, p = 0; n < cols; n += W, ++p) {
    const Int left = smaller(W, cols - n);
    const int whole = static_cast<int>(left / L), tail = static_cast<int>(left % L);
    T* to = panels + p * step;
    for (Int r = 0; r < rows; ++r, to += W) {
      const T* from = x + r * row + n;
      for (int v = 0; v < whole; ++v) store(to + v * L, load(from + v * L));
      if (tail) store(to + whole * L, load_n(from + whole * L, tail));
    }
  }
}

/// A register made of the 16-byte pieces at `column` of the rows r, r + 4, r + 8, ...
NORMA_INLINE F gather_pieces(const float* const* rows, int r, Int column) {
  Piece piece[lanes<float> / 4];
  for (int g = 0; g < lanes<float> / 4; ++g) __builtin_memcpy(&piece[g], rows[4 * g + r] + column, sizeof(Piece));
#if defined(__AVX2__)
  const auto low = __builtin_shufflevector(piece[0], piece[1], 0, 1, 2, 3, 4, 5, 6, 7);
#endif
#if defined(__AVX512F__)
  const auto high = __builtin_shufflevector(piece[2], piece[3], 0, 1, 2, 3, 4, 5, 6, 7);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#elif defined(__AVX2__)
  return low;
#else
  return piece[0];
#endif
}
/// Transposes the 4 x 4 numbers that the pieces of four registers hold.
NORMA_INLINE void transpose_pieces(F (&x)[4]) {
  constexpr int n = lanes<float>;
  const F a = NORMA_IN_PIECES(x[0], x[1], 0, n, 1, n + 1), b = NORMA_IN_PIECES(x[0], x[1], 2, n + 2, 3, n + 3);
  const F c = NORMA_IN_PIECES(x[2], x[3], 0, n, 1, n + 1), d = NORMA_IN_PIECES(x[2], x[3], 2, n + 2, 3, n + 3);
  x[0] = NORMA_IN_PIECES(a, c, 0, 1, n, n + 1);
  x[1] = NORMA_IN_PIECES(a, c, 2, 3, n + 2, n + 3);
  x[2] = NORMA_IN_PIECES(b, d, 0, 1, n, n + 1);
  x[3] = NORMA_IN_PIECES(b, d, 2, 3, n + 2, n + 3);
}
/// Columns [0, cols rounded down to 4) of one block of `lanes` rows; returns how many were done.
NORMA_INLINE Int transpose_block(const float* const* rows, Int cols, F factor, float* to) {
  Int c = 0;
  for (; c + 4 <= cols; c += 4) {
    F x[4];
    for (int r = 0; r < 4; ++r) x[r] = gather_pieces(rows, r, c);
    transpose_pieces(x);
    for (int i = 0; i < 4; ++i) store(to + (c + i) * panel_width<float>, x[i] * factor);
  }
  return c;
}
template <class T>
NORMA_INLINE Int transpose_block(const T* const*, Int, Vec<T>, T*) { return 0; }

/// factor * x[rows, cols], transposed into panels of panel_width rows of x: panels[p][column][row]. Rows beyond the last one
/// are zero, up to whole registers.
template <class T>
void pack_transposed(const T* x, Int row, Int rows, Int cols, T factor, const T* zeros, T* panels, Int step) {
  constexpr int L = lanes<T>, W = panel_width<T>;
  for (Int r0 = 0; r0 < rows; r0 += L) {
    T* to = panels + r0 / W * step + r0 % W;
    const T* from[L];
    for (int r = 0; r < L; ++r) from[r] = r0 + r < rows ? x + (r0 + r) * row : zeros;
    for (Int c = transpose_block(from, cols, splat(factor), to); c < cols; ++c)
      for (int r = 0; r < L; ++r) to[c * W + r] = from[r][c] * factor;
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
