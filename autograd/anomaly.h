// Anomaly mode: while an AnomalyScope lives, all that the ops of its thread produce is checked, and the first value that
// is not finite is told with its op, its place and what went in. Outside a scope each op pays one branch.
//
//   AnomalyScope anomalies;
//   backward(loss(model(x)));
//   if (anomalies.first()) ...
//
// Checked are outputs of ops that run with gradients on, in the order they run, then gradients in the order of the sweep. What an
// op computes inside itself (fused kernels, constants under NoGrad) counts as that op.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"

namespace norma {

class Ctx;

/// One tensor at the moment of an anomaly. Statistics are those of its finite elements, NaN where there are none.
struct TensorSummary {
  std::string role;  // "output", "input 1", "gradient of the output", "saved 0", ...
  Shape shape;
  DType dtype = DType::f32;
  double min, max, mean, rms;
  Index non_finite = 0, first_non_finite = -1;  // how many, and where the first is, row-major; -1: none
  const Storage* storage = nullptr;  // tells a parameter from others; not to be read
};
TensorSummary summarize(std::string role, const Tensor& x);

struct Anomaly {
  std::string op;
  bool backward = false;        // its derivative, not the op itself
  Index number = 0;             // how many ops ran before it in this scope, forward; backward: before the op was recorded
  const void* place = nullptr;  // the innermost AnomalyPlace when the op ran forward
  TensorSummary output;         // backward: the gradient it returned
  std::vector<TensorSummary> inputs;
};

class AnomalyScope {
 public:
  [[nodiscard]] AnomalyScope();
  ~AnomalyScope();
  AnomalyScope(const AnomalyScope&) = delete;
  static bool active() { return current_ != nullptr; }
  const std::optional<Anomaly>& first() const { return first_; }

 private:
  friend class AnomalyPlace;
  friend struct AnomalyHooks;
  struct Recorded {
    Index number;
    const void* place;
  };
  static inline constinit thread_local AnomalyScope* current_ = nullptr;
  AnomalyScope* outer_;
  const void* place_ = nullptr;
  Index ran_ = 0;
  std::unordered_map<std::uint64_t, Recorded> recorded_;  // by number of the node
  std::optional<Anomaly> first_;
};

/// While alive, ops of this thread happen at `place`, which means something to whoever reads Anomaly::place.
class AnomalyPlace {
 public:
  explicit AnomalyPlace(const void* place) : scope_(AnomalyScope::current_) {
    if (scope_) outer_ = scope_->place_, scope_->place_ = place;
  }
  ~AnomalyPlace() {
    if (scope_) scope_->place_ = outer_;
  }
  AnomalyPlace(const AnomalyPlace&) = delete;

 private:
  AnomalyScope* scope_;
  const void* outer_ = nullptr;
};

/// What record() and the backward sweep call inside a scope; for the engine's own files.
struct AnomalyHooks {
  static void ran(const char* op, const Tensor& y, std::span<const Tensor> inputs);
  static void recorded(const Node& node);
  static const void* place_of(const Node& node);
  /// The derivative of `node` turned g into `gradients`, one for each input; those that ctx took have what had arrived in them.
  static void went_back(const Node& node, const Ctx& ctx, const Tensor& g, std::span<const Tensor> gradients);
  /// Two gradients of what `node` computed were added.
  static void summed(const Node& node, const Tensor& a, const Tensor& b, const Tensor& sum);
};

}  // namespace norma
