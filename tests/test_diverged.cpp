// Without --anomaly: a step whose loss or gradient is not finite, or too large for adamw, changes nothing but the counters, and ten in a row end the run.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <cmath>
#include <map>

#include "tests/program.h"
#include "tests/written_run.h"
#include "train/learner.h"
#include "train/safetensors.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

namespace {

std::vector<std::string> args_of(const std::filesystem::path& data, const std::filesystem::path& out, const std::vector<std::string>& more) {
  return with(small_run(data, out, {"--epochs", "10", "--log-every", "1", "--checkpoint-every", "1", "--attention", "1e20x^8"}), more);
}

/// Weights, optimizer (its step count too) and moving average, byte by byte.
std::map<std::string, std::string> tensors_of(const std::filesystem::path& run, Index step) {
  std::map<std::string, std::string> out;
  for (auto& [name, t] : train::read_safetensors(run / fmt::format("checkpoint-{:09}.safetensors", step)).tensors)
    out[name] = std::string(static_cast<const char*>(t.view().data), static_cast<std::size_t>(t.numel()) * size_of(t.dtype()));
  return out;
}

bool finite(const train::Json& row) { return !row["loss"].is_null() && !row["grad_norm"].is_null(); }

}  // namespace

TEST_CASE("ten steps in a row without a finite loss end the run: exit code 3, a checkpoint, weights as they were", "[diverged]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("diverged");
  const auto out = runs / "run";
  const Finished f = run_norma(args_of(data, out, {"--init-std", "1e4", "--ema", "0.9"}));
  CAPTURE(f.err);
  REQUIRE(f.code == 3);
  CHECK(f.out.empty());
  CHECK_THAT(f.err, Contains("step 0: the loss is not finite; step skipped (1 of 10)\n") && Contains("step 9: the loss is not finite; step skipped (10 of 10)\n") &&
                        Contains("diverged: steps 0 to 9 were skipped; a checkpoint is in " + out.string() + ". Repeat the command with --resume --anomaly to learn which operation it was\n"));
  const Finished table = run_norma({"compare", out.string(), "--html", (runs / "page.html").string()});
  CHECK_THAT(table.out, Contains("seconds   status\n") && Contains("   diverged\n"));
  CHECK_THAT(contents(runs / "page.html"), Contains("\"ending\":\"diverged\""));
  const auto rows = steps_of(out);
  REQUIRE(rows.size() == 10);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i]["skipped"] == i + 1);
    CHECK(rows[i]["loss"].is_null());
    CHECK(rows[i]["accuracy"].is_null());
  }
  // Logged seldom, the step that ends it has a line too, which a run that goes on takes back.
  const auto seldom = with(args_of(data, runs / "seldom", {"--init-std", "1e4"}), {"--log-every", "100"});
  REQUIRE(run_norma(seldom).code == 3);
  REQUIRE(steps_of(runs / "seldom").size() == 2);
  CHECK(steps_of(runs / "seldom")[1]["step"] == 9);
  CHECK(steps_of(runs / "seldom")[1]["skipped"] == 10);
  CHECK(steps_of(runs / "seldom")[1]["attention"].size() == 2);
  CHECK(steps_of(runs / "seldom")[1]["parameters"].size() > 5);
  REQUIRE(run_norma(with(seldom, {"--resume"})).code == 3);
  REQUIRE(steps_of(runs / "seldom").size() == 2);
  CHECK(steps_of(runs / "seldom")[1]["step"] == 10);
  CHECK(steps_of(runs / "seldom")[1]["skipped"] == 11);
  REQUIRE(run_norma(with(seldom, {"--resume", "--anomaly"})).code == 3);  // takes no step: the line stays
  REQUIRE(steps_of(runs / "seldom").size() == 2);
  CHECK(steps_of(runs / "seldom")[1]["skipped"] == 11);

  // Killed behind its last checkpoint, before the line of the step that ended it and the status.
  const auto killed = with(args_of(data, runs / "killed", {"--init-std", "1e4"}), {"--log-every", "100"});
  REQUIRE(run_norma(killed).code == 3);
  const std::string log = contents(runs / "killed" / "metrics.jsonl"), checkpoint = contents(runs / "killed" / "checkpoint-000000010.safetensors");
  std::filesystem::resize_file(runs / "killed" / "metrics.jsonl", log.rfind("{\"step\":9,"));
  write(runs / "killed" / "status.json", R"({"step": 10, "ending": "", "seconds": 1.0})");
  const Finished ended = run_norma(with(killed, {"--resume"}));
  CAPTURE(ended.err);
  CHECK(ended.code == 3);
  CHECK_THAT(ended.err, Contains("resumed from step 10\n") && Contains("diverged: steps 0 to 9 were skipped;") && Contains("--resume --anomaly to learn"));
  CHECK(contents(runs / "killed" / "metrics.jsonl") == log);
  CHECK((contents(runs / "killed" / "checkpoint-000000010.safetensors") == checkpoint));
  CHECK(!std::filesystem::exists(runs / "killed" / "checkpoint-000000011.safetensors"));
  CHECK_THAT(contents(runs / "killed" / "status.json"), Contains("\"ending\": \"diverged\""));

  const auto before = tensors_of(out, 9), after = tensors_of(out, 10);
  REQUIRE(before.size() > 10);
  CHECK((before == after));
  CHECK(before.count("optimizer/step") == 1);

  // Initial weights, since no step was ever taken: those of a run that is stopped after one.
  const auto first = runs / "first";
  REQUIRE(run_norma(args_of(data, first, {"--init-std", "1e4", "--ema", "0.9", "--steps", "1"})).code == 0);
  CHECK((tensors_of(first, 1) == after));

  // The same run, from its checkpoint, with the reason.
  const Finished why = run_norma(args_of(data, out, {"--init-std", "1e4", "--ema", "0.9", "--resume", "--anomaly"}));
  CAPTURE(why.err);
  CHECK(why.code == 3);
  CHECK_THAT(why.err, Contains("resumed from step 10") && Contains("step 10: the first value that is not finite"));
  CHECK(std::filesystem::exists(out / "anomaly-000000010.json"));
}

