// Twins: what they say of their gap against the weights of the two runs taken one by one.
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <map>

#include "autograd/ops.h"
#include "tests/program.h"
#include "train/json.h"
#include "train/run_folder.h"
#include "train/twin.h"

using namespace norma;
using namespace norma::test;
using train::Json;
using Catch::Matchers::Contains;

namespace {

std::vector<std::string> sizes(const std::filesystem::path& data) {
  return with(small_model(data), {"--epochs", "2", "--dropout", "0.1", "--ema", "0.9", "--log-every", "4"});
}

std::vector<Json> rows_of(const std::filesystem::path& run) {
  std::vector<Json> rows;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);)
    if (Json row = Json::parse(line); !row.contains("test_loss")) rows.push_back(std::move(row));  // steps only, not evaluations
  return rows;
}

/// Of a printed result.
std::string value_of(const std::string& out, const std::string& key) {
  const std::size_t line = out.find("\n" + key + " ");
  REQUIRE(line != std::string::npos);
  const std::size_t value = out.find_first_not_of(' ', line + 1 + key.size());
  return out.substr(value, out.find('\n', value) - value);
}

nn::Named weights_of(const std::filesystem::path& run) {
  auto found = train::RunFolder::load(run, [](const std::string& m) { FAIL(m); });
  REQUIRE(found);
  nn::Named out;
  for (auto& [name, t] : found->second)
    if (name.starts_with("model/")) out.emplace_back(name.substr(6), t);
  return out;
}

}  // namespace

TEST_CASE("twins with the same attention function never part", "[twin]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("twin-same") / "t";
  const Finished f = run_norma(with({"twin", "vit", "--other", "softmax", "--out", out.string()}, sizes(data)));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const std::vector<Json> rows = rows_of(out);
  REQUIRE(rows.size() == 3);  // of 8 steps every fourth and the last
  for (const Json& row : rows) {
    CHECK(row["twin_loss"][0] == row["twin_loss"][1]);
    for (const char* what : {"outputs", "gradients", "weights"})
      for (auto& [place, gap] : row[what].items()) {
        CAPTURE(what, place, gap.dump());
        CHECK(gap["distance"] == 0.0);
        CHECK(gap["cosine"].get<double>() == Approx(1).epsilon(1e-12));
      }
  }
}

TEST_CASE("each twin is the run it would be alone", "[twin]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("twin-two");
  const Finished f = run_norma(with({"twin", "vit", "--other", "x^3/sqrt(N)", "--out", (runs / "t").string()}, sizes(data)));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK_THAT(f.out, Contains("block outputs") && Contains("blocks.1.out") && Contains("other_test_accuracy"));
  nn::Named sides[2];
  const char* functions[] = {"softmax", "x^3/sqrt(N)"};
  for (int i : {0, 1}) {
    const auto run = runs / std::to_string(i);
    const Finished alone = run_norma(with({"train", "vit", "--attention", functions[i], "--out", run.string()}, sizes(data)));
    REQUIRE(alone.code == 0);
    CHECK_THAT(f.out, Contains((i == 0 ? "\n" : "\nother_") + fmt::format("{:<{}} {}\n", "test_loss", i == 0 ? 22 : 16, value_of(alone.out, "test_loss"))));
    sides[i] = weights_of(run);
    CHECK(rows_of(run)[1]["loss"] == rows_of(runs / "t")[1]["twin_loss"][i]);
    CHECK(rows_of(run)[1]["grad_norm"] == rows_of(runs / "t")[1]["twin_grad_norm"][i]);
  }
  double a = 0, difference = 0, product = 0, b = 0;  // of one block, element by element
  for (std::size_t i = 0; i < sides[0].size(); ++i) {
    if (!sides[0][i].first.starts_with("blocks.1.")) continue;
    const std::vector<double> x = sides[0][i].second.values(), y = sides[1][i].second.values();
    for (std::size_t k = 0; k < x.size(); ++k)
      a += x[k] * x[k], b += y[k] * y[k], product += x[k] * y[k], difference += (y[k] - x[k]) * (y[k] - x[k]);
  }
  const Json last = rows_of(runs / "t").back()["weights"]["blocks.1"];
  CHECK(last["distance"].get<double>() == Approx(std::sqrt(difference / a)).epsilon(1e-5));
  CHECK(last["cosine"].get<double>() == Approx(product / std::sqrt(a * b)).epsilon(1e-6));
  CHECK(last["distance"].get<double>() > 0);
}

