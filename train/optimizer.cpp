// AdamW and SGD over named parameters, schedules, the gradient norm and the moving average.
#include "train/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>
#include <set>
#include <vector>

#include "core/suggest.h"

namespace norma::train {
namespace {

void check(const OptimizerConfig& c) {
  auto range = [](const char* field, double value, bool inside, const char* expected) {
    if (!inside) fail("optimizer: {} is {}, must be {}", field, value, expected);
  };
  range("weight_decay", c.weight_decay, c.weight_decay >= 0 && std::isfinite(c.weight_decay), "zero or more");
  range("beta1", c.beta1, c.beta1 >= 0 && c.beta1 < 1, "in [0, 1)");
  range("beta2", c.beta2, c.beta2 >= 0 && c.beta2 < 1, "in [0, 1)");
  range("eps", c.eps, c.eps > 0 && std::isfinite(c.eps), "above zero");
  range("momentum", c.momentum, c.momentum >= 0 && c.momentum < 1, "in [0, 1)");
  if (!c.decays) fail("optimizer: decays is an empty function; leave it as it is, or tell which parameters decay");
}

/// `values` but for those names: earlier versions kept what belongs to tied weights under each of their names, and
/// used the first, the others staying as they began.
nn::Named without(const std::set<std::string>& names, const nn::Named& values) {
  nn::Named out;
  for (const auto& value : values)
    if (!names.contains(value.first)) out.push_back(value);
  return out;
}

Tensor sum_of_squares(std::span<const View> gradients, Device device) {
  const Tensor sum = empty({}, {DType::f64, device});
  backend(device).sum_of_squares(gradients, sum.view());
  return sum;
}

/// What all optimizers share: the parameters that learn, the state that goes with each, and the number of updates
/// taken.
class PerParameter : public Optimizer {
 public:
  PerParameter(const OptimizerConfig& config, nn::Module& model, std::vector<std::string> moments) : config_(config) {
    std::set<const void*> seen;
    for (const auto& [name, parameter] : nn::parameters(model)) {
      if (parameter.tracked() && !parameter.is_leaf())
        fail(
            "{}: {} was computed from other tensors, so it would never learn; make it a parameter with "
            ".detach().track() where the module sets it",
            config.kind, name);
      if (!parameter.tracked()) continue;
      if (!seen.insert(parameter.impl().get()).second) {
        for (const std::string& moment : moments) further_names_.insert(moment + "/" + name);
        continue;
      }
      if (!slots_.empty() && parameter.device() != device())
        fail("{}: {} is on {}, but {} on {}; all parameters must be on one device, see nn::to", config.kind, name,
             norma::name(parameter.device()), slots_[0].name, norma::name(device()));
      Slot slot{name, parameter, {}, config.decays(name, parameter) ? config.weight_decay : 0};
      for (const std::string& moment : moments) {
        slot.moments.push_back(zeros(parameter.shape(), place_of(parameter)));
        state_.emplace_back(moment + "/" + name, slot.moments.back());
      }
      slots_.push_back(std::move(slot));
    }
    if (slots_.empty())
      fail("{}: {}", config.kind,
           nn::parameters(model).empty()
               ? "visit() of the model names no parameter; it must name its tensors and its children"
               : "no parameter of the model learns; nn::track(model) comes before the optimizer");
    state_.emplace_back("step", step_);
    for (const Slot& slot : slots_) by_name_.push_back(&slot);
    std::sort(by_name_.begin(), by_name_.end(), [](const Slot* a, const Slot* b) { return a->name < b->name; });
  }

  Tensor gradient_squares() override {
    summed_.clear();
    for (const Slot* slot : by_name_)
      if (const Tensor g = slot->parameter.grad()) summed_.push_back(g.view());
    return sum_of_squares(summed_, device());
  }
  Device device() const override { return slots_[0].parameter.device(); }
  void advance() override { fill(step_, static_cast<double>(next_step())); }
  nn::Named state() const override { return state_; }
  void load(const nn::Named& state) override {
    for (const auto& [name, value] : state)
      if (name == "step" && value.numel() == 1 && !(value.item() >= 0 && value.item() < 0x1p53))
        fail("optimizer: step is {:.0f}, must be a number of updates taken", value.item());
    nn::assign(state_, without(further_names_, state), "optimizer");
  }

 protected:
  struct Slot {
    std::string name;
    Tensor parameter;
    Tensors moments;  // of the parameter's shape
    double decay;
  };
  static void check_rate(double lr) {
    if (!(lr >= 0 && std::isfinite(lr))) fail("optimizer: the learning rate is {}, must be zero or more", lr);
  }
  void check_scale(const Tensor& scale) const {
    if (place_of(scale) != Place{DType::f64, device()} || scale.rank() != 0)
      fail("optimizer: gradient_scale is {} {} on {}, must be f64 [] on {}", scale.dtype(), scale.shape(),
           name(scale.device()), name(device()));
  }
  void check_gradients() const {
    if (std::none_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return bool(slot.parameter.grad()); }))
      fail(
          "{}: no parameter has a gradient: was backward() called since the last step, and are these still the model's "
          "parameters? nn::to gives it others, so it comes before Optimizer::make",
          config_.kind);
  }
  std::int64_t next_step() const { return static_cast<std::int64_t>(step_.item()) + 1; }
  OptimizerConfig config_;
  std::vector<Slot> slots_;