TEST_CASE("a finite step in between starts the count again; a skipped step alone changes nothing", "[diverged]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("skipped");
  // With one image a step and attention at the edge of what f32 holds, some images overflow and others do not.
  const auto flags = [](const char* steps) {
    return std::vector<std::string>{"--batch", "1", "--init-std", "6", "--attention", "1e12x^8", "--steps", steps, "--lr", "1e-6", "--warmup-epochs", "0"};
  };
  const auto out = runs / "run";
  const Finished f = run_norma(args_of(data, out, flags("24")));
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const auto rows = steps_of(out);
  REQUIRE(rows.size() == 24);
  Index skipped = 0, in_a_row = 0, taken = 0, both = -1;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    finite(rows[i]) ? (++taken, in_a_row = 0) : (++skipped, ++in_a_row);
    CHECK(rows[i]["skipped"] == skipped);
    CHECK(rows[i]["skipped_in_a_row"] == in_a_row);
    if (i > 0 && finite(rows[i - 1]) && !finite(rows[i]) && both < 0) both = static_cast<Index>(i);
  }
  CHECK(skipped > 0);
  CHECK(taken > 0);
  REQUIRE(both > 0);  // step both-1 was taken, step both was skipped
  const auto cut = runs / "cut";
  REQUIRE(run_norma(args_of(data, cut, flags(std::to_string(both + 1).c_str()))).code == 0);
  const auto before = tensors_of(cut, both), after = tensors_of(cut, both + 1);
  CHECK((before == after));
  // A run cut at a skipped step and resumed ends with the bits of the whole one: the counters are part of the state.
  REQUIRE(run_norma([&] { auto a = args_of(data, cut, flags("24")); a.push_back("--resume"); return a; }()).code == 0);
  CHECK((tensors_of(cut, 24) == tensors_of(out, 24)));
  CHECK(contents(cut / "metrics.jsonl") == contents(out / "metrics.jsonl"));
}

TEST_CASE("a step that is taken ends a row of skipped ones, and the average follows steps that are taken alone", "[diverged]") {
  train::TrainConfig config;
  config.width = 8, config.depth = 1, config.heads = 2, config.patch = 14, config.ema = 0.5, config.optimizer = "sgd", config.weight_decay = config.momentum = 0;
  train::Learner run(config, train::vit_config(config, 28, 1, 10), {DType::f32});
  const Tensor bias = nn::parameters(run.model).back().second;
  const auto update = [&](double loss) {
    bias.set_grad(ones({10}));
    return run.update(loss, 0.5, 0).taken;
  };
  for (Index i = 1; i <= 9; ++i) {
    CHECK(!update(NAN));
    CHECK(run.state.skipped_in_a_row == i);
  }
  const auto average = [&] { return run.ema->values().back().second.values()[0]; };
  CHECK((bias.values()[0] == 0 && average() == 0));
  CHECK(update(1));
  CHECK((run.state.skipped_in_a_row == 0 && run.state.skipped == 9));
  CHECK((bias.values()[0] == -0.5 && average() == -0.25));
  CHECK(!update(INFINITY));
  CHECK((run.state.skipped_in_a_row == 1 && run.state.skipped == 10));
  CHECK((bias.values()[0] == -0.5 && average() == -0.25));
  CHECK(run.optimizer->state().back().second.item() == 1);  // steps that were taken
}

