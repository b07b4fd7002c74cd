// The moving average of a model's weights.
#include <catch2/catch.hpp>

#include "nn/layers.h"
#include "train/optimizer.h"

using namespace norma;
using namespace norma::train;

TEST_CASE("the moving average of weights", "[ema]") {
  nn::Init init(1, {DType::f64});
  nn::Linear model(3, 4, init), other(3, 4, init);
  const double start = model.weight.values()[0];
  Ema ema(model, 0.75);
  fill(model.weight, 1);
  ema.update(model);
  ema.update(model);
  CHECK(ema.values()[0].first == "weight");
  CHECK(ema.values()[0].second.values()[0] == Approx(0.5625 * start + 0.4375).epsilon(1e-12));
  CHECK(model.weight.values()[0] == 1);

  Ema again(other, 0.75);
  again.load(ema.values());
  CHECK(again.values()[0].second.values() == ema.values()[0].second.values());
}

TEST_CASE("tied weights have one moving average, and states that have it twice are taken", "[ema]") {
  class Tied : public nn::Module {
   public:
    explicit Tied(double value) : weight(full({2}, value).track()), again(weight) {}
    void visit(nn::Visitor& v) override { v("weight", weight), v("again", again); }
    Tensor weight, again;
  } model(1), other(2);
  Ema ema(model, 0.5), loaded(other, 0.5);
  fill(model.weight, 3), ema.update(model);
  REQUIRE(ema.values().size() == 1);
  CHECK(ema.values()[0].first == "weight");
  const Tensor average = ema.values()[0].second;
  CHECK(average.values() == std::vector<double>{2, 2});
  loaded.load({{"weight", average}, {"again", average}});
  CHECK(loaded.values()[0].second.values() == average.values());
  CHECK_THROWS_WITH(loaded.load({{"weight", average}, {"again", zeros({2})}}), Catch::StartsWith("ema: the values do not fit: one tensor in the model, but different values"));
  CHECK(loaded.values()[0].second.values() == average.values());
  nn::assign(other, ema.values());
  CHECK(other.again.values() == average.values());
}

TEST_CASE("the moving average of a constant is that constant", "[ema]") {
  class One : public nn::Module {
   public:
    void visit(nn::Visitor& v) override { v("weight", weight); }
    Tensor weight;
  } model;
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
    for (const double decay : {0.9, 0.9999, 0.99996, 0.9999999}) {
      model.weight = full({3}, 0.3, {dtype}).track();
      Ema ema(model, decay);
      for (int step = 0; step < 500; ++step) ema.update(model);
      CAPTURE(name(dtype), decay);
      CHECK(ema.values()[0].second.values() == model.weight.values());
    }
}

TEST_CASE("a moving average is of the parameters it began with", "[ema]") {
  class Some : public nn::Module {
   public:
    explicit Some(std::vector<std::pair<std::string, Tensor>> all) : parameters(std::move(all)) {}
    void visit(nn::Visitor& v) override {
      for (auto& [name, t] : parameters) v(name, t);
    }
    std::vector<std::pair<std::string, Tensor>> parameters;
  };
  const auto of = [](std::vector<std::pair<std::string, Shape>> all) {
    std::vector<std::pair<std::string, Tensor>> tensors;
    for (auto& [name, shape] : all) tensors.emplace_back(name, ones(shape).track());
    return Some(std::move(tensors));
  };
  Some model = of({{"a", {2}}, {"b", {3}}});
  Ema ema(model, 0.5);
  fill(model.parameters[0].second, 3);
  struct Case { Some model; std::string why; };
  for (Case& c : std::vector<Case>{{of({}), "it has no parameter a"}, {of({{"a", {2}}}), "it has no parameter b"}, {of({{"a", {2}}, {"c", {3}}}), "it has a parameter c"},
                                   {of({{"a", {2}}, {"b", {3}}, {"c", {1}}}), "it has a parameter c"}, {of({{"a", {2}}, {"b", {1}}}), "its b is [1], it was [3]"}}) {
    CHECK_THROWS_WITH(ema.update(c.model), "ema: the model is not the one that the average began with: " + c.why);
    CHECK(ema.values()[0].second.values() == std::vector<double>{1, 1});
  }
  ema.update(model);
  CHECK(ema.values()[0].second.values() == std::vector<double>{2, 2});
  nn::to(model, DType::f64);
  CHECK_THROWS_WITH(ema.update(model), "ema: the model is not the one that the average began with: its a is f64 on cpu, it was f32 on cpu");
  CHECK(ema.values()[0].second.values() == std::vector<double>{2, 2});
}

TEST_CASE("a moving average reads parameters in any layout", "[ema]") {
  class Turned : public nn::Module {
   public:
    void visit(nn::Visitor& v) override { v("weight", weight); }
    Tensor weight = transpose(nn::Init(3, {DType::f64}).normal({2, 3}, 1)).detach().track();
  } turned;
  Ema ema(turned, 0.75);
  const Tensor start = clone(turned.weight.detach());
  fill(turned.weight, 1);
  ema.update(turned);
  CHECK(ema.values()[0].second.values() == (start + (1.0 - start) * 0.25).values());
}

TEST_CASE("a moving average has buffers and frozen parameters as they are", "[ema]") {
  class Counting : public nn::Module {
   public:
    void visit(nn::Visitor& v) override { v("weight", weight), v("frozen", frozen), v.buffer("count", count), v.buffer("mean", mean); }
    Tensor weight = ones({2}).track(), frozen = full({2}, 0.1), mean = full({2}, 0.1), count = zeros({}, {DType::i64});
  } model;
  Ema ema(model, 0.9);
  for (int step = 1; step <= 3; ++step) {
    fill(model.weight, 2), fill(model.count, step), fill(model.mean, 0.1 * step);
    ema.update(model);
  }
  CHECK(ema.values()[0].second.values()[0] == Approx(2 - 0.9 * 0.9 * 0.9));
  for (std::size_t i = 1; i < 4; ++i) CHECK(ema.values()[i].second.values() == nn::state(model)[i].second.values());
}
