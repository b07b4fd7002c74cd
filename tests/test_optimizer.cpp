// Optimizers against their formulas, schedules, gradient norm; states that go on to the bit.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <numbers>
#include <tuple>

#include "models/vit.h"
#include "train/optimizer.h"

using namespace norma;
using namespace norma::train;

namespace {

/// One matrix, one vector, one table of positions.
class Toy : public nn::Module {
 public:
  explicit Toy(DType dtype = DType::f64, std::uint64_t seed = 1) {
    nn::Init init(seed, {dtype});
    weight = init.normal({3, 4}, 1), bias = init.normal({4}, 1), positions = init.normal({2, 2}, 1);
    unused = init.normal({2}, 1);
  }
  void visit(nn::Visitor& v) override {
    v("weight", weight), v("bias", bias), v("pos_embed", positions), v("unused", unused);
  }
  /// A loss whose gradients are x^3 of each parameter.
  void differentiate() {
    auto quartic = [](const Tensor& x) { return sum(square(square(x))) * 0.25; };
    backward(quartic(weight) + quartic(bias) + quartic(positions));
  }
  Tensor weight, bias, positions, unused;
};

Approx about(double expected) { return Approx(expected).epsilon(1e-12).margin(1e-15); }

/// The values of a parameter after `steps` steps of one element's formula: f(x, gradient, step).
template <class Formula>
void check_against(const std::vector<double>& start, const Tensor& found, int steps, double tolerance, Formula make) {
  const std::vector<double> values = found.values();
  for (std::size_t i = 0; i < start.size(); ++i) {
    auto formula = make();
    double x = start[i];
    for (int t = 1; t <= steps; ++t) x = formula(x, x * x * x, t);
    CHECK(values[i] == Approx(x).epsilon(tolerance));
  }
}

auto adamw(double lr, double decay, double scale) {
  return [=] {
    return [=, m = 0.0, v = 0.0](double x, double g, int t) mutable {
      g *= scale;
      m = 0.9 * m + 0.1 * g, v = 0.99 * v + 0.01 * g * g;
      const double step = m / (1 - std::pow(0.9, t)) / (std::sqrt(v / (1 - std::pow(0.99, t))) + 1e-6);
      return x - lr * decay * x - lr * step;
    };
  };
}

auto sgd(double lr, double decay, double scale) {
  return [=] {
    return [=, velocity = 0.0](double x, double g, int) mutable {
      velocity = 0.8 * velocity + g * scale + decay * x;
      return x - lr * velocity;
    };
  };
}

const OptimizerConfig adamw_config{.weight_decay = 0.1, .beta2 = 0.99, .eps = 1e-6};
const OptimizerConfig sgd_config{.kind = "sgd", .weight_decay = 0.1, .momentum = 0.8};

}  // namespace

TEST_CASE("AdamW and SGD follow their formulas", "[optimizer]") {
  for (const bool adam : {true, false})
    for (const DType dtype : {DType::f64, DType::f32})
      for (const double scale : {1.0, 0.25}) {
        INFO((adam ? "adamw " : "sgd ") << name(dtype) << " scale " << scale);
        Toy toy(dtype);
        const std::vector<double> weight = toy.weight.values(), bias = toy.bias.values(),
                                  positions = toy.positions.values(), unused = toy.unused.values();
        const auto optimizer = Optimizer::make(adam ? adamw_config : sgd_config, toy);
        for (int i = 0; i < 5; ++i) {
          toy.differentiate();
          optimizer->step(0.02, scale);
          CHECK_FALSE(toy.weight.grad());
        }
        const double tolerance = dtype == DType::f64 ? 1e-12 : 1e-5;
        auto check = [&](const std::vector<double>& start, const Tensor& found, double decay) {
          if (adam)
            check_against(start, found, 5, tolerance, adamw(0.02, decay, scale));
          else
            check_against(start, found, 5, tolerance, sgd(0.02, decay, scale));
        };
        check(weight, toy.weight, 0.1);
        check(bias, toy.bias, 0);
        check(positions, toy.positions, 0);
        CHECK(toy.unused.values() == unused);
        CHECK(toy.weight.is_leaf());
      }
}

