// The product of two packed tiles of slices (slices.h) by AMX.
#pragma once

#include "backends/cpu/kernels/bf16/slices.h"
#include "backends/cpu/kernels/result_tiles.h"

#if defined(NORMA_AMX)
namespace norma::cpu::NORMA_ISA {
namespace {

/// Sums of a tile on their way: 32 columns of them, ld apart.
template <class T>
struct Sums {
  T* data;
  int64_t ld;
};

/// Asks for rows that are read or written soon, an even share of them a step.
template <class T>
struct Asking {
  Wanted<T, side> wanted;
  int64_t rows, share, asked = 0;
  Asking(const Wanted<T, side>& what, int64_t count, int64_t steps) : wanted(what), rows(count), share((count + steps - 1) / steps) {}
  NORMA_INLINE void step() {
    for (const int64_t stop = least(rows, asked + share); asked < stop; ++asked) wanted.turn(asked);
  }
};

/// to = A B (+ from unless null), both in so many slices, three or one. Up to 32
/// rows and columns, of which `low` leaves out the rows from 16 on, and `narrow` the columns. Whole squares are read and written.
template <int slices, bool low, bool narrow, class Aside>
void tile(int64_t steps, const Word* a, const Word* b, Sums<const float> from, Sums<float> to, Aside& aside) {
  static_assert(slices == 3 || slices == 1);
  constexpr bool often = slices == 3 && requires { Aside::often; };  // an aside that wants a turn after each product of two slices
  // The numbers of tiles are part of the instructions: 0..3 are sums, 4 and 5 rows of a slice of A, 6 and 7 columns of one of B.
  constexpr int line = tile_side * sizeof(Word);
  if (from.data) {
    const int64_t bytes = from.ld * static_cast<int64_t>(sizeof(float));
    const float* below = from.data + tile_side * from.ld;
    _tile_loadd(0, from.data, bytes);
    if (!narrow) _tile_loadd(1, from.data + tile_side, bytes);
    if (!low) _tile_loadd(2, below, bytes);
    if (!low && !narrow) _tile_loadd(3, below + tile_side, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
#define NORMA_ROWS(s)                        \
  _tile_stream_loadd(4, a + (s)*slice_words, line); \
  if (!low) _tile_stream_loadd(5, a + (s)*slice_words + square, line)
#define NORMA_COLUMNS(s)                     \
  _tile_loadd(6, b + (s)*slice_words, line); \
  if (!narrow) _tile_loadd(7, b + (s)*slice_words + square, line)
#define NORMA_ADD()                         \
  _tile_dpbf16ps(0, 4, 6);                  \
  if (!narrow) _tile_dpbf16ps(1, 4, 7);     \
  if (!low) _tile_dpbf16ps(2, 5, 6);        \
  if (!low && !narrow) _tile_dpbf16ps(3, 5, 7); \
  if constexpr (often) aside.step()
  for (int64_t s = 0; s < steps; ++s, a += slices * slice_words, b += slices * slice_words) {
    if constexpr (!often) aside.step();
    // Neighbours share an operand; columns are read again from the first-level cache, rows once, past it.
    if constexpr (slices == 3) {
      NORMA_ROWS(2);
      NORMA_COLUMNS(0);
      NORMA_ADD();
      NORMA_ROWS(1);
      NORMA_ADD();
      NORMA_COLUMNS(1);
      NORMA_ADD();
      NORMA_ROWS(0);
      NORMA_ADD();
      NORMA_COLUMNS(2);
      NORMA_ADD();
      NORMA_COLUMNS(0);
      NORMA_ADD();
    } else {
      NORMA_ROWS(0);
      NORMA_COLUMNS(0);
      NORMA_ADD();
    }
  }
#undef NORMA_ROWS
#undef NORMA_COLUMNS
#undef NORMA_ADD
  const int64_t bytes = to.ld * static_cast<int64_t>(sizeof(float));
  float* below = to.data + tile_side * to.ld;
  _tile_stored(0, to.data, bytes);
  if (!narrow) _tile_stored(1, to.data + tile_side, bytes);
  if (!low) _tile_stored(2, below, bytes);
  if (!low && !narrow) _tile_stored(3, below + tile_side, bytes);
}

/// So many steps are computed at a time that what passes of A and B stays in the first-level cache.
template <int slices>
int64_t piece_steps(int64_t steps) {
  constexpr int64_t most = 9 / slices;
  const int64_t pieces = steps <= most + 1 ? 1 : (steps + most - 1) / most;
  return (steps + pieces - 1) / pieces;
}

/// How often a product asks what is beside it.
NORMA_INLINE int64_t turns(int64_t m, int64_t n, int64_t steps) { return (m + side - 1) / side * ((n + side - 1) / side) * steps; }

/// to[m, n] = A B (+ to where `add`), written in whole squares of 16 by 16.
template <int slices, class Aside>
void product(int64_t m, int64_t n, int64_t steps, Packed a, Packed b, float* to, int64_t ld, bool add, Aside& aside) {
  const int64_t most = piece_steps<slices>(steps);
  for (int64_t j = 0; j < n; j += side) {
    int64_t from = 0;
    do {
      const int64_t count = least(most, steps - from);
      const Word* columns = b.words + j / side * b.tile + from * slices * slice_words;
      for (int64_t i = 0; i < m; i += side) {
        const Word* rows = a.words + i / side * a.tile + from * slices * slice_words;
        const Sums<float> result{to + i * ld + j, ld};
        const Sums<const float> before{add || from > 0 ? result.data : nullptr, ld};
        const bool low = m - i <= tile_side, narrow = n - j <= tile_side;
        const auto f = low ? narrow ? tile<slices, true, true, Aside> : tile<slices, true, false, Aside>
                           : narrow ? tile<slices, false, true, Aside> : tile<slices, false, false, Aside>;
        f(count, rows, columns, before, result, aside);
      }
      from += count;
    } while (from < steps);
  }
}
template <int slices>
void product(int64_t m, int64_t n, int64_t steps, Packed a, Packed b, float* to, int64_t ld, bool add) {
  NothingAside nothing;
  product<slices>(m, n, steps, a, b, to, ld, add, nothing);
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
#endif
