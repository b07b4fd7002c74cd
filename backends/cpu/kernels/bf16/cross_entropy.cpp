// Rows through cross-entropy and its derivative. Logits may be bf16: they are widened as they are read, gradients rounded as they are
// written, and all between is f32.
#include "backends/cpu/kernels/strips.h"
#include "backends/cpu/kernels/vmath.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

template <class T, class Stored>
void cross_entropy(const CrossEntropyRows<T, Stored>& a) {
  const double smooth = a.label_smoothing, each = smooth / static_cast<double>(a.n);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const Stored* x = a.logits + r * a.logits_row;
    const Stored* target = a.targets ? a.targets + r * a.targets_row : nullptr;
    const T top = row_max<T>(a.n, x);
    Sums<T> sum, sum_x, sum_t, sum_tx;
    strips<T>(a.n, NORMA_STRIP { sum.chain[chain] += exp_fast(strip.get(x + i, minus_infinity<T>) - top); });
    if (smooth != 0) strips<T>(a.n, NORMA_STRIP { sum_x.chain[chain] += strip.get(x + i, top) - top; });
    double weight = 1, chosen;  // sum t and sum t (x - top) of the target alone
    if (target) {
      strips<T>(a.n, NORMA_STRIP {
        const Vec<T> t = strip.get(target + i), below = strip.get(x + i, top) - top;
        sum_t.chain[chain] += t;
        sum_tx.chain[chain] = fma(t, t == Vec<T>{} ? Vec<T>{} : below, sum_tx.chain[chain]);  // of a class without a share nothing, at -inf too
      });
      weight = static_cast<double>(sum_t.total());
      chosen = static_cast<double>(sum_tx.total());
    } else {
      chosen = static_cast<double>((Part{1}.get(x + a.classes[r]) - top)[0]);
    }
    const double total = static_cast<double>(sum.total());
    const double mass = (1 - smooth) * weight + smooth;
    double loss = __builtin_log(total) * mass;
    if (smooth != 1) loss -= (1 - smooth) * chosen;
    if (smooth != 0) loss -= each * static_cast<double>(sum_x.total());
    a.loss[r] = static_cast<T>(loss);
    if (a.sums) a.sums[2 * r] = top, a.sums[2 * r + 1] = static_cast<T>(mass / total);
  }
}

template <class T, class Stored>
void cross_entropy_backward(const CrossEntropyRows<T, Stored>& a) {
  const double smooth = a.label_smoothing;
  const Vec<T> shift = splat(static_cast<T>(-smooth / static_cast<double>(a.n))), share = splat(static_cast<T>(smooth - 1)), scale = splat(a.scale);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    const Stored* x = a.logits + r * a.logits_row;
    Stored* dx = a.dlogits + r * a.dlogits_row;
    const T top = a.sums[2 * r];
    const Vec<T> factor = splat(a.sums[2 * r + 1]);
    const auto without_target = [&](auto strip, std::int64_t i) __attribute__((always_inline)) {
      return fma(exp_fast(strip.get(x + i) - top), factor, shift);
    };
    if (a.targets) {
      const Stored* target = a.targets + r * a.targets_row;
      strips<T>(a.n, NORMA_STRIP { strip.put(dx + i, fma(strip.get(target + i), share, without_target(strip, i)) * scale); });
    } else {
      strips<T>(a.n, NORMA_STRIP { strip.put(dx + i, without_target(strip, i) * scale); });
      Part{1}.put(dx + a.classes[r], (without_target(Part{1}, a.classes[r]) + share) * scale);
    }
  }
}

template <class T, class Stored = T>
constexpr CrossEntropyTable<T, Stored> table = {cross_entropy<T, Stored>, cross_entropy_backward<T, Stored>};

}  // namespace

const CrossEntropyKernels cross_entropy_kernels = {table<float>, table<double>, table<float, std::uint16_t>};

}  // namespace norma::cpu::NORMA_ISA