TEST_CASE("matrices decay, all else does not", "[optimizer]") {
  models::ViTConfig config;
  config.image = 8, config.patch = 4, config.width = 8, config.heads = 2, config.depth = 1;
  models::ViT model(config, 1);
  for (const auto& [name, p] : nn::parameters(model)) {
    INFO(name);
    const bool matrix = name.ends_with("weight") && name.find("norm") == std::string::npos;
    CHECK(decays(name, p) == matrix);
  }
  const Tensor matrix = ones({2, 2});
  CHECK(decays("layers.0.attn.qkv.weight", matrix));
  for (const char* name : {"pos_embed", "layers.0.attn.relative_position_bias_table", "cls_token", "dist_token"}) CHECK_FALSE(decays(name, matrix));
}

TEST_CASE("a loaded state goes on to the bit", "[optimizer]") {
  for (const OptimizerConfig& config : {adamw_config, sgd_config}) {
    INFO(config.kind);
    Toy whole(DType::f32), first(DType::f32), second(DType::f32, 2);
    auto run = [](Toy& toy, Optimizer& optimizer, int steps) {
      for (int i = 0; i < steps; ++i) toy.differentiate(), optimizer.step(0.02);
    };
    const auto a = Optimizer::make(config, whole);
    run(whole, *a, 6);
    const auto b = Optimizer::make(config, first);
    run(first, *b, 3);
    const auto c = Optimizer::make(config, second);
    nn::assign(second, nn::parameters(first));
    c->load(b->state());
    run(second, *c, 3);
    for (const auto& [x, y] : {std::pair(whole.weight, second.weight), std::pair(whole.bias, second.bias)})
      CHECK(x.values() == y.values());
    CHECK(c->state().back().first == "step");
    CHECK(c->state().back().second.item() == 6);

    for (const double steps : {-1.0, 0x1p62}) {
      nn::Named impossible = b->state();
      impossible.back().second = full({}, steps, {DType::i64});
      CHECK_THROWS_WITH(c->load(impossible), fmt::format("optimizer: step is {:.0f}, must be a number of updates taken", steps));
      CHECK(c->state().back().second.item() == 6);
    }
    nn::Named damaged = b->state();
    damaged.pop_back();
    damaged[0].second = zeros({1});
    const std::string moment = config.kind == "sgd" ? "momentum" : "m";
    CHECK_THROWS_WITH(c->load(damaged), "optimizer: the values do not fit: missing: step; wrong shape: " + moment +
                                            "/weight [1] instead of [3, 4]");
  }
}

TEST_CASE("optimizer settings are checked", "[optimizer]") {
  Toy toy;
  auto make = [&](auto change) {
    OptimizerConfig config;
    change(config);
    Optimizer::make(config, toy);
  };
  CHECK_THROWS_WITH(make([](auto& c) { c.kind = "adamv"; }),
                    "optimizer: unknown kind \"adamv\" (did you mean \"adamw\"?); there are adamw and sgd");
  CHECK_THROWS_WITH(make([](auto& c) { c.weight_decay = -1; }), "optimizer: weight_decay is -1, must be zero or more");
  CHECK_THROWS_WITH(make([](auto& c) { c.beta1 = 1; }), "optimizer: beta1 is 1, must be in [0, 1)");
  CHECK_THROWS_WITH(make([](auto& c) { c.eps = std::nan(""); }), "optimizer: eps is nan, must be above zero");
  CHECK_THROWS_WITH(make([](auto& c) { c.momentum = 1.5; }), "optimizer: momentum is 1.5, must be in [0, 1)");
  CHECK_THROWS_WITH(Ema(toy, 1), "ema: decay is 1, must be in [0, 1)");
}

