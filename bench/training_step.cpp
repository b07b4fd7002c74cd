#include "bench/training_step.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "autograd/ops.h"
#include "nn/layers.h"

namespace norma::bench {
namespace {

constexpr std::uint64_t seed = 1;
constexpr double rate = 1e-3, clip = 1;

}  // namespace

TrainingStep::TrainingStep(nn::Module& model, std::function<Tensor()> loss, DType activations, bool capture)
    : model_(model),
      loss_(std::move(loss)),
      optimizer_(train::Optimizer::make({}, model)),
      activations_(activations),
      capture_(capture) {}

Tensor TrainingStep::forward_backward() {
  const nn::Training training;
  const nn::RoundedParameters rounded(model_, activations_, optimizer_->device());
  const Tensor loss = loss_();
  backward(loss);
  return loss.detach();
}

double TrainingStep::take_by_ops(Index number) {
  double value;
  {
    const RandomScope random(seed, static_cast<std::uint64_t>(number));
    value = forward_backward().item();
  }
  const double norm = std::sqrt(optimizer_->gradient_squares().item());
  optimizer_->step(rate, norm > clip ? clip / norm : 1);
  backend(optimizer_->device()).synchronize();
  return value;
}

void TrainingStep::capture_step() {
  graph_ = train::StepGraph::capture(model_, *optimizer_, seed, [&] {
    const Tensor loss = forward_backward(), squares = optimizer_->gradient_squares();
    optimizer_->apply(train::gradient_scale(squares, loss, clip));
    return std::vector<Tensor>{loss, squares};
  });
}

void TrainingStep::launch(Index number) {
  graph_->launch(number, rate);
  optimizer_->advance();
}

double TrainingStep::take(Index number) {
  if (capture_ && warm_ && !graph_) {
    capture_step();
    capture_ = graph_ != nullptr;
  }
  warm_ = true;
  if (!graph_) return take_by_ops(number);
  const std::vector<double> numbers = graph_->replay(number, rate);
  if (std::isfinite(numbers[0]) && std::isfinite(numbers[1])) optimizer_->advance();
  return numbers[0];
}

std::vector<std::pair<std::size_t, std::string>> by_kind(const std::vector<std::string>& launches) {
  std::map<std::string, std::size_t> counts;
  for (const std::string& name : launches) ++counts[name];
  std::vector<std::pair<std::size_t, std::string>> kinds;
  for (const auto& [name, count] : counts) kinds.emplace_back(count, name);
  std::stable_sort(kinds.begin(), kinds.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  return kinds;
}

}  // namespace norma::bench
