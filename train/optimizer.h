// Optimizers, schedules, clipping and the moving average of weights.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "nn/module.h"

namespace norma::train {

/// No decay on biases, norms, positions and class tokens: tensors of rank 1 and names with pos_embed, relative_position_bias_table,
/// cls_token or dist_token.
bool decays(const std::string& name, const Tensor& parameter);

struct OptimizerConfig {
  std::string kind = "adamw";  // adamw | sgd
  double weight_decay = 0.05;  // adamw: decoupled from the gradient; sgd: times the weight added to it, so that it gathers in the momentum
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double momentum = 0.9;
  std::function<bool(const std::string& name, const Tensor& parameter)> decays = train::decays;  // whether weight_decay is for it
};

/// State is keyed by parameter name, of tied weights the first; what state() gives, load() takes up to the bit. Beside its count of steps
/// adamw keeps two tensors for each parameter, sgd one, and none where momentum is 0.
class Optimizer {
 public:
  /// Of the parameters that are tracked by now: leaves, none computed from others. They are on one device; for adamw of one dtype, f32 or f64,
  /// and contiguous. Throws naming what is not. A parameter without a gradient is passed over in that step, but there is one count of steps for
  /// all, on which adamw's bias correction depends (torch.optim.AdamW counts for each).
  static std::unique_ptr<Optimizer> make(const OptimizerConfig& config, nn::Module& model);
  virtual ~Optimizer() = default;
  /// One update from the parameters' gradients times gradient_scale; then drops them. The three that follow, in turn; a
  /// gradient_scale that is not finite makes no update and counts none. Throws, as apply() does, where no parameter has a gradient.
  void step(double lr, double gradient_scale = 1);

  /// Puts the learning rate, which is zero or more, and the step's number to where apply() reads them.
  virtual void prepare(double lr) = 0;
  /// The update, from gradient_scale, which must be f64 [] on the parameters' device; where it is not finite all stays as it is. Drops the
  /// gradients. Of adamw it waits for nothing on the device, so that it can be captured.
  virtual void apply(const Tensor& gradient_scale) = 0;
  /// The update was taken: the next one has the next number.
  virtual void advance() = 0;
  virtual Device device() const = 0;

  virtual nn::Named state() const = 0;  // tensors by name ("m/blocks.0..."), step count included
  virtual void load(const nn::Named& state) = 0;

  /// As train::gradient_squares, of the parameters that it updates, without a walk over the model; to the bit the same where no other has a
  /// gradient.
  virtual Tensor gradient_squares() = 0;
};

struct ScheduleConfig {
  std::string kind = "cosine";  // cosine | constant
  double lr = 1e-3, min_lr = 1e-6, warmup_lr = 1e-6;  // warmup_lr: of step 0, where there is a warm-up
  Index warmup_steps = 0, total_steps = 0;  // cosine: min_lr from total_steps on; to be given. A warm-up may be longer than that
};
double learning_rate(const ScheduleConfig& config, Index step);  // throws naming the field that is out of range

/// Sum of the squares of all gradients, f64 [] on the parameters' device; deterministic, non-finite where a gradient is.
Tensor gradient_squares(nn::Module& model);
/// Euclidean norm of all gradients together: the root of gradient_squares.
double gradient_norm(nn::Module& model);

/// What those gradients are to be multiplied by, f64 []: 1, or what cuts them to the norm `clip` (0: never cut); NaN where squares or
/// loss [] are not finite.
Tensor gradient_scale(const Tensor& squares, const Tensor& loss, double clip);

/// Exponential moving average of what learns; buffers and frozen parameters are taken as they are.
class Ema {
 public:
  Ema(nn::Module& model, double decay);
  /// Throws where the parameters are not those it began with, by name, order, shape, dtype and device; then nothing has changed.
  void update(nn::Module& model);
  const nn::Named& values() const { return values_; }
  void load(const nn::Named& values);

 private:
  double decay_;
  nn::Named values_;   // as nn::state
  nn::Named targets_;  // the same, and under the further names of tied weights too
};

}  // namespace norma::train