TEST_CASE("learning rates: warm-up, then cosine or constant", "[optimizer]") {
  const ScheduleConfig cosine{.lr = 1, .min_lr = 0.1, .warmup_lr = 0.2, .warmup_steps = 4, .total_steps = 14};
  CHECK(learning_rate(cosine, 0) == about(0.2));
  CHECK(learning_rate(cosine, 1) == about(0.4));
  CHECK(learning_rate(cosine, 4) == about(1));
  CHECK(learning_rate(cosine, 9) == about(0.55));
  CHECK(learning_rate(cosine, 6) == about(0.1 + 0.45 * (1 + std::cos(std::numbers::pi / 5))));
  CHECK(learning_rate(cosine, 14) == 0.1);
  CHECK(learning_rate(cosine, 1000) == 0.1);
  ScheduleConfig constant = cosine;
  constant.kind = "constant";
  CHECK(learning_rate(constant, 2) == about(0.6));
  CHECK(learning_rate(constant, 1000) == 1);
  ScheduleConfig unknown = cosine;
  unknown.kind = "cosin";
  CHECK_THROWS_WITH(learning_rate(unknown, 5),
                    "schedule: unknown kind \"cosin\" (did you mean \"cosine\"?); there are cosine and constant");
  CHECK(learning_rate({.min_lr = 0.5, .warmup_steps = 5, .total_steps = 5}, 5) == 0.5);
  CHECK_THROWS_WITH(learning_rate({.lr = 0.1}, 0), "schedule: total_steps is 0; the cosine needs the number of steps");
  CHECK(learning_rate({.kind = "constant", .lr = 0.1}, 9) == 0.1);
  CHECK_THROWS_WITH(learning_rate({.warmup_steps = -4, .total_steps = 5}, 0), "schedule: warmup_steps is -4, must be zero or more");
  CHECK_THROWS_WITH(learning_rate({.total_steps = 5}, -1), "schedule: step is -1, must be zero or more");
  CHECK_THROWS_WITH(learning_rate({.kind = "constant", .lr = -1}, 0), "schedule: lr is -1, must be zero or more");
  CHECK_THROWS_WITH(learning_rate({.min_lr = std::nan(""), .total_steps = 5}, 0), "schedule: min_lr is nan, must be zero or more");
  CHECK_THROWS_WITH(learning_rate({.warmup_lr = std::numeric_limits<double>::infinity(), .total_steps = 5}, 3),
                    "schedule: warmup_lr is inf, must be zero or more");
}

