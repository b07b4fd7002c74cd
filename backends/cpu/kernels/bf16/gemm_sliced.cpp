// Products of f32 by AMX, of operands cut in slices (slices.h).
#include "backends/cpu/kernels/bf16/slices.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(__AMX_BF16__)
Word* words(float* p) { return reinterpret_cast<Word*>(p); }
const Word* words(const float* p) { return reinterpret_cast<const Word*>(p); }
NORMA_INLINE int64_t steps_of(int64_t k) { return (k + step_k - 1) / step_k; }

void pack_b(int64_t k, int64_t n, Matrix<const float> b, bool through_gelu, float* panels) {
  Word* out = words(panels);
  for (int64_t j = 0; j < n; j += side, out += steps_of(k) * step_words) {
    const Source x{b.data + j * b.col, b.col, b.row};
    if (through_gelu)
      pack_lines<true, true>(least(side, n - j), k, x, out);
    else
      pack_lines<true, false>(least(side, n - j), k, x, out);
  }
}

void pack_a(int64_t m, int64_t k, Matrix<const float> a, float* tiles, float* row_sums) {
  Word* out = words(tiles);
  for (int64_t i = 0; i < m; i += side, out += steps_of(k) * step_words) {
    const Source x{a.data + i * a.row, a.row, a.col};
    pack_lines<false, false>(least(side, m - i), k, x, out);
    if (row_sums) add_lines(least(side, m - i), k, x, row_sums + i);
  }
}

/// Rows that are read or written when the sums of a tile are finished: asked for a few at a time while these are computed.
struct Wanted {
  const float *c, *other;  // other: null, or what the epilogue reads
  int64_t ldc, ld;

  NORMA_INLINE void turn(int64_t from, int64_t to) const {
    for (int64_t i = from; i < to; ++i) {
      for (int64_t j = 0; j < side; j += 16) __builtin_prefetch(c + i * ldc + j, 0, 2);
      if (other)
        for (int64_t j = 0; j < side; j += 16) __builtin_prefetch(other + i * ld + j, 0, 2);
    }
  }
};

/// Sums of a tile on their way: 32 columns of them, ld apart.
template <class T>
struct Sums {
  T* data;
  int64_t ld;
};

