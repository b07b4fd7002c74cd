// Rows through softmax, cross-entropy and their derivatives, and AdamW. A row is read from memory once; the later passes find it
// in the first cache.
#include "backends/cpu/kernels/strips.h"
#include "backends/cpu/kernels/vmath.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#define NORMA_STRIP [&](auto strip, std::int64_t i, [[maybe_unused]] int chain) __attribute__((always_inline))

template <class T>
constexpr T infinity = static_cast<T>(__builtin_inf());

template <class T>
NORMA_INLINE T row_max(std::int64_t n, const T* x) {
  Vec<T> best[chains];
  for (auto& b : best) b = splat(-infinity<T>);
  strips<T>(n, NORMA_STRIP { best[chain] = vmax(best[chain], strip.get(x + i, -infinity<T>)); });
  return max_lanes(vmax(vmax(best[0], best[1]), vmax(best[2], best[3])));
}

template <class T>
NORMA_INLINE T log_of(T x) {
  return static_cast<T>(__builtin_log(static_cast<double>(x)));
}

template <class T>
void softmax(std::int64_t rows, std::int64_t n, const T* x, std::int64_t x_row, T* y, std::int64_t y_row, bool log) {
  for (; rows > 0; --rows, x += x_row, y += y_row) {
    const T top = row_max(n, x);
    Sums<T> sum;
    if (log) {
      strips<T>(n, NORMA_STRIP { sum.chain[chain] += exp_fast(strip.get(x + i, -infinity<T>) - top); });
      const T log_sum = log_of(sum.total());
      strips<T>(n, NORMA_STRIP { strip.put(y + i, (strip.get(x + i) - top) - log_sum); });
    } else {
      strips<T>(n, NORMA_STRIP {
        const Vec<T> e = exp_fast(strip.get(x + i, -infinity<T>) - top);
        sum.chain[chain] += e;
        strip.put(y + i, e);
      });
      const T total = sum.total();
      strips<T>(n, NORMA_STRIP { strip.put(y + i, strip.get(y + i) / total); });
    }
  }
}

template <class T>
void softmax_backward(std::int64_t rows, std::int64_t n, const T* y, std::int64_t y_row, const T* dy, std::int64_t dy_row,
                      T* dx, std::int64_t dx_row, bool log) {
  for (; rows > 0; --rows, y += y_row, dy += dy_row, dx += dx_row) {
    Sums<T> sum;
    if (log) {
      strips<T>(n, NORMA_STRIP { sum.chain[chain] += strip.get(dy + i); });
      const T total = sum.total();
      strips<T>(n, NORMA_STRIP { strip.put(dx + i, strip.get(dy + i) - exp_fast(strip.get(y + i)) * total); });
    } else {
      strips<T>(n, NORMA_STRIP { sum.chain[chain] = fma(strip.get(dy + i), strip.get(y + i), sum.chain[chain]); });
      const T total = sum.total();
      strips<T>(n, NORMA_STRIP { strip.put(dx + i, strip.get(y + i) * (strip.get(dy + i) - total)); });
    }
  }
}

/// The loss of a row is -sum_c t_c log p_c with t = (1 - s) target + s / n.
template <class T>
void cross_entropy(const CrossEntropyRows<T>& a) {
  const double smooth = a.label_smoothing, each = smooth / static_cast<double>(a.n);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const T* x = a.logits + r * a.logits_row;
    T* dx = a.dlogits ? a.dlogits + r * a.dlogits_row : nullptr;
    const T* target = a.targets ? a.targets + r * a.targets_row : nullptr;
    const T top = row_max(a.n, x);
    Sums<T> sum, sum_x, sum_t, sum_tx;
    strips<T>(a.n, NORMA_STRIP {
      const Vec<T> e = exp_fast(strip.get(x + i, -infinity<T>) - top);
      sum.chain[chain] += e;
      if (dx) strip.put(dx + i, e);
    });
    if (smooth != 0) strips<T>(a.n, NORMA_STRIP { sum_x.chain[chain] += strip.get(x + i, top) - top; });
    double weight = 1, chosen;  // sum t and sum t (x - top) of the target alone
    if (target) {
      strips<T>(a.n, NORMA_STRIP {
        const Vec<T> t = strip.get(target + i);
        sum_t.chain[chain] += t;
        sum_tx.chain[chain] = fma(t, strip.get(x + i, top) - top, sum_tx.chain[chain]);
      });
      weight = static_cast<double>(sum_t.total());
      chosen = static_cast<double>(sum_tx.total());
    } else {
      chosen = static_cast<double>(x[a.classes[r]] - top);
    }
    const double total = static_cast<double>(sum.total());
    const double mass = (1 - smooth) * weight + smooth;
    double loss = __builtin_log(total) * mass - (1 - smooth) * chosen;
    if (smooth != 0) loss -= each * static_cast<double>(sum_x.total());
    a.loss[r * a.loss_step] = static_cast<T>(loss);
    if (!dx) continue;
    const Vec<T> factor = splat(static_cast<T>(mass / total)), shift = splat(static_cast<T>(-each));
    const Vec<T> share = splat(static_cast<T>(smooth - 1));
    strips<T>(a.n, NORMA_STRIP {
      Vec<T> d = fma(strip.get(dx + i), factor, shift);
      if (target) d = fma(strip.get(target + i), share, d);
      strip.put(dx + i, d);
    });
    if (!target) dx[a.classes[r]] += static_cast<T>(smooth - 1);
  }
}

template <class T>
void adamw(const AdamWArgs<T>& a) {
  const Vec<T> beta1 = splat(static_cast<T>(a.beta1)), rest1 = splat(static_cast<T>(1 - a.beta1));
  const Vec<T> beta2 = splat(static_cast<T>(a.beta2)), rest2 = splat(static_cast<T>(1 - a.beta2));
  const Vec<T> keep = splat(static_cast<T>(a.keep)), step = splat(static_cast<T>(-a.step_size));
  const Vec<T> root = splat(static_cast<T>(1 / a.root_correction)), eps = splat(static_cast<T>(a.eps));
  const T scale = static_cast<T>(a.gradient_scale);
  strips<T>(a.n, NORMA_STRIP {
    const Vec<T> g = strip.get(a.g + i) * scale;
    const Vec<T> m = fma(g, rest1, strip.get(a.m + i) * beta1);
    const Vec<T> v = fma(g * g, rest2, strip.get(a.v + i) * beta2);
    strip.put(a.m + i, m);
    strip.put(a.v + i, v);
    const Vec<T> denominator = fma(sqrt(v), root, eps);
    strip.put(a.p + i, fma(m / denominator, step, strip.get(a.p + i) * keep));
  });
}

template <class T>
constexpr NormTable<T> table = {softmax<T>, softmax_backward<T>, cross_entropy<T>, adamw<T>};

}  // namespace

const NormKernels norm_kernels = {table<float>, table<double>};

}  // namespace norma::cpu::NORMA_ISA
