// Anomaly mode: the first op that makes a value that is not finite is told with its place and its inputs, and a bundle repeats the step.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>
#include <map>

#include "models/vit.h"
#include "tests/errors.h"
#include "tests/program.h"
#include "train/anomaly_bundle.h"
#include "train/safetensors.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

namespace {

Tensor leaf(const std::vector<double>& values) { return from_values(values, {static_cast<Index>(values.size())}, {DType::f64}).track(); }

std::vector<std::string> args_of(const std::filesystem::path& data, const std::filesystem::path& out, const std::vector<std::string>& more) {
  return with(small_run(data, out, {"--epochs", "20", "--log-every", "1"}), more);
}

}  // namespace

TEST_CASE("a logarithm of a negative number in the middle of a chain is the first anomaly", "[anomaly]") {
  const Tensor x = leaf({1, -2, 4});
  const AnomalyScope anomalies;
  const Tensor y = sum(exp(log(x * 3.0)) * 2.0);  // NaN from log on
  REQUIRE(anomalies.first());
  const Anomaly& a = *anomalies.first();
  CHECK(a.op == "log");
  CHECK(!a.backward);
  CHECK(a.number == 1);  // after mul
  CHECK(a.place == nullptr);
  REQUIRE(a.inputs.size() == 1);
  const TensorSummary& in = a.inputs[0];
  CHECK(in.role == "input 0");
  CHECK(in.shape == Shape{3});
  CHECK(in.non_finite == 0);
  CHECK(in.min == -6);
  CHECK(in.max == 12);
  CHECK(in.mean == Approx(3).epsilon(1e-15));
  CHECK(in.rms == Approx(std::sqrt((9.0 + 36 + 144) / 3)).epsilon(1e-15));
  CHECK(a.output.non_finite == 1);
  CHECK(a.output.first_non_finite == 1);
  CHECK(a.inputs[0].first_non_finite == -1);
  CHECK(a.output.max == std::log(12.0));
  CHECK(std::isnan(y.item()));
}

TEST_CASE("a derivative that is infinite where all values are finite is told as backward", "[anomaly]") {
  const Tensor x = leaf({4, 0});
  const AnomalyScope anomalies;
  const Tensor loss = sum(sqrt(x * 2.0));
  CHECK(!anomalies.first());
  backward(loss);
  REQUIRE(anomalies.first());
  const Anomaly& a = *anomalies.first();
  CHECK(a.op == "sqrt");
  CHECK(a.backward);
  CHECK(a.number == 1);
  CHECK(a.output.role == "gradient of input 0");
  CHECK(a.output.non_finite == 1);
  REQUIRE(!a.inputs.empty());
  CHECK(a.inputs[0].role == "gradient of the output");
  CHECK(a.inputs[0].non_finite == 0);
  CHECK(a.inputs[0].mean == 1);
}

TEST_CASE("gradients that overflow when they are added are told", "[anomaly]") {
  const double large = 1e308;
  const Tensor x = leaf({0.0});
  const AnomalyScope anomalies;
  const Tensor y = x * 1.0;
  backward(sum(y * large) + sum(y * large));
  REQUIRE(anomalies.first());
  CHECK(anomalies.first()->op == "sum of gradients");
  CHECK(anomalies.first()->inputs.size() == 2);
  CHECK(anomalies.first()->inputs[0].max == large);
}

TEST_CASE("finite values and views are no anomaly; an inner scope has its own", "[anomaly]") {
  CHECK(!AnomalyScope::active());
  const Tensor bad = leaf({1, std::numeric_limits<double>::infinity()});
  {
    const AnomalyScope anomalies;
    CHECK(AnomalyScope::active());
    {
      const AnomalyScope inner;
      (void)log(leaf({-1}));
      CHECK(inner.first());
    }
    CHECK(!anomalies.first());
    (void)sum(square(leaf({1e200, 3})) * 1e-300);
    REQUIRE(anomalies.first());
    CHECK(anomalies.first()->op == "square");
  }
  {
    const AnomalyScope anomalies;
    (void)reshape(bad, {2, 1});
    CHECK(!anomalies.first());  // a view makes nothing
    (void)contiguous(flip(bad, 0));
    REQUIRE(anomalies.first());
    CHECK(anomalies.first()->inputs[0].non_finite == 1);
  }
  {
    const AnomalyScope anomalies;
    backward(sum(leaf({1e200, -1e200}) * 2.0));  // f64 values whose squares overflow are finite
    CHECK(!anomalies.first());
  }
  CHECK(!AnomalyScope::active());
}

