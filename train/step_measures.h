// What a logged step says about the inside of the model, as parts of a line of metrics.jsonl. Recording changes no bit of training.
#pragma once

#include "inspect/probe.h"
#include "train/json.h"

namespace norma::train {

/// One object per attention layer: its place, and per head what the Probe measured.
Json attention_json(inspect::Probe& probe);

/// Norms of every parameter around one optimizer step. They are summed on the parameters' device and read once, after the step.
class ParameterWatch {
 public:
  /// Before the step: takes the norms of weights and gradients (before clipping), and copies of the weights.
  explicit ParameterWatch(nn::Module& model);
  /// After it: {"blocks.0.attn.qkv.weight": {"weight", "grad", "update"}, ...}, where `update` is how far the step moved the
  /// parameter, as a share of its norm: |after - before| / |before|; absent where |before| is zero. Seven digits.
  Json after_step() const;

 private:
  enum Measure : Index { weight, grad, update, measures };
  void square(const Tensor& t, std::size_t row, Measure measure) const;

  struct Row {
    std::string name;
    Tensor parameter, before;
  };
  std::vector<Row> rows_;
  Tensor squares_;  // [rows, measures]: sums of squares
};

}  // namespace norma::train
