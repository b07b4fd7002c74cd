// Rows through layer norm and RMS norm, and their derivatives. A row is read from memory once; the later passes find it in the
// first cache. Activations may be bf16: they are widened as they are read, rounded as they are written, and all between is f32.
#include "backends/cpu/kernels/combine.h"
#include "backends/cpu/kernels/strips.h"
#include "backends/cpu/kernels/vmath.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// y = x scale + shift, then weight and bias.
template <class T, class Stored>
NORMA_INLINE void affine(const NormRows<T, Stored>& a, const Stored* x, Stored* y, T center, T scale, T shift) {
  const Vec<T> by = splat(scale), add = splat(shift);
  strips<T>(a.n, NORMA_STRIP {
    Vec<T> v = fma(strip.get(x + i) - center, by, add);
    if (a.weight && a.bias) {
      v = fma(v, strip.get(a.weight + i), strip.get(a.bias + i));
    } else if (a.weight) {
      v = v * strip.get(a.weight + i);
    } else if (a.bias) {
      v = v + strip.get(a.bias + i);
    }
    strip.put(y + i, v);
  });
}

/// A sum for each of some rows: body(sum of a row, its number).
template <class T, class Body>
NORMA_INLINE void sum_each(int count, T* sums, Body body) {
  Vec<T> lane[row_slots] = {};
  for (int m = 0; m < count; ++m) {
    Sums<T> sum;
    body(sum, m);
    lane[m] = sum.lanes();
  }
  combine_each(lane, sums, Plus{});
}

/// The mean is found in two steps, center + rest, and the variance around the center: with |mean| >> std a float mean alone would
/// be off by more than the result may be. Eight rows go side by side, so that none waits for its own sums.
template <class T, class Stored>
void layer_norm(const NormRows<T, Stored>& a) {
  const T n = static_cast<T>(a.n);
  for (std::int64_t r = 0; r < a.rows; r += row_slots) {
    const int count = static_cast<int>(a.rows - r < row_slots ? a.rows - r : row_slots);
    const auto row = [&](int m) { return a.x + (r + m) * a.x_row; };
    T center[row_slots] = {}, rest[row_slots] = {}, squares[row_slots], rstd[row_slots];
    if (!a.rms) {
      sum_each(count, center, [&](Sums<T>& sum, int m) { strips<T>(a.n, NORMA_STRIP { sum.chain[chain] += strip.get(row(m) + i); }); });
      for (T& c : center) c /= n;
      Vec<T> lane[row_slots] = {};
      sum_each(count, squares, [&](Sums<T>& square, int m) {
        const T c = center[m];
        Sums<T> sum;
        strips<T>(a.n, NORMA_STRIP {
          const Vec<T> d = strip.get(row(m) + i, c) - c;
          sum.chain[chain] += d;
          square.chain[chain] = fma(d, d, square.chain[chain]);
        });
        lane[m] = sum.lanes();
      });
      combine_each(lane, rest, Plus{});
      for (T& x : rest) x /= n;
    } else {
      sum_each(count, squares, [&](Sums<T>& square, int m) {
        strips<T>(a.n, NORMA_STRIP {
          const Vec<T> v = strip.get(row(m) + i);
          square.chain[chain] = fma(v, v, square.chain[chain]);
        });
      });
    }
    for (int m = 0; m < count; ++m) {
      const T spread = squares[m] / n - rest[m] * rest[m], variance = spread < 0 ? T(0) : spread;
      rstd[m] = static_cast<T>(1 / __builtin_sqrt(static_cast<double>(variance) + a.eps));
      if (a.mean) a.mean[r + m] = center[m] + rest[m];
      if (a.rstd) a.rstd[r + m] = rstd[m];
    }
    for (int m = 0; m < count; ++m) affine(a, row(m), a.y + (r + m) * a.y_row, center[m], rstd[m], -rest[m] * rstd[m]);
  }
}