TEST_CASE("masks and statistics use infinities of their own, which are no anomaly", "[anomaly]") {
  AttentionOptions options;
  options.causal = true;
  options.stats = zeros({1, 1, attention_stats}, {DType::f64});
  Tensor scores = randn({1, 1, 4, 4}, {3, 1}, {DType::f64});
  scores.track();
  const AnomalyScope anomalies;
  backward(sum(square(attention_weights(scores, options))));
  const Tensor all = logsumexp(scores, -1);
  backward(sum(all));
  CHECK(!anomalies.first());
}

TEST_CASE("an op knows its module, forward and backward", "[anomaly]") {
  struct Two : nn::Module {
    void visit(nn::Visitor& v) override { v("first", first), v("second", second); }
    nn::Linear first, second;
  } model;
  nn::Init init(1, {DType::f64});
  model.first = nn::Linear(3, 4, init), model.second = nn::Linear(4, 2, init);
  const Tensor x = ones({2, 3}, {DType::f64});
  SECTION("forward") {
    fill(model.second.bias.detach(), std::numeric_limits<double>::infinity());
    const AnomalyScope anomalies;
    (void)model.second(model.first(x));
    REQUIRE(anomalies.first());
    CHECK(anomalies.first()->op == "linear");
    CHECK(nn::path_of(model, anomalies.first()->place) == "second");
  }
  SECTION("backward") {
    fill(model.second.weight.detach(), 1e200);
    const AnomalyScope anomalies;
    backward(sum(model.second(model.first(zeros({2, 3}, {DType::f64}))) * 1e200));  // 0 forward; 1e200 1e200 backward
    REQUIRE(anomalies.first());
    CHECK(anomalies.first()->backward);
    CHECK(anomalies.first()->op == "linear");
    CHECK(nn::path_of(model, anomalies.first()->place) == "second");
    CHECK(anomalies.first()->output.role == "gradient of input 0");
  }
  CHECK(nn::path_of(model, &model) == "");
}

TEST_CASE("watching for anomalies changes no bit", "[anomaly]") {
  const auto data = tiny_data(64, 20);
  for (const std::string dtype : {"f32", "bf16", "f64"}) {
    const auto runs = fresh_folder("anomaly-bits");
    REQUIRE(run_norma(args_of(data, runs / "a", {"--steps", "8", "--dropout", "0.1", "--dtype", dtype})).code == 0);
    REQUIRE(run_norma(args_of(data, runs / "b", {"--steps", "8", "--dropout", "0.1", "--dtype", dtype, "--anomaly"})).code == 0);
    CAPTURE(dtype);
    CHECK(contents(runs / "a/metrics.jsonl") == contents(runs / "b/metrics.jsonl"));
    const auto a = train::read_safetensors(runs / "a/checkpoint-000000008.safetensors").tensors;
    const auto b = train::read_safetensors(runs / "b/checkpoint-000000008.safetensors").tensors;
    REQUIRE(a.size() > 0);
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) CHECK((a[i].second.values() == b[i].second.values()));
  }
}

TEST_CASE("a rule with too many gradients is an error in anomaly mode too", "[anomaly]") {
  const Tensor x = ones({2}, {DType::f64}).track();
  const Tensor y = record(x.detach() * 2.0, {x}, {"two", keep_nothing, [](const Ctx&, const Tensor& g) -> Tensors { return {g, g, g}; }});
  const AnomalyScope anomalies;
  CHECK(error_of([&] { backward(sum(y)); }) == "backward: two has 1 inputs, but its rule returned 3 gradients");
}

TEST_CASE("what a norm adds to a gradient that had arrived is told with what had arrived", "[anomaly]") {
  const Tensor x = from_values({1, -1, 2, 0.5}, {1, 4}, {DType::f32}).track();
  const Tensor seed = from_values({3e38, 1, 1, 1}, {1, 4}, {DType::f32}), ones_of = ones({4}, {DType::f32});
  const AnomalyScope anomalies;
  const Tensor normed = layer_norm(x, ones_of * 1e38, {}), beside = x * 1.0;
  grad(normed + beside, Tensors{x}, seed);
  REQUIRE(anomalies.first());
  CHECK(anomalies.first()->op == "layer_norm");
  std::vector<std::string> roles;
  for (const TensorSummary& s : anomalies.first()->inputs) roles.push_back(s.role);
  CHECK(std::find(roles.begin(), roles.end(), "gradient of input 0 from elsewhere") != roles.end());
}

