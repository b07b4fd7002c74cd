// What an optimizer does to parameters, element by element.
#include "backends/cpu/kernels/strips.h"
#include "backends/cpu/kernels/vmath.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

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
constexpr ParametersTable<T> table = {adamw<T>};

}  // namespace

const ParametersKernels parameters_kernels = {table<float>, table<double>};

}  // namespace norma::cpu::NORMA_ISA
