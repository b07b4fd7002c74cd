#include "train/step.h"

#include "train/constraint.h"

namespace norma::train {

Index count_correct(const Tensor& logits, const Tensor& labels) {
  return static_cast<Index>(sum(equal(argmax(logits.detach(), -1), labels)).item());
}

StepResult forward_backward(models::ViT& model, const datasets::Batch& batch, const TrainConfig& config, Index step) {
  const double weight = parse_fro("penalty", config.penalty);
  std::optional<FroNorms> norms;
  if (weight > 0) norms.emplace(model);
  std::optional<AnomalyScope> anomalies;
  if (config.anomaly) anomalies.emplace();
  const RandomScope random(static_cast<std::uint64_t>(config.seed), static_cast<std::uint64_t>(step));
  const nn::Training training;

  StepResult result;
  const Tensor logits = model(batch.images);  // [B, classes]
  Tensor loss = cross_entropy(logits, batch.labels, config.label_smoothing);
  if (norms) {
    const Tensor fro = norms->take();
    result.fro = fro.item();
    loss = loss + weight * fro;
  }
  backward(loss);
  result.loss = loss.item();
  result.accuracy = static_cast<double>(count_correct(logits, batch.labels)) / static_cast<double>(batch.labels.numel());
  if (anomalies) result.anomaly = anomalies->first();
  return result;
}

}  // namespace norma::train
