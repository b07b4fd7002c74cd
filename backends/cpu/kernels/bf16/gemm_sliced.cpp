// Products of f32 by AMX, of operands cut in slices (slices.h).
#include "backends/cpu/kernels/bf16/sliced_tile.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(NORMA_AMX)
constexpr int64_t step_words = 3 * slice_words;

Word* words(float* p) { return reinterpret_cast<Word*>(p); }
const Word* words(const float* p) { return reinterpret_cast<const Word*>(p); }

void pack_b(int64_t k, int64_t n, Matrix<const float> b, bool through_gelu, float* panels) {
  const Source<float> x{b.data, b.col, b.row};
  const int64_t panel = steps_of(k) * step_words;
  if (through_gelu)
    pack<3, true>(n, k, x, ThroughGelu{}, words(panels), panel);
  else
    pack<3, true>(n, k, x, AsTheyAre{}, words(panels), panel);
}

void pack_a(int64_t m, int64_t k, Matrix<const float> a, float* tiles, float* row_sums) {
  const Source<float> x{a.data, a.row, a.col};
  Word* out = words(tiles);
  for (int64_t i = 0; i < m; i += side, out += steps_of(k) * step_words) {
    pack_lines<3, false>(least(side, m - i), k, x.at(i, 0), AsTheyAre{}, out);
    if (row_sums) add_lines(least(side, m - i), k, x.at(i, 0), row_sums + i);
  }
}

/// Asks for the panel of B that comes next, where B does not stay in the second-level cache: its tiles would be loaded from farther
/// away than the loads on their way can hide.
class NextPanel {
 public:
  void begin(const Word* panel, int64_t words, int64_t turns) {
    next_ = panel, end_ = panel + words, share_ = (words + turns * line - 1) / (turns * line) * line;
  }
  NORMA_INLINE void step() {
    for (const Word* stop = next_ + least(share_, end_ - next_); next_ < stop; next_ += line) __builtin_prefetch(next_, 0, 2);
  }

 private:
  static constexpr int64_t line = 64 / sizeof(Word);
  const Word *next_ = nullptr, *end_ = nullptr;
  int64_t share_ = 0;
};

/// Packs the rows of A that come next beside a product: a square at a time, asked for some turns before.
class PackingAside {
 public:
  NextPanel panel;
  PackingAside(const Upcoming<float>& next, int64_t turns)
      : next_(next), x_{next.a.data, next.a.row, next.a.col}, steps_(steps_of(next.k)), turns_(turns), ahead_(turns / 8) {
    if (!next.tiles) return;
    if (x_.along != 1 && x_.across != 1) {  // elements apart in both directions: not worth it
      pack_a(next.m, next.k, next.a, next.tiles, next.row_sums);
      return;
    }
    squares_ = steps_of(next.m) * steps_ * 2;
  }
  NORMA_INLINE void step() {
    panel.step();
    ++turn_;
    while (asked_ < squares_ && asked_ * turns_ < (turn_ + ahead_) * squares_) ask(asked_++);
    while (packed_ < squares_ && (packed_ * turns_ + ahead_ * squares_) < turn_ * squares_) pack_one(packed_++);
  }
  void finish() {
    while (packed_ < squares_) pack_one(packed_++);
    if (squares_ && next_.row_sums)
      for (int64_t i = 0; i < next_.m; i += side) add_lines(least(side, next_.m - i), next_.k, x_.at(i, 0), next_.row_sums + i);
  }

 private:
  struct Place {
    int64_t line, p, lines, depth;
  };
  NORMA_INLINE Place place(int64_t s) const {
    const int64_t line = s / (2 * steps_) * side + s % 2 * tile_side, p = s % (2 * steps_) / 2 * step_k;
    return {line, p, next_.m - line, next_.k - p};
  }
  NORMA_INLINE void ask(int64_t s) const {
    const Place at = place(s);
    const Source<float> x = x_.at(at.line, at.p);
    if (x.along == 1) {
#pragma GCC unroll 4
      for (int64_t i = 0; i < tile_side; ++i) {
        __builtin_prefetch(x.data + i * x.across);
        __builtin_prefetch(x.data + i * x.across + tile_side);
      }
    } else {
#pragma GCC unroll 4
      for (int64_t i = 0; i < step_k; ++i) __builtin_prefetch(x.data + i * x.along);
    }
  }
  NORMA_INLINE void pack_one(int64_t s) const {
    const Place at = place(s);
    Word* out = words(next_.tiles) + s / (2 * steps_) * (steps_ * step_words) + s % (2 * steps_) / 2 * step_words + s % 2 * square;
    const Source<float> x = x_.at(at.line, at.p);
    if (at.lines >= tile_side && at.depth >= step_k)
      pack_square<3, false, true>(x, tile_side, step_k, AsTheyAre{}, out);
    else
      pack_square<3, false, false>(x, at.lines, at.depth, AsTheyAre{}, out);
  }

