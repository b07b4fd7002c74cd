// Twins: what they say of their gap against the weights of the two runs taken one by one.
#include <catch2/catch.hpp>
#include <fstream>

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
  return {"--data-dir", data.string(), "--width", "16", "--depth", "2", "--heads", "2", "--patch", "7", "--batch", "16", "--epochs", "2",
          "--dropout", "0.1", "--log-every", "4"};
}

std::vector<Json> rows_of(const std::filesystem::path& run) {
  std::vector<Json> rows;
  std::ifstream in(run / "metrics.jsonl");
  for (std::string line; std::getline(in, line);)
    if (Json row = Json::parse(line); !row.contains("test_loss")) rows.push_back(std::move(row));  // steps only, not evaluations
  return rows;
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
    REQUIRE(run_norma(with({"train", "vit", "--attention", functions[i], "--out", run.string()}, sizes(data))).code == 0);
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
  CHECK_THAT(run({"--other"}).err, Contains("--other: needs an attention function"));
  CHECK_THAT(run({"--resume"}).err, Contains("--resume: twins do not have it"));
  CHECK(run({"--resume"}).code == 2);
  CHECK_THAT(run({"--othr", "x^3"}).err, Contains("--othr"));
}
