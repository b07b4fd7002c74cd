// AdamW and SGD over named parameters, schedules, the gradient norm and the moving average.
#include "train/optimizer.h"

#include <cmath>
#include <numbers>
#include <tuple>
#include <vector>

#include "core/suggest.h"

namespace norma::train {
namespace {

Tensor clone(const Tensor& t) {
  Tensor copy = empty(t.shape(), place_of(t));
  copy_into(copy, t.detach());
  return copy;
}

void check(const OptimizerConfig& c) {
  auto range = [](const char* field, double value, bool inside, const char* expected) {
    if (!inside) fail("optimizer: {} is {}, must be {}", field, value, expected);
  };
  range("lr", c.lr, c.lr >= 0 && std::isfinite(c.lr), "zero or more");
  range("weight_decay", c.weight_decay, c.weight_decay >= 0 && std::isfinite(c.weight_decay), "zero or more");
  range("beta1", c.beta1, c.beta1 >= 0 && c.beta1 < 1, "in [0, 1)");
  range("beta2", c.beta2, c.beta2 >= 0 && c.beta2 < 1, "in [0, 1)");
  range("eps", c.eps, c.eps > 0 && std::isfinite(c.eps), "above zero");
  range("momentum", c.momentum, c.momentum >= 0 && c.momentum < 1, "in [0, 1)");
}

/// What all optimizers share: walking over the parameters that learn, and the state that goes with each.
class PerParameter : public Optimizer {
 public:
  PerParameter(const OptimizerConfig& config, nn::Module& model, std::vector<std::string> moments) : config_(config) {
    for (const auto& [name, parameter] : nn::parameters(model)) {
      if (!parameter.is_leaf()) continue;
      Slot slot{parameter, {}, decays(name, parameter) ? config.weight_decay : 0};
      for (const std::string& moment : moments) {
        slot.moments.push_back(zeros(parameter.shape(), place_of(parameter)));
        state_.emplace_back(moment + "/" + name, slot.moments.back());
      }
      slots_.push_back(std::move(slot));
    }
    state_.emplace_back("step", step_);
  }

  void step(double lr, double gradient_scale) override {
    NoGrad updating;
    const auto count = static_cast<std::int64_t>(step_.item()) + 1;
    fill(step_, static_cast<double>(count));
    for (Slot& slot : slots_) {
      const Tensor gradient = slot.parameter.grad();
      if (!gradient) continue;
      update(slot, gradient, lr, gradient_scale, count);
      slot.parameter.set_grad({});
    }
  }

  nn::Named state() const override { return state_; }
  void load(const nn::Named& state) override { nn::assign(state_, state, "optimizer"); }

 protected:
  struct Slot {
    Tensor parameter;
    Tensors moments;  // of the parameter's shape
    double decay;
  };
  virtual void update(Slot& slot, const Tensor& gradient, double lr, double gradient_scale, std::int64_t count) = 0;
  OptimizerConfig config_;

 private:
  std::vector<Slot> slots_;
  Tensor step_ = zeros({}, {DType::i64});
  nn::Named state_;
};

/// Loshchilov and Hutter, arXiv 1711.05101, with PyTorch's order of operations.
class AdamWOptimizer : public PerParameter {
 public:
  AdamWOptimizer(const OptimizerConfig& config, nn::Module& model) : PerParameter(config, model, {"m", "v"}) {}

