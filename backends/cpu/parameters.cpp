// The verbs over all parameters of a model: the sum of squares of their gradients, AdamW, moving averages. One parallel region for all of them, cut
// into pieces of a fixed size, each of one tensor.
#include <cmath>
#include <vector>

#include "backends/common/convert.h"
#include "backends/common/loops.h"
#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

constexpr Index grain = 16384;  // elements of a piece

/// The pieces of tensors of these sizes, one after the other.
class Pieces {
 public:
  explicit Pieces(std::size_t tensors) { first_.reserve(tensors + 1), first_.push_back(0); }
  void add(Index size) { first_.push_back(first_.back() + (size + grain - 1) / grain); }
  Index count() const { return first_.back(); }
  Index first(std::size_t tensor) const { return first_[tensor]; }
  /// Which tensor piece `i` is of, and where in it the piece begins.
  std::pair<std::size_t, Index> at(Index i) const {
    const auto tensor = static_cast<std::size_t>(std::upper_bound(first_.begin(), first_.end(), i) - first_.begin()) - 1;
    return {tensor, (i - first_[tensor]) * grain};
  }

 private:
  std::vector<Index> first_;
};

template <class T>
double squares(const StridedLoop<1>& loop, Index begin) {
  double sum = 0;
  loop.run(begin, std::min(loop.size(), begin + grain), [&](Index n, const auto& row, const auto& step) {
    const T* p = reinterpret_cast<const T*>(row[0]);
    if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double>) {
      if (step[0] == 1) {
        sum += NORMA_KERNELS(reduce_kernels).of<T>().sum_of_squares(n, p);
        return;
      }
    }
    for (Index i = 0; i < n; ++i) {
      const double value = convert<double>(p[i * step[0]]);
      sum += value * value;
    }
  });
  return sum;
}

template <class T>
void update(const AdamW& args) {
  const double *rates = args.rates.as<double>(), scale = *args.gradient_scale.as<double>();
  if (!std::isfinite(scale)) return;
  AdamWArgs<T> all{};
  all.beta1 = args.beta1, all.beta2 = args.beta2, all.eps = args.eps;
  all.step_size = rates[0] / rates[1];
  all.root_correction = std::sqrt(rates[2]);
  all.gradient_scale = scale;
  Pieces pieces(args.parameters.size());
  for (const AdamW::Parameter& p : args.parameters) pieces.add(p.value.numel());
  parallel_tasks(pieces.count(), [&](Index i) {
    const auto [tensor, begin] = pieces.at(i);
    const AdamW::Parameter& p = args.parameters[tensor];
    AdamWArgs<T> part = all;
    part.keep = 1 - rates[0] * p.decay;
    part.n = std::min(p.value.numel() - begin, grain);
    part.p = p.value.as<T>() + begin;
    part.g = p.gradient.as<T>() + begin;
    part.m = p.m.as<T>() + begin;
    part.v = p.v.as<T>() + begin;
    NORMA_KERNELS(parameters_kernels).of<T>().adamw(part);
  });
}

constexpr Index block = 512;  // elements of an average that are in work at a time, so that what they meet in stays in the nearest cache

/// averaged() by element-wise kernels one after the other.
template <class T>
void step_average(T* average, const T* value, Index n, T rest) {
  const auto kernel = NORMA_KERNELS(elementwise_kernels).of<T>().binary;
  T step[block];
  for (Index i = 0; i < n; i += block) {
    const Index count = std::min(block, n - i);
    kernel(BinaryOp::sub, count, value + i, 1, average + i, 1, step);
    kernel(BinaryOp::mul, count, step, 1, &rest, 0, step);
    kernel(BinaryOp::add, count, average + i, 1, step, 1, average + i);
  }
}
template <>
void step_average(bf16* average, const bf16* value, Index n, bf16 rest) {
  const auto kernel = NORMA_KERNELS(elementwise_kernels).of<float>().binary;
  const auto factor = static_cast<float>(rest);
  float mean[block], step[block];
  bf16 rounded[block];
  const auto round = [&](Index count) { narrow_rows(1, count, step, rounded, count), widen_rows(1, count, rounded, count, step); };
  for (Index i = 0; i < n; i += block) {
    const Index count = std::min(block, n - i);
    widen_rows(1, count, average + i, count, mean);
    widen_rows(1, count, value + i, count, step);
    kernel(BinaryOp::sub, count, step, 1, mean, 1, step), round(count);
    kernel(BinaryOp::mul, count, step, 1, &factor, 0, step), round(count);
    kernel(BinaryOp::add, count, mean, 1, step, 1, mean);
    narrow_rows(1, count, mean, average + i, count);
  }
}

}  // namespace

void CpuBackend::sum_of_squares(std::span<const View> xs, const View& out) {
  std::vector<StridedLoop<1>> loops;
  loops.reserve(xs.size());
  Pieces pieces(xs.size());
  for (const View& x : xs) pieces.add(loops.emplace_back(x).size());
  std::vector<double> partial(static_cast<std::size_t>(pieces.count()));
  parallel_tasks(pieces.count(), [&](Index i) {
    const auto [tensor, begin] = pieces.at(i);
    visit_dtype(xs[tensor].dtype, [&, tensor = tensor, begin = begin](auto tag) {
      partial[static_cast<std::size_t>(i)] = squares<typename decltype(tag)::type>(loops[tensor], begin);
    });
  });
  double total = 0;
  for (std::size_t tensor = 0; tensor < xs.size(); ++tensor) {
    double sum = 0;
    for (Index i = pieces.first(tensor); i < pieces.first(tensor + 1); ++i) sum += partial[static_cast<std::size_t>(i)];
    total += sum;
  }
  *out.as<double>() = total;
}

void CpuBackend::adamw(const AdamW& args) {
  if (args.parameters.empty()) return;
  args.parameters[0].value.dtype == DType::f64 ? update<double>(args) : update<float>(args);
}

void CpuBackend::moving_averages(std::span<const MovingAverage> all, double decay) {
  Pieces pieces(all.size());
  for (const MovingAverage& one : all) pieces.add(one.average.numel());
  parallel_tasks(pieces.count(), [&](Index i) {
    const auto [tensor, begin] = pieces.at(i);
    const MovingAverage& one = all[tensor];
    const auto step = [&, first = begin]<class T>(T) {
      step_average<T>(one.average.as<T>() + first, one.value.as<T>() + first, std::min(one.average.numel() - first, grain), convert<T>(1 - decay));
    };
    one.average.dtype == DType::f64 ? step(double{}) : one.average.dtype == DType::bf16 ? step(bf16{}) : step(float{});
  });
}

}  // namespace norma::cpu
