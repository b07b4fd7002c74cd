// An MLP for a block of rows, on slices (slices.h). What lies between its layers comes in strips of 96 rows by 32 columns. While the tile
// registers compute one strip, the vector registers take the one before through GELU and cut it for the next products: both kinds of units work
// at once, and the strips never leave the first-level cache.
#include "backends/cpu/mlp_kernels.h"

#include "backends/cpu/kernels/bf16/sliced_tile.h"
#include "backends/cpu/kernels/scratch_cutter.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(NORMA_AMX)
constexpr int64_t strip_rows = 96;

template <class T> constexpr int slices_of = sizeof(T) == sizeof(float) ? 3 : 1;
template <class T> constexpr int gelu_terms = sizeof(T) == sizeof(float) ? all_gelu_terms : gelu_terms_for_bf16;
template <class T> constexpr int64_t step_words = slices_of<T> * slice_words;

int64_t whole(int64_t n) { return steps_of(n) * side; }
/// Between rows of sums: an odd number of cache lines.
int64_t apart(int64_t n) { return (n + 15) / 16 * 16 + ((n + 15) / 16 % 2 ? 0 : 16); }

/// Where lines are packed, in tiles of 32, `tile` words apart.
struct Room {
  Word* words = nullptr;
  int64_t tile = 0;
};

/// Packed lines that come and go: known by line and element of k, both multiples of 32. Of A when `left`, else of B.
template <class T, bool left>
struct Operand {
  Word* words;
  int64_t tile;
  Operand(ScratchCutter& work, int64_t lines, int64_t k) : tile(steps_of(k) * step_words<T>) { words = work.take<Word>(steps_of(lines) * tile); }

  /// What comes from there on: to be packed, or packed.
  Room at(int64_t line, int64_t k) const { return {words + line / side * tile + k / step_k * step_words<T>, tile}; }
  Packed from(int64_t line, int64_t k) const { return {at(line, k).words, tile}; }
  Packed all() const { return {words, tile}; }
  /// Packs from there on.
  template <class From>
  void put(int64_t line, int64_t k, int64_t lines, int64_t depth, Source<From> x) const {
    pack<slices_of<T>, !left>(lines, depth, x, AsTheyAre{}, at(line, k).words, tile);
  }
};
template <class T> using Left = Operand<T, true>;
template <class T> using Right = Operand<T, false>;

/// A packed weight [k, n] from element p of k and column j on.
template <class T>
Packed weight(const Word* w, int64_t k, int64_t p, int64_t j) {
  const int64_t panel = steps_of(k) * step_words<T>;
  return {w + j / side * panel + p / step_k * step_words<T>, panel};
}

template <class T, class... Rest>
void multiply(int64_t m, int64_t n, int64_t k, Packed a, Packed b, Rest&&... rest) {
  product<slices_of<T>>(m, n, steps_of(k), a, b, rest...);
}

/// A pair of registers: 32 elements of a row, or the first n.
template <class T>
NORMA_INLINE void read(const T* p, int64_t n, F* x) {
  x[0] = load_first(p, n), x[1] = load_first(p + width, n - width);
}
NORMA_INLINE void write(float* p, int64_t n, const F* x) {
  _mm512_mask_storeu_ps(p, first(n), (__m512)x[0]);
  _mm512_mask_storeu_ps(p + width, first(n - width), (__m512)x[1]);
}
NORMA_INLINE void write(Bf16Bits* p, int64_t n, const F* x) {
  _mm256_mask_storeu_epi16(p, first(n), (__m256i)narrow(x[0]));
  _mm256_mask_storeu_epi16(p + width, first(n - width), (__m256i)narrow(x[1]));
}
/// For the backward pass: past the caches where all 32 are there.
NORMA_INLINE void write_for_later(float* p, int64_t n, const F* x) {
  if (n < side) return write(p, n, x);
  stream(p, x[0]), stream(p + width, x[1]);
}
NORMA_INLINE void write_for_later(Bf16Bits* p, int64_t n, const F* x) {
  if (n < side || reinterpret_cast<std::uintptr_t>(p) % 64 != 0) return write(p, n, x);
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)round_side_by_side(x[0], x[1]));
}

/// The slices of a pair, as one line of a square.
template <class T>
NORMA_INLINE void put_pair(F lower, F upper, Word* line) {
  U cut[slices_of<T>];
  slice<slices_of<T>>({lower, upper}, cut);
#pragma GCC unroll 3
  for (int s = 0; s < slices_of<T>; ++s) store_words(line + s * slice_words, cut[s]);
}

