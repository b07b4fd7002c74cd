// One model in training: what a step changes and a checkpoint holds.
#pragma once

#include <memory>

#include "train/config.h"
#include "train/run_folder.h"

namespace norma::train {

struct Learner {
  /// Weights and optimizer as config.seed begins them.
  Learner(const TrainConfig& config, const models::ViTConfig& shape, Place place);
  Learner(const Learner&) = delete;  // the optimizer knows where the model is

  struct Update {
    double gradient_norm = 0;  // before clipping
    bool taken = false;        // false: nothing changed but the counters, the gradients are dropped
    std::string why;           // not taken: "the loss is not finite", the gradient is not, or is too large
    bool too_large = false;    // the last of these: its square is more than adamw keeps in f32, so that a weight would not move any more
  };
  /// One step of the optimizer from the gradients in the parameters, cut to the norm `clip` (0: as they are).
  Update update(double loss, double lr, double clip);

  // The same in parts, for a captured step: optimizer->prepare(lr), apply, finish, then the moving average where the step was taken.
  /// On the device alone; returns the sum of the squares of the gradients, f64 [].
  Tensor apply(const Tensor& loss, double clip);
  /// Counts the step. `clip`: that of apply.
  Update finish(double loss, double gradient_squares, double clip);

  nn::Named tensors();  // "model/...", "optimizer/...", "ema/..."
  /// Throws UsageError where a run that `before` began is another one.
  void check_begun(const TrainConfig& before) const;
  /// To where a checkpoint stood. Throws UsageError when it was made with another configuration or data set.
  void restore(const RunState& saved, const nn::Named& tensors);

  models::ViT model;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<Ema> ema;  // null without --ema
  RunState state;

 private:
  double beyond(double clip) const;
  bool squares_in_f32_;  // adamw's
  std::string folder_;  // config.out, for messages
};

/// Throws where a checkpoint was not made with `config`, which its folder's config.json holds. What decides no bit of a
/// run may differ, and the device, which may be another machine's.
void check_made_with(const TrainConfig& config, const RunState& saved, const std::filesystem::path& checkpoint,
                     const std::filesystem::path& folder);

}  // namespace norma::train
