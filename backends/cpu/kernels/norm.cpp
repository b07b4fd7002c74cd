// Rows through softmax and its derivative. A row is read from memory once; the later passes find it in the first cache.
#include "backends/cpu/kernels/strips.h"
#include "backends/cpu/kernels/vmath.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

template <class T>
NORMA_INLINE T log_of(T x) {
  return static_cast<T>(__builtin_log(static_cast<double>(x)));
}

template <class T>
void softmax(std::int64_t rows, std::int64_t n, const T* x, std::int64_t x_row, T* y, std::int64_t y_row, bool log) {
  for (; rows > 0; --rows, x += x_row, y += y_row) {
    const T top = row_max<T>(n, x);
    Sums<T> sum;
    if (log) {
      strips<T>(n, NORMA_STRIP { sum.chain[chain] += exp_fast(strip.get(x + i, minus_infinity<T>) - top); });
      const T log_sum = log_of(sum.total());
      strips<T>(n, NORMA_STRIP { strip.put(y + i, (strip.get(x + i) - top) - log_sum); });
    } else {
      strips<T>(n, NORMA_STRIP {
        const Vec<T> e = exp_fast(strip.get(x + i, minus_infinity<T>) - top);
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

template <class T>
constexpr NormTable<T> table = {softmax<T>, softmax_backward<T>};

}  // namespace

const NormKernels norm_kernels = {table<float>, table<double>};

}  // namespace norma::cpu::NORMA_ISA
