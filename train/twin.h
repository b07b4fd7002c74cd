// Two models that differ in their attention function alone, trained in lock-step: same initial weights, same batches, same dropout.
// What is logged is where they part.
#pragma once

#include "train/loop.h"

namespace norma::train {

/// How far b is from a.
struct Gap {
  double distance = 0;  // ||b - a|| / ||a||; NaN where a is zero
  double cosine = 0;    // <a, b> / (||a|| ||b||); NaN where either is zero
};
/// Rows of one moment, in model order: a block's output, or all parameters of a block ("blocks.3") or of what is outside the blocks
/// ("patch_embed", "head", ...) taken as one vector.
using Gaps = std::vector<std::pair<std::string, Gap>>;

/// The two sides before and after one step.
struct TwinStep {
  Index step = 0;
  double loss[2] = {}, accuracy[2] = {}, gradient_norm[2] = {};
  Gaps outputs;    // "blocks.*.out", on this step's batch; the last block's is of the tokens that the head reads
  Gaps gradients;  // of the step, before clipping
  Gaps weights;    // after the step
};

struct TwinOutcome {
  Ending ending = Ending::finished;
  Index step = 0;  // how many were made
  Evaluation test[2];
  std::vector<TwinStep> steps;  // those that were logged
};

/// Trains `config` with its own attention function (side 0) and with `other` (side 1). Writes a run folder: config.json with the field
/// "other", metrics.jsonl with one TwinStep a line. A step that one side cannot take (Learner::Update) is skipped on that side.
TwinOutcome train_twin(const TrainConfig& config, const std::string& other, const std::atomic<bool>& stop, const Watcher& watcher);

}  // namespace norma::train