  const Upcoming<float>& next_;
  const Source<float> x_;
  const int64_t steps_, turns_, ahead_;
  int64_t squares_ = 0, turn_ = 0, asked_ = 0, packed_ = 0;
};
struct PackingAndAsking {
  PackingAside& packing;
  Asking<float> asking;
  NORMA_INLINE void step() { packing.step(), asking.step(); }
};

constexpr int64_t strip_rows = 96;

void finish(int64_t m, int64_t n, const float* sum, int64_t ld_sum, float* c, int64_t ldc, bool accumulate, const Epilogue<float>* e) {
  avx512::gemm_kernels.f32.finish(m, n, sum, ld_sum, c, ldc, accumulate, e);
}
void combine(int64_t count, int64_t size, const float* parts, int64_t step, float* out) {
  avx512::gemm_kernels.f32.combine(count, size, parts, step, out);
}
void add_rows(int64_t m, int64_t n, const float* x, int64_t row, float* sums) { avx512::gemm_kernels.f32.add_rows(m, n, x, row, sums); }

void block(int64_t m, int64_t n, int64_t k, Tiles<float> a, Panels<float> b, float* c, int64_t ldc, bool accumulate,
           const Epilogue<float>* e, const Upcoming<float>& upcoming) {
  const int64_t steps = steps_of(k), most = piece_steps<3>(steps);
  alignas(64) float sums[strip_rows * side];
  PackingAside packing(upcoming, turns(m, n, steps));
  const int64_t panel_words = steps * step_words;
  const bool far = (n + side - 1) / side * panel_words * static_cast<int64_t>(sizeof(Word)) > int64_t{1} << 20;
  enter_tiles();
  for (int64_t j = 0; j < n; j += side) {
    const Word* panel = words(b.data) + j / side * panel_words;
    if (far && j + side < n) packing.panel.begin(panel + panel_words, panel_words, turns(m, side, steps));
    for (int64_t i0 = 0; i0 < m; i0 += strip_rows) {
      const int64_t height = least(strip_rows, m - i0), width = least(side, n - j);
      // Rows of whole tiles, whose sums go to C from the registers; others wait for what is done with them. Tile by tile, since which tiles share a
      // strip depends on how many threads there are, and C is added first or last.
      const int64_t whole = !e && width == side ? height / side * side : 0;
      float* to = c + i0 * ldc + j;
      const float* other = e && e->gelu_pre ? e->gelu_pre : e ? e->residual : nullptr;
      if (other) other += i0 * e->ld + j;
      int64_t from = 0;
      do {
        const int64_t count = least(most, steps - from);
        const bool last = from + count >= steps;
        for (int64_t i = 0; i < height; i += side) {
          const bool direct = i < whole;
          const Word* rows = words(a.data) + (i0 + i) / side * (steps * step_words) + from * step_words;
          const Sums<float> strip{sums + i * side, side}, result{to + i * ldc, ldc};
          const Sums<const float> before =
              from > 0 ? Sums<const float>{strip.data, side} : Sums<const float>{direct && accumulate ? result.data : nullptr, ldc};
          const bool low = height - i <= tile_side;
          if (last) {
            PackingAndAsking both{packing, {{to + i * ldc, other ? other + i * e->ld : nullptr, ldc, e ? e->ld : 0, true}, least(side, height - i), count}};
            (low ? tile<3, true, false, PackingAndAsking> : tile<3, false, false, PackingAndAsking>)(
                count, rows, panel + from * step_words, before, direct ? result : strip, both);
          } else {
            (low ? tile<3, true, false, PackingAside> : tile<3, false, false, PackingAside>)(count, rows, panel + from * step_words, before,
                                                                                               strip, packing);
          }
        }
        from += count;
      } while (from < steps);
      if (whole == height) continue;
      Epilogue<float> here;
      if (e) here = at(*e, i0, j);
      finish(height - whole, width, sums + whole * side, side, to + whole * ldc, ldc, accumulate, e ? &here : nullptr);
    }
  }
  leave_tiles();
  packing.finish();
  if (e && e->pre) end_stream();
}

constexpr GemmTable<float> table = {side, side, step_k, true, pack_b, pack_a, block, 0, nullptr, finish, combine, add_rows};
constexpr const GemmTable<float>* table_or_null = &table;
#else
constexpr const GemmTable<float>* table_or_null = nullptr;
#endif

}  // namespace

const SlicedGemm sliced_gemm = {table_or_null};

}  // namespace norma::cpu::NORMA_ISA
