// The whole training step, as train/loop.cpp makes it: what it asks of the system.
#include <catch2/catch.hpp>

#include "inspect/probe.h"
#include "models/vit.h"
#include "nn/scoring.h"
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