 private:
  Tensor step_ = zeros({}, {DType::i64});  // updates taken
  nn::Named state_;
  std::set<std::string> further_names_;  // as state_, of tied weights
  std::vector<const Slot*> by_name_;     // slots_ in the order in which their squares are summed
  std::vector<View> summed_;             // their gradients then; kept for its memory
};

class AdamWOptimizer : public PerParameter {
 public:
  AdamWOptimizer(const OptimizerConfig& config, nn::Module& model)
      : PerParameter(config, model, {"m", "v"}), rates_(zeros({3}, {DType::f64, device()})) {
    for (const Slot& slot : slots_) {
      const Tensor& p = slot.parameter;
      if (p.dtype() != slots_[0].parameter.dtype() || (p.dtype() != DType::f32 && p.dtype() != DType::f64))
        fail("adamw: {} is {}; all parameters must be f32, or all f64{}", slot.name, p.dtype(),
             nn::advice_on(p.dtype()));
      if (!p.is_contiguous()) fail("adamw: {} {} is not contiguous", slot.name, p.shape());
    }
  }

  void prepare(double lr) override {
    check_rate(lr);
    const auto count = static_cast<double>(next_step());
    const double rates[] = {lr, 1 - std::pow(config_.beta1, count), 1 - std::pow(config_.beta2, count)};
    backend(device()).upload(rates_.view().data, rates, sizeof rates);
  }

  void apply(const Tensor& gradient_scale) override {
    check_scale(gradient_scale);
    check_gradients();
    const NoGrad updating;
    gradients_.clear(), updates_.clear();
    for (const Slot& slot : slots_) {
      if (!slot.parameter.grad()) continue;
      const Tensor& g = gradients_.emplace_back(contiguous(slot.parameter.grad()));
      updates_.push_back({slot.parameter.view(), g.view(), slot.moments[0].view(), slot.moments[1].view(), slot.decay});
      for (const Tensor& written : {slot.parameter, slot.moments[0], slot.moments[1]}) written.storage()->bump();
      slot.parameter.set_grad({});
    }
    backend(device()).adamw(
        {updates_, config_.beta1, config_.beta2, config_.eps, rates_.view(), gradient_scale.view()});
    gradients_.clear();
  }

 private:
  Tensor rates_;       // as AdamW::rates
  Tensors gradients_;  // alive until the update is on its way; this and the next are kept for their memory
  std::vector<AdamW::Parameter> updates_;
};

class Sgd : public PerParameter {
 public:
  Sgd(const OptimizerConfig& config, nn::Module& model)
      : PerParameter(config, model,
                     config.momentum > 0 ? std::vector<std::string>{"momentum"} : std::vector<std::string>{}) {}

  void prepare(double lr) override { check_rate(lr), lr_ = lr; }

  void apply(const Tensor& gradient_scale) override {
    check_scale(gradient_scale);
    check_gradients();
    const NoGrad updating;
    const double scale = gradient_scale.item();
    for (const Slot& slot : slots_) {
      const Tensor gradient = slot.parameter.grad();
      if (!gradient) continue;
      slot.parameter.set_grad({});
      if (!std::isfinite(scale)) continue;
      const Tensor p = slot.parameter.detach(), scaled = gradient.detach() * scale;
      const Tensor velocity =
          (slot.moments.empty() ? scaled : slot.moments[0] * config_.momentum + scaled) + p * slot.decay;
      if (!slot.moments.empty()) copy_into(slot.moments[0], velocity);
      copy_into(p, p - velocity * lr_);
    }
  }

  void load(const nn::Named& state) override {
    nn::Named mine;
    for (const auto& value : state)  // earlier versions kept it also where nothing of it is used
      if (config_.momentum > 0 || !value.first.starts_with("momentum/")) mine.push_back(value);
    PerParameter::load(mine);
  }

 private:
  double lr_ = 0;
};

}  // namespace

void Optimizer::step(double lr, double gradient_scale) {
  prepare(lr);
  apply(full({}, gradient_scale, {DType::f64, device()}));
  if (std::isfinite(gradient_scale)) advance();
}

std::unique_ptr<Optimizer> Optimizer::make(const OptimizerConfig& config, nn::Module& model) {
  check(config);
  if (config.kind == "adamw") return std::make_unique<AdamWOptimizer>(config, model);
  if (config.kind == "sgd") return std::make_unique<Sgd>(config, model);
  const std::vector<std::string> kinds = {"adamw", "sgd"};
  fail("optimizer: unknown kind \"{}\"{}; there are adamw and sgd", config.kind, did_you_mean(config.kind, kinds));
}

