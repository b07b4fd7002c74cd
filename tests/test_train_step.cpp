// The whole training step, as train/loop.cpp makes it: what it asks of the system.
#include <catch2/catch.hpp>

#include "inspect/probe.h"
#include "models/vit.h"
#include "nn/scoring.h"
#include "tests/refused_memory.h"
#include "train/optimizer.h"

using namespace norma;

TEST_CASE("after its second step, training asks the system for no memory", "[train_step]") {
  for (const char* attention : {"softmax", "x^3/sqrt(N)"}) {
    CAPTURE(attention);
    models::ViTConfig config;
    config.image = 12, config.patch = 4, config.classes = 5, config.width = 24, config.depth = 2, config.heads = 3;
    config.attention = nn::parse_scoring(attention);
    models::ViT model(config, 1);
    const auto optimizer = train::Optimizer::make({}, model);
    Tensor images = empty({6, 3, 12, 12});
    const Tensor labels = from_values({0, 1, 2, 3, 4, 0}, {6}, {DType::i64});
    const auto step = [&](std::uint64_t i) {
      backend({}).random(RandomKind::normal, {7, i}, 0, images.view());
      inspect::Probe probe(model);
      probe.attention("blocks.*.attn.stats");
      {
        const nn::Training training;
        const RandomScope random(1, i);
        backward(cross_entropy(model(images), labels));
      }
      const double norm = train::gradient_norm(model);
      optimizer->step(1e-3, norm > 1 ? 1 / norm : 1);
    };
    step(0);
    step(1);
    const MemoryUse before = backend({}).memory();
    for (std::uint64_t i = 2; i < 8; ++i) step(i);
    CHECK(backend({}).memory().system_requests == before.system_requests);
    CHECK(backend({}).memory().reserved == before.reserved);
    CHECK(backend({}).memory().in_use == before.in_use);
  }
}

TEST_CASE("a steady step makes few small blocks, and each further layer of the model as many", "[train_step]") {
  const auto blocks_of_a_step = [](Index depth) {
    models::ViTConfig config;
    config.image = 12, config.patch = 4, config.classes = 5, config.width = 24, config.depth = depth, config.heads = 3;
    models::ViT model(config, 1);
    const auto optimizer = train::Optimizer::make({}, model);
    const Tensor images = randn({2, 3, 12, 12}, {7}), labels = from_values({0, 1}, {2}, {DType::i64});
    std::int64_t blocks = 0;
    for (std::uint64_t i = 0; i < 4; ++i) {
      const std::int64_t before = test::blocks_asked_for();
      const nn::Training training;
      const RandomScope random(1, i);
      optimizer->prepare(1e-3);
      const Tensor loss = cross_entropy(model(images), labels);
      backward(loss);
      optimizer->apply(train::gradient_scale(optimizer->gradient_squares(), loss, 1));
      optimizer->advance();
      blocks = test::blocks_asked_for() - before;
    }
    return blocks;
  };
  const std::int64_t two = blocks_of_a_step(2), four = blocks_of_a_step(4);
  CHECK(two <= 580);
  CHECK(four - two <= 2 * 160);
}

TEST_CASE("no fused op of a training step falls back to its composition", "[train_step]") {
  for (const char* attention : {"softmax", "x^3/sqrt(N)", "x^2/sum(x^2)", "x^3/8 - 0.1*x", "sigmoid", "relu/N"})
    for (const char* variant : {"cls", "mean", "dropout", "drop path", "linear form", "clamped", "one image", "soft labels"})
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const std::string is = variant;
        models::ViTConfig config;
        config.image = 16, config.patch = 4, config.classes = 5, config.width = 32, config.depth = 2, config.heads = 2;
        config.attention = nn::parse_scoring(attention);
        if (is == "linear form" && linear_features(config.attention, 16) == 0) continue;
        CAPTURE(attention, variant, name(dtype));
        config.pool = is == "mean" ? models::ViTConfig::Pool::mean : models::ViTConfig::Pool::cls;
        config.dropout = is == "dropout" ? 0.2 : 0, config.drop_path = is == "drop path" ? 0.3 : 0, config.clamp_fro = is == "clamped" ? 1 : 0;
        if (is == "linear form") config.form = AttentionForm::linear;
        if (dtype == DType::bf16) config.activations = dtype;
        models::ViT model(config, 1);
        const Index batch = is == "one image" ? 1 : 3;
        const Tensor images = randn({batch, 3, 16, 16}, {7});
        const Tensor labels = is == "soft labels" ? full({batch, 5}, 0.2) : zeros({batch}, {DType::i64});
        for (const bool watched : {false, true}) {
          const std::int64_t before = declined_fusions();
          inspect::Probe probe(model);
          if (watched) probe.attention("blocks.*.attn.stats");
          const nn::Training training;
          const RandomScope random(1, 0);
          backward(cross_entropy(model(images), labels));
          // a clamp needs all of A: docs/diverged.md
          CHECK((declined_fusions() - before) == (is == "clamped" ? config.depth : 0));
        }
      }
}
