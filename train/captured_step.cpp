#include "train/captured_step.h"

#include <algorithm>

namespace norma::train {

std::unique_ptr<CapturedStep> CapturedStep::make(Learner& run, const TrainConfig& config,
                                                 const datasets::ImageSet& set) {
  const bool labelled =
      std::all_of(set.labels.begin(), set.labels.end(),
                  [classes = run.model.config().classes](std::uint8_t label) { return label < classes; });
  if (run.optimizer->device().kind != Device::Kind::cuda || !config.graph || config.anomaly ||
      config.optimizer != "adamw" || !labelled)
    return nullptr;
  return std::unique_ptr<CapturedStep>(new CapturedStep(run, config));
}

void CapturedStep::capture(const datasets::Batch& batch) {
  batch_.images = empty(batch.images.shape(), place_of(batch.images)),
  batch_.labels = empty(batch.labels.shape(), place_of(batch.labels));
  step_ = StepGraph::capture(run_.model, *run_.optimizer, static_cast<std::uint64_t>(config_.seed), [&] {
    const StepOutputs out = forward_backward(run_.model, batch_, config_);
    const Tensor squares = run_.apply(out.loss, config_.clip);
    return std::vector<Tensor>{out.loss, out.correct, squares, out.fro};
  });
  if (!step_)
    fail("{}: a training step cannot be captured there; --no-graph does without", name(run_.optimizer->device()));
  if (run_.ema) average_ = backend(run_.optimizer->device()).capture([&] { run_.ema->update(run_.model); });
}

std::pair<StepResult, Learner::Update> CapturedStep::take(const datasets::Batch& batch, Index step, double lr,
                                                          const std::function<void()>& meanwhile) {
  if (!step_) capture(batch);
  copy_into(batch_.images, batch.images);
  copy_into(batch_.labels, batch.labels);
  const std::vector<double> numbers = step_->replay(step, lr, meanwhile);
  StepResult result;
  result.loss = numbers[0], result.accuracy = numbers[1] / static_cast<double>(batch.labels.numel()),
  result.fro = numbers[3];
  const Learner::Update update = run_.finish(result.loss, numbers[2], config_.clip);
  if (update.taken && average_) average_->replay();
  return {result, update};
}

}  // namespace norma::train
