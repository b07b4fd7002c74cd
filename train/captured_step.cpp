#include "train/captured_step.h"

#include <algorithm>

namespace norma::train {
namespace {

constexpr Index most_draws = 4096;

}  // namespace

std::unique_ptr<CapturedStep> CapturedStep::make(Trained& run, const TrainConfig& config, const datasets::ImageSet& set) {
  const bool labelled = std::all_of(set.labels.begin(), set.labels.end(),
                                    [classes = run.model.config().classes](std::uint8_t label) { return label < classes; });
  if (run.optimizer->device().kind != Device::Kind::cuda || !config.graph || config.anomaly || config.optimizer != "adamw" || !labelled)
    return nullptr;
  return std::unique_ptr<CapturedStep>(new CapturedStep(run, config));
}

void CapturedStep::record(const datasets::Batch& batch) {
  const Device device = run_.optimizer->device();
  batch_.images = empty(batch.images.shape(), place_of(batch.images)), batch_.labels = empty(batch.labels.shape(), place_of(batch.labels));
  stream_ids_ = zeros({most_draws}, {DType::i64, device});
  numbers_ = zeros({4}, {DType::f64, device});
  const TrustIndices checked;
  step_ = backend(device).capture([&] {
    const RandomScope random(static_cast<std::uint64_t>(config_.seed), stream_ids_);
    const StepOutputs out = forward_backward(run_.model, batch_, config_);
    draws_ = RandomScope::drawn();
    const Tensor squares = run_.apply(out.loss, config_.clip);
    const Tensor found[] = {out.loss, out.correct, squares, out.fro};
    for (Index i = 0; i < numbers_.numel(); ++i)
      if (found[i]) copy_into(select(numbers_, 0, i), found[i]);
  });
  if (run_.ema) average_ = backend(device).capture([&] { run_.ema->update(run_.model); });
}

std::pair<StepResult, Trained::Update> CapturedStep::take(const datasets::Batch& batch, Index step, double lr) {
  if (!step_) record(batch);
  copy_into(batch_.images, batch.images);
  copy_into(batch_.labels, batch.labels);
  std::vector<std::uint64_t> ids(draws_);
  for (std::uint64_t k = 0; k < draws_; ++k) ids[k] = stream_id(static_cast<std::uint64_t>(step), k);
  backend(stream_ids_.device()).upload(stream_ids_.view().data, ids.data(), ids.size() * sizeof(std::uint64_t));
  run_.optimizer->prepare(lr);
  step_->replay();

  const std::vector<double> numbers = numbers_.values();
  StepResult result;
  result.loss = numbers[0], result.accuracy = numbers[1] / static_cast<double>(batch.labels.numel()), result.fro = numbers[3];
  const Trained::Update update = run_.finish(result.loss, numbers[2]);
  if (update.taken && average_) average_->replay();
  nn::for_each_parameter(run_.model, [](const std::string&, Tensor& p) { p.storage()->bump(); });
  return {result, update};
}

}  // namespace norma::train
