// `norma report`, the norms of parameters it shows, and run folders that are not what they should be.
#include <catch2/catch.hpp>

#include <cmath>
#include <fstream>
#include <map>

#include "autograd/grad.h"
#include "inspect/page.h"
#include "inspect/probe.h"
#include "models/vit.h"
#include "tests/program.h"
#include "tests/written_run.h"
#include "train/json.h"
#include "train/optimizer.h"
#include "train/safetensors.h"
#include "train/step_measures.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;
using train::Json;
namespace fs = std::filesystem;

namespace {

double length(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

}  // namespace

TEST_CASE("norms of parameters are those of the step that was made", "[report]") {
  models::ViTConfig config;
  config.image = 8, config.patch = 4, config.classes = 5, config.width = 16, config.depth = 1, config.heads = 2;
  models::ViT model(config, 1, {DType::f64});
  const auto optimizer = train::Optimizer::make({}, model);
  const Tensor images = cast(reshape(arange(2 * 3 * 64), {2, 3, 8, 8}), DType::f64) * 1e-2;
  backward(cross_entropy(model(images), from_values({1, 3}, {2}, {DType::i64})));
  std::map<std::string, std::vector<double>> weights, gradients;
  for (const auto& [name, p] : nn::parameters(model)) weights[name] = p.values(), gradients[name] = p.grad().values();
  const train::ParameterWatch watch(model);
  optimizer->step(1e-2, 0.5);
  const Json found = watch.after_step();
  REQUIRE(found.size() == weights.size());
  for (const auto& [name, p] : nn::parameters(model)) {
    CAPTURE(name);
    std::vector<double> change = p.values();
    for (std::size_t i = 0; i < change.size(); ++i) change[i] -= weights[name][i];
    const double weight = length(weights[name]);
    CHECK(found[name]["weight"].get<double>() == Approx(weight).epsilon(1e-6).margin(0));
    CHECK(found[name]["grad"].get<double>() == Approx(length(gradients[name])).epsilon(1e-6).margin(0));
    CHECK(found[name].contains("update") == (weight != 0));
    if (weight == 0) continue;
    CHECK(found[name]["update"].get<double>() == Approx(length(change) / weight).epsilon(1e-6).margin(0));
    CHECK(found[name]["update"].get<double>() > 0);
  }
}

TEST_CASE("a line of the log holds each statistic under its own name, and what is estimated", "[report]") {
  for (const auto& [text, form] : {std::pair{"softmax", AttentionForm::quadratic}, {"x^2/sqrt(N)", AttentionForm::quadratic}, {"x^2/sqrt(N)", AttentionForm::linear},
                                   {"x/sqrt(N)", AttentionForm::linear}}) {
    CAPTURE(text, nn::name(form));
    nn::Init init(2, {DType::f64});
    nn::SelfAttention layer({.width = 40, .heads = 2, .scoring = nn::parse_scoring(text), .form = form, .std = 0.2}, init);
    inspect::Probe logged(layer), kept(layer);
    logged.attention("*"), kept.attention("*");
    backward(sum(square(layer(init.normal({2, 150, 40}, 1)))));
    const Json row = train::attention_json(logged)[0];
    const auto [place, s] = kept.take_attention().at(0);
    CHECK(row["place"] == place);
    std::map<std::string, std::vector<double>> expected = {
        {"fro", s.fro}, {"jacobian", s.jacobian}, {"grad_a", s.grad_a}, {"grad_s", s.grad_s}, {"score_mean", s.score_mean}, {"score_rms", s.score_rms},
        {"score_max", s.score_max}, {"row_sum", s.row_sum}, {"row_sum_std", s.row_sum_std}, {"min", s.min}, {"max", s.max},
        {"negative_share", s.negative_share}, {"small_share", s.small_share}};
    if (text == std::string("softmax")) expected["entropy"] = s.entropy;
    if (form == AttentionForm::linear) expected["sampled"] = {1, 1};
    if (form == AttentionForm::linear && text == std::string("x^2/sqrt(N)")) expected["fro_error"] = s.fro_error;  // that of x is exact
    CHECK(row.size() == expected.size() + 1);
    for (const auto& [field, heads] : expected) {
      CAPTURE(field);
      REQUIRE(row.contains(field));
      CHECK(row[field].get<std::vector<double>>() == heads);
    }
  }
}

TEST_CASE("what is logged changes no bit of the weights", "[report]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("report-bits");
  auto weights = [&](const char* every) {
    const Finished f = run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8",
                                  "--epochs", "1", "--log-every", every, "--out", (runs / every).string()});
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
    std::map<std::string, std::vector<double>> values;  // f32 as double: as exact as the bits
    for (const auto& [name, t] : train::read_safetensors(runs / every / "checkpoint-000000008.safetensors").tensors) values[name] = t.values();
    REQUIRE(values.size() == 3 * 20 + 1);
    return values;
  };
  CHECK((weights("1") == weights("1000")));
}