TEST_CASE("a gradient whose square is no f32 does not reach adamw, whose weight would not move any more", "[diverged]") {
  const auto given = GENERATE(table<const char*, const char*, double, double, bool>({
      {"adamw", "f32", 1.9e19, 0, false}, {"adamw", "f32", 3e38, 0, false}, {"adamw", "f32", 1.9e19, 1e30, false}, {"adamw", "bf16", 1.9e19, 0, false},
      {"adamw", "f32", 1.7e19, 0, true},  {"adamw", "f32", 1.7e19, 1.75e19, true}, {"adamw", "f32", 1.7e19, 1e30, true}, {"adamw", "f32", 1.9e19, 1, true},
      {"adamw", "f32", 3e38, 1e19, true}, {"adamw", "f64", 1.9e19, 0, true},  {"sgd", "f32", 1.9e19, 0, true}}));
  const std::string optimizer = std::get<0>(given), dtype = std::get<1>(given);
  const double value = std::get<2>(given), clip = std::get<3>(given);
  const bool taken = std::get<4>(given);
  CAPTURE(optimizer, dtype, value, clip);
  train::TrainConfig config;
  config.width = 8, config.depth = 1, config.heads = 2, config.patch = 14, config.optimizer = optimizer, config.dtype = dtype, config.ema = 0.5;
  train::Learner run(config, train::vit_config(config, 28, 1, 10), {train::parameter_dtype(config)});
  const Tensor bias = nn::parameters(run.model).back().second;
  const auto update = [&](double size) {
    const Tensor gradient = zeros({10}, place_of(bias));
    fill(select(gradient, 0, 3), size);
    bias.set_grad(gradient);
    return run.update(1, 0.5, clip);
  };
  const train::Learner::Update first = update(value);
  CHECK(first.taken == taken);
  CHECK(first.too_large == !taken);
  CHECK(first.gradient_norm == Approx(value));
  CHECK_THAT(first.why, Equals(taken ? "" : fmt::format("the gradient's norm is {:.3g}, and adamw in f32 keeps squares up to that of 1.8e+19", value)));
  CHECK(run.state.skipped == !taken);
  CHECK((bias.values()[3] != 0) == taken);
  for (const auto& [name, t] : run.tensors())
    for (const double x : t.values())
      if (!std::isfinite(x)) FAIL(name << " holds " << x);
  CHECK(!bias.grad());
  const double before = bias.values()[3];
  CHECK(update(1).taken);
  CHECK(bias.values()[3] != before);
  CHECK_THAT(update(INFINITY).why, Equals("the gradient is not finite"));
  bias.set_grad(ones({10}, place_of(bias)));
  CHECK_THAT(run.update(NAN, 0.5, clip).why, Equals("the loss is not finite"));
}

TEST_CASE("a run whose gradients are too large for adamw in f32 says so, and how to begin it", "[diverged]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("too-large");
  const auto args = [&](const char* name, const std::vector<std::string>& more) { return with(small_run(data, runs / name, {"--penalty", "fro:1e24"}), more); };
  const Finished f = run_norma(args("run", {"--clip", "0"}));
  CAPTURE(f.err);
  CHECK(f.code == 3);
  CHECK_THAT(f.err, Contains("step 0: the gradient's norm is ") && Contains("e+20, and adamw in f32 keeps squares up to that of 1.8e+19; step skipped (1 of 10)\n") &&
                        Contains("diverged: steps 0 to 9 were skipped; a checkpoint is in " + (runs / "run").string() +
                                 ". The gradient is finite but too large for adamw in f32: begin anew with --clip 1, or with --dtype f64\n"));
  for (const std::vector<std::string>& more : {std::vector<std::string>{"--clip", "1"}, {"--clip", "0", "--dtype", "f64"}}) {
    const auto out = more[1] + "-" + std::to_string(more.size());
    CHECK(run_norma(with(args(out.c_str(), more), {"--steps", "2"})).code == 0);
    CHECK(steps_of(runs / out)[0]["skipped"] == 0);
  }
}
