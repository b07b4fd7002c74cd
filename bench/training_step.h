// A training step as the benchmarks time it: forward, backward, gradients clipped to norm 1, AdamW; by ops, or, on a device that can,
// recorded once and replayed, as train/captured_step.h does for the Vision Transformer.
#pragma once

#include <functional>
#include <memory>

#include "core/backend.h"
#include "train/optimizer.h"

namespace norma::bench {

class TrainingStep {
 public:
  /// `loss` draws from the innermost RandomScope. Its tensors and `model` stay where they are. `capture`: replay where the device can.
  TrainingStep(nn::Module& model, std::function<Tensor()> loss, bool capture);
  /// Step `number`, done when this returns; the loss. The first runs op by op, so that all is loaded, and the second is recorded.
  double take(Index number);
  bool replayed() const { return graph_ != nullptr; }

 private:
  double take_by_ops(Index number);
  void record();

  nn::Module& model_;
  std::function<Tensor()> loss_;
  std::unique_ptr<train::Optimizer> optimizer_;
  bool capture_, warm_ = false;
  Tensor stream_ids_, numbers_;  // i64 [most_draws]; f64 [2]: loss, sum of the squares of the gradients
  std::uint64_t draws_ = 0;
  std::unique_ptr<Backend::Graph> graph_;  // reads and writes the tensors above
};

}  // namespace norma::bench
