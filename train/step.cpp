#include "train/step.h"

#include "train/constraint.h"

namespace norma::train {

Tensor count_correct(const Tensor& logits, const Tensor& labels) {
  return sum(equal(argmax(logits.detach(), -1), labels));
}

StepOutputs forward_backward(models::ViT& model, const datasets::Batch& batch, const TrainConfig& config) {
  const double weight = parse_fro(config.named("penalty"), config.penalty);
  std::optional<FroNorms> norms;
  if (weight > 0) norms.emplace(model);
  const nn::Training training;
  const nn::RoundedParameters rounded(model, model.config().activations, batch.images.device());

  StepOutputs out;
  const Tensor logits = model(batch.images);  // [B, classes]
  Tensor loss = cross_entropy(logits, batch.labels, config.label_smoothing);
  if (norms) {
    const Tensor fro = norms->take();
    out.fro = fro.detach();
    loss = loss + weight * fro;
  }
  backward(loss);
  out.loss = loss.detach();
  out.correct = count_correct(logits, batch.labels);
  return out;
}

StepResult forward_backward(models::ViT& model, const datasets::Batch& batch, const TrainConfig& config, Index step) {
  std::optional<AnomalyScope> anomalies;
  if (config.anomaly) anomalies.emplace();
  const RandomScope random(static_cast<std::uint64_t>(config.seed), static_cast<std::uint64_t>(step));
  const StepOutputs out = forward_backward(model, batch, config);

  StepResult result;
  result.loss = out.loss.item();
  result.accuracy = out.correct.item() / static_cast<double>(batch.labels.numel());
  if (out.fro) result.fro = out.fro.item();
  if (anomalies) result.anomaly = anomalies->first();
  return result;
}

}  // namespace norma::train
