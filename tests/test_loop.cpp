// The training loop against the same run made by hand from its parts: every setting reaches its place, in its order.
#include <catch2/catch.hpp>

#include <cmath>
#include <fstream>
#include <numbers>

#include "nn/scoring.h"
#include "tests/folders.h"
#include "train/constraint.h"
#include "train/json.h"
#include "train/loop.h"
#include "train/prefix.h"

using namespace norma;
using namespace norma::test;
using train::Json;

namespace {

constexpr Index train_images = 72, test_images = 600, batch = 16, per_epoch = 4, epochs = 3, warmup = 3;

/// A run that differs from the defaults in as much as it can.
train::TrainConfig unusual(const std::filesystem::path& out) {
  train::TrainConfig c;
  c.data_dir = tiny_data(train_images, test_images).string(), c.out = out.string();
  c.attention = "x^3/sqrt(N)", c.pool = "mean", c.positions = "sincos";
  c.patch = 14, c.width = 16, c.depth = 3, c.heads = 2, c.mlp_ratio = 2;
  c.drop_path = 0.3, c.dropout = 0.2, c.init_std = 0.3;
  c.batch = batch, c.pad = 3, c.flip = false, c.rand_augment = 1, c.rand_magnitude = 20;
  c.epochs = epochs, c.steps = 1000 /* more than there are */, c.warmup_epochs = 0.75, c.lr = 0.05, c.min_lr = 0.01;
  c.optimizer = "sgd", c.weight_decay = 0.3, c.momentum = 0.7, c.clip = 0.5;
  c.label_smoothing = 0.2, c.ema = 0.8, c.penalty = "fro:0.3";
  c.seed = 5, c.log_every = 1;
  return c;
}

models::ViTConfig shape_of_it() {
  models::ViTConfig m;
  m.image = 28, m.patch = 14, m.channels = 1, m.classes = 10, m.width = 16, m.depth = 3, m.heads = 2, m.mlp_ratio = 2;
  m.pool = models::ViTConfig::Pool::mean, m.positions = models::ViTConfig::Positions::sincos;
  m.attention = nn::parse_scoring("x^3/sqrt(N)"), m.drop_path = 0.3, m.dropout = 0.2, m.init_std = 0.3;
  return m;
}

double rate(Index step) {
  if (step < warmup) return 1e-6 + (0.05 - 1e-6) * static_cast<double>(step) / warmup;
  const double part = static_cast<double>(step - warmup) / static_cast<double>(epochs * per_epoch - warmup);
  return 0.01 + 0.04 * 0.5 * (1 + std::cos(std::numbers::pi * part));
}

struct Tested {
  double loss = 0, accuracy = 0;
};
/// All images at once, in their order, as they are.
Tested tested(const models::ViT& model, const datasets::ImageSet& set) {
  const NoGrad off;
  datasets::Loader all(set, {.batch = set.count, .shuffle = false, .augment = {}});
  const datasets::Batch b = all.next();
  const Tensor logits = model(b.images);
  return {cross_entropy(logits, b.labels).item(), sum(equal(argmax(logits, -1), b.labels)).item() / static_cast<double>(set.count)};
}

struct Made {
  std::vector<double> loss, fro, accuracy, norm, rates;
  std::vector<Tested> after_epoch;  // of the average of the weights
  Tested trained;                   // of the weights themselves, at the end
  nn::Named weights, average;
};

Made by_hand(const datasets::ImageData& data) {
  Made made;
  models::ViT model(shape_of_it(), 5);
  const auto optimizer = train::Optimizer::make({.kind = "sgd", .weight_decay = 0.3, .momentum = 0.7}, model);
  datasets::Loader loader(data.train, {.batch = batch, .seed = 5, .augment = {3, false, {1, 20}}});
  for (const auto& [name, p] : nn::state(model)) made.average.emplace_back(name, clone(p.detach()));
  for (Index step = 0; step < epochs * per_epoch; ++step) {
    const datasets::Batch b = loader.next();
    {
      train::FroNorms norms(model);
      const nn::Training training;
      const RandomScope random(5, static_cast<std::uint64_t>(step));
      const Tensor logits = model(b.images), fro = norms.take();
      const Tensor loss = cross_entropy(logits, b.labels, 0.2) + 0.3 * fro;
      backward(loss);
      made.loss.push_back(loss.item()), made.fro.push_back(fro.item());
      made.accuracy.push_back(sum(equal(argmax(logits.detach(), -1), b.labels)).item() / batch);
    }
    made.norm.push_back(train::gradient_norm(model)), made.rates.push_back(rate(step));
    optimizer->step(rate(step), std::min(1.0, 0.5 / made.norm.back()));
    const NoGrad off;
    for (std::size_t i = 0; const auto& [name, p] : nn::state(model)) {
      const Tensor average = made.average[i++].second;
      if (p.is_leaf()) copy_into(average, average + (p.detach() - average) * (1 - 0.8));  // positions are fixed
    }
    made.weights.clear();
    for (const auto& [name, p] : nn::state(model)) made.weights.emplace_back(name, clone(p.detach()));
    if ((step + 1) % per_epoch != 0) continue;
    nn::assign(model, made.average);
    made.after_epoch.push_back(tested(model, data.test));
    nn::assign(model, made.weights);
  }
  made.trained = tested(model, data.test);
  return made;
}

void same(const nn::Named& found, const nn::Named& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(found[i].first);
    CHECK(found[i].first == expected[i].first);
    CHECK((found[i].second.values() == expected[i].second.values()));
  }
}

}  // namespace