/// to = A panel (+ from unless null), for up to 32 rows, or up to 16 where `half`, and a panel of 32 columns. Whole squares are read and
/// written.
template <bool half>
void tile(int64_t steps, const Word* a, const Word* b, Sums<const float> from, Sums<float> to, int64_t rows, const Wanted* wanted) {
  // The numbers of tiles are part of the instructions: 0..3 are sums, 4 and 5 rows of a slice of A, 6 and 7 columns of one of B.
  constexpr int line = tile_side * sizeof(Word);
  if (from.data) {
    const int64_t bytes = from.ld * static_cast<int64_t>(sizeof(float));
    const float* lower = from.data + tile_side * from.ld;
    _tile_loadd(0, from.data, bytes);
    _tile_loadd(1, from.data + tile_side, bytes);
    if (!half) _tile_loadd(2, lower, bytes);
    if (!half) _tile_loadd(3, lower + tile_side, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
#define NORMA_ROWS(s)                               \
  _tile_loadd(4, a + (s)*slice_words, line);        \
  if (!half) _tile_loadd(5, a + (s)*slice_words + square, line)
#define NORMA_COLUMNS(s)                            \
  _tile_loadd(6, b + (s)*slice_words, line);        \
  _tile_loadd(7, b + (s)*slice_words + square, line)
#define NORMA_ADD()                                 \
  _tile_dpbf16ps(0, 4, 6);                          \
  _tile_dpbf16ps(1, 4, 7);                          \
  if (!half) _tile_dpbf16ps(2, 5, 6);               \
  if (!half) _tile_dpbf16ps(3, 5, 7)
  for (int64_t s = 0; s < steps; ++s, a += step_words, b += step_words) {
    if (wanted) wanted->turn(rows * s / steps, rows * (s + 1) / steps);
    // The small products first; neighbours share an operand.
    NORMA_ROWS(0);
    NORMA_COLUMNS(2);
    NORMA_ADD();
    NORMA_COLUMNS(1);
    NORMA_ADD();
    NORMA_ROWS(1);
    NORMA_ADD();
    NORMA_COLUMNS(0);
    NORMA_ADD();
    NORMA_ROWS(2);
    NORMA_ADD();
    NORMA_ROWS(0);
    NORMA_ADD();
  }
#undef NORMA_ROWS
#undef NORMA_COLUMNS
#undef NORMA_ADD
  const int64_t bytes = to.ld * static_cast<int64_t>(sizeof(float));
  float* lower = to.data + tile_side * to.ld;
  _tile_stored(0, to.data, bytes);
  _tile_stored(1, to.data + tile_side, bytes);
  if (half) return;
  _tile_stored(2, lower, bytes);
  _tile_stored(3, lower + tile_side, bytes);
}

/// So many steps are computed at a time that what passes of A and B stays in the first-level cache.
int64_t piece_steps(int64_t steps) {
  const int64_t pieces = steps <= 4 ? 1 : (steps + 2) / 3;
  return (steps + pieces - 1) / pieces;
}

constexpr int64_t strip_rows = 96;

void finish(int64_t m, int64_t n, const float* sum, int64_t ld_sum, float* c, int64_t ldc, bool accumulate, const Epilogue<float>* e) {
  avx512::gemm_kernels.f32.finish(m, n, sum, ld_sum, c, ldc, accumulate, e);
}
void combine(int64_t count, int64_t size, const float* parts, int64_t step, float* out) {
  avx512::gemm_kernels.f32.combine(count, size, parts, step, out);
}

void block(int64_t m, int64_t n, int64_t k, Tiles<float> a, const float* panels, float* c, int64_t ldc, bool accumulate,
           const Epilogue<float>* e, const Upcoming&) {
  const int64_t steps = steps_of(k), most = piece_steps(steps);
  alignas(64) float sums[strip_rows * side];
  enter_tiles();
  for (int64_t j = 0; j < n; j += side) {
    const Word* panel = words(panels) + j / side * (steps * step_words);
    for (int64_t i0 = 0; i0 < m; i0 += strip_rows) {
      const int64_t height = least(strip_rows, m - i0), width = least(side, n - j);
      const bool direct = !e && width == side && height % side == 0;  // else the sums wait for what is done with them
      float* to = c + i0 * ldc + j;
      const float* other = e && e->gelu_pre ? e->gelu_pre : e ? e->residual : nullptr;
      if (other) other += i0 * e->ld + j;
      int64_t from = 0;
      do {
        const int64_t count = least(most, steps - from);
        const bool last = from + count >= steps;
        for (int64_t i = 0; i < height; i += side) {
          const Word* rows = words(a.data) + (i0 + i) / side * (steps * step_words) + from * step_words;
          const Sums<float> strip{sums + i * side, side}, result{to + i * ldc, ldc};
          const Sums<const float> before = from > 0 ? Sums<const float>{strip.data, side} : Sums<const float>{direct && accumulate ? result.data : nullptr, ldc};
          const Wanted wanted{to + i * ldc, other ? other + i * e->ld : nullptr, ldc, e ? e->ld : 0};
          (height - i > tile_side ? tile<false> : tile<true>)(count, rows, panel + from * step_words, before, direct && last ? result : strip,
                                                              least(side, height - i), last ? &wanted : nullptr);
        }
        from += count;
      } while (from < steps);
      if (direct) continue;
      Epilogue<float> here;
      if (e) {
        const int64_t offset = i0 * e->ld + j;
        const auto move = [](auto* p, int64_t by) { return p ? p + by : p; };
        here = {move(e->bias, j), move(e->pre, offset), e->gelu, move(e->gelu_pre, offset), move(e->residual, offset), e->ld};
      }
      finish(height, width, sums, side, to, ldc, accumulate, e ? &here : nullptr);
    }
  }
  leave_tiles();
  if (e && e->pre) end_stream();
}

constexpr GemmTable<float> table = {side, side, step_k, true, pack_b, pack_a, block, finish, combine};
constexpr const GemmTable<float>* table_or_null = &table;
#else
constexpr const GemmTable<float>* table_or_null = nullptr;
#endif

}  // namespace

const SlicedGemm sliced_gemm = {table_or_null};

}  // namespace norma::cpu::NORMA_ISA
