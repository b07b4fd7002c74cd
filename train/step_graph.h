// A training step as one graph that the device has captured, and its replays. A graph bakes in what is a number on the
// host, so what changes from step to step lies in the device's memory and is written before each replay: learning rate
// and bias corrections (Optimizer::prepare) and the ids of the random streams. The step's numbers come back in one
// copy.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "core/backend.h"
#include "train/optimizer.h"

namespace norma::train {

class StepGraph {
 public:
  /// Forward and backward passes and Optimizer::apply, without waiting for the device; draws from the innermost
  /// RandomScope. Returns up to most_numbers tensors of one number each, whose values a replay gives back; in place of
  /// a null one it gives 0.
  using Work = std::function<std::vector<Tensor>()>;
  static constexpr Index most_numbers = 8;

  /// Captures `work` on the optimizer's device; null where that captures nothing. The device must have done the same
  /// work before, so that nothing is loaded meanwhile and class labels have been checked (TrustIndices). The model, the
  /// optimizer and all that `work` reads stay where they are.
  static std::unique_ptr<StepGraph> capture(nn::Module& model, Optimizer& optimizer, std::uint64_t seed,
                                            const Work& work);

  /// Does step `number` with learning rate `rate` and waits for it: the numbers, in the order of the tensors. Its
  /// random streams are those of RandomScope(seed, number). Optimizer::advance, where the step counts, is the caller's.
  /// `meanwhile` runs here while the device works.
  std::vector<double> replay(Index number, double rate, const std::function<void()>& meanwhile = {});
  /// The same without waiting, and without its numbers: whether the step counts is not known then.
  void launch(Index number, double rate);
  /// Backend::Graph::launches of the step.
  std::vector<std::string> launches() const { return graph_->launches(); }

 private:
  StepGraph(nn::Module& model, Optimizer& optimizer);

  nn::Module& model_;
  Optimizer& optimizer_;
  Tensor stream_ids_, numbers_;            // i64 [most_draws]; f64 [most_numbers]
  std::uint64_t draws_ = 0;                // ids that a step uses
  std::size_t count_ = 0;                  // numbers that come back
  std::unique_ptr<Backend::Graph> graph_;  // reads and writes the tensors above
};

}  // namespace norma::train
