// Rows through layer norm and RMS norm, and their derivatives. A row is read from memory once; the later passes find it in the
// first cache. Activations may be bf16: they are widened as they are read, rounded as they are written, and all between is f32.
#include "backends/cpu/kernels/strips.h"
#include "backends/cpu/kernels/vmath.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#define NORMA_STRIP [&](auto strip, std::int64_t i, [[maybe_unused]] int chain) __attribute__((always_inline))

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

/// The mean is found in two steps, center + rest, and the variance around the center: with |mean| >> std a float mean alone would
/// be off by more than the result may be.
template <class T, class Stored>
void layer_norm(const NormRows<T, Stored>& a) {
  const T n = static_cast<T>(a.n);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const Stored* x = a.x + r * a.x_row;
    T center = 0, rest = 0;
    Sums<T> sum, squares;
    if (!a.rms) {
      strips<T>(a.n, NORMA_STRIP { sum.chain[chain] += strip.get(x + i); });
      center = sum.total() / n;
      sum = {};
      strips<T>(a.n, NORMA_STRIP {
        const Vec<T> d = strip.get(x + i, center) - center;
        sum.chain[chain] += d;
        squares.chain[chain] = fma(d, d, squares.chain[chain]);
      });
      rest = sum.total() / n;
    } else {
      strips<T>(a.n, NORMA_STRIP {
        const Vec<T> v = strip.get(x + i);
        squares.chain[chain] = fma(v, v, squares.chain[chain]);
      });
    }
    const T spread = squares.total() / n - rest * rest;
    const T variance = spread < 0 ? T(0) : spread;
    const T rstd = static_cast<T>(1 / __builtin_sqrt(static_cast<double>(variance) + a.eps));
    if (a.mean) a.mean[r] = center + rest;
    if (a.rstd) a.rstd[r] = rstd;
    affine(a, x, a.y + r * a.y_row, center, rstd, -rest * rstd);
  }
}

/// With g = dy weight and h = (x - mean) rstd: dx = rstd (g - mean(g) - h mean(g h)) (+ add); rms has no mean(g).
template <class T, class Stored>
void layer_norm_backward(const NormRows<T, Stored>& a) {
  const T n = static_cast<T>(a.n);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const Stored *x = a.x + r * a.x_row, *dy = a.dy + r * a.dy_row;
    const T center = a.rms ? T(0) : a.mean[r], rstd = a.rstd[r];
    Sums<T> sum_g, sum_gd, sum_d;
    strips<T>(a.n, NORMA_STRIP {
      const Vec<T> d = strip.get(x + i, center) - center;
      Vec<T> g = strip.get(dy + i);
      if (a.weight) g = g * strip.get(a.weight + i);
      sum_d.chain[chain] += d;
      sum_g.chain[chain] += g;
      sum_gd.chain[chain] = fma(g, d, sum_gd.chain[chain]);
    });
    // The saved mean is rounded; `rest` is what it lacks.
    const T rest = a.rms ? T(0) : sum_d.total() / n;
    const T mean_g = a.rms ? T(0) : sum_g.total() / n;
    const T mean_gh = rstd * (sum_gd.total() - rest * sum_g.total()) / n;
    const Vec<T> scale = splat(rstd), shift = splat(-rest * rstd), factor = splat(-mean_gh);
    Stored* dx = a.dx + r * a.dx_row;
    const Stored* add = a.add ? a.add + r * a.add_row : nullptr;
    strips<T>(a.n, NORMA_STRIP {
      const Vec<T> h = fma(strip.get(x + i) - center, scale, shift);
      const Vec<T> d = strip.get(dy + i);
      if (a.dweight) strip.put(a.dweight + i, fma(d, h, strip.get(a.dweight + i)));
      if (a.dbias) strip.put(a.dbias + i, d + strip.get(a.dbias + i));
      const Vec<T> g = a.weight ? d * strip.get(a.weight + i) : d;
      if (!a.dx) return;
      const Vec<T> own = fma(factor, h, g - mean_g) * rstd;
      strip.put(dx + i, add ? strip.get(add + i) + own : own);
    });
  }
}

template <class T, class Stored = T>
constexpr LayerNormTable<T, Stored> table = {layer_norm<T, Stored>, layer_norm_backward<T, Stored>};

}  // namespace

const LayerNormKernels layer_norm_kernels = {table<float>, table<double>, table<float, std::uint16_t>};

}  // namespace norma::cpu::NORMA_ISA