bool decays(const std::string& name, const Tensor& parameter) {
  constexpr std::array spared = {"pos_embed", "relative_position_bias_table", "cls_token", "dist_token"};
  return parameter.rank() > 1 && std::none_of(spared.begin(), spared.end(),
                                              [&](const char* part) { return name.find(part) != std::string::npos; });
}

double learning_rate(const ScheduleConfig& config, Index step) {
  if (config.kind != "cosine" && config.kind != "constant") {
    const std::vector<std::string> kinds = {"cosine", "constant"};
    fail("schedule: unknown kind \"{}\"{}; there are cosine and constant", config.kind,
         did_you_mean(config.kind, kinds));
  }
  for (const auto& [field, rate] :
       {std::pair("lr", config.lr), {"min_lr", config.min_lr}, {"warmup_lr", config.warmup_lr}})
    if (!(rate >= 0 && std::isfinite(rate))) fail("schedule: {} is {}, must be zero or more", field, rate);
  if (config.warmup_steps < 0) fail("schedule: warmup_steps is {}, must be zero or more", config.warmup_steps);
  if (step < 0) fail("schedule: step is {}, must be zero or more", step);
  if (config.kind == "cosine" && config.total_steps < 1)
    fail("schedule: total_steps is {}; the cosine needs the number of steps", config.total_steps);
  if (step < config.warmup_steps)
    return config.warmup_lr +
           (config.lr - config.warmup_lr) * static_cast<double>(step) / static_cast<double>(config.warmup_steps);
  if (config.kind == "constant") return config.lr;
  if (step >= config.total_steps) return config.min_lr;
  const double part =
      static_cast<double>(step - config.warmup_steps) / static_cast<double>(config.total_steps - config.warmup_steps);
  return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * part));
}

Tensor gradient_squares(nn::Module& model) {
  std::map<std::string, View> gradients;  // in the order of their names
  std::set<const void*> seen;             // tied weights have one gradient
  Device device;
  nn::for_each_parameter(model, [&](const std::string& name, Tensor& p) {
    device = p.device();
    const Tensor g = p.grad();
    if (g && seen.insert(p.impl().get()).second) gradients[name] = g.view();
  });
  std::vector<View> views;
  for (const auto& [name, view] : gradients) views.push_back(view);
  return sum_of_squares(views, device);
}

double gradient_norm(nn::Module& model) { return std::sqrt(gradient_squares(model).item()); }

Tensor gradient_scale(const Tensor& squares, const Tensor& loss, double clip) {
  const NoGrad updating;
  const Tensor scale = empty({}, place_of(squares));
  if (loss.device() == squares.device() &&
      backend(squares.device()).gradient_scale({squares.view(), loss.view(), scale.view(), clip}))
    return scale;
  const Tensor norm = sqrt(squares), one = ones({}, place_of(squares));
  return (clip > 0 ? minimum(clip / norm, one) : one) + 0.0 * (norm + cast(loss.detach(), DType::f64));
}

Ema::Ema(nn::Module& model, double decay) : decay_(decay) {
  if (!(decay >= 0 && decay < 1)) fail("ema: decay is {}, must be in [0, 1)", decay);
  std::map<const void*, Tensor> averages;
  for (const auto& [name, t] : nn::state(model))
    values_.emplace_back(name, averages[t.impl().get()] = clone(t.detach()));
  targets_ = values_;
  for (const auto& [name, t] : nn::further_names(model)) targets_.emplace_back(name, averages.at(t.impl().get()));
}

void Ema::update(nn::Module& model) {
  const NoGrad updating;
  const nn::Named now = nn::state(model);
  for (std::size_t i = 0; i < std::max(now.size(), values_.size()); ++i) {  // all, before any is changed
    std::string why;
    if (i == now.size())
      why = fmt::format("it has no parameter {}", values_[i].first);
    else if (i == values_.size() || now[i].first != values_[i].first)
      why = fmt::format("it has a parameter {}", now[i].first);
    else if (now[i].second.shape() != values_[i].second.shape())
      why = fmt::format("its {} is {}, it was {}", now[i].first, now[i].second.shape(), values_[i].second.shape());
    else if (now[i].second.is_leaf() && place_of(now[i].second) != place_of(values_[i].second))
      why = fmt::format("its {} is {} on {}, it was {} on {}", now[i].first, now[i].second.dtype(),
                        name(now[i].second.device()), values_[i].second.dtype(), name(values_[i].second.device()));
    if (!why.empty()) fail("ema: the model is not the one that the average began with: {}", why);
  }
  std::vector<MovingAverage> learning;
  Tensors values;  // alive until the step is on its way
  for (std::size_t i = 0; i < now.size(); ++i) {
    const Tensor &average = values_[i].second, value = now[i].second.detach();
    if (!now[i].second.is_leaf()) {
      copy_into(average, value);
      continue;
    }
    learning.push_back({average.view(), values.emplace_back(contiguous(value)).view()});
    average.storage()->bump();
  }
  if (!learning.empty()) backend(values[0].device()).moving_averages(learning, decay_);
}

void Ema::load(const nn::Named& values) { nn::assign(targets_, values, "ema"); }

}  // namespace norma::train
