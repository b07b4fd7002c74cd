// An MLP for a block of rows, on slices (slices.h). What lies between its layers comes and goes in strips of 96 rows by 32 columns, which stay
// in the first-level cache until they are packed for the next product.
#include "backends/cpu/mlp_kernels.h"

#include "backends/cpu/kernels/bf16/sliced_tile.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(__AMX_BF16__)
constexpr int64_t strip_rows = 96;

template <class T> constexpr int slices_of = sizeof(T) == sizeof(float) ? 3 : 1;
template <class T> constexpr int64_t step_words = slices_of<T> * slice_words;

/// Hands out the pieces of a block's work, each on a cache line of its own; counts them where there is no memory.
class Work {
 public:
  explicit Work(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class P>
  P* take(int64_t count) {
    P* p = memory_ ? reinterpret_cast<P*>(memory_ + used_) : nullptr;
    used_ += (count * static_cast<int64_t>(sizeof(P)) + 63) / 64 * 64;
    return p;
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

int64_t whole(int64_t n) { return steps_of(n) * side; }
/// Between rows of sums: an odd number of cache lines.
int64_t apart(int64_t n) { return (n + 15) / 16 * 16 + ((n + 15) / 16 % 2 ? 0 : 16); }

/// Packed lines, in tiles of 32, that come and go: known by line and element of k, both multiples of 32. Of A when `left`, else of B.
template <class T, bool left>
struct Operand {
  Word* words;
  int64_t tile;
  Operand(Work& work, int64_t lines, int64_t k) : tile(steps_of(k) * step_words<T>) { words = work.take<Word>(steps_of(lines) * tile); }

  Packed from(int64_t line, int64_t k) const { return {place(line, k), tile}; }
  Packed all() const { return {words, tile}; }
  /// Packs from there on.
  template <class From>
  void put(int64_t line, int64_t k, int64_t lines, int64_t depth, Source<From> x) const {
    pack<slices_of<T>, !left>(lines, depth, x, AsTheyAre{}, place(line, k), tile);
  }

 private:
  Word* place(int64_t line, int64_t k) const { return words + line / side * tile + k / step_k * step_words<T>; }
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
void multiply(int64_t m, int64_t n, int64_t k, Packed a, Packed b, Rest... rest) {
  product<slices_of<T>, slices_of<T>, T>(m, n, steps_of(k), a, b, rest...);
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

/// body(rows, i) for rows three by three, so that the arithmetic units always find work, then one by one.
template <class Body>
NORMA_INLINE void by_rows(int64_t rows, Body&& body) {
  int64_t i = 0;
  for (; i + 3 <= rows; i += 3) body(std::integral_constant<int, 3>{}, i);
  for (; i < rows; ++i) body(std::integral_constant<int, 1>{}, i);
}

/// A strip of n <= 32 columns: x += bias, pre = x, x = gelu(x).
template <class T>
void activate(int64_t rows, int64_t n, const float* bias, Rows<T> pre, float* strip) {
  F shift[2] = {};
  if (bias) read(bias, n, shift);
  by_rows(rows, [&](auto count, int64_t i) {
    F x[2 * count];
    each<2 * count>([&](int v) { x[v] = load(strip + i * side + v * width) + shift[v % 2]; });
    if (pre.data) each<count>([&](int r) { write_for_later(pre.data + (i + r) * pre.row, n, x + 2 * r); });
    gelu(x);
    each<2 * count>([&](int v) { store(strip + i * side + v * width, x[v]); });
  });
}

/// A strip: gradient *= gelu'(pre), hidden = gelu(pre), sums += the columns' sums unless null.
template <class T>
void differentiate(int64_t rows, int64_t n, Rows<const T> pre, float* gradient, float* hidden, float* sums) {
  F total[2] = {};
  by_rows(rows, [&](auto count, int64_t i) {
    F x[2 * count], slope[2 * count];
    each<count>([&](int r) { read(pre.data + (i + r) * pre.row, n, x + 2 * r); });
    gelu_with_grad(x, slope);
    each<2 * count>([&](int v) {
      const int64_t at = i * side + v * width;
      const F g = load(gradient + at) * slope[v];
      store(gradient + at, g), store(hidden + at, x[v]);
      total[v % 2] += g;
    });
  });
  if (sums) each<2>([&](int v) { store(sums + v * width, load(sums + v * width) + total[v]); });
}

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

template <class T>
struct MlpWork {
  Left<T> x, hidden;
  int64_t ld;
  float *sums, *strip;
  MlpWork(const MlpSizes& s, Work& work)
      : x(work, s.rows, s.in), hidden(work, s.rows, s.chunk), ld(apart(s.out)), sums(work.take<float>(whole(s.rows) * ld)),
        strip(work.take<float>(strip_rows * side)) {}
};

template <class T>
void mlp(const MlpBlock<T>& b) {
  const MlpSizes& s = b.sizes;
  Work work(b.work);
  const MlpWork<T> w(s, work);
  enter_tiles();
  w.x.put(0, 0, s.rows, s.in, Source<T>{b.x.data, b.x.row, 1});
  for (int64_t h0 = 0; h0 < s.hidden; h0 += s.chunk) {
    const int64_t chunk = least(s.chunk, s.hidden - h0);
    for (int64_t h = h0; h < h0 + chunk; h += side) {
      const int64_t columns = least(side, s.hidden - h);
      for (int64_t i = 0; i < s.rows; i += strip_rows) {
        const int64_t rows = least(strip_rows, s.rows - i);
        multiply<T>(rows, columns, s.in, w.x.from(i, 0), weight<T>(b.w1, s.in, 0, h), w.strip, side, false);
        activate<T>(rows, columns, b.b1 ? b.b1 + h : nullptr, {b.pre.data ? b.pre.data + i * b.pre.row + h : nullptr, b.pre.row}, w.strip);
        w.hidden.put(i, h - h0, rows, columns, Source<float>{w.strip, side, 1, true});
      }
    }
    const bool last = h0 + chunk == s.hidden;
    multiply<T>(s.rows, s.out, chunk, w.hidden.all(), weight<T>(b.w2, s.hidden, h0, 0), w.sums, w.ld, h0 > 0,
                last ? b.residual : Rows<const T>{});
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
  float *dx, *gradient, *hidden;  // the latter two: strips
  MlpBackwardWork(const MlpSizes& s, Work& work)
      : dy(work, s.rows, s.out), dyt(work, s.out, s.rows), xt(work, s.in, s.rows), dpre(work, s.rows, s.chunk),
        dpre_of_dw(work, s.chunk, s.rows), hidden_of_dw(work, s.chunk, s.rows), ld(apart(s.in)), dx(work.take<float>(whole(s.rows) * ld)),
        gradient(work.take<float>(strip_rows * side)), hidden(work.take<float>(strip_rows * side)) {}
};

template <class T>
void mlp_backward(const MlpBackwardBlock<T>& b) {
  const MlpSizes& s = b.sizes;
  Work work(b.work);
  const MlpBackwardWork<T> w(s, work);
  enter_tiles();
  w.dy.put(0, 0, s.rows, s.out, Source<T>{b.dy.data, b.dy.row, 1});
  w.dyt.put(0, 0, s.out, s.rows, Source<T>{b.dy.data, 1, b.dy.row, true});
  w.xt.put(0, 0, s.in, s.rows, Source<T>{b.x.data, 1, b.x.row});
  if (b.db2) add_columns<T>(s.rows, s.out, b.dy, b.db2);
  for (int64_t h0 = 0; h0 < s.hidden; h0 += s.chunk) {
    const int64_t chunk = least(s.chunk, s.hidden - h0);
    for (int64_t h = h0; h < h0 + chunk; h += side) {
      const int64_t columns = least(side, s.hidden - h), j = h - h0;
      for (int64_t i = 0; i < s.rows; i += strip_rows) {
        const int64_t rows = least(strip_rows, s.rows - i);
        const Rows<const T> pre{b.pre.data + i * b.pre.row + h, b.pre.row};
        multiply<T>(rows, columns, s.out, w.dy.from(i, 0), weight<T>(b.w2, s.out, 0, h), w.gradient, side, false, pre);
        differentiate<T>(rows, columns, pre, w.gradient, w.hidden, b.db1 ? b.db1 + h : nullptr);
        if (b.dx.data) w.dpre.put(i, j, rows, columns, Source<float>{w.gradient, side, 1, true});
        w.dpre_of_dw.put(j, i, columns, rows, Source<float>{w.gradient, 1, side, true});
        w.hidden_of_dw.put(j, i, columns, rows, Source<float>{w.hidden, 1, side, true});
      }
    }
    if (b.dx.data) multiply<T>(s.rows, s.in, chunk, w.dpre.all(), weight<T>(b.w1, s.hidden, h0, 0), w.dx, w.ld, h0 > 0);
    multiply<T>(s.in, chunk, s.rows, w.xt.all(), w.dpre_of_dw.all(), b.dw1t.data + h0, b.dw1t.row, b.add);
    multiply<T>(s.out, chunk, s.rows, w.dyt.all(), w.hidden_of_dw.all(), b.dw2.data + h0, b.dw2.row, b.add);
  }
  leave_tiles();
  if (b.dx.data) finish<T>(s.rows, s.in, w.dx, w.ld, nullptr, {}, b.dx);
}

template <class Pieces>
int64_t bytes(const MlpSizes& sizes) {
  Work count(nullptr);
  Pieces(sizes, count);
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
