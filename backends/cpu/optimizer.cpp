// AdamW as one pass over the parameter and its moments.
#include <cmath>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

constexpr Index grain = 16384;

template <class T>
void update(const AdamW& args) {
  const double count = static_cast<double>(args.step);
  AdamWArgs<T> all{};
  all.beta1 = args.beta1, all.beta2 = args.beta2, all.eps = args.eps;
  all.keep = 1 - args.lr * args.decay;
  all.step_size = args.lr / (1 - std::pow(args.beta1, count));
  all.root_correction = std::sqrt(1 - std::pow(args.beta2, count));
  all.gradient_scale = args.gradient_scale;
  parallel_for(args.parameter.numel(), grain, [&](Index begin, Index end) {
    AdamWArgs<T> part = all;
    part.n = end - begin;
    part.p = args.parameter.as<T>() + begin;
    part.g = args.gradient.as<T>() + begin;
    part.m = args.m.as<T>() + begin;
    part.v = args.v.as<T>() + begin;
    NORMA_KERNELS(norm_kernels).of<T>().adamw(part);
  });
}

}  // namespace

bool CpuBackend::adamw(const AdamW& args) {
  const DType dtype = args.parameter.dtype;
  for (const View* view : {&args.parameter, &args.gradient, &args.m, &args.v})
    if (view->dtype != dtype || !view->layout.contiguous()) return false;
  if (dtype == DType::f32) {
    update<float>(args);
  } else if (dtype == DType::f64) {
    update<double>(args);
  } else {
    return false;
  }
  return true;
}

}  // namespace norma::cpu
