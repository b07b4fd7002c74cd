// The captured training step: the bits of the step that runs op by op, what it refuses, what it leaves to that one.
#include <catch2/catch.hpp>

#include <limits>

#include "tests/folders.h"
#include "train/captured_step.h"
#include "train/loop.h"
#include "train/step_measures.h"

using namespace norma;
using namespace norma::train;
using Catch::Matchers::Contains;

namespace {

const Device device{Device::Kind::cuda, 0};

TrainConfig small() {
  TrainConfig c;
  c.device = "cuda", c.width = 16, c.depth = 2, c.heads = 2, c.patch = 7, c.batch = 8, c.epochs = 2, c.clip = 0.5;
  c.dropout = c.drop_path = 0.1, c.ema = 0.9, c.log_every = 4, c.checkpoint_every = 0;
  return c;
}

struct Written {
  std::string weights, log;
  bool operator==(const Written&) const = default;
};
/// The last checkpoint (weights, moments, moving average, counters) and the log of a run.
Written run(TrainConfig config, const std::filesystem::path& out) {
  config.out = out.string();
  const std::atomic<bool> stop = false;
  CHECK(train::train(config, false, stop, {}).ending == Ending::finished);
  Written w;
  for (const auto& file : std::filesystem::directory_iterator(out))
    if (file.path().extension() == ".safetensors") w.weights += test::contents(file.path());
  w.log = test::contents(out / "metrics.jsonl");
  CHECK(w.weights.size() > 1000);
  return w;
}

/// A model in training on random images, without a data set.
struct Trainee {
  TrainConfig config;
  Learner run;
  datasets::ImageSet set;

  explicit Trainee(const TrainConfig& c, std::uint8_t label = 2)
      : config(c), run(config, vit_config(config, 14, 1, 3), {parameter_dtype(config), parse_device(config.device)}) {
    set.labels = {0, 1, label};
  }
  std::unique_ptr<CapturedStep> captured() { return CapturedStep::make(run, config, set); }
  datasets::Batch batch(Index step) const {
    const Place place{parameter_dtype(config), parse_device(config.device)};
    const Tensor images = empty({4, 1, 14, 14}, place);
    backend(place.device).random(RandomKind::normal, {7, static_cast<std::uint64_t>(step)}, 0, images.view());
    return {images, from_values({0, 1, 2, static_cast<double>(step % 3)}, {4}, {DType::i64, place.device}), {}};
  }
  std::pair<StepResult, Learner::Update> eager(Index step) {
    const StepResult result = forward_backward(run.model, batch(step), config, step);
    return {result, run.update(result.loss, 1e-2, config.clip)};
  }
  std::vector<std::vector<double>> bits() {
    std::vector<std::vector<double>> all;
    for (const auto& [name, tensor] : run.tensors()) all.push_back(tensor.values());
    return all;
  }
};

void check_equal(const std::pair<StepResult, Learner::Update>& a, const std::pair<StepResult, Learner::Update>& b) {
  const auto same = [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); };
  CHECK(same(a.first.loss, b.first.loss));
  CHECK(a.first.accuracy == b.first.accuracy);
  CHECK(same(a.first.fro, b.first.fro));
  CHECK(same(a.second.gradient_norm, b.second.gradient_norm));
  CHECK(a.second.taken == b.second.taken);
  CHECK(a.second.why == b.second.why);
}

}  // namespace

TEST_CASE("a run of captured steps has the bits of one whose steps run op by op", "[cuda_step][slow]") {
  const auto data = test::tiny_data(72, 10), runs = test::fresh_folder("cuda-step");
  const auto compare = [&](const std::string& name, TrainConfig config) {
    CAPTURE(name);
    config.data_dir = data.string();
    const Written captured = run(config, runs / (name + "-graph"));
    config.graph = false;
    CHECK((captured == run(config, runs / (name + "-eager"))));
  };
  TrainConfig config = small();
  compare("softmax", config);
  config.attention = "x^3/sqrt(N)", config.dtype = "bf16", config.positions = "sincos", config.pool = "mean";
  compare("cubic-bf16", config);
  config = small();
  config.dtype = "f64", config.penalty = "fro:0.1", config.clamp = "fro:1.5", config.label_smoothing = 0.1, config.clip = config.ema = 0;
  compare("penalty-f64", config);
  config = small();
  config.optimizer = "sgd";
  compare("sgd", config);
}

