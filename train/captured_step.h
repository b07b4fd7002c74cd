// A training step that the device has recorded once, as one graph: forward, backward, gradient norm, clipping, optimizer. What changes
// from step to step lies in the device's memory and is written before each replay: the batch, the learning rate and bias corrections
// (Optimizer::prepare), the ids of the random streams. Its numbers come back in one copy.
#pragma once

#include <memory>
#include <utility>

#include "train/step.h"
#include "train/trained.h"

namespace norma::train {

class CapturedStep {
 public:
  /// Null where steps run one by one: on devices that capture nothing, without config.graph, with config.anomaly (which looks at every
  /// value), with sgd, and where `set` has labels that are no class of the model (their check belongs to the eager step).
  static std::unique_ptr<CapturedStep> make(Trained& run, const TrainConfig& config, const datasets::ImageSet& set);

  /// The bits of forward_backward and Trained::update. The first call records; the device must have run a step before, so that nothing is
  /// loaded meanwhile. All batches have one shape.
  std::pair<StepResult, Trained::Update> take(const datasets::Batch& batch, Index step, double lr);

 private:
  CapturedStep(Trained& run, const TrainConfig& config) : run_(run), config_(config) {}
  void record(const datasets::Batch& batch);

  Trained& run_;
  const TrainConfig& config_;
  datasets::Batch batch_;  // what the graph reads
  Tensor stream_ids_;      // i64 [most_draws]
  std::uint64_t draws_ = 0;
  Tensor numbers_;  // f64 [4]: loss, correct, sum of the gradients' squares, mean ||A||_F
  std::unique_ptr<Backend::Graph> step_, average_;  // average_: the moving average of the weights; null without
};

}  // namespace norma::train