TEST_CASE("a report of a run goes into its folder and holds all that was recorded", "[report]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("report");
  for (const char* name : {"a", "b"}) {
    const Finished f = run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "2", "--heads", "2", "--patch", "14", "--batch", "8",
                                  "--epochs", "1", "--log-every", "2", "--out", (runs / name).string(), "--attention", name[0] == 'a' ? "softmax" : "x^3/sqrt(N)"});
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
  }
  Finished f = run_norma({"report", (runs / "a").string()});
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  CHECK_THAT(f.out, Equals(fmt::format("page: {}\n", (runs / "a" / "report.html").string())));
  CHECK(f.err.empty());
  const Json page = data_of(contents(runs / "a" / "report.html"));
  REQUIRE(page["runs"].size() == 1);
  const Json& run = page["runs"][0];
  CHECK(run["name"] == "a");
  CHECK(run["note"] == "");
  CHECK(run["rows"].size() == 6);  // steps 0, 2, 4, 6, 7 and the evaluation
  CHECK(run["parameters"].size() == 32);
  CHECK((run["summary"]["steps"] == 8 && run["summary"]["tokens"] == 5));
  std::ifstream metrics(runs / "a" / "metrics.jsonl");
  std::string line;
  REQUIRE(std::getline(metrics, line));
  const Json first = Json::parse(line);
  REQUIRE(first["attention"].size() == 2);
  CHECK(run["rows"][0]["attention"].size() == 2);
  for (const auto& [field, heads] : inspect::head_stats) {
    CAPTURE(field);
    if (field == std::string("fro_error") || field == std::string("sampled")) continue;  // of what is estimated
    for (std::size_t l = 0; l < 2; ++l) {
      const Json &layer = first["attention"][l], &shown = run["rows"][0]["attention"][l][field];
      REQUIRE(layer.contains(field));
      REQUIRE((layer[field].size() == 2 && shown.size() == 2));
      for (std::size_t h = 0; h < 2; ++h) {
        CHECK(layer[field][h].is_number());  // null would be: not finite
        CHECK(shown[h].get<double>() == Approx(layer[field][h].get<double>()).epsilon(5e-7));
        CHECK(shown[h].dump().size() <= 14);  // seven digits
      }
    }
  }
  for (std::size_t i = 0; i < run["parameters"].size(); ++i) {
    const Json& logged = first["parameters"][run["parameters"][i].get<std::string>()];
    for (const char* key : {"weight", "grad"}) CHECK(run["rows"][0]["parameters"][key][i] == logged[key]);
    CHECK(run["rows"][0]["parameters"]["update"][i] == logged.value("update", Json()));
  }

  f = run_norma({"report", (runs / "a").string(), (runs / "b").string(), "--html", (runs / "both.html").string(), "--log-format", "json"});
  REQUIRE(f.code == 0);
  CHECK(Json::parse(f.out)["html"] == (runs / "both.html").string());
  const Json both = data_of(contents(runs / "both.html"));
  REQUIRE(both["runs"].size() == 2);
  CHECK((both["runs"][0]["setting"] == "softmax" && both["runs"][1]["setting"] == "x^3/sqrt(N)" && both["runs"][0]["left_out"] == ""));
  for (const Json& layer : both["runs"][1]["rows"][0]["attention"]) {
    CHECK(layer.contains("fro"));
    CHECK(!layer.contains("entropy"));  // rows of x^3 do not sum to one
  }
  const std::string html = contents(runs / "both.html");
  CHECK(html.find("https://") == std::string::npos);
  CHECK(html.find("src=") == std::string::npos);
  for (const char* mark : {"/*STYLE*/", "/*COMMON*/", "/*REPORT*/", "/*LIVE*/", "/*DATA*/"}) CHECK(html.find(mark) == std::string::npos);
}

