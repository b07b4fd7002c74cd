// The step of `norma train` as a graph (step_graph.h): forward, backward, gradient norm, clipping, optimizer.
// Beside it the batch that the graph reads, and the moving average of the weights, a graph of its own that is replayed
// where the step was taken.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "train/learner.h"
#include "train/step.h"
#include "train/step_graph.h"

namespace norma::train {

class CapturedStep {
 public:
  /// Null where steps run one by one: on devices that capture nothing, without config.graph, with config.anomaly (which looks at every
  /// value), with sgd, and where `set` has labels that are no class of the model (their check belongs to the eager step).
  static std::unique_ptr<CapturedStep> make(Learner& run, const TrainConfig& config, const datasets::ImageSet& set);

  /// The bits of forward_backward and Learner::update. The first call captures; the device must have run a step before, so that nothing is
  /// loaded meanwhile. All batches have one shape. `meanwhile`, the next batch's making, runs while the device works.
  std::pair<StepResult, Learner::Update> take(const datasets::Batch& batch, Index step, double lr, const std::function<void()>& meanwhile = {});

 private:
  CapturedStep(Learner& run, const TrainConfig& config) : run_(run), config_(config) {}
  void capture(const datasets::Batch& batch);

  Learner& run_;
  const TrainConfig& config_;
  datasets::Batch batch_;  // what the graph reads
  std::unique_ptr<StepGraph> step_;       // its numbers: loss, correct, sum of the gradients' squares, mean ||A||_F
  std::unique_ptr<Backend::Graph> average_;  // null without --ema
};

}  // namespace norma::train