TEST_CASE("--anomaly stops with exit code 3, tells the op, and its bundle replays to the same report", "[anomaly]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("anomaly");
  const auto out = runs / "run";
  const std::vector<std::string> attention_error = {"--attention", "1e20x^8", "--init-std", "1e4", "--dropout", "0.1"};
  const std::vector<std::string> later = {"--attention", "x^8", "--lr", "1e4", "--warmup-epochs", "0", "--clip", "0", "--optimizer", "sgd"};
  for (const auto& flags : {attention_error, later}) {
    std::filesystem::remove_all(out);
    std::vector<std::string> args = args_of(data, out, flags);
    args.push_back("--anomaly");
    const Finished f = run_norma(args);
    CAPTURE(f.err);
    REQUIRE(f.code == 3);
    CHECK(f.out.empty());
    CHECK_THAT(f.err, Contains("the first value that is not finite is in the") && Contains("stopped before this step; look again with: norma replay " + out.string()));
    std::filesystem::path bundle;
    for (const auto& entry : std::filesystem::directory_iterator(out))
      if (entry.path().filename().string().starts_with("anomaly-") && entry.path().extension() == ".json") bundle = entry.path();
    REQUIRE(!bundle.empty());
    const auto j = nlohmann::json::parse(contents(bundle));
    CHECK(j["random"]["seed"] == 1);
    CHECK(j["random"]["step"] == j["step"]);
    CHECK(j["report"]["inputs"].size() >= 1);

    for (const std::string& named : {bundle.string(), out.string(), std::filesystem::path(bundle).replace_extension(".safetensors").string()}) {
      const Finished r = run_norma({"replay", named, "--threads", "1"});
      CAPTURE(r.err, r.out);
      CHECK(r.code == 0);
      REQUIRE(!r.out.empty());
      CHECK_THAT(f.err, Contains(r.out));  // the same lines, to the last digit
      CHECK_THAT(r.err, Equals("reproduced: the report is that of the training run\n"));
    }
    const Finished r = run_norma({"replay", bundle.string(), "--log-format", "json"});
    const auto answer = nlohmann::json::parse(r.out);
    CHECK(answer["reproduced"] == true);
    CHECK(answer["report"] == j["report"]);
  }
}

TEST_CASE("where a full disk has room for the checkpoint alone, --anomaly leaves that, and comes to the same step again", "[anomaly]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("anomaly-full");
  const auto args = [&](const char* name) { return args_of(data, runs / name, {"--attention", "1e20x^8", "--init-std", "1e4", "--anomaly", "--batch", "64"}); };
  REQUIRE(run_norma(args("whole")).code == 3);
  const std::string checkpoint = "checkpoint-000000000.safetensors", bundle = "anomaly-000000000.safetensors";
  const auto size = [&](const std::string& name) { return std::filesystem::file_size(runs / "whole" / name); };
  REQUIRE(size(checkpoint) < size(bundle));
  const Finished f = Program(args("full"), ".", (size(checkpoint) + size(bundle)) / 2).wait();
  CAPTURE(f.err);
  CHECK(f.code == 3);
  CHECK_THAT(f.err, Contains("step 0: the first value that is not finite is in the") && Contains(bundle) && Contains("; norma replay cannot look at this step\n") &&
                        Contains("stopped before this step; a checkpoint is in " + (runs / "full").string() + ". With room on the disk, the command with --resume --anomaly"));
  CHECK(contents(runs / "full" / checkpoint) == contents(runs / "whole" / checkpoint));
  CHECK(!std::filesystem::exists(runs / "full" / "anomaly-000000000.json"));
  const Finished again = run_norma(with(args("full"), {"--resume"}));
  CHECK(again.code == 3);
  CHECK_THAT(again.err, Contains("look again with: norma replay " + (runs / "full").string()));
  CHECK(run_norma({"replay", (runs / "full").string()}).code == 0);
}