TEST_CASE("wrong use of twins is told", "[twin]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("twin-wrong") / "t";
  auto run = [&](const std::vector<std::string>& more) { return run_norma(with(with({"twin", "vit", "--out", out.string()}, sizes(data)), more)); };
  CHECK_THAT(run({"--other", "softmaxx"}).err, Contains("softmaxx") && Contains("softmax"));
  CHECK(run({"--other"}).err == "norma: --other needs a value: the other attention function\n");
  const std::vector<std::vector<std::string>> of_one_run = {{"--resume"}, {"--anomaly"}, {"--record", "blocks.0.attn"}, {"--record-every", "1"},
                                                            {"--checkpoint-every", "1"}};
  for (const auto& flag : of_one_run) {
    const Finished f = run(flag);
    CHECK(f.code == 2);
    CHECK(f.err == "norma: " + flag[0] + " means nothing here; see --help\n");
  }
  CHECK(run({"--othr", "x^3"}).err == "norma: unknown flag --othr (did you mean --other?)\n");
  std::filesystem::create_directories(out);
  std::ofstream(out / "config.json") << "{}";
  CHECK_THAT(run({}).err, Contains("already holds a run; choose another with --out") && !Contains("--resume"));
  const std::string help = run_norma({"twin", "--help"}).out, flags = help.substr(help.find("Twins:"));
  CHECK_THAT(flags, Contains("--other TEXT") && Contains("--attention TEXT") && !Contains("--resume") && !Contains("--anomaly") && !Contains("--record"));
}

TEST_CASE("tables of twins show seven of the logged steps, the last among them", "[twin]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("twin-steps") / "t";
  const Finished f = run_norma(with({"twin", "vit", "--out", out.string()}, with(sizes(data), {"--log-every", "1"})));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  std::string header = fmt::format("\n{:<20}", "gradients");
  for (const char* step : {"step 0", "step 1", "step 2", "step 3", "step 4", "step 5", "step 7"}) header += fmt::format(" {:>11}", step);
  CHECK_THAT(f.out, Contains(header + "\n"));
}

TEST_CASE("what reads a run says that a twin's folder is none", "[twin]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("twin-read") / "t";
  REQUIRE(run_norma(with({"twin", "vit", "--out", out.string()}, sizes(data))).code == 0);
  for (const char* verb : {"report", "compare", "eval", "inspect", "theory", "watch"}) {
    const Finished f = run_norma({verb, out.string()});
    CAPTURE(verb);
    CHECK(f.code == 1);
    CHECK(f.err == fmt::format("norma: run folder {0}: is of norma twin, whose log has two runs in every line; read {0}/metrics.jsonl, or train each side by itself with "
                               "norma train\n", out.string()));
  }
  CHECK_THAT(run_norma(with(with({"train", "vit", "--out", out.string()}, sizes(data)), {"--resume"})).err, Contains("is of norma twin"));
}

