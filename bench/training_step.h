// A training step as the benchmarks time it: forward, backward, gradients clipped to norm 1, AdamW; by ops, or, on a
// device that can, captured once and replayed (train/step_graph.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "train/step_graph.h"

namespace norma::bench {

class TrainingStep {
 public:
  /// `loss` draws from the innermost RandomScope. Its tensors and `model`, whose activations are of the given dtype, stay where they are.
  /// `capture`: replay where the device can.
  TrainingStep(nn::Module& model, std::function<Tensor()> loss, DType activations, bool capture);
  /// Step `number`, done when this returns; the loss. The first runs op by op, so that all is loaded, and the second is captured.
  double take(Index number);
  /// Gives a replayed step to the device and does not wait for it, as a loop may that does not look at its losses; it has to be one that counts.
  void launch(Index number);
  bool replayed() const { return graph_ != nullptr; }
  /// What a replay launches (Backend::Graph::launches); none where steps run op by op.
  std::vector<std::string> launches() const { return graph_ ? graph_->launches() : std::vector<std::string>(); }

 private:
  Tensor forward_backward();  // the loss
  double take_by_ops(Index number);
  void capture_step();

  nn::Module& model_;
  std::function<Tensor()> loss_;
  std::unique_ptr<train::Optimizer> optimizer_;
  DType activations_;
  bool capture_, warm_ = false;
  std::unique_ptr<train::StepGraph> graph_;  // its numbers: loss, sum of the squares of the gradients
};

/// How often each name is among them, the most frequent first.
std::vector<std::pair<std::size_t, std::string>> by_kind(const std::vector<std::string>& launches);

}  // namespace norma::bench