/// With g = dy weight and h = (x - mean) rstd: dx = rstd (g - mean(g) - h mean(g h)) (+ add); rms has no mean(g).
template <class T, class Stored>
void layer_norm_backward(const NormRows<T, Stored>& a) {
  const T n = static_cast<T>(a.n);
  for (std::int64_t r = 0; r < a.rows; r += row_slots) {
    const int count = static_cast<int>(a.rows - r < row_slots ? a.rows - r : row_slots);
    const Stored *x = a.x + r * a.x_row, *dy = a.dy + r * a.dy_row;
    T center[row_slots] = {}, sum_d[row_slots], sum_g[row_slots], sum_gd[row_slots];
    Vec<T> lane_g[row_slots] = {}, lane_gd[row_slots] = {};
    for (int m = 0; m < count && !a.rms; ++m) center[m] = a.mean[r + m];
    sum_each(count, sum_d, [&](Sums<T>& ds, int m) {
      const T c = center[m];
      Sums<T> gs, gds;
      strips<T>(a.n, NORMA_STRIP {
        const Vec<T> d = strip.get(x + m * a.x_row + i, c) - c;
        Vec<T> g = strip.get(dy + m * a.dy_row + i);
        if (a.weight) g = g * strip.get(a.weight + i);
        ds.chain[chain] += d;
        gs.chain[chain] += g;
        gds.chain[chain] = fma(g, d, gds.chain[chain]);
      });
      lane_g[m] = gs.lanes(), lane_gd[m] = gds.lanes();
    });
    combine_each(lane_g, sum_g, Plus{}), combine_each(lane_gd, sum_gd, Plus{});
    T shift[row_slots], factor[row_slots], mean_g[row_slots];
    const T* rstd = a.rstd + r;
    for (int m = 0; m < count; ++m) {
      const T rest = a.rms ? T(0) : sum_d[m] / n;  // what the saved mean, which is rounded, lacks
      mean_g[m] = a.rms ? T(0) : sum_g[m] / n;
      shift[m] = -rest * rstd[m], factor[m] = -(rstd[m] * (sum_gd[m] - rest * sum_g[m]) / n);
    }
    // Lines of memory are taken whole: of rows that lie a power of two apart few stay in the first cache until the next register's turn.
    const auto columns = [&](auto strip, std::int64_t i, auto registers) __attribute__((always_inline)) {
      constexpr int R = decltype(registers)::value;
      Vec<T> dweight[R] = {}, dbias[R] = {};
      for (int m = 0; m < count; ++m) {
        const Stored *from = x + m * a.x_row + i, *gradient = dy + m * a.dy_row + i, *add = a.add ? a.add + (r + m) * a.add_row + i : nullptr;
        Stored* to = a.dx ? a.dx + (r + m) * a.dx_row + i : nullptr;
        const Vec<T> by = splat(rstd[m]), from_mean = splat(shift[m]), of_h = splat(factor[m]);
#pragma GCC unroll 4
        for (int v = 0; v < R; ++v) {
          const int j = v * lanes<T>;
          const Vec<T> h = fma(strip.get(from + j) - center[m], by, from_mean);
          const Vec<T> d = strip.get(gradient + j), g = a.weight ? d * strip.get(a.weight + i + j) : d;
          dweight[v] = fma(d, h, dweight[v]), dbias[v] += d;
          if (!to) continue;
          const Vec<T> own = fma(of_h, h, g - mean_g[m]) * by;
          strip.put(to + j, add ? strip.get(add + j) + own : own);
        }
      }
#pragma GCC unroll 4
      for (int v = 0; v < R; ++v) {
        const std::int64_t j = i + v * lanes<T>;
        if (a.dweight) strip.put(a.dweight + j, strip.get(a.dweight + j) + dweight[v]);
        if (a.dbias) strip.put(a.dbias + j, strip.get(a.dbias + j) + dbias[v]);
      }
    };
    constexpr int width = lanes<T>, side_by_side = register_bytes < 64 ? 64 / register_bytes : 2;
    std::int64_t i = 0;
    for (; i + side_by_side * width <= a.n; i += side_by_side * width) columns(Whole{}, i, std::integral_constant<int, side_by_side>{});
    for (; i + width <= a.n; i += width) columns(Whole{}, i, std::integral_constant<int, 1>{});
    if (i < a.n) columns(Part{static_cast<int>(a.n - i)}, i, std::integral_constant<int, 1>{});
  }
}

template <class T, class Stored = T>
constexpr LayerNormTable<T, Stored> table = {layer_norm<T, Stored>, layer_norm_backward<T, Stored>};

}  // namespace

const LayerNormKernels layer_norm_kernels = {table<float>, table<double>, table<float, std::uint16_t>};

}  // namespace norma::cpu::NORMA_ISA
