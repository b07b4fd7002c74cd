// Configurations: files, flags and presets, who wins, what is refused, and where it was given.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <fstream>

#include "tests/program.h"
#include "train/config.h"
#include "train/optimizer.h"
#include "train/run_folder.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::EndsWith;
using Catch::Matchers::Equals;
using Catch::Matchers::StartsWith;

TEST_CASE("config files: unknown keys, wrong types, comments, and who wins", "[config]") {
  const auto folder = fresh_folder("config");
  auto write = [&](const std::string& text) {
    std::ofstream(folder / "c.json") << text;
    return (folder / "c.json").string();
  };
  Finished f = run_norma({"train", "--config", write("{\"learing_rate\": 1}")});
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Contains("unknown key \"learing_rate\""));
  CHECK_THAT(run_norma({"train", "--config", write("{\"learning_rate\": 1}")}).err, Contains("unknown key \"learning_rate\" (did you mean \"lr\"?)"));
  f = run_norma({"train", "--config", write("{\"epochs\": \"three\"}")});
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Contains("\"epochs\" is \"three\", it must be a whole number"));
  f = run_norma({"train", "--config", write("{\"pad\": \"" + std::string(100'000, 'x') + "\"}")});
  CHECK_THAT(f.err, Contains("\"pad\" is \"xxx") && EndsWith("xxx..., it must be a whole number\n"));
  CHECK(f.err.size() < 500);
  CHECK(run_norma({"train", "--config", write("{\"" + std::string(100'000, 'x') + "\": 1}")}).err.size() < 1500);
  f = run_norma({"train", "--config", write("{\"epochs\": 3, \"epochs\": 4}")});
  CHECK(f.code == 2);
  f = run_norma({"train", "--config", write("// a comment\n{\"epochs\": 3, \"preset\": \"small\", \"width\": 96}"), "--lr", "0.5", "--print-config"});
  CHECK(f.code == 0);
  const auto config = nlohmann::json::parse(f.out);
  CHECK(config["epochs"] == 3);
  CHECK(config["width"] == 96);  // file over preset
  CHECK(config["heads"] == 6);   // preset over default
  CHECK(config["lr"] == 0.5);    // flag
  f = run_norma({"train", "--no-flip", "--no-graph", "--graph", "--lr", "0.5", "--lr=0.25", "--print-config"});
  REQUIRE(f.code == 0);
  const auto flags = nlohmann::json::parse(f.out);
  CHECK((flags["flip"] == false && flags["graph"] == true && flags["lr"] == 0.25));  // the last word counts
  CHECK(run_norma({"train", "--no-flip=1"}).err == "norma: --no-flip takes no value\n");
  for (const std::string name : {"resume", "print_config", "help"}) {
    const std::string file = write("{\"" + name + "\": true}");
    f = run_norma({"train", "--config", file});
    CHECK(f.code == 2);
    CHECK(f.err == fmt::format("norma: {}: \"{}\" is a flag of the command line, no field of a configuration; leave it out\n", file, name));
  }
}

TEST_CASE("a warm-up begins below the rate that it leads to", "[config]") {
  train::TrainConfig config;
  config.lr = 1e-8, config.min_lr = 0, config.warmup_epochs = 1, config.epochs = 2;
  CHECK(train::learning_rate(train::schedule_of(config, 10), 0) == 1e-8);
  config.lr = 0;
  for (Index step = 0; step < 20; ++step) CHECK(train::learning_rate(train::schedule_of(config, 10), step) == 0);
  config.lr = 1e-3;
  CHECK(train::learning_rate(train::schedule_of(config, 10), 0) == 1e-6);
  CHECK(train::learning_rate(train::schedule_of(config, 10), 15) == Approx(5e-4));  // half of the cosine
  config.schedule = "constant";
  CHECK(train::learning_rate(train::schedule_of(config, 10), 15) == 1e-3);
}

TEST_CASE("what could not be used is not printed as a configuration", "[config]") {
  for (const Wrong& w : std::vector<Wrong>{
           {{"train", "deit"}, 2, "train: unexpected \"deit\"; the one model is vit, see norma train --help"},
           {{"train", "vit", "--attention", "foo"}, 2, "attention \"foo\": unknown function"},
           {{"train", "vit", "--heads", "5"}, 2, "vit: width 192 is not a multiple of heads 5"},
           {{"train", "vit", "--image", "30"}, 2, "vit: image 30 is not a multiple of patch 4"},
           {{"train", "vit", "--pool", "max"}, 2, "--pool: \"max\" is unknown; there are cls, mean"},
           {{"train", "vit", "--device", "tpu"}, 2, "device \"tpu\" is unknown"},
           {{"train", "vit", "--record", "block.0.attn"}, 2, "--record: nothing matches \"block.0.attn\""},
           {{"train", "vit", "--data", "mnist"}, 2, "--data: data set \"mnist\" is unknown; there are fashion-mnist, cifar-10. Images of your own"},
           {{"twin", "vit", "--other", "foo"}, 2, "attention \"foo\": unknown function"},
           {{"twin", "deit"}, 2, "twin: unexpected \"deit\""},
           {{"info", "deit"}, 2, "info: unexpected \"deit\""},
           {{"info", "vit", "--image", "30"}, 2, "vit: image 30 is not a multiple of patch 16"},
           {{"gradcheck", "sofmax"}, 2, "gradcheck: unknown op \"sofmax\""},
           {{"gradcheck", "--width", "9"}, 2, "vit: width 9 is not a multiple of heads 2"}}) {
    const Finished f = run_norma(with(w.args, {"--print-config"}));
    CAPTURE(w.args);
    CHECK(f.code == w.code);
    CHECK_THAT(f.err, StartsWith("norma: " + w.text));
    CHECK(f.out.empty());
    const Finished without = run_norma(w.args);  // no other error than is told without it
    CHECK(without.err == f.err);
  }
  for (const char* verb : {"train", "twin", "info", "gradcheck"}) CHECK(run_norma({verb, "vit", "--print-config"}).code == 0);
}

TEST_CASE("a value that a config file gave is told with the file and the field, one that a flag gave with the flag", "[config]") {
  const auto folder = fresh_folder("config-values");
  const std::string file = (folder / "c.json").string();
  struct Case {
    std::string json, text;
    std::vector<std::string> more = {};
  };
  for (const Case& c : std::vector<Case>{
           {R"({"lr": -1})", file + ": lr: -1 must be 0 or more"},
           {R"({"lr": -1})", "--lr: -2 must be 0 or more", {"--lr", "-2"}},
           {R"({"mlp_ratio": 0})", file + ": mlp_ratio: 0 must be in 1..256"},
           {R"({"dropout": 1})", file + ": dropout: 1 must be in [0, 1)"},
           {R"({"threads": -1})", file + ": threads: -1 must be in 0..1024; 0 is all cores"},
           {R"({"optimizer": "adam"})", file + ": optimizer: \"adam\" is unknown; there are adamw, sgd"},
           {R"({"gemm": "blas"})", file + ": gemm: \"blas\" is unknown; there are own, fma, openblas"},
           {R"({"dtype": "f16"})", file + ": dtype: \"f16\" is unknown; there are f32, f64, bf16"},
           {R"({"min_lr": 0.1})", file + ": min_lr: 0.1 is above --lr 0.001, where the cosine begins; give at most that"},
           {R"({"penalty": "frob:1"})", file + ": penalty: norm \"frob\" is unknown (did you mean \"fro\"?); there is: fro"},
           {R"({"preset": "tinny"})", file + ": vit: no preset \"tinny\" (did you mean \"tiny\"?); there are tiny, small and base"},
           {R"({"cpu": "avx3"})", file + ": cpu: unknown instruction set \"avx3\"; there are base, avx2, avx512, avx512bf16, amx"},
           {R"({"device": "tpu"})", file + ": device \"tpu\" is unknown; there are cpu, cuda, cuda:INDEX, reference"},
           {R"({"data": "cifar10"})", file + ": data: data set \"cifar10\" is unknown (did you mean \"cifar-10\"?); there are fashion-mnist, cifar-10"},
           {R"({"model": "gpt"})", file + ": model: \"gpt\" is unknown; there is vit"},
           {R"({"pool": "max"})", file + ": pool: \"max\" is unknown; there are cls, mean"},
           {R"({"attention": "sofmax"})", file + ": attention \"sofmax\": unknown function; did you mean \"softmax\"?"},
           {R"({"attention_form": "fast"})", file + ": attention form \"fast\" is unknown; there are auto, quadratic, linear"}}) {
    std::ofstream(file) << c.json;
    const Finished f = run_norma(with({"train", "vit", "--config", file, "--out", (folder / "run").string()}, c.more));
    CAPTURE(c.json);
    CHECK(f.code == 2);
    CHECK_THAT(f.err, Equals("norma: " + c.text + "\n"));
    CHECK(!std::filesystem::exists(folder / "run"));
  }
}

TEST_CASE("a data set or a folder of data sets that is not there is told with the file that named it", "[config]") {
  const auto folder = fresh_folder("config-data");
  const std::string nowhere = (folder / "nowhere").string(), run = (folder / "run").string();
  const std::string text = fmt::format("data set \"fashion-mnist\": there is no folder {} to look in; name another with --data-dir\n", nowhere);
  REQUIRE(run_norma(tiny_run(tiny_data(64, 20), run)).code == 0);
  const std::string file = run + "/config.json", config = contents(file), data_dir = nlohmann::json::parse(config)["data_dir"].get<std::string>();
  const auto with_value = [&](const char* field, const std::string& value) {
    nlohmann::ordered_json changed = nlohmann::ordered_json::parse(config);
    changed[field] = value;
    std::ofstream(file) << changed.dump();
  };
  with_value("data_dir", nowhere);
  check_refused({{{"eval", run}, 1, "norma: " + file + ": " + text},
                 {{"train", "vit", "--config", file, "--out", (folder / "b").string()}, 1, "norma: " + file + ": " + text},
                 {{"twin", "vit", "--config", file, "--out", (folder / "b").string()}, 1, "norma: " + file + ": " + text},
                 {{"eval", run, "--data-dir", nowhere}, 1, "norma: " + text},
                 {{"train", "vit", "--config", file, "--data-dir", nowhere, "--out", (folder / "b").string()}, 1, "norma: " + text}});
  CHECK(run_norma({"eval", run, "--data-dir", data_dir}).code == 0);
  with_value("data", "cifar10");
  check_refused({{{"eval", run}, 1, "norma: " + file + ": data: data set \"cifar10\" is unknown (did you mean \"cifar-10\"?); there are fashion-mnist, cifar-10\n"}});
  CHECK(!std::filesystem::exists(folder / "b"));
}

TEST_CASE("channels and classes that the images do not have are refused before there is a folder", "[config]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("channels");
  for (const auto& [flag, value, text] : {std::array{"--channels", "3", "norma: --channels: 3 given, but the images of fashion-mnist have 1; leave it out\n"},
                                          {"--image", "14", "norma: --image: 14 given, but the images of fashion-mnist are 28x28 and are not cut; give 28 or more, in whose middle they then stand, or leave it out\n"},
                                          {"--classes", "9", "norma: --classes: 9 given, but fashion-mnist has 10; leave it out\n"}}) {
    const Finished f = run_norma(with(tiny_run(data, runs / "a"), {flag, value}));
    CHECK(f.code == 2);
    CHECK_THAT(f.err, Equals(text));
    CHECK(!std::filesystem::exists(runs / "a"));
  }
}