TEST_CASE("a replay tells when it sees something else, and what is wrong with a bundle", "[anomaly]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("anomaly-bad");
  const auto out = runs / "run";
  REQUIRE(run_norma(args_of(data, out, {"--attention", "1e20x^8", "--init-std", "1e4", "--anomaly"})).code == 3);
  const auto bundle = out / "anomaly-000000000.json";
  const std::string whole = contents(bundle);
  const auto write = [&](const std::string& text) { std::ofstream(bundle) << text; };
  auto j = nlohmann::ordered_json::parse(whole);
  j["config"]["cpu"] = "none-of-here";  // another machine's
  write(j.dump());
  Finished f = run_norma({"replay", bundle.string()});
  CHECK(f.code == 0);
  CHECK_THAT(f.err, StartsWith("--cpu: unknown instruction set \"none-of-here\"") && Contains("replayed with this processor's"));
  j["report"].erase("first");  // of an earlier version
  write(j.dump());
  CHECK(run_norma({"replay", bundle.string()}).code == 0);
  j["config"]["cpu"] = "", j["config"]["attention"] = "softmax";
  write(j.dump());
  f = run_norma({"replay", bundle.string()});
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("norma: replay: ") && Contains("the training run reported:\nstep 0: the first value"));
  write(whole.substr(0, whole.size() / 2));
  f = run_norma({"replay", bundle.string()});
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains(bundle.string()));
  write("{\"format\": \"other\"}");
  f = run_norma({"replay", bundle.string()});
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Equals("norma: " + bundle.string() + ": format is \"other\", expected \"norma-anomaly-1\"; is it a bundle of this program?\n"));
  for (const std::string file : {"{}", "[]"}) {
    write(file);
    f = run_norma({"replay", bundle.string()});
    CHECK(f.code == 1);
    CHECK_THAT(f.err, Equals("norma: " + bundle.string() + ": is not a bundle, the anomaly-STEP.json that norma train --anomaly leaves in the run's folder\n"));
  }
  const auto broken = [&](const std::function<void(nlohmann::ordered_json&)>& change, const std::string& text) {
    auto edited = nlohmann::ordered_json::parse(whole);
    change(edited);
    write(edited.dump());
    f = run_norma({"replay", bundle.string()});
    CHECK(f.code == 1);
    CHECK(f.out.empty());
    CHECK_THAT(f.err, StartsWith("norma: " + bundle.string() + ": " + text));
  };
  broken([](auto& b) { b["report"]["inputs"] = nlohmann::ordered_json::object(); }, "report: inputs is {}, expected a list\n");
  broken([](auto& b) { b["report"]["output"].erase("role"); }, "report: \"role\" is missing\n");
  broken([](auto& b) { b["config"]["image"] = 0; }, "vit: image is 0");
  broken([](auto& b) { b["config"]["image"] = 21; }, "");  // the batch's are of 28
  const auto script = runs / "t.sh";
  std::ofstream(script) << "echo";
  CHECK_THAT(run_norma({"replay", script.string()}).err, StartsWith("norma: " + script.string() + ": "));
  write(whole);
  auto later = nlohmann::ordered_json::parse(whole);
  later["step"] = later["report"]["step"] = 7;
  std::ofstream(out / "anomaly-000000007.json") << later.dump();
  std::filesystem::copy_file(out / "anomaly-000000000.safetensors", out / "anomaly-000000007.safetensors");
  CHECK_THAT(run_norma({"replay", out.string()}).out, Contains("step 7:"));  // of several the newest
  std::filesystem::resize_file(out / "anomaly-000000000.safetensors", 1000);
  f = run_norma({"replay", bundle.string()});
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Contains("anomaly-000000000.safetensors"));
  f = run_norma({"replay", (runs / "none").string()});
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Equals("norma: " + (runs / "none").string() + ": there is no such bundle or run folder\n"));
  f = run_norma({"replay", runs.string()});
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Equals("norma: " + runs.string() + ": holds no anomaly-STEP.json; train with --anomaly to get one\n"));
  f = run_norma({"replay"});
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Equals("norma: replay: name one bundle, as in norma replay runs/a/anomaly-000000012.json\n"));
  CHECK_THAT(run_norma({"replay", "--help"}).out, Contains("usage: norma replay"));
}