TEST_CASE("a page holds the digits that the statistics have", "[report]") {
  inspect::PageRun run;
  run.rows = {Json::parse(R"({"step": 0, "loss": 0.123456789012, "attention": [{"place": "a", "fro": [1.23456789012, -1.2e-30, null, 3]}]})")};
  for (const char* dtype : {"f32", "bf16", "f64", ""}) {
    run.config = dtype[0] ? Json{{"dtype", dtype}} : Json::object();
    const Json row = inspect::run_json(run)["rows"][0];
    CHECK(row["attention"][0]["fro"].dump() == (dtype == std::string("f64") ? "[1.23456789012,-1.2e-30,null,3]" : "[1.234568,-1.2e-30,null,3]"));
    CHECK((row["loss"] == 0.123456789012 && row["attention"][0]["place"] == "a"));
  }
}

TEST_CASE("a run that is being written is reported up to its last whole line, and says so", "[report]") {
  const auto run = written_run("report-cut", good_config, good_row + "\n" + good_row.substr(0, 100));
  const Finished f = run_norma({"report", run.string()});
  CHECK(f.code == 0);
  const std::string note = (run / "metrics.jsonl").string() + ":2: the line is cut after 100 bytes (the run is going on, or was stopped); left out";
  CHECK_THAT(f.err, Equals(note + "\n"));
  const Json page = data_of(contents(run / "report.html"));
  CHECK(page["runs"][0]["rows"].size() == 1);
  CHECK(page["runs"][0]["note"] == note);
  CHECK(page["runs"][0]["summary"].is_null());
}

TEST_CASE("a run has trained no known time before its first checkpoint, and so many steps as that has behind it", "[report]") {
  const auto run = written_run("report-seconds", good_config, good_row + "\n");
  for (const auto& [step, ending, seconds] : {std::tuple{0, "", 0.0}, {0, "interrupted", 0.5}, {7, "", 0.5}}) {
    write(run / "status.json", fmt::format(R"({{"step": {}, "ending": "{}", "seconds": 0.5}})", step, ending));
    REQUIRE(run_norma({"report", run.string()}).code == 0);
    const Json shown = data_of(contents(run / "report.html"))["runs"][0];
    CHECK((shown["seconds"] == seconds && shown["steps"] == step));
  }
}

TEST_CASE("the page knows N of a run that has not ended, also of one of an earlier version", "[report]") {
  const auto data = tiny_data(64, 20), run = fresh_folder("report-tokens") / "a";
  const std::string positions = GENERATE("learned", "sincos");
  REQUIRE(run_norma({"train", "vit", "--data-dir", data.string(), "--width", "8", "--depth", "1", "--heads", "2", "--patch", "14", "--batch", "8", "--steps", "2",
                     "--positions", positions, "--out", run.string()}).code == 0);
  const auto tokens = [&] {
    REQUIRE(run_norma({"report", run.string()}).code == 0);
    return data_of(contents(run / "report.html"))["runs"][0]["tokens"].get<Index>();
  };
  fs::remove(run / "summary.json");
  CHECK(Json::parse(contents(run / "status.json"))["tokens"] == 5);
  CHECK(tokens() == 5);
  write(run / "status.json", R"({"step": 2, "ending": "interrupted", "seconds": 1})");
  CHECK(tokens() == 5);  // the checkpoint has a position for each
  write(run / "checkpoint-000000002.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff and no header");
  CHECK(tokens() == 0);
  write(run / "checkpoint-000000002.safetensors", "cut");
  CHECK(tokens() == 0);
  fs::remove(run / "checkpoint-000000002.safetensors");
  CHECK(tokens() == 0);
  write(run / "config.json", replaced(contents(run / "config.json"), "\"image\": 0", "\"image\": 28"));
  CHECK(tokens() == 5);
  write(run / "config.json", replaced(contents(run / "config.json"), "\"image\": 28", "\"image\": 100000000000"));
  CHECK(tokens() == 0);  // more than fit a number
}