TEST_CASE("the gaps of a step are those of its outputs, gradients and weights, element by element", "[twin]") {
  train::TrainConfig config;
  config.data_dir = tiny_data(64, 20).string(), config.out = (fresh_folder("twin-gaps") / "t").string();
  config.width = 16, config.depth = 2, config.heads = 2, config.patch = 7, config.batch = 16, config.epochs = 1, config.steps = 1;
  config.attention = "softmax", config.dropout = 0.1, config.init_std = 0.2, config.seed = 4;
  const std::atomic<bool> stop{false};
  const train::TwinOutcome twin = train::train_twin(config, "x^3/sqrt(N)", stop, {});
  REQUIRE(twin.steps.size() == 1);
  CHECK(twin.steps[0].step == 0);

  using Values = std::map<std::string, std::vector<double>>;
  Values outputs[2], gradients[2];  // by place, by block
  const datasets::ImageData data = datasets::load_images("fashion-mnist", config.data_dir);
  for (int side : {0, 1}) {
    train::TrainConfig c = config;
    if (side) c.attention = "x^3/sqrt(N)";
    const models::ViTConfig shape = train::vit_config(c, data.train);
    models::ViT model(shape, 4);
    nn::for_each_tap(model, [&](const std::string& name, nn::Tap& tap) {
      if (name.ends_with(".out")) tap.on_value([&, name](const Tensor& x) { outputs[side][name] = x.values(); });
    });
    datasets::Loader loader(data.train, train::loader_config(c, shape, true));
    const datasets::Batch batch = loader.next();
    const nn::Training training;
    const RandomScope random(4, 0);
    backward(cross_entropy(model(batch.images), batch.labels));
    for (const auto& [name, p] : nn::parameters(model)) {
      auto& part = gradients[side][name.starts_with("blocks.") ? name.substr(0, 8) : name.substr(0, name.find('.'))];
      for (const double g : p.grad().values()) part.push_back(g);
    }
  }
  const auto check = [](const train::Gaps& gaps, Values& left, Values& right, std::size_t count) {
    REQUIRE(gaps.size() == count);
    for (const auto& [place, gap] : gaps) {
      CAPTURE(place);
      const std::vector<double>&a = left.at(place), &b = right.at(place);
      REQUIRE((a.size() == b.size() && !a.empty()));
      double aa = 0, bb = 0, ab = 0, difference = 0;
      for (std::size_t i = 0; i < a.size(); ++i) aa += a[i] * a[i], bb += b[i] * b[i], ab += a[i] * b[i], difference += (b[i] - a[i]) * (b[i] - a[i]);
      CHECK(gap.distance == Approx(std::sqrt(difference / aa)).epsilon(1e-5).margin(1e-9));
      CHECK(gap.cosine == Approx(ab / std::sqrt(aa * bb)).epsilon(1e-5));
    }
  };
  check(twin.steps[0].outputs, outputs[0], outputs[1], 2);
  check(twin.steps[0].gradients, gradients[0], gradients[1], 7);
  CHECK(twin.steps[0].gradients[3].second.distance > 0.01);

  const Json row = rows_of(config.out).at(0);  // the same under its names
  const train::TwinStep& step = twin.steps[0];
  for (std::size_t i : {0, 1}) CHECK((row["twin_loss"][i] == step.loss[i] && row["twin_accuracy"][i] == step.accuracy[i] && row["twin_grad_norm"][i] == step.gradient_norm[i]));
  for (const auto& [name, gaps] : {std::pair{"outputs", &step.outputs}, {"gradients", &step.gradients}, {"weights", &step.weights}}) {
    REQUIRE(row[name].size() == gaps->size());
    for (const auto& [place, gap] : *gaps) CHECK((row[name][place]["distance"] == gap.distance && row[name][place]["cosine"] == gap.cosine));
  }
}

TEST_CASE("twins end where one of them diverges, and where they are stopped", "[twin]") {
  train::TrainConfig config;
  config.data_dir = tiny_data(232, 20).string(), config.out = (fresh_folder("twin-ends") / "diverged").string();
  config.width = 8, config.depth = 1, config.heads = 2, config.patch = 14, config.batch = 16, config.epochs = 2, config.log_every = 1;
  config.attention = "softmax", config.init_std = 1e4;
  std::atomic<bool> stop{false};
  const train::TwinOutcome diverged = train::train_twin(config, "1e20x^8", stop, {});
  CHECK(diverged.ending == train::Ending::diverged);
  CHECK(diverged.steps.size() == train::give_up_after);  // of 28
  CHECK(!std::isfinite(diverged.steps.back().loss[1]));

  stop = true, config.out = (fresh_folder("twin-ends") / "stopped").string();
  const train::TwinOutcome stopped = train::train_twin(config, "x", stop, {});
  CHECK((stopped.ending == train::Ending::interrupted && stopped.steps.empty()));
  stop = false, config.steps = 1;
  CHECK(train::train_twin(config, "x", stop, {}).steps.size() == 1);  // into the same folder, in which nothing is lost
}