TEST_CASE("captured steps count, clip, and draw as those that run op by op", "[cuda_step]") {
  TrainConfig config = small();
  config.penalty = "fro:0.1";
  Trainee a(config), b(config);
  const auto captured = a.captured();
  REQUIRE(captured);
  check_equal(a.eager(0), b.eager(0));
  std::vector<double> losses;
  for (Index step = 1; step < 6; ++step) {
    const auto found = captured->take(a.batch(step), step, 1e-2);
    check_equal(found, b.eager(step));
    CHECK(found.second.taken);
    CHECK(found.first.fro > 0);
    losses.push_back(found.first.loss);
  }
  CHECK(losses[0] != losses[1]);
  check_equal(a.eager(6), b.eager(6));  // between two replays
  check_equal(captured->take(a.batch(7), 7, 1e-2), b.eager(7));
  CHECK((a.bits() == b.bits()));
  // The draws follow the step's number: the same batch at another number has another loss, with the weights held by lr = 0.
  config.weight_decay = 0;
  Trainee c(config);
  c.eager(0);
  const auto held = c.captured();
  const datasets::Batch batch = c.batch(1);
  const double one = held->take(batch, 1, 0).first.loss, two = held->take(batch, 2, 0).first.loss;
  CHECK(one != two);
  CHECK(held->take(batch, 1, 0).first.loss == one);
}

TEST_CASE("a captured step whose loss is not finite changes nothing but the counters", "[cuda_step]") {
  TrainConfig config = small();
  config.clip = GENERATE(0.0, 0.5);
  Trainee a(config), b(config);
  const auto captured = a.captured();
  check_equal(a.eager(0), b.eager(0));
  check_equal(captured->take(a.batch(1), 1, 1e-2), b.eager(1));
  const auto before = a.bits();
  const auto poisoned = [](const Trainee& t) {
    datasets::Batch batch = t.batch(2);
    fill(select(batch.images, 0, 1), std::numeric_limits<double>::quiet_NaN());
    return batch;
  };
  const auto found = captured->take(poisoned(a), 2, 1e-2);
  CHECK_FALSE(found.second.taken);
  CHECK_FALSE(std::isfinite(found.first.loss));
  CHECK((a.bits() == before));
  CHECK(a.run.state.skipped == 1);
  CHECK(a.run.state.skipped_in_a_row == 1);
  const StepResult result = forward_backward(b.run.model, poisoned(b), b.config, 2);
  check_equal(found, {result, b.run.update(result.loss, 1e-2, b.config.clip)});
  check_equal(captured->take(a.batch(3), 3, 1e-2), b.eager(3));
  CHECK(a.run.state.skipped_in_a_row == 0);
  CHECK((a.bits() == b.bits()));
}

TEST_CASE("a captured step whose gradient is too large for adamw in f32 changes nothing but the counters", "[cuda_step]") {
  TrainConfig config = small();
  config.penalty = "fro:1e24";
  config.clip = GENERATE(0.0, 0.5, 1e30);
  const bool taken = config.clip == 0.5;
  Trainee a(config), b(config);
  const auto captured = a.captured();
  const auto before = a.bits();
  for (Index step = 0; step < 3; ++step) {
    const auto found = captured->take(a.batch(step), step, 1e-2);
    CHECK(found.second.taken == taken);
    CHECK(found.second.too_large == !taken);
    check_equal(found, b.eager(step));
    CHECK((a.bits() == before) == !taken);
  }
  CHECK(a.run.state.skipped_in_a_row == (taken ? 0 : 3));
  CHECK((a.bits() == b.bits()));
}