TEST_CASE("names and texts that look like script stay text", "[report]") {
  const auto run = written_run("report-<script>alert(1)<", replaced(good_config, "\"softmax\"", "\"</script><script>alert(2)</script>\""), good_row + "\n");
  REQUIRE(run_norma({"report", run.string()}).code == 0);
  const std::string html = contents(run / "report.html");
  CHECK(html.find("<script>alert") == std::string::npos);
  CHECK(data_of(contents(run / "report.html"))["runs"][0]["config"]["attention"] == "</script><script>alert(2)</script>");
}

TEST_CASE("run folders that are none, and those of another version, are told apart", "[report]") {
  const fs::path here = fresh_folder("report-bad"), config = here / "config.json", metrics = here / "metrics.jsonl";
  auto message = [&] {
    const Finished f = run_norma({"report", here.string()});
    CHECK(f.code == 1);
    CHECK(f.out.empty());
    CHECK(!fs::exists(here / "report.html"));
    return f.err;
  };
  const std::string version = "; was the run made by another version of norma?\n";
  CHECK_THAT(message(), Equals(fmt::format("norma: run folder {}: is empty; has norma train --out written there?\n", here.string())));
  write(here / "notes.txt", "x");
  CHECK_THAT(message(), Equals(fmt::format("norma: run folder {}: holds no config.json; is it a run?\n", here.string())));
  write(config, good_config);
  CHECK_THAT(message(), Equals(fmt::format("norma: run folder {}: holds no metrics.jsonl yet; has the run made a step?\n", here.string())));

  write(metrics, good_row + "\n");
  write(config, good_config.substr(0, 40));
  CHECK_THAT(message(), Contains(config.string() + ": JSON error at byte 40"));
  write(config, "[1]");
  CHECK_THAT(message(), Equals(fmt::format("norma: {}: holds [1], it must hold an object", config.string()) + version));
  write(config, replaced(good_config, "\"heads\"", "\"head_count\""));
  CHECK_THAT(message(), Equals(fmt::format("norma: {}: there is no \"heads\"", config.string()) + version));
  write(config, replaced(good_config, "\"lr\": 0.001", "\"lr\": \"0.001\""));
  CHECK_THAT(message(), Equals(fmt::format("norma: {}: \"lr\" is \"0.001\", it must be a number", config.string()) + version));
  write(config, good_config);

  struct Case { std::string from, to, text; };
  const auto letters = [](int n) {
    std::string text;
    for (int i = 0; i < n; ++i) text += "é";
    return text;
  };
  for (const Case& c : std::vector<Case>{
           {"\"step\": 0", "\"iteration\": 0", "there is no \"step\""},
           {"\"step\": 0", "\"step\": 18446744073709551615", "\"step\" is 18446744073709551615, it must be a whole number from 0 to below 2^63"},
           {"\"step\": 0", "\"step\": 9223372036854775808", "\"step\" is 9223372036854775808, it must be a whole number from 0 to below 2^63"},
           {"\"step\": 0", "\"step\": -1", "\"step\" is -1, it must be a whole number from 0 to below 2^63"},
           {"\"skipped\": 0", "\"skipped\": 9223372036854775808", "\"skipped\" is 9223372036854775808, it must be a whole number from 0 to below 2^63"},
           {"\"loss\": 2.5", "\"loss\": [2.5]", "\"loss\" is [2.5], it must be a number"},
           {"\"loss\": 2.5", "\"loss\": \"a" + letters(30) + "\"", "\"loss\" is \"a" + letters(27) + "..., it must be a number"},  // cut between two letters
           {"\"fro\"", "\"norm\"", "there is no \"fro\" in \"attention\""},
           {"[1.0, 2.0]", "1.5", "\"fro\" is 1.5, it must be a list of one number a head"},
           {"[1.0, 2.0]", "[1.0, \"x\"]", "\"fro\" is [1.0,\"x\"], it must be a list of one number a head"},
           {"{\"weight\": 0.0, \"grad\": 0.5}", "[0.0, 0.5]", "\"head.bias\" is [0.0,0.5], it must be an object of numbers"}}) {
    write(metrics, good_row + "\n" + replaced(good_row, c.from, c.to) + "\n");
    CHECK_THAT(message(), Equals(fmt::format("norma: {}:2: {}", metrics.string(), c.text) + version));
  }
  write(metrics, good_row + "\n" + good_row.substr(0, 30) + "\n" + good_row + "\n");  // cut, but not at the end
  CHECK_THAT(message(), Contains(metrics.string() + ":2: JSON error at byte 30"));
  write(metrics, good_row + "\n");
  write(here / "summary.json", R"({"steps": 1, "test_loss": 0.5, "test_accuracy": 0.5, "seconds": 1.5})");
  CHECK_THAT(message(), Equals(fmt::format("norma: {}: there is no \"tokens\"", (here / "summary.json").string()) + version));
  for (const char* tokens : {"9223372036854775808", "-1"}) {
    write(here / "summary.json", fmt::format(R"({{"steps": 1, "tokens": {}, "test_loss": 0.5, "test_accuracy": 0.5, "seconds": 1.5}})", tokens));
    CHECK_THAT(message(), Equals(fmt::format("norma: {}: \"tokens\" is {}, it must be a whole number from 0 to below 2^63", (here / "summary.json").string(), tokens) + version));
  }
  fs::remove(here / "summary.json");
  write(config, replaced(good_config, "\"seed\": 1", "\"seed\": 9223372036854775808"));
  CHECK_THAT(message(), Equals(fmt::format("norma: {}: \"seed\" is 9223372036854775808, it must be a whole number below 2^63", config.string()) + version));
  write(config, good_config);
  CHECK(run_norma({"report", here.string()}).code == 0);  // what all of the above differ from
}

