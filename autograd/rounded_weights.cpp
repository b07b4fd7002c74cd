#include "autograd/rounded_weights.h"

#include <vector>

#include "autograd/ops.h"
#include "core/backend.h"

namespace norma {

namespace {
thread_local RoundedWeights* innermost = nullptr;
}

RoundedWeights::RoundedWeights(std::span<const Tensor> parameters, DType dtype) : dtype_(dtype), outer_(innermost) {
  const bool wanted = dtype != DType::f32 && !parameters.empty() && backend(parameters[0].device()).rounds_weights();
  std::vector<View> from, to;
  for (const Tensor& p : wanted ? parameters : std::span<const Tensor>()) {
    if (p.dtype() != DType::f32 || !p.is_contiguous() || p.numel() == 0 || p.device() != parameters[0].device()) continue;
    const Copy copy{p.detach(), empty(p.shape(), {dtype, p.device()}), p.storage()->version()};
    if (!copies_.emplace(p.view().data, copy).second) continue;  // tied weights are one
    from.push_back(copy.source.view()), to.push_back(copy.rounded.view());
  }
  if (!from.empty()) backend(parameters[0].device()).round_weights(from, to);
  innermost = this;  // last: where memory runs out on the way there is no scope
}

RoundedWeights::~RoundedWeights() { innermost = outer_; }

Tensor RoundedWeights::of(const Tensor& parameter, DType dtype) {
  if (!innermost || !parameter || dtype != innermost->dtype_) return {};
  const auto found = innermost->copies_.find(parameter.view().data);
  if (found == innermost->copies_.end()) return {};
  const Copy& copy = found->second;
  // From the same address on as many elements without gaps: the same, whatever shape a layer gives them (a patch's kernel as a matrix).
  const bool same = copy.source.numel() == parameter.numel() && parameter.is_contiguous() && parameter.dtype() == DType::f32;
  if (!same || copy.version != parameter.storage()->version()) return {};
  return copy.rounded.shape() == parameter.shape() ? copy.rounded : reshape(copy.rounded, parameter.shape());
}

}  // namespace norma
