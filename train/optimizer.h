// Optimizers, schedules, clipping and the moving average of weights.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "nn/module.h"

namespace norma::train {

struct OptimizerConfig {
  std::string kind = "adamw";  // adamw | sgd
  double lr = 1e-3, weight_decay = 0.05;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double momentum = 0.9;
};

/// State is keyed by parameter name; save() and load() are exact.
class Optimizer {
 public:
  static std::unique_ptr<Optimizer> make(const OptimizerConfig& config, nn::Module& model);
  virtual ~Optimizer() = default;
  /// One update from the parameters' gradients times gradient_scale; then drops them.
  virtual void step(double lr, double gradient_scale = 1) = 0;
  virtual nn::Named state() const = 0;  // tensors by name ("m/blocks.0..."), step count included
  virtual void load(const nn::Named& state) = 0;
};

/// No decay on biases, norms, positions and class tokens: tensors of rank 1 and names with pos_embed or cls_token.
bool decays(const std::string& name, const Tensor& parameter);

struct ScheduleConfig {
  std::string kind = "cosine";  // cosine | constant
  double lr = 1e-3, min_lr = 1e-6, warmup_lr = 1e-6;
  Index warmup_steps = 0, total_steps = 1;
};
double learning_rate(const ScheduleConfig& config, Index step);

/// Euclidean norm of all gradients together; deterministic, non-finite where a gradient is.
double gradient_norm(nn::Module& model);

/// Exponential moving average of the parameters.
class Ema {
 public:
  Ema(nn::Module& model, double decay);
  void update(nn::Module& model);
  const nn::Named& values() const { return values_; }
  void load(const nn::Named& values);

 private:
  double decay_;
  nn::Named values_;
};

}  // namespace norma::train
