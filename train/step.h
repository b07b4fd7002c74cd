// One training step up to the gradients: what the loop does each time, and what a replay does again.
#pragma once

#include <optional>

#include "datasets/loader.h"
#include "train/config.h"

namespace norma::train {

/// What a step computes beside the gradients: 0-d, on the model's device.
struct StepOutputs {
  Tensor loss, correct;  // correct: i64, of the batch's images
  Tensor fro;            // with a penalty: the mean ||A||_F that it weighs; else none
};
/// Leaves the gradients in the parameters. Draws from the innermost RandomScope; reads nothing back, so that it can be captured.
StepOutputs forward_backward(models::ViT& model, const datasets::Batch& batch, const TrainConfig& config);

struct StepResult {
  double loss = 0, accuracy = 0;
  double fro = 0;                  // with a penalty: the mean ||A||_F that it weighs
  std::optional<Anomaly> anomaly;  // with config.anomaly: the first value that is not finite
};

/// The same, and its outputs on the host. A function of the weights, the batch, config (seed, dropout, label smoothing, penalty) and the
/// number of the step alone.
StepResult forward_backward(models::ViT& model, const datasets::Batch& batch, const TrainConfig& config, Index step);

/// i64 [].
Tensor count_correct(const Tensor& logits, const Tensor& labels);

}  // namespace norma::train