TEST_CASE("captured steps on batches that are sent ahead have the bits of those the host prepares", "[cuda_step]") {
  datasets::ImageSet set;
  set.name = "noise", set.count = 18, set.channels = 1, set.height = set.width = 14, set.classes = 3, set.mean = {0.4f}, set.std = {0.2f};
  for (std::uint64_t i = 0; i < 18 * 14 * 14; ++i) set.pixels.push_back(static_cast<std::uint8_t>(RandomStream{5, 1}.word(i) >> 24));
  for (int i = 0; i < 18; ++i) set.labels.push_back(static_cast<std::uint8_t>(i % 3));
  const TrainConfig config = small();
  Trainee a(config), b(config);
  datasets::LoaderConfig settings{.batch = 4, .augment = {2, true}, .place = {parameter_dtype(config), device}, .resident_bytes = 0};
  datasets::Loader sent(set, settings);
  settings.place.device = {};
  datasets::Loader host(set, settings);
  REQUIRE(sent.sent_ahead());
  const auto captured = a.captured();
  const auto on_host = [&] {
    datasets::Batch batch = host.next();
    batch.images = to(batch.images, device), batch.labels = to(batch.labels, device);
    return batch;
  };
  const auto eager = [](Trainee& t, const datasets::Batch& batch, Index step) {
    const StepResult result = forward_backward(t.run.model, batch, t.config, step);
    return std::pair{result, t.run.update(result.loss, 1e-2, t.config.clip)};
  };
  check_equal(eager(a, sent.next(), 0), eager(b, on_host(), 0));
  for (Index step = 1; step < 9; ++step) check_equal(captured->take(sent.next(), step, 1e-2), eager(b, on_host(), step));
  CHECK((a.bits() == b.bits()));
}

TEST_CASE("steady captured steps ask the system for no memory", "[cuda_step]") {
  Trainee a(small());
  const auto captured = a.captured();
  a.eager(0);
  for (Index step = 1; step < 3; ++step) captured->take(a.batch(step), step, 1e-2);
  const MemoryUse before = backend(device).memory();
  for (Index step = 3; step < 6; ++step) captured->take(a.batch(step), step, 1e-2);
#if !defined(__SANITIZE_ADDRESS__)  // for which the emulator asks for every block by itself
  CHECK(backend(device).memory().system_requests == before.system_requests);
#endif
  CHECK(backend(device).memory().in_use == before.in_use);
}

TEST_CASE("before a logged step its norms do not wait for the device", "[cuda_step]") {  // a capture would refuse it
  Trainee a(small());
  forward_backward(a.run.model, a.batch(0), a.config, 0);
  CHECK(backend(device).capture([&] { const ParameterWatch watch(a.run.model); }));
  CHECK(ParameterWatch(a.run.model).after_step().size() == nn::parameters(a.run.model).size());
}

TEST_CASE("what is not captured: other devices, --no-graph, anomaly mode, sgd, labels that are no class", "[cuda_step]") {
  const auto captured = [](auto change, std::uint8_t label = 2) {
    TrainConfig config = small();
    change(config);
    Trainee t(config, label);
    return t.captured() != nullptr;
  };
  CHECK(captured([](TrainConfig&) {}));
  CHECK_FALSE(captured([](TrainConfig& c) { c.device = "cpu"; }));
  CHECK_FALSE(captured([](TrainConfig& c) { c.graph = false; }));
  CHECK_FALSE(captured([](TrainConfig& c) { c.anomaly = true; }));
  CHECK_FALSE(captured([](TrainConfig& c) { c.optimizer = "sgd"; }));
  CHECK_FALSE(captured([](TrainConfig&) {}, 3));
}

TEST_CASE("indices are trusted and streams are counted in a captured step", "[cuda_step]") {
  const Tensor logits = ones({2, 3}, {DType::f32, device}), labels = from_values({0, 5}, {2}, {DType::i64, device});
  CHECK_THROWS_WITH(backend(device).capture([&] { return cross_entropy(logits, labels); }), Contains("waits for the device"));
  CHECK_THROWS_WITH(cross_entropy(logits, labels), "cross_entropy: target 5 at row 1 is outside 0..2");
  {
    const TrustIndices checked;
    CHECK(backend(device).capture([&] { return cross_entropy(logits, zeros({2}, {DType::i64, device})); }));
  }
  CHECK_FALSE(TrustIndices::active());
  const Tensor ids = from_values({11, 12}, {2}, {DType::i64, device});
  const RandomScope scope(3, ids);
  const Tensor x = ones({1000}, {DType::f32, device});
  CHECK((dropout(x, 0.5, RandomScope::next()).values() == dropout(x, 0.5, {3, 11}).values()));
  const RandomStream second = RandomScope::next();
  CHECK((dropout(x, 0.5, second).values() == dropout(x, 0.5, {3, 12}).values()));
  fill(ids, 13);  // what stands there when the kernel runs
  CHECK((dropout(x, 0.5, second).values() == dropout(x, 0.5, {3, 13}).values()));
  CHECK_THROWS_WITH(RandomScope::next(), "RandomScope: the captured step draws more than 2 times");
}