/// A strip whose sums are whole, taken further beside a product of tiles. A unit of work are two rows, 16 apart, since such rows share words.
template <class Unit>
class StripAside {
 public:
  explicit StripAside(const Unit& unit) : unit_(unit) {}
  /// Begins a strip of so many rows, an even share of which is done in each of `turns` steps.
  void begin(const typename Unit::Strip& strip, int64_t turns) {
    unit_.strip = strip, next_ = 0, units_ = steps_of(strip.rows) * tile_side, share_ = (units_ + turns - 1) / turns;
  }
  NORMA_INLINE void step() { advance(least(units_, next_ + share_)); }
  void finish() { advance(units_); }

 private:
  NORMA_INLINE void advance(int64_t stop) {
    for (; next_ < stop; ++next_) unit_(next_ / tile_side * side + next_ % tile_side);
  }
  Unit unit_;
  int64_t next_ = 0, units_ = 0, share_ = 0;
};

/// x += bias, pre = x, x = gelu(x), and that as left operand.
template <class T>
struct Activate {
  struct Strip {
    int64_t rows, columns;
    const float* sums;
    const float* bias;  // null: none
    Rows<T> pre;        // null: not wanted
    Room to;            // from its first line and element on
  } strip{};

  NORMA_INLINE void operator()(int64_t i) const {
    const int64_t n = strip.columns;
    F x[4] = {};
    const auto row = [&](int r) { return i + r * tile_side; };
    const auto there = [&](int r) { return row(r) < strip.rows; };
    each<2>([&](int r) {
      if (there(r)) read(strip.sums + row(r) * side, n, x + 2 * r);
    });
    if (strip.bias) {
      F shift[2];
      read(strip.bias, n, shift);
      each<4>([&](int v) { x[v] += shift[v % 2]; });
    }
    if (strip.pre.data)
      each<2>([&](int r) {
        if (there(r)) write_for_later(strip.pre.data + row(r) * strip.pre.row, n, x + 2 * r);
      });
    gelu<gelu_terms<T>>(x);
    each<2>([&](int r) {
      const F none{};
      Word* line = strip.to.words + i / side * strip.to.tile + r * square + i % side * tile_side;
      there(r) ? put_pair<T>(x[2 * r], x[2 * r + 1], line) : put_pair<T>(none, none, line);
    });
  }
};

/// dpre = dhidden gelu'(pre), as both operands, and gelu(pre) as a right one.
template <class T>
struct Differentiate {
  struct Strip {
    int64_t rows, columns;
    const float* sums;  // dhidden
    Rows<const T> pre;
    float* column_sums;               // of dpre, added to; null: not wanted
    Room dpre;                        // null: not wanted
    Word *dpre_of_dw, *hidden_of_dw;  // tiles of 32 columns; null, both: not wanted
  } strip{};

  NORMA_INLINE void operator()(int64_t i) const {
    const int64_t n = strip.columns;
    F x[4] = {}, slope[4], g[4] = {};
    each<2>([&](int r) {
      const int64_t row = i + r * tile_side;
      if (row >= strip.rows) return;
      read(strip.pre.data + row * strip.pre.row, n, x + 2 * r);
      read(strip.sums + row * side, n, g + 2 * r);
    });
    gelu_with_grad<gelu_terms<T>>(x, slope);
    each<4>([&](int v) { g[v] *= slope[v]; });
    const int64_t line = i % side * tile_side;
    if (strip.dpre.words)
      each<2>([&](int r) {
        put_pair<T>(g[2 * r], g[2 * r + 1], strip.dpre.words + i / side * strip.dpre.tile + r * square + line);
      });
    if (!strip.dpre_of_dw) return;
    const int64_t step = i / step_k * step_words<T>;
    each<2>([&](int v) {
      put_pair<T>(g[v], g[v + 2], strip.dpre_of_dw + step + v * square + line);
      put_pair<T>(x[v], x[v + 2], strip.hidden_of_dw + step + v * square + line);
      if (strip.column_sums) store(strip.column_sums + v * width, load(strip.column_sums + v * width) + (g[v] + g[v + 2]));
    });
  }
};