TEST_CASE("a step that is not taken is not counted, and leaves all as it was", "[optimizer]") {
  const double bad[] = {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (const OptimizerConfig& config : {adamw_config, sgd_config}) {
    CAPTURE(config.kind);
    Toy toy, other;
    const auto stepped = Optimizer::make(config, toy), straight = Optimizer::make(config, other);
    const auto bits = [](Toy& of, const Optimizer& optimizer) {
      std::vector<std::vector<double>> all;
      for (const auto& [name, t] : optimizer.state()) all.push_back(t.values());
      for (const auto& [name, t] : nn::parameters(of)) all.push_back(t.values());
      return all;
    };
    toy.differentiate(), stepped->step(0.02);
    other.differentiate(), straight->step(0.02);
    for (const double scale : bad) {
      toy.differentiate();
      stepped->step(0.02, scale);
      CHECK_FALSE(toy.weight.grad());
      CHECK((bits(toy, *stepped) == bits(other, *straight)));
    }
    CHECK(stepped->state().back().second.item() == 1);
    toy.differentiate(), stepped->step(0.02, 0.5);
    other.differentiate(), straight->step(0.02, 0.5);
    CHECK((bits(toy, *stepped) == bits(other, *straight)));

    const auto before = bits(toy, *stepped);
    for (const double lr : {-1e-3, bad[0], bad[1]}) {
      toy.differentiate();
      const std::string text = fmt::format("optimizer: the learning rate is {}, must be zero or more", lr);
      CHECK_THROWS_WITH(stepped->step(lr), text);
      CHECK_THROWS_WITH(stepped->prepare(lr), text);
    }
    CHECK((bits(toy, *stepped) == before));
    CHECK(toy.weight.grad());
    const auto apply = [&](const Tensor& scale) { stepped->prepare(0.02), stepped->apply(scale); };
    CHECK_THROWS_WITH(apply(ones({})), "optimizer: gradient_scale is f32 [] on cpu, must be f64 [] on cpu");
    CHECK_THROWS_WITH(apply(ones({1}, {DType::f64})), "optimizer: gradient_scale is f64 [1] on cpu, must be f64 [] on cpu");
    CHECK_THROWS_WITH(apply(ones({}, {DType::f64, {Device::Kind::reference}})), "optimizer: gradient_scale is f64 [] on reference, must be f64 [] on cpu");
    CHECK((bits(toy, *stepped) == before));
    CHECK(toy.weight.grad());
  }
}

TEST_CASE("a step without any gradient is refused and not counted, with what may be wrong", "[optimizer]") {
  for (const OptimizerConfig& config : {adamw_config, sgd_config}) {
    Toy toy(DType::f32);
    const auto optimizer = Optimizer::make(config, toy);
    const std::string text = config.kind + ": no parameter has a gradient: was backward() called since the last step, and are these still the model's parameters? " +
                             "nn::to gives it others, so it comes before Optimizer::make";
    CHECK_THROWS_WITH(optimizer->step(0.1), text);
    toy.differentiate(), optimizer->step(0.1);
    CHECK_THROWS_WITH(optimizer->step(0.1), text);  // which dropped them
    nn::to(toy, DType::f64);
    toy.differentiate();
    CHECK_THROWS_WITH(optimizer->step(0.1), text);
    CHECK(optimizer->state().back().second.item() == 1);
  }
}

TEST_CASE("sgd without momentum keeps no state but its steps, and takes that of earlier versions", "[optimizer]") {
  OptimizerConfig config = sgd_config;
  config.momentum = 0;
  Toy toy, other(DType::f64, 2);
  const std::vector<double> start = toy.weight.values();
  const auto optimizer = Optimizer::make(config, toy), second = Optimizer::make(config, other);
  for (int i = 0; i < 3; ++i) toy.differentiate(), optimizer->step(0.02, 0.5);
  check_against(start, toy.weight, 3, 1e-12, [] { return [](double x, double g, int) { return x - 0.02 * (0.5 * g + 0.1 * x); }; });
  REQUIRE(optimizer->state().size() == 1);
  nn::Named before = optimizer->state();
  before.emplace_back("momentum/weight", toy.weight.detach()), before.emplace_back("momentum/another_name_of_a_tied_weight", toy.weight.detach());
  second->load(before);
  CHECK(second->state().back().second.item() == 3);
  CHECK_THROWS_WITH(Optimizer::make(sgd_config, other)->load(optimizer->state()), Catch::Contains("missing: momentum/weight"));
}

TEST_CASE("an optimizer of parameters of which none learns is refused", "[optimizer]") {
  Toy toy;
  nn::track(toy, false);
  for (const char* kind : {"adamw", "sgd"})
    CHECK_THROWS_WITH(Optimizer::make({.kind = kind}, toy), fmt::format("{}: no parameter of the model learns; nn::track(model) comes before the optimizer", kind));
}

TEST_CASE("adamw refuses parameters in bf16, and says what bf16 is for", "[optimizer]") {
  Toy toy;
  toy.weight = cast(toy.weight.detach(), DType::bf16).track();
  CHECK_THROWS_WITH(Optimizer::make(adamw_config, toy),
                    "adamw: weight is bf16; all parameters must be f32, or all f64; bf16 is for activations: cast(x, DType::bf16) after the embedding");
}

TEST_CASE("an optimizer of a model whose visit() names nothing says so", "[optimizer]") {
  struct Forgetful : nn::Module {
    Toy toy;
    void visit(nn::Visitor&) override {}
  } model;
  CHECK_THROWS_WITH(Optimizer::make({.kind = "sgd"}, model), "sgd: visit() of the model names no parameter; it must name its tensors and its children");
}

TEST_CASE("an optimizer's parameters are on one device", "[optimizer]") {
  Toy toy;
  toy.bias = ones({4}, {DType::f64, {Device::Kind::reference}}).track();
  for (const OptimizerConfig& config : {adamw_config, sgd_config})
    CHECK_THROWS_WITH(Optimizer::make(config, toy),
                      config.kind + ": bias is on reference, but weight on cpu; all parameters must be on one device, see nn::to");
  toy.bias.track(false);  // it does not learn
  CHECK(Optimizer::make(adamw_config, toy)->device() == Device{});
}

TEST_CASE("the norm of all gradients", "[optimizer]") {
  Toy toy;
  CHECK(gradient_norm(toy) == 0);
  toy.differentiate();
  double sum = 0;
  for (const Tensor& p : {toy.weight, toy.bias, toy.positions})
    for (double x : p.values()) sum += std::pow(x, 6);
  CHECK(gradient_norm(toy) == about(std::sqrt(sum)));
  for (const OptimizerConfig& config : {adamw_config, sgd_config}) {  // as the optimizer sees it, to the bit
    const auto optimizer = Optimizer::make(config, toy);
    CHECK(optimizer->gradient_squares().item() == gradient_squares(toy).item());
    const Tensor of_bias = toy.bias.grad();
    toy.bias.set_grad({});
    CHECK(optimizer->gradient_squares().item() == gradient_squares(toy).item());
    CHECK(optimizer->gradient_squares().item() < sum);
    toy.bias.set_grad(of_bias);
  }
  toy.bias.set_grad(full({4}, std::numeric_limits<double>::infinity(), {DType::f64}));
  CHECK_FALSE(std::isfinite(gradient_norm(toy)));
  toy.bias.set_grad(full({4}, std::nan(""), {DType::f64}));
  CHECK_FALSE(std::isfinite(gradient_norm(toy)));
}

namespace {

class Tied : public nn::Module {
 public:
  Tied() : weight(nn::Init(1, {DType::f64}).normal({3, 4}, 1)), again(weight) {}
  void visit(nn::Visitor& v) override { v("weight", weight), v("again", again); }
  Tensor weight, again;
};

std::vector<std::string> names_of(const nn::Named& all) {
  std::vector<std::string> names;
  for (const auto& [name, value] : all) names.push_back(name);
  return names;
}

}  // namespace

TEST_CASE("tied weights are one parameter", "[optimizer]") {
  Tied tied;
  CHECK(nn::parameter_count(tied) == 12);
  nn::to(tied, DType::f32);
  nn::to(tied, DType::f64);
  CHECK(tied.weight.impl() == tied.again.impl());
  backward(norma::sum(square(square(tied.weight))) * 0.125 + norma::sum(square(square(tied.again))) * 0.125);
  double sum = 0;
  for (double x : tied.weight.values()) sum += std::pow(x, 6);
  CHECK(gradient_norm(tied) == about(std::sqrt(sum)));
  for (const OptimizerConfig& config : {adamw_config, sgd_config}) {
    const std::vector<double> start = tied.weight.values();
    const auto optimizer = Optimizer::make(config, tied);
    if (!tied.weight.grad()) backward(norma::sum(square(square(tied.again))) * 0.25);
    CHECK(optimizer->gradient_squares().item() == gradient_squares(tied).item());
    optimizer->step(0.01);
    const bool adam = config.kind == "adamw";
    if (adam) check_against(start, tied.again, 1, 1e-12, adamw(0.01, 0.1, 1));
    else check_against(start, tied.again, 1, 1e-12, sgd(0.01, 0.1, 1));
  }
}

TEST_CASE("tied weights have one state, and states that have it twice are taken", "[optimizer]") {
  using Names = std::vector<std::string>;
  for (const OptimizerConfig& config : {adamw_config, sgd_config}) {
    CAPTURE(config.kind);
    Tied first, second;
    const auto a = Optimizer::make(config, first), b = Optimizer::make(config, second);
    CHECK(names_of(a->state()) == (config.kind == "sgd" ? Names{"momentum/weight", "step"} : Names{"m/weight", "v/weight", "step"}));
    const auto step = [](Tied& model, Optimizer& optimizer) {
      backward(norma::sum(square(square(model.again))) * 0.25);
      optimizer.step(0.01);
    };
    step(first, *a);
    nn::Named before;  // as an earlier version wrote it, the second name's untouched
    for (const auto& [name, value] : a->state()) {
      before.emplace_back(name, value);
      if (const auto slash = name.find('/'); slash != std::string::npos) before.emplace_back(name.substr(0, slash) + "/again", zeros_like(value));
    }
    nn::assign(second, nn::parameters(first));
    b->load(before);
    step(first, *a), step(second, *b);
    CHECK(first.weight.values() == second.weight.values());
    before.emplace_back("m/other", zeros({1}));
    CHECK_THROWS_WITH(b->load(before), "optimizer: the values do not fit: unexpected: m/other");
  }
}

TEST_CASE("which parameters decay can be told", "[optimizer]") {
  for (OptimizerConfig config : {adamw_config, sgd_config}) {
    CAPTURE(config.kind);
    Toy toy;
    const std::vector<double> weight = toy.weight.values(), bias = toy.bias.values();
    config.decays = [](const std::string& name, const Tensor& parameter) { return name == "bias" && parameter.rank() == 1; };
    toy.differentiate();
    Optimizer::make(config, toy)->step(0.02);
    const bool adam = config.kind == "adamw";
    for (const auto& [start, found, decay] : {std::tuple(weight, toy.weight, 0.0), std::tuple(bias, toy.bias, 0.1)})
      if (adam) check_against(start, found, 1, 1e-12, adamw(0.02, decay, 1));
      else check_against(start, found, 1, 1e-12, sgd(0.02, decay, 1));
    config.decays = nullptr;
    CHECK_THROWS_WITH(Optimizer::make(config, toy), Catch::StartsWith("optimizer: decays is an empty function"));
  }
}

TEST_CASE("what gradients are multiplied by: clipping, and NaN where a step must not be taken", "[optimizer]") {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const auto scale = [](double squares, double loss, double clip) {
    return gradient_scale(full({}, squares, {DType::f64}), full({}, loss, {DType::f32}), clip).item();
  };
  CHECK(scale(9, 1, 0.3) == 0.3 / 3);
  CHECK(scale(9, 1, 3) == 1);
  CHECK(scale(9, 1, 4) == 1);
  CHECK(scale(9, 1, 0) == 1);
  CHECK(scale(0, 0, 1) == 1);
  for (const double clip : {0.0, 1.0})
    for (const double bad : {nan, inf, -inf}) {
      if (bad != -inf) CHECK(std::isnan(scale(bad, 1, clip)));
      CHECK(std::isnan(scale(4, bad, clip)));
    }
}

TEST_CASE("two parameters of one name are refused by all that collects them", "[optimizer]") {
  class Twice : public nn::Module {
   public:
    void visit(nn::Visitor& v) override { v("inner", first), v("inner", second); }
    Toy first, second;
  } twice;
  const std::string text = "module: two parameters are named inner.weight; visit() must give each a name of its own";
  CHECK_THROWS_WITH(nn::parameters(twice), text);
  CHECK_THROWS_WITH(nn::state(twice), text);
  CHECK_THROWS_WITH(nn::parameter_count(twice), text);
  CHECK_THROWS_WITH(gradient_norm(twice), text);
  CHECK_THROWS_WITH(Optimizer::make(adamw_config, twice), text);
  CHECK_THROWS_WITH(Ema(twice, 0.5), text);
}

TEST_CASE("an update changes what graphs have saved, and reads gradients in any layout", "[optimizer]") {
  for (const OptimizerConfig& config : {adamw_config, sgd_config}) {
    CAPTURE(config.kind);
    Toy toy, other;
    const auto first = Optimizer::make(config, toy), second = Optimizer::make(config, other);
    const Tensor y = norma::sum(square(toy.weight));
    const Tensor g = nn::Init(3, {DType::f64}).normal({4, 3}, 1).detach();
    toy.weight.set_grad(transpose(g));
    other.weight.set_grad(contiguous(transpose(g)));
    first->step(0.1), second->step(0.1);
    CHECK(toy.weight.values() == other.weight.values());
    CHECK_THROWS_WITH(backward(y), Catch::Contains("it was changed in place"));
  }
}

TEST_CASE("a parameter that was computed from others is refused; one that is not tracked stays", "[optimizer]") {
  class Scaled : public nn::Module {
   public:
    Scaled() : weight(init.normal({4}, 1)), gamma(init.ones({4}) * 0.5) {}
    void visit(nn::Visitor& v) override { v("weight", weight), v("layer.gamma", gamma); }
    nn::Init init{1, {DType::f64}};
    Tensor weight, gamma;
  };
  for (OptimizerConfig config : {adamw_config, sgd_config}) {
    CAPTURE(config.kind);
    config.weight_decay = 0;
    Scaled model;
    CHECK_THROWS_WITH(Optimizer::make(config, model),
                      config.kind + ": layer.gamma was computed from other tensors, so it would never learn; make it a parameter with "
                                    ".detach().track() where the module sets it");
    const auto learns = [&] {
      const auto optimizer = Optimizer::make(config, model);
      const std::vector<double> before = model.gamma.values();
      for (int i = 0; i < 2; ++i) {
        backward(norma::sum(square(model.weight * model.gamma - 1.0)));
        optimizer->step(0.1);
      }
      return model.gamma.values() != before;
    };
    model.gamma = model.gamma.detach();
    CHECK_FALSE(learns());
    model.gamma.track();
    CHECK(learns());
    Scaled moved;  // what is put in the place of a tracked one is tracked
    nn::to(moved, DType::f32);
    CHECK(moved.gamma.is_leaf());
    CHECK(moved.gamma.values() == std::vector<double>(4, 0.5));
  }
}

TEST_CASE("an optimizer's parameters are contiguous", "[optimizer]") {
  class Turned : public nn::Module {
   public:
    void visit(nn::Visitor& v) override { v("weight", weight); }
    Tensor weight = transpose(ones({2, 3})).detach().track();
  } turned;
  CHECK_THROWS_WITH(Optimizer::make(adamw_config, turned), Catch::Contains("weight [3, 2] is not contiguous"));
}