TEST_CASE("lines out of order are no log of a run", "[report]") {
  const auto at = [](int step) { return replaced(good_row, "\"step\": 0", fmt::format("\"step\": {}", step)) + "\n"; };
  const auto tested = [](int step) { return fmt::format("{{\"step\": {}, \"epoch\": 1.0, \"test_loss\": 0.5, \"test_accuracy\": 0.5}}\n", step); };
  const auto run = written_run("report-order", good_config, "");
  const std::string file = (run / "metrics.jsonl").string(), page = (run / "page.html").string();
  struct Case { std::string log, at; int step, before; };
  for (const Case& c : std::vector<Case>{{at(0) + at(5) + at(3), "3", 3, 5}, {at(0) + at(0), "2", 0, 0}, {at(0) + tested(4) + at(8) + tested(4), "4", 4, 4}}) {
    write(run / "metrics.jsonl", c.log);
    for (const char* verb : {"report", "compare"}) {
      const Finished f = run_norma({verb, run.string(), "--html", page});
      CHECK(f.code == 1);
      CHECK_THAT(f.err, Equals(fmt::format("norma: {}:{}: step {} stands behind step {}, which no run writes; take the line out, or go on with norma train --resume, which cuts "
                                           "the file back to its checkpoint\n", file, c.at, c.step, c.before)));
    }
  }
  // What --steps leaves at the end of an epoch: its last line is written behind the evaluation.
  write(run / "metrics.jsonl", at(0) + tested(4) + at(3));
  CHECK(run_norma({"report", run.string(), "--html", page}).code == 0);
}

TEST_CASE("report: wrong usage", "[report]") {
  Finished f = run_norma({"report"});
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Equals("norma: report: name the run folders, as in norma report runs/a runs/b\n"));
  f = run_norma({"report", "no-such-run"});
  CHECK(f.code == 1);
  CHECK_THAT(f.err, Equals("norma: run folder no-such-run: there is no such folder\n"));
  f = run_norma({"report", "x", "--log-format", "xml"});
  CHECK(f.code == 2);
  CHECK_THAT(f.err, Equals("norma: --log-format: \"xml\" is unknown; there are text, json\n"));
  f = run_norma({"report", "--help"});
  CHECK(f.code == 0);
  CHECK_THAT(f.out, Contains("usage: norma report RUN..."));
}