/// A strip aside, and what the next one reads asked for.
template <class T>
struct StripAndAsking {
  StripAside<Differentiate<T>>& strip;
  Asking<T> asking;
  NORMA_INLINE void step() { strip.step(), asking.step(); }
};

/// sums[j] += the sum of x[., j] over the rows, for n columns.
template <class T>
void add_columns(int64_t rows, int64_t n, Rows<const T> x, float* sums) {
  for (int64_t j = 0; j < n; j += side) {
    F total[2] = {};
    for (int64_t i = 0; i < rows; ++i) {
      F a[2];
      read(x.data + i * x.row + j, n - j, a);
      each<2>([&](int v) { total[v] += a[v]; });
    }
    each<2>([&](int v) { store(sums + j + v * width, load(sums + j + v * width) + total[v]); });
  }
}

/// to = sums + bias + residual, n columns wide.
template <class T>
void finish(int64_t rows, int64_t n, const float* sums, int64_t ld, const float* bias, Rows<const T> residual, Rows<T> to) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < n; j += side) {
      F x[2], other[2];
      read(sums + i * ld + j, n - j, x);
      const auto add = [&](const auto* p) {
        read(p, n - j, other);
        each<2>([&](int v) { x[v] += other[v]; });
      };
      if (bias) add(bias + j);
      if (residual.data) add(residual.data + i * residual.row + j);
      write(to.data + i * to.row + j, n - j, x);
    }
}

/// body(first row, rows, first hidden element, elements, sums) for the strips of a chunk in turn; two rooms for sums, so that one strip is computed
/// while the one before is taken further.
template <class Body>
void each_strip(const MlpSizes& s, int64_t h0, int64_t chunk, float* const (&strips)[2], Body&& body) {
  int current = 0;
  for (int64_t h = h0; h < h0 + chunk; h += side)
    for (int64_t i = 0; i < s.rows; i += strip_rows, current = 1 - current)
      body(i, least(strip_rows, s.rows - i), h, least(side, s.hidden - h), strips[current]);
}

template <class T>
struct MlpWork {
  Left<T> x, hidden;
  int64_t ld;
  float *sums, *strips[2];
  MlpWork(const MlpSizes& s, ScratchCutter& work)
      : x(work, s.rows, s.in), hidden(work, s.rows, s.chunk), ld(apart(s.out)), sums(work.take<float>(whole(s.rows) * ld)),
        strips{work.take<float>(strip_rows * side), work.take<float>(strip_rows * side)} {}
};

template <class T>
void mlp(const MlpBlock<T>& b) {
  const MlpSizes& s = b.sizes;
  ScratchCutter work(b.work);
  const MlpWork<T> w(s, work);
  StripAside<Activate<T>> aside({});
  enter_tiles();
  w.x.put(0, 0, s.rows, s.in, Source<T>{b.x.data, b.x.row, 1});
  for (int64_t h0 = 0; h0 < s.hidden; h0 += s.chunk) {
    const int64_t chunk = least(s.chunk, s.hidden - h0);
    each_strip(s, h0, chunk, w.strips, [&](int64_t i, int64_t rows, int64_t h, int64_t columns, float* sums) {
      multiply<T>(rows, columns, s.in, w.x.from(i, 0), weight<T>(b.w1, s.in, 0, h), sums, side, false, aside);
      aside.finish();
      const Rows<T> pre{b.pre.data ? b.pre.data + i * b.pre.row + h : nullptr, b.pre.row};
      aside.begin({rows, columns, sums, b.b1 ? b.b1 + h : nullptr, pre, w.hidden.at(i, h - h0)}, turns(strip_rows, side, steps_of(s.in)));
    });
    aside.finish();
    multiply<T>(s.rows, s.out, chunk, w.hidden.all(), weight<T>(b.w2, s.hidden, h0, 0), w.sums, w.ld, h0 > 0);
  }
  leave_tiles();
  finish<T>(s.rows, s.out, w.sums, w.ld, b.b2, b.residual, b.y);
  if (b.pre.data) end_stream();
}

