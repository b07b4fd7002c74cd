// A small ViT against PyTorch: logits, loss, every gradient, and the weights after 10 AdamW steps. The numbers come
// from tests/golden/make_golden.py.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <map>

#include "models/vit.h"
#include "tests/tested_device.h"
#include "train/optimizer.h"
#include "train/safetensors.h"

using namespace norma;

namespace {

constexpr Index width = 16;

struct Golden {
  explicit Golden(const std::string& name) {
    const train::TensorFile file =
        train::read_safetensors(source_folder() / "tests" / "golden" / (name + ".safetensors"));
    for (const auto& [key, value] : file.tensors) tensors.emplace(key, value);
    attention = file.metadata.at("attention");
  }
  nn::Named starting_with(const std::string& prefix) const {
    nn::Named out;
    for (const auto& [key, value] : tensors)
      if (key.starts_with(prefix)) out.emplace_back(key.substr(prefix.size()), value);
    return out;
  }
  std::map<std::string, Tensor> tensors;
  std::string attention;
};

double length(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

/// |found - expected| / |expected|, both as vectors.
double distance(std::vector<double> found, const std::vector<double>& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) found[i] -= expected[i];
  return length(found) / length(expected);
}

/// Softmax does not change when a constant is added to a row of scores, so the gradient of the key bias is zero but for
/// rounding, which Adam then blows up to full steps. Takes that third out of a qkv bias.
std::vector<double> without_key(std::vector<double> bias) {
  bias.erase(bias.begin() + width, bias.begin() + 2 * width);
  return bias;
}

void compare(const std::string& file, DType dtype, double tolerance) {
  const Golden golden(file);
  models::ViTConfig config;
  config.image = 8, config.patch = 4, config.classes = 5, config.width = width, config.depth = 2, config.heads = 2;
  config.attention = nn::parse_scoring(golden.attention);
  const bool softmax = config.attention.kind == Scoring::Kind::softmax;
  const Device device = tested_device();
  models::ViT model(config, 1, {dtype, device});
  nn::assign(model, golden.starting_with("init/"));
  const Tensor images = to(cast(golden.tensors.at("images"), dtype), device),
               targets = to(golden.tensors.at("targets"), device);
  const auto optimizer = train::Optimizer::make({.weight_decay = 0.05}, model);

  auto check = [&](const std::string& name, const Tensor& found, const std::string& key) {
    INFO(name << " of " << file);
    const Tensor& expected = golden.tensors.at(key);
    if (softmax && name.ends_with("qkv.bias")) {
      CHECK(distance(without_key(found.values()), without_key(expected.values())) < tolerance);
    } else {
      CHECK(distance(found.values(), expected.values()) < tolerance);
    }
  };
  for (int step = 0; step < 10; ++step) {
    const Tensor logits = model(images);
    const Tensor loss = cross_entropy(logits, targets);
    backward(loss);
    if (step == 0) {
      check("logits", logits, "logits");
      check("loss", loss, "loss");
      for (const auto& [name, parameter] : nn::parameters(model)) {
        REQUIRE(parameter.grad());
        check(name, parameter.grad(), "grad/" + name);
      }
    }
    optimizer->step(1e-3);
  }
  for (const auto& [name, parameter] : nn::parameters(model)) check(name, parameter, "after/" + name);
  check("loss after training", cross_entropy(model(images), targets), "loss/after");
}

}  // namespace

TEST_CASE("softmax ViT equals PyTorch in f64", "[golden][device]") { compare("vit_softmax", DType::f64, 1e-11); }
TEST_CASE("softmax ViT equals PyTorch in f32", "[golden][device]") { compare("vit_softmax", DType::f32, 1e-5); }
TEST_CASE("x^3 ViT equals PyTorch in f64", "[golden][device]") { compare("vit_x3", DType::f64, 1e-11); }
TEST_CASE("x^3 ViT equals PyTorch in f32", "[golden][device]") { compare("vit_x3", DType::f32, 1e-5); }

TEST_CASE("the compositions equal PyTorch too", "[golden]") {
  NoFusion plain;
  compare("vit_softmax", DType::f64, 1e-11);
  compare("vit_x3", DType::f64, 1e-11);
}