 protected:
  void update(Slot& slot, const Tensor& gradient, double lr, double gradient_scale, std::int64_t count) override {
    const Tensor p = slot.parameter.detach(), m = slot.moments[0], v = slot.moments[1];
    const auto& [beta1, beta2, eps] = std::tie(config_.beta1, config_.beta2, config_.eps);
    if (backend(p.device())
            .adamw({p.view(), gradient.view(), m.view(), v.view(), lr, beta1, beta2, eps, slot.decay, count,
                    gradient_scale})) {
      for (const Tensor& written : {p, m, v}) written.storage()->bump();
      return;
    }
    const Tensor g = gradient.detach() * gradient_scale;
    copy_into(m, m * beta1 + g * (1 - beta1));
    copy_into(v, v * beta2 + square(g) * (1 - beta2));
    const double correction1 = 1 - std::pow(beta1, static_cast<double>(count));
    const double correction2 = 1 - std::pow(beta2, static_cast<double>(count));
    const Tensor denominator = sqrt(v) / std::sqrt(correction2) + eps;
    copy_into(p, p * (1 - lr * slot.decay) - m / denominator * (lr / correction1));
  }
};

class Sgd : public PerParameter {
 public:
  Sgd(const OptimizerConfig& config, nn::Module& model) : PerParameter(config, model, {"momentum"}) {}

 protected:
  void update(Slot& slot, const Tensor& gradient, double lr, double gradient_scale, std::int64_t) override {
    const Tensor p = slot.parameter.detach(), velocity = slot.moments[0];
    copy_into(velocity, velocity * config_.momentum + gradient.detach() * gradient_scale + p * slot.decay);
    copy_into(p, p - velocity * lr);
  }
};

}  // namespace

std::unique_ptr<Optimizer> Optimizer::make(const OptimizerConfig& config, nn::Module& model) {
  check(config);
  if (config.kind == "adamw") return std::make_unique<AdamWOptimizer>(config, model);
  if (config.kind == "sgd") return std::make_unique<Sgd>(config, model);
  const std::vector<std::string> kinds = {"adamw", "sgd"};
  fail("optimizer: unknown kind \"{}\"{}; there are adamw and sgd", config.kind, did_you_mean(config.kind, kinds));
}

bool decays(const std::string& name, const Tensor& parameter) {
  return parameter.rank() > 1 && name.find("pos_embed") == std::string::npos &&
         name.find("cls_token") == std::string::npos;
}

double learning_rate(const ScheduleConfig& config, Index step) {
  if (config.kind != "cosine" && config.kind != "constant") {
    const std::vector<std::string> kinds = {"cosine", "constant"};
    fail("schedule: unknown kind \"{}\"{}; there are cosine and constant", config.kind,
         did_you_mean(config.kind, kinds));
  }
  if (step < config.warmup_steps)
    return config.warmup_lr +
           (config.lr - config.warmup_lr) * static_cast<double>(step) / static_cast<double>(config.warmup_steps);
  if (config.kind == "constant") return config.lr;
  if (step >= config.total_steps) return config.min_lr;
  const double part =
      static_cast<double>(step - config.warmup_steps) / static_cast<double>(config.total_steps - config.warmup_steps);
  return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * part));
}

double gradient_norm(nn::Module& model) {
  std::map<std::string, double> squares;
  nn::for_each_parameter(model, [&](const std::string& name, Tensor& p) {
    if (const Tensor g = p.grad()) squares[name] = backend(g.device()).sum_of_squares(g.view());
  });
  double sum = 0;
  for (const auto& [name, square] : squares) sum += square;
  return std::sqrt(sum);
}

Ema::Ema(nn::Module& model, double decay) : decay_(decay) {
  if (!(decay >= 0 && decay < 1)) fail("ema: decay is {}, must be in [0, 1)", decay);
  for (const auto& [name, parameter] : nn::parameters(model)) values_.emplace_back(name, clone(parameter));
}

void Ema::update(nn::Module& model) {
  NoGrad updating;
  std::size_t i = 0;
  nn::for_each_parameter(model, [&](const std::string& name, Tensor& p) {
    if (i == values_.size() || values_[i].first != name)
      fail("ema: the model is another one, it has a parameter {}", name);
    const Tensor average = values_[i++].second;
    copy_into(average, average * decay_ + p.detach() * (1 - decay_));
  });
}

void Ema::load(const nn::Named& values) { nn::assign(values_, values, "ema"); }

}  // namespace norma::train