TEST_CASE("a report says which image, token, channel and head the first value is of", "[anomaly]") {
  models::ViTConfig shape;
  shape.image = 4, shape.patch = 2, shape.channels = 1, shape.classes = 3, shape.width = 6, shape.depth = 1, shape.heads = 2;
  models::ViT model(shape, 1);
  const datasets::Batch batch{zeros({2, 1, 4, 4}), zeros({2}, {DType::i64}), {7, 8}};
  struct Find : nn::Visitor {
    void tensor(std::string_view, Tensor&) override {}
    void fixed(std::string_view, Tensor&) override {}
    void enter(std::string_view name, nn::Module& child) override { found[std::string(name)] = &child, child.visit(*this); }
    std::map<std::string, const nn::Module*> found;
  } modules;
  model.visit(modules);
  const nn::Module *attention = modules.found.at("attn"), *packed = modules.found.at("qkv"), *whole = &model;
  struct Case {
    const nn::Module* place;
    Shape shape;
    Index at;
    const char* text;
  };
  for (const Case& c : std::initializer_list<Case>{{whole, {2, 5, 6}, 40, "[1, 1, 4]: image 1, token 1, channel 4"},
                                                   {attention, {2, 5, 6}, 40, "[1, 1, 4]: image 1, token 1, channel 4, head 1"},
                                                   {packed, {2, 5, 18}, 90 + 18 + 9, "[1, 1, 9]: image 1, token 1, channel 9, key of head 1"},
                                                   {attention, {2, 5, 3, 2, 3}, 90 + 18 + 12 + 3 + 2, "[1, 1, 2, 1, 2]: image 1, token 1, value, head 1, channel 2"},
                                                   {attention, {2, 2, 5, 5}, 25 + 7, "[0, 1, 1, 2]: image 0, head 1, token 1, key 2"},
                                                   {whole, {2, 3}, 4, "[1, 1]: image 1, class 1"},
                                                   {whole, {2, 6}, 4, "[0, 4]"},  // a weight, perhaps
                                                   {whole, {6}, 4, "[4]"}}) {
    std::vector<double> values(static_cast<std::size_t>(c.shape.numel()), 1);
    values[static_cast<std::size_t>(c.at)] = NAN, values.back() = NAN;
    const train::Json report = train::report_of({"mul", false, 12, c.place, summarize("output", from_values(values, c.shape)), {}}, model, batch, 5);
    CHECK_THAT(train::report_text(report), Contains(fmt::format(" of {} elements, the first at {}\n", values.size(), c.text)));
  }
}

TEST_CASE("a report holds what was seen of each tensor, and its name", "[anomaly]") {
  models::ViTConfig shape;
  shape.image = 4, shape.patch = 2, shape.channels = 1, shape.classes = 2, shape.width = 4, shape.depth = 1, shape.heads = 1;
  models::ViT model(shape, 1);
  const datasets::Batch batch{zeros({1, 1, 4, 4}), zeros({1}, {DType::i64}), {7}};
  const Tensor kept = from_values({-4, 1, 2, INFINITY}, {2, 2});
  const Anomaly seen{"mul", true, 12, &static_cast<const nn::Module&>(model), summarize("output", kept),
                     {summarize("input 0", batch.images), summarize("input 1", nn::parameters(model).back().second)}};
  const train::Json report = train::report_of(seen, model, batch, 5);
  CHECK((report["step"] == 5 && report["op"] == "mul" && report["direction"] == "backward" && report["number"] == 12 && report["place"] == "model"));
  const train::Json& out = report["output"];
  CHECK((out["role"] == "output" && out["name"] == "" && out["shape"] == train::Json{2, 2} && out["dtype"] == "f32"));
  CHECK((out["min"] == -4 && out["max"] == 2 && out["elements"] == 4 && out["non_finite"] == 1));
  CHECK(out["mean"].get<double>() == Approx(-1.0 / 3));
  CHECK(out["rms"].get<double>() == Approx(std::sqrt(7.0)));
  REQUIRE(report["inputs"].size() == 2);
  CHECK(report["first"] == train::Json{{"index", {1, 1}}, {"meaning", ""}});  // of two rows, where the batch has one image
  CHECK((report["inputs"][0]["name"] == "images" && report["inputs"][1]["name"] == "head.bias" && report["inputs"][1]["role"] == "input 1"));
}
