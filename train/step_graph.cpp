#include "train/step_graph.h"

#include "autograd/ops.h"
#include "core/error.h"

namespace norma::train {
namespace {

constexpr Index most_draws = 4096;

}  // namespace

StepGraph::StepGraph(nn::Module& model, Optimizer& optimizer)
    : model_(model),
      optimizer_(optimizer),
      stream_ids_(zeros({most_draws}, {DType::i64, optimizer.device()})),
      numbers_(zeros({most_numbers}, {DType::f64, optimizer.device()})) {}

std::unique_ptr<StepGraph> StepGraph::capture(nn::Module& model, Optimizer& optimizer, std::uint64_t seed,
                                              const Work& work) {
  std::unique_ptr<StepGraph> step(new StepGraph(model, optimizer));
  const TrustIndices checked;
  step->graph_ = backend(optimizer.device()).capture([&] {
    const RandomScope random(seed, step->stream_ids_);
    const std::vector<Tensor> found = work();
    step->draws_ = RandomScope::drawn();
    step->count_ = found.size();
    if (step->count_ > most_numbers) fail("StepGraph: {} numbers; at most {} come back", step->count_, most_numbers);
    for (std::size_t i = 0; i < found.size(); ++i)
      if (found[i]) copy_into(select(step->numbers_, 0, static_cast<Index>(i)), found[i].detach());
  });
  return step->graph_ ? std::move(step) : nullptr;
}

void StepGraph::launch(Index number, double rate) {
  std::vector<std::uint64_t> ids(draws_);
  for (std::uint64_t k = 0; k < draws_; ++k) ids[k] = stream_id(static_cast<std::uint64_t>(number), k);
  backend(stream_ids_.device()).upload(stream_ids_.view().data, ids.data(), ids.size() * sizeof(std::uint64_t));
  optimizer_.prepare(rate);
  graph_->replay();
  nn::for_each_parameter(model_, [](const std::string&, Tensor& p) { p.storage()->bump(); });
}

std::vector<double> StepGraph::replay(Index number, double rate, const std::function<void()>& meanwhile) {
  launch(number, rate);
  if (meanwhile) meanwhile();
  std::vector<double> numbers = numbers_.values();  // waits
  numbers.resize(count_);
  return numbers;
}

}  // namespace norma::train
