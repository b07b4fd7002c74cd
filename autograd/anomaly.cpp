#include "autograd/anomaly.h"

#include <cmath>
#include <limits>

#include "autograd/dispatch.h"
#include "autograd/graph.h"

namespace norma {
namespace {

bool finite(const Tensor& x) {
  if (!x || !is_floating(x.dtype()) || x.numel() == 0) return true;
  if (std::isfinite(sum_of_squares(x))) return true;
  for (const double v : x.values())  // squares of large f64 overflow
    if (!std::isfinite(v)) return false;
  return true;
}

bool is_view_of(const Tensor& y, std::span<const Tensor> inputs) {
  for (const Tensor& x : inputs)
    if (x && x.storage() == y.storage()) return true;
  return false;
}

}  // namespace

TensorSummary summarize(std::string role, const Tensor& x) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  TensorSummary s{std::move(role), x.shape(), x.dtype(), nan, nan, nan, nan, 0, -1, x.storage().get()};
  const std::vector<double> values = x.values();
  double largest = 0, sum = 0, squares = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double v = values[i];
    if (!std::isfinite(v)) {
      if (s.non_finite++ == 0) s.first_non_finite = static_cast<Index>(i);
      continue;
    }
    largest = std::max(largest, std::abs(v));
    s.min = std::isnan(s.min) ? v : std::min(s.min, v);
    s.max = std::isnan(s.max) ? v : std::max(s.max, v);
  }
  const auto count = static_cast<double>(values.size()) - static_cast<double>(s.non_finite);
  if (count == 0) return s;
  const double unit = largest > 0 ? largest : 1;  // squares of f64 near its limit would overflow
  for (const double v : values)
    if (std::isfinite(v)) sum += v / unit, squares += v / unit * (v / unit);
  s.mean = sum / count * unit;
  s.rms = std::sqrt(squares / count) * unit;
  return s;
}

AnomalyScope::AnomalyScope() : outer_(current_) { current_ = this; }
AnomalyScope::~AnomalyScope() { current_ = outer_; }

void AnomalyHooks::ran(const char* op, const Tensor& y, std::span<const Tensor> inputs) {
  AnomalyScope& scope = *AnomalyScope::current_;
  const Index number = scope.ran_++;
  if (scope.first_ || is_view_of(y, inputs) || finite(y)) return;
  Anomaly a{op, false, number, scope.place_, summarize("output", y), {}};
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i]) a.inputs.push_back(summarize(fmt::format("input {}", i), inputs[i]));
  scope.first_ = std::move(a);
}

void AnomalyHooks::recorded(const Node& node) {
  AnomalyScope& scope = *AnomalyScope::current_;
  scope.recorded_[node.number] = {scope.ran_ - 1, scope.place_};
}

const void* AnomalyHooks::place_of(const Node& node) {
  const auto& recorded = AnomalyScope::current_->recorded_;
  const auto found = recorded.find(node.number);
  return found == recorded.end() ? nullptr : found->second.place;
}

void AnomalyHooks::went_back(const Node& node, const Ctx& ctx, const Tensor& g, std::span<const Tensor> gradients) {
  AnomalyScope& scope = *AnomalyScope::current_;
  for (std::size_t i = 0; i < gradients.size() && !scope.first_; ++i) {
    if (!node.inputs[i] || finite(gradients[i])) continue;
    const auto found = scope.recorded_.find(node.number);
    Anomaly a{node.name, true, found == scope.recorded_.end() ? 0 : found->second.number, place_of(node),
              summarize(fmt::format("gradient of input {}", i), gradients[i]), {}};
    a.inputs.push_back(summarize("gradient of the output", g));
    if (ctx.took(i)) a.inputs.push_back(summarize(fmt::format("gradient of input {} from elsewhere", i), ctx.arrived(static_cast<int>(i))));
    int kept = 0;
    for (const Saved& s : node.saved) {
      const std::string role = s.own_output ? "output" : fmt::format("saved {}", kept++);
      if (s.tensor) a.inputs.push_back(summarize(role, s.tensor));
    }
    scope.first_ = std::move(a);
  }
}

void AnomalyHooks::summed(const Node& node, const Tensor& a, const Tensor& b, const Tensor& sum) {
  AnomalyScope& scope = *AnomalyScope::current_;
  if (scope.first_ || finite(sum)) return;
  scope.first_ = Anomaly{"sum of gradients", true, scope.ran_, place_of(node), summarize("output", sum),
                         {summarize("input 0", a), summarize("input 1", b)}};
}

}  // namespace norma
