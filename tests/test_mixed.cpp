// Mixed precision over a whole model: what is stored in which dtype, and that training in it follows f32.
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "core/backend.h"
#include "inspect/probe.h"
#include "models/vit.h"
#include "nn/scoring.h"
#include "train/optimizer.h"

using namespace norma;

namespace {

models::ViTConfig config(const char* attention, bool bf16) {
  models::ViTConfig c;
  c.image = 16, c.patch = 4, c.classes = 4, c.width = 48, c.depth = 3, c.heads = 3;
  c.attention = nn::parse_scoring(attention);
  c.init_std = 0.08;
  if (bf16) c.activations = DType::bf16;
  return c;
}

/// Images whose class is their brightness, under noise.
struct Images {
  Tensor images, labels;
  explicit Images(std::uint64_t i) {
    constexpr Index batch = 32, side = 16;
    labels = randint(0, 4, {batch}, {12, i});
    const Tensor brightness = (cast(labels, DType::f32) - 1.5) * 0.8;
    images = (rand({batch, 3, side, side}, {11, i}) - 0.5) * 3.0 + reshape(brightness, {batch, 1, 1, 1});
  }
};

std::vector<double> losses(const char* attention, bool bf16, int steps) {
  models::ViT model(config(attention, bf16), 5);
  const auto optimizer = train::Optimizer::make({}, model);
  std::vector<double> loss;
  for (int i = 0; i < steps; ++i) {
    const Images batch(static_cast<std::uint64_t>(i));
    const nn::Training training;
    const RandomScope random(1, static_cast<std::uint64_t>(i));
    const Tensor l = cross_entropy(model(batch.images), batch.labels);
    backward(l);
    const double norm = train::gradient_norm(model);
    optimizer->step(3e-4, norm > 1 ? 1 / norm : 1);
    loss.push_back(l.item());
  }
  return loss;
}

double mean_of(const std::vector<double>& x, std::size_t begin, std::size_t end) {
  double sum = 0;
  for (std::size_t i = begin; i < end; ++i) sum += x[i];
  return sum / static_cast<double>(end - begin);
}

}  // namespace

TEST_CASE("a model in bf16 stores activations so, and everything else in f32", "[mixed]") {
  models::ViT model(config("softmax", true), 5);
  const Images batch(0);
  inspect::Probe probe(model);
  CHECK(model.features(batch.images).dtype() == DType::bf16);
  probe.attention("blocks.*.attn.stats");
  const Tensor logits = model(batch.images);
  CHECK(logits.dtype() == DType::f32);
  backward(cross_entropy(logits, batch.labels));
  for (const auto& [name, parameter] : nn::parameters(model)) {
    CAPTURE(name);
    CHECK(parameter.dtype() == DType::f32);
    CHECK(parameter.grad().dtype() == DType::f32);
  }
  const auto layers = probe.take_attention();
  CHECK(layers.size() == 3);
  for (const auto& [place, statistics] : layers)
    for (const double fro : statistics.fro) CHECK(std::isfinite(fro));
}

TEST_CASE("statistics of attention in bf16 are those of f32 to bf16's precision", "[mixed]") {
  for (const char* attention : {"softmax", "x^3/sqrt(N)", "sigmoid"}) {
    CAPTURE(attention);
    std::vector<std::vector<double>> fro;
    for (const bool bf16 : {false, true}) {
      models::ViT model(config(attention, bf16), 5);
      inspect::Probe probe(model);
      probe.attention("blocks.*.attn.stats");
      backward(cross_entropy(model(Images(0).images), Images(0).labels));
      fro.emplace_back();
      for (const auto& [place, statistics] : probe.take_attention())
        for (double f : statistics.fro) fro.back().push_back(f);
    }
    REQUIRE(fro[0].size() == 9);
    for (std::size_t i = 0; i < fro[0].size(); ++i) CHECK(fro[1][i] == Approx(fro[0][i]).epsilon(0.03));
  }
}

TEST_CASE("training in bf16 follows training in f32", "[mixed][slow]") {
#if defined(__SANITIZE_ADDRESS__)  // all steps touch the same memory: enough to part, too few to learn
  constexpr int steps = 6;
#else
  constexpr int steps = 60;
#endif
  for (const char* attention : {"softmax", "x^3/sqrt(N)"}) {
    CAPTURE(attention);
    const std::vector<double> wide = losses(attention, false, steps), narrow = losses(attention, true, steps);
    CHECK(narrow != wide);
    for (std::size_t i = 0; i < wide.size(); ++i) {
      CAPTURE(i);
      CHECK(std::abs(narrow[i] - wide[i]) < 0.02);
    }
    if (steps < 60) continue;
    CHECK(mean_of(wide, 50, 60) < 0.6 * mean_of(wide, 0, 5));
    CHECK(mean_of(narrow, 50, 60) < 0.6 * mean_of(narrow, 0, 5));
  }
}

TEST_CASE("a step in bf16 holds about half of the memory, and asks the system for none once it is warm", "[mixed][slow]") {
  std::vector<std::size_t> peak;
  for (const bool bf16 : {false, true}) {
    models::ViTConfig c = config("softmax", bf16);
    c.width = 96, c.image = 32;
    models::ViT model(c, 5);
    const auto optimizer = train::Optimizer::make({}, model);
    const Tensor images = full({32, 3, 32, 32}, 0.25), labels = zeros({32}, {DType::i64});
    const auto step = [&] {
      const nn::Training training;
      backward(cross_entropy(model(images), labels));
      optimizer->step(1e-3, 1);
    };
    step(), step();
    backend({}).reset_peak();
    const MemoryUse before = backend({}).memory();
    for (int i = 0; i < 3; ++i) step();
    CHECK(backend({}).memory().system_requests == before.system_requests);
    peak.push_back(backend({}).memory().peak - before.in_use);
  }
  INFO("above what lives between steps: f32 " << peak[0] << " bytes, bf16 " << peak[1]);
  CHECK(static_cast<double>(peak[1]) < 0.65 * static_cast<double>(peak[0]));
}
