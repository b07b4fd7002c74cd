// The training step that benchmarks time: replayed it does what it does op by op.
#include <catch2/catch.hpp>

#include "autograd/rounded_weights.h"
#include "bench/decoder.h"
#include "bench/training_step.h"

using namespace norma;

TEST_CASE("the benchmarks' replayed step has the losses and weights of the step op by op", "[cuda_step]") {
  const Device device{Device::Kind::cuda, 0};
  bench::DecoderConfig config;
  config.width = 16, config.depth = 1, config.heads = 2, config.tokens = 12, config.vocabulary = 11, config.dropout = 0.1;
  config.activations = GENERATE(DType::f32, DType::bf16);
  std::vector<double> text(24), next(24);
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<double>(i * i % 11), next[i] = static_cast<double>((i + 1) * (i + 1) % 11);
  const Tensor tokens = from_values(text, {2, 12}, {DType::i64, device}), wanted = from_values(next, {2, 12}, {DType::i64, device});
  bench::Decoder a(config, 1, {DType::f32, device}), b(config, 1, {DType::f32, device});
  const Tensor weight = nn::parameters(a)[0].second;
  bench::TrainingStep replayed(a, [&] {
    CHECK(static_cast<bool>(RoundedWeights::of(weight, DType::bf16)) == (config.activations == DType::bf16));  // all at once, within the step
    return cross_entropy(a(tokens), wanted);
  }, config.activations, true);
  bench::TrainingStep by_ops(b, [&] { return cross_entropy(b(tokens), wanted); }, config.activations, false);
  for (Index i = 0; i < 5; ++i) CHECK(replayed.take(i) == by_ops.take(i));
  CHECK(replayed.replayed());
  CHECK_FALSE(by_ops.replayed());
  for (Index i = 5; i < 17; ++i) replayed.launch(i), by_ops.take(i);  // more steps than there are staging buffers
  CHECK(replayed.take(17) == by_ops.take(17));
  const nn::Named left = nn::parameters(a), right = nn::parameters(b);
  for (std::size_t i = 0; i < left.size(); ++i) CHECK((left[i].second.values() == right[i].second.values()));
}