template <class T>
struct MlpBackwardWork {
  Left<T> dy, dyt, xt;                // dY [rows, out], dY^T [out, rows], X^T [in, rows]
  Left<T> dpre;                       // of a chunk, [rows, chunk], for dX
  Right<T> dpre_of_dw, hidden_of_dw;  // of a chunk, [rows, chunk], for dW1^T and dW2
  int64_t ld;
  float *dx, *strips[2];
  MlpBackwardWork(const MlpSizes& s, ScratchCutter& work)
      : dy(work, s.rows, s.out), dyt(work, s.out, s.rows), xt(work, s.in, s.rows), dpre(work, s.rows, s.chunk),
        dpre_of_dw(work, s.chunk, s.rows), hidden_of_dw(work, s.chunk, s.rows), ld(apart(s.in)), dx(work.take<float>(whole(s.rows) * ld)),
        strips{work.take<float>(strip_rows * side), work.take<float>(strip_rows * side)} {}
};

template <class T>
void mlp_backward(const MlpBackwardBlock<T>& b) {
  const MlpSizes& s = b.sizes;
  ScratchCutter work(b.work);
  const MlpBackwardWork<T> w(s, work);
  enter_tiles();
  w.dy.put(0, 0, s.rows, s.out, Source<T>{b.dy.data, b.dy.row, 1});
  const bool dw = b.dw1t.data;
  if (dw) w.dyt.put(0, 0, s.out, s.rows, Source<T>{b.dy.data, 1, b.dy.row, true});
  if (dw) w.xt.put(0, 0, s.in, s.rows, Source<T>{b.x.data, 1, b.x.row});
  if (b.db2) add_columns<T>(s.rows, s.out, b.dy, b.db2);
  StripAside<Differentiate<T>> aside({});
  for (int64_t h0 = b.from; h0 < b.to; h0 += s.chunk) {
    const int64_t chunk = least(s.chunk, b.to - h0);
    each_strip(s, h0, chunk, w.strips, [&](int64_t i, int64_t rows, int64_t h, int64_t columns, float* sums) {
      const int64_t j = h - h0;
      const Rows<const T> pre{b.pre.data + i * b.pre.row + h, b.pre.row};
      StripAndAsking<T> both{aside, {{pre.data, nullptr, pre.row, 0, true}, rows, turns(rows, side, steps_of(s.out))}};
      multiply<T>(rows, columns, s.out, w.dy.from(i, 0), weight<T>(b.w2, s.out, 0, h), sums, side, false, both);
      aside.finish();
      aside.begin({rows, columns, sums, pre, b.db1 ? b.db1 + h : nullptr, b.dx.data ? w.dpre.at(i, j) : Room{}, dw ? w.dpre_of_dw.at(j, i).words : nullptr,
                   dw ? w.hidden_of_dw.at(j, i).words : nullptr},
                  turns(strip_rows, side, steps_of(s.out)));
    });
    aside.finish();
    if (b.dx.data) multiply<T>(s.rows, s.in, chunk, w.dpre.all(), weight<T>(b.w1, s.hidden, h0, 0), w.dx, w.ld, h0 > 0);
    if (!dw) continue;
    multiply<T>(s.in, chunk, s.rows, w.xt.all(), w.dpre_of_dw.all(), b.dw1t.data + h0, b.dw1t.row, b.add);
    multiply<T>(s.out, chunk, s.rows, w.dyt.all(), w.hidden_of_dw.all(), b.dw2.data + h0, b.dw2.row, b.add);
  }
  leave_tiles();
  if (b.dx.data) finish<T>(s.rows, s.in, w.dx, w.ld, nullptr, {}, b.dx);
}

template <class Rooms>
int64_t bytes(const MlpSizes& sizes) {
  ScratchCutter count(nullptr);
  Rooms(sizes, count);
  return count.used();
}

template <class T>
int64_t packed(int64_t k) {
  return steps_of(k) * step_words<T> / side;
}
template <class T>
void pack_weight(int64_t k, int64_t n, Matrix<const float> w, Word* panels) {
  pack<slices_of<T>, true>(n, k, Source<float>{w.data, w.col, w.row}, AsTheyAre{}, panels, steps_of(k) * step_words<T>);
}

template <class T>
constexpr MlpTable<T> table = {packed<T>, pack_weight<T>, mlp<T>, mlp_backward<T>, bytes<MlpWork<T>>, bytes<MlpBackwardWork<T>>};
constexpr MlpKernels kernels = {table<float>, table<Bf16Bits>};
constexpr const MlpKernels* kernels_or_null = &kernels;
#else
constexpr const MlpKernels* kernels_or_null = nullptr;
#endif

}  // namespace

extern const MlpKernels* const mlp_kernels;
const MlpKernels* const mlp_kernels = kernels_or_null;

}  // namespace norma::cpu::NORMA_ISA
