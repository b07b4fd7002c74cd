// The same work from one start, again and again: equal bits each time. On a device a thousand times, where sums whose order depends on who comes
// first would show; under the emulator, which has one order, a few.
#include <bit>
#include <catch2/catch.hpp>
#include <set>

#include "tests/cuda/on_device.h"
#include "train/captured_step.h"

using namespace norma;
using namespace norma::train;

namespace {

const Device device{Device::Kind::cuda, 0};
const int repeats = 1000, repeats_emulated = 3;

/// Of the bits of numbers, in their order.
class Hash {
 public:
  void add(double x) { value_ = std::rotl((value_ ^ std::bit_cast<std::uint64_t>(x)) * 0x9e3779b97f4a7c15u, 29); }
  void add(const Tensor& x) {
    for (const double v : x.values()) add(v);
  }
  void add(Learner& run) {
    for (const auto& [name, tensor] : run.tensors()) add(tensor);
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 1;
};

/// A ViT, large enough on a device that its sums are those of many blocks, with a batch.
struct Training {
  TrainConfig config;
  Learner run;
  datasets::ImageSet set;
  datasets::Batch batch;

  static TrainConfig config_of(const char* dtype) {
    TrainConfig c;
    c.device = "cuda", c.dtype = dtype, c.depth = 2, c.dropout = c.drop_path = 0.1, c.ema = 0.9, c.clip = 0.5;
    c.width = on_device() ? 64 : 16, c.heads = 2, c.patch = on_device() ? 2 : 7;
    return c;
  }
  explicit Training(const char* dtype) : config(config_of(dtype)), run(config, vit_config(config, 14, 1, 3), {parameter_dtype(config), device}) {
    const Index images = on_device() ? 64 : 4;
    std::vector<double> labels;
    for (Index i = 0; i < images; ++i) labels.push_back(static_cast<double>(i % 3));
    set.labels = {0, 1, 2};
    batch = {empty({images, 1, 14, 14}, {parameter_dtype(config), device}), from_values(labels, {images}, {DType::i64, device}), {}};
    backend(device).random(RandomKind::normal, {7, 1}, 0, batch.images.view());
  }
  std::pair<StepResult, Learner::Update> step(CapturedStep* captured, Index number) {
    if (captured) return captured->take(batch, number, 1e-2);
    const StepResult result = forward_backward(run.model, batch, config, number);
    return {result, run.update(result.loss, 1e-2, config.clip)};
  }
  std::uint64_t weights() {
    Hash h;
    h.add(run);
    return h.value();
  }
};

/// Attention with dropout, its statistics and its gradients.
std::uint64_t attended(const Tensors& inputs, const char* scoring, double scale) {
  AttentionOptions options;
  options.scoring = nn::parse_scoring(scoring), options.scale = scale, options.dropout = 0.1, options.stream = {3, 4};
  options.stats = zeros({inputs[0].size(0), inputs[0].size(1), attention_stats}, {DType::f64, device});
  const Tensor y = attention(inputs[0], inputs[1], inputs[2], options);
  Hash h;
  for (const Tensor& g : grad(sum(square(cast(y, DType::f32))), inputs)) h.add(g);
  h.add(y), h.add(options.stats);
  return h.value();
}

}  // namespace

TEST_CASE("a training step repeated from one start has equal bits each time, captured and op by op", "[cuda_step]") {
  const int times = on_device() ? repeats : repeats_emulated;
  for (const char* dtype : {"f32", "bf16"}) {
    Training t(dtype);
    const auto captured = CapturedStep::make(t.run, t.config, t.set);
    REQUIRE(captured);
    t.step(nullptr, 0);  // moments that are not zero
    const RunState state = t.run.state;
    nn::Named start;
    for (const auto& [name, tensor] : t.run.tensors()) start.emplace_back(name, clone(tensor.detach()));
    const std::uint64_t before = t.weights();
    std::set<std::uint64_t> found;
    for (CapturedStep* by : {captured.get(), static_cast<CapturedStep*>(nullptr)})
      for (int i = 0; i < times; ++i) {
        t.run.restore(state, start);
        const auto [result, update] = t.step(by, 1);
        Hash h;
        for (const double x : {result.loss, result.accuracy, update.gradient_norm}) h.add(x);
        h.add(t.run);
        found.insert(h.value());
      }
    CAPTURE(dtype, times);
    CHECK(found.size() == 1);
    CHECK(t.weights() != before);
    t.run.restore(state, start);
    CHECK(t.weights() == before);
    const double lost = t.step(nullptr, 2).first.loss;  // other draws: what would be seen
    t.run.restore(state, start);
    CHECK(t.step(nullptr, 1).first.loss != lost);
  }
}

TEST_CASE("attention, its gradients and its statistics repeated have equal bits each time", "[cuda_attention]") {
  const int times = on_device() ? repeats : repeats_emulated;
  const Index rows = on_device() ? 500 : 33, heads = on_device() ? 4 : 1;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const char* scoring : {"softmax", "x^3/sqrt(N)"}) {
      Tensors inputs;
      for (std::uint64_t i = 0; i < 3; ++i) inputs.push_back(cast(randn({2, heads, rows, 32}, {7, i}, {DType::f32, device}), dtype).detach().track());
      std::set<std::uint64_t> found;
      for (int i = 0; i < times; ++i) found.insert(attended(inputs, scoring, 0.2));
      CAPTURE(scoring, name(dtype), times);
      CHECK(found.size() == 1);
      CHECK(found.count(attended(inputs, scoring, 0.21)) == 0);
    }
}
