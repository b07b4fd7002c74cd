#include "bench/training_step.h"

#include <cmath>

#include "autograd/ops.h"
#include "nn/layers.h"

namespace norma::bench {
namespace {

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
  recorded_ = train::RecordedStep::record(model_, *optimizer_, seed, [&] {
    const nn::Training training;
    const Tensor loss = loss_();
    backward(loss);
    const Tensor squares = train::gradient_squares(model_);
    optimizer_->apply(train::gradient_scale(squares, loss.detach(), clip));
    return std::vector<Tensor>{loss.detach(), squares};
  });
}

double TrainingStep::take(Index number) {
  if (capture_ && warm_ && !recorded_) {
    record();
    capture_ = recorded_ != nullptr;
  }
  warm_ = true;
  if (!recorded_) return take_by_ops(number);
  const std::vector<double> numbers = recorded_->replay(number, rate);
  if (std::isfinite(numbers[0]) && std::isfinite(numbers[1])) optimizer_->advance();
  return numbers[0];
}

}  // namespace norma::bench