TEST_CASE("a run is what its settings say, step by step, to the bit", "[loop]") {
  const auto out = fresh_folder("loop") / "run";
  const train::TrainConfig config = unusual(out);
  const std::atomic<bool> stop{false};
  std::vector<train::Progress> told;
  train::Watcher watcher;
  watcher.progress = [&](const train::Progress& p) { told.push_back(p); };
  const train::Outcome outcome = train::train(config, false, stop, watcher);
  REQUIRE(outcome.ending == train::Ending::finished);
  const Made made = by_hand(datasets::load_images("fashion-mnist", config.data_dir));
  CHECK(*std::max_element(made.norm.begin(), made.norm.end()) > 0.5);  // so that clipping has something to do

  std::ifstream in(out / "metrics.jsonl");
  std::size_t step = 0, epoch = 0;
  double shown = made.loss[0], shown_accuracy = made.accuracy[0];
  for (std::string line; std::getline(in, line);) {
    const Json row = Json::parse(line);
    CAPTURE(line.substr(0, 100));
    if (row.contains("test_loss")) {
      REQUIRE(epoch < made.after_epoch.size());
      CHECK(row["test_loss"].get<double>() == Approx(made.after_epoch[epoch].loss).epsilon(1e-6));
      CHECK(row["test_accuracy"].get<double>() == made.after_epoch[epoch].accuracy);
      ++epoch;
      CHECK(row["epoch"].get<double>() == static_cast<double>(epoch));
      CHECK(row["step"].get<std::size_t>() == epoch * per_epoch);
      continue;
    }
    REQUIRE(step < made.loss.size());
    CHECK(row["step"].get<std::size_t>() == step);
    CHECK(row["epoch"].get<double>() == static_cast<double>(step) / per_epoch);
    CHECK(row["loss"].get<double>() == made.loss[step]);
    CHECK(row["fro"].get<double>() == made.fro[step]);
    CHECK(row["accuracy"].get<double>() == made.accuracy[step]);
    CHECK(row["grad_norm"].get<double>() == made.norm[step]);
    CHECK(row["lr"].get<double>() == Approx(made.rates[step]).epsilon(1e-14));
    if (step > 0) shown += 0.05 * (made.loss[step] - shown), shown_accuracy += 0.05 * (made.accuracy[step] - shown_accuracy);
    CHECK(told.at(step).loss == Approx(shown).epsilon(1e-14));
    CHECK(told[step].accuracy == Approx(shown_accuracy).epsilon(1e-14));
    CHECK(told[step].what == "smoothed");
    CHECK((told[step].step == static_cast<Index>(step + 1) && told[step].epoch == static_cast<Index>(step / per_epoch + 1)));
    ++step;
  }
  CHECK((step == made.loss.size() && epoch == made.after_epoch.size()));
  CHECK(outcome.test.loss == Approx(made.after_epoch.back().loss).epsilon(1e-6));
  CHECK(outcome.test.accuracy == made.after_epoch.back().accuracy);
  CHECK(std::abs(made.trained.loss - made.after_epoch.back().loss) > 1e-4 * made.trained.loss);  // the average is another model

  const Json status = Json::parse(contents(out / "status.json")), summary = train::read_run(out).summary;
  CHECK((status["step"] == epochs * per_epoch && status["ending"] == "finished"));
  CHECK((summary["steps"] == epochs * per_epoch && summary["skipped"] == 0));
  CHECK((summary["test_loss"] == outcome.test.loss && summary["test_accuracy"] == outcome.test.accuracy));
  Index numbers = 0;
  for (const auto& [name, p] : made.weights) numbers += name == "pos_embed" ? 0 : p.numel();  // sincos positions do not learn
  CHECK(summary["parameters"] == numbers);

  const auto saved = train::RunFolder::load(out, [](const std::string& m) { FAIL(m); });
  REQUIRE(saved);
  same(train::without_prefix("model/", saved->second), made.weights);
  same(train::without_prefix("ema/", saved->second), made.average);
}

