#include "bench/training_step.h"

#include <cmath>

#include "autograd/ops.h"
#include "nn/layers.h"

namespace norma::bench {
namespace {

constexpr Index most_draws = 4096;
constexpr std::uint64_t seed = 1;
constexpr double rate = 1e-3, clip = 1;

}  // namespace

TrainingStep::TrainingStep(nn::Module& model, std::function<Tensor()> loss, bool capture)
    : model_(model), loss_(std::move(loss)), optimizer_(train::Optimizer::make({}, model)), capture_(capture) {}

double TrainingStep::take_by_ops(Index number) {
  double value;
  {
    const nn::Training training;
    const RandomScope random(seed, static_cast<std::uint64_t>(number));
    const Tensor loss = loss_();
    backward(loss);
    value = loss.item();
  }
  const double norm = train::gradient_norm(model_);
  optimizer_->step(rate, norm > clip ? clip / norm : 1);
  backend(optimizer_->device()).synchronize();
  return value;
}

void TrainingStep::record() {
  const Device device = optimizer_->device();
  stream_ids_ = zeros({most_draws}, {DType::i64, device});
  numbers_ = zeros({2}, {DType::f64, device});
  const TrustIndices checked;  // the step by ops has looked
  graph_ = backend(device).capture([&] {
    const nn::Training training;
    const RandomScope random(seed, stream_ids_);
    const Tensor loss = loss_();
    backward(loss);
    draws_ = RandomScope::drawn();
    const Tensor squares = train::gradient_squares(model_);
    optimizer_->apply(train::gradient_scale(squares, loss.detach(), clip));
    copy_into(select(numbers_, 0, 0), loss.detach());
    copy_into(select(numbers_, 0, 1), squares);
  });
}

double TrainingStep::take(Index number) {
  if (capture_ && warm_ && !graph_) {
    record();
    capture_ = graph_ != nullptr;
  }
  warm_ = true;
  if (!graph_) return take_by_ops(number);
  std::vector<std::uint64_t> ids(draws_);
  for (std::uint64_t k = 0; k < draws_; ++k) ids[k] = stream_id(static_cast<std::uint64_t>(number), k);
  backend(stream_ids_.device()).upload(stream_ids_.view().data, ids.data(), ids.size() * sizeof(std::uint64_t));
  optimizer_->prepare(rate);
  graph_->replay();
  const std::vector<double> numbers = numbers_.values();  // waits
  if (std::isfinite(numbers[0]) && std::isfinite(numbers[1])) optimizer_->advance();
  nn::for_each_parameter(model_, [](const std::string&, Tensor& p) { p.storage()->bump(); });
  return numbers[0];
}

}  // namespace norma::bench