TEST_CASE("images of a training are drawn as its settings say, those of a test are as they are, in their order", "[loop]") {
  train::TrainConfig config;
  config.seed = 7;
  for (const bool flip : {true, false}) {
    config.flip = flip;
    const auto training = train::loader_config(config, shape_of_it(), true), test = train::loader_config(config, shape_of_it(), false);
    CHECK((training.augment.flip == flip && training.augment.pad == config.pad && training.shuffle && training.drop_last && training.seed == 7));
    CHECK(!(test.augment.flip || test.augment.pad || test.augment.rand.operations || test.shuffle || test.drop_last));
  }
}

TEST_CASE("where outputs are no numbers an evaluation has no accuracy", "[loop]") {
  models::ViT model(shape_of_it(), 3);
  nn::Named weights = nn::state(model);
  for (auto& [name, values] : weights) values = name == "head.bias" ? values.detach() * std::nan("") : values.detach();
  nn::assign(model, weights);
  const auto found = train::evaluate(model, datasets::load_images("fashion-mnist", tiny_data(train_images, 20)).test,
                                     {.batch = 16, .shuffle = false, .drop_last = false, .augment = {}}, std::atomic<bool>{false});
  REQUIRE(found);
  CHECK((std::isnan(found->loss) && std::isnan(found->accuracy)));
}

TEST_CASE("an evaluation is the mean over images, where the last batch has fewer", "[loop]") {
  models::ViTConfig shape = shape_of_it();
  shape.dropout = shape.drop_path = 0.5;
  const models::ViT model(shape, 3);
  datasets::ImageSet set = datasets::load_images("fashion-mnist", tiny_data(train_images, 20)).test;
  for (Index i = 0; i < 16; ++i) set.labels[static_cast<std::size_t>(i)] = set.labels[0];  // the last four are of other classes
  const std::atomic<bool> stop{false};
  const auto found = train::evaluate(model, set, {.batch = 16, .shuffle = false, .drop_last = false, .augment = {}}, stop);
  REQUIRE(found);
  const Tested expected = tested(model, set);
  CHECK(found->loss == Approx(expected.loss).epsilon(1e-6));
  CHECK(found->accuracy == expected.accuracy);
}
