// Penalty and clamp on ||A||_F: their derivatives, that they do what they say, and what wrong texts are answered.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>


#include "inspect/probe.h"
#include "models/vit.h"
#include "nn/scoring.h"
#include "tests/program.h"
#include "tests/written_run.h"
#include "train/constraint.h"
#include "train/options.h"
#include "train/step.h"

using namespace norma;
using namespace norma::test;
using Catch::Matchers::Contains;
using Catch::Matchers::Equals;

namespace {

models::ViTConfig small(const std::string& attention, double clamp) {
  models::ViTConfig c;
  c.image = 4, c.patch = 2, c.channels = 1, c.classes = 3, c.width = 4, c.depth = 2, c.heads = 2, c.mlp_ratio = 1;
  c.attention = nn::parse_scoring(attention), c.clamp_fro = clamp, c.init_std = 0.8;
  return c;
}

struct Batch {
  Tensor images = randn({2, 1, 4, 4}, {5, 1}, {DType::f64}), labels = from_values({0, 2}, {2}, {DType::i64});
};

/// The loss with a penalty as a function of all parameters of `model`.
Function loss_of(models::ViT& model, const Batch& batch, double weight) {
  return [&model, &batch, weight](std::span<const Tensor> ps) {
    std::size_t i = 0;
    nn::for_each_parameter(model, [&](const std::string&, Tensor& t) { t = ps[i++]; });
    train::FroNorms norms(model);
    const Tensor loss = cross_entropy(model(batch.images), batch.labels);
    const Tensor fro = norms.take();
    return weight > 0 ? loss + weight * fro : loss;
  };
}

/// ||A||_F of every layer, image and head.
std::vector<double> norms_of(models::ViT& model, const Tensor& images) {
  inspect::Probe probe(model);
  probe.value("blocks.*.attn.weights", inspect::keep_all());
  (void)model(images);
  std::vector<double> out;
  for (auto& [place, values] : probe.take_values())
    for (const Tensor& a : values)
      for (const double n : norm(cast(a, DType::f64), {-2, -1}).values()) out.push_back(n);
  return out;
}

std::vector<std::string> args_of(const std::filesystem::path& data, const std::filesystem::path& out, const std::vector<std::string>& more) {
  return with(small_run(data, out, {"--epochs", "20", "--log-every", "1"}), more);
}

double mean_fro(const train::Json& row) {
  double sum = 0, count = 0;
  for (auto& layer : row["attention"])
    for (double fro : layer["fro"]) sum += fro, ++count;
  return sum / count;
}

}  // namespace

TEST_CASE("penalty and clamp have right derivatives in every parameter of a small ViT", "[constraint]") {
  const Batch batch;
  for (const char* attention : {"softmax", "x^3/sqrt(N)"})
    for (const double clamp : {0.0, 0.4}) {
      models::ViT model(small(attention, clamp), 3, {DType::f64});
      Tensors inputs;
      for (auto& [name, t] : nn::parameters(model)) inputs.push_back(t.detach().track());
      // Class token and positions start near 0.02, where layer_norm bends too much for the usual step of 1e-3.
      const GradcheckReport report = gradcheck(loss_of(model, batch, 0.3), inputs, {.step = 3e-5});
      CAPTURE(attention, clamp, report.where, report.worst);
      CHECK(report.ok);
    }
}

TEST_CASE("penalty and clamp have right second derivatives", "[constraint]") {
  for (const char* attention : {"softmax", "x^3/sqrt(N)"})
    for (const double clamp : {0.0, 0.1}) {
      AttentionOptions options;
      options.scoring = nn::parse_scoring(attention), options.clamp_fro = clamp;
      Tensor scores = randn({1, 2, 3, 3}, {6, 2}, {DType::f64});
      scores.track();
      const Function f = [&](std::span<const Tensor> x) {
        const Tensor a = attention_weights(x[0], options);
        return mean(norm(a, {-2, -1})) + sum(a * a * a);
      };
      const GradcheckReport first = gradcheck(f, std::span(&scores, 1)), second = gradgradcheck(f, std::span(&scores, 1));
      CAPTURE(attention, clamp, first.where, second.where, first.worst, second.worst);
      CHECK(first.ok);
      CHECK(second.ok);
    }
}

TEST_CASE("a clamped matrix lies in the ball, its direction as it was; a matrix inside is untouched to the bit", "[constraint]") {
  for (const char* attention : {"softmax", "x^3/sqrt(N)", "x^8", "sigmoid"})
    for (const double spread : {0.1, 1.0, 30.0, 300.0})  // squares of 300^8 are beyond f32
      for (const DType dtype : {DType::f32, DType::f64}) {
        AttentionOptions free, clamped;
        free.scoring = clamped.scoring = nn::parse_scoring(attention);
        const double c = clamped.clamp_fro = 2.3;
        Tensor scores = randn({3, 2, 9, 9}, {7, 3}, {dtype});
        scores = scores * spread;
        const Tensor a = attention_weights(scores, free), b = attention_weights(scores, clamped);
        const std::vector<double> before = norm(cast(a, DType::f64), {-2, -1}).values(), after = norm(cast(b, DType::f64), {-2, -1}).values();
        const std::vector<double> av = a.values(), bv = b.values();
        for (std::size_t i = 0; i < before.size(); ++i) {
          CAPTURE(attention, spread, before[i], after[i]);
          CHECK(after[i] <= c * (1 + 1e-6));
          const bool inside = before[i] <= c;
          if (!inside) CHECK(after[i] == Approx(c).epsilon(1e-6));
          for (std::size_t k = i * 81; k < (i + 1) * 81; ++k)
            if (inside ? bv[k] != av[k] : std::abs(bv[k] - av[k] * (c / before[i])) > 1e-6 * c) FAIL("entry " << k << ": " << av[k] << " became " << bv[k]);
        }
      }
}

TEST_CASE("statistics of clamped attention are those of the matrix that is used", "[constraint]") {
  AttentionOptions options;
  options.clamp_fro = 0.7;
  options.stats = zeros({2, 2, attention_stats}, {DType::f64});
  Tensor qkv = randn({2, 5, 3, 2, 4}, {8, 1}, {DType::f64});
  (void)attention_packed(qkv, options);
  const auto stat = [&](AttentionStat which) { return select(options.stats, 2, static_cast<Index>(which)).values(); };
  for (const double fro2 : stat(AttentionStat::fro2)) CHECK(fro2 == Approx(0.49).epsilon(1e-12));  // softmax of 5 rows: ||A||_F >= 1
  for (const double entropy : stat(AttentionStat::entropy)) CHECK(std::isnan(entropy));             // rows no longer sum to one
  const std::vector<double> jacobian = stat(AttentionStat::jac2);
  options.clamp_fro = 0;
  (void)attention_packed(qkv, options);
  const std::vector<double> unclamped = stat(AttentionStat::jac2);
  for (std::size_t i = 0; i < jacobian.size(); ++i) CHECK(jacobian[i] == Approx(unclamped[i]).epsilon(1e-12));  // of phi
  options.clamp_fro = -1;
  CHECK_THROWS_WITH(attention_packed(qkv, options), Equals("attention_packed: clamp_fro = -1 must be 0 (off) or a positive bound of ||A||_F"));
}

TEST_CASE("the penalty is the mean over layers, images and heads of the Frobenius norm", "[constraint]") {
  const Batch batch;
  models::ViT model(small("x^3/sqrt(N)", 0), 3, {DType::f64});
  const std::vector<double> all = norms_of(model, batch.images);
  REQUIRE(all.size() == 2 * 2 * 2);
  double sum = 0;
  for (const double n : all) sum += n;
  train::FroNorms norms(model);
  CHECK_THROWS_WITH(norms.take(), Equals("penalty: no attention layer ran"));
  (void)model(batch.images);
  CHECK(norms.take().item() == Approx(sum / 8).epsilon(1e-13));
}

TEST_CASE("without a penalty the output has the bits it had, with one it has too: only the gradients differ", "[constraint]") {
  const Batch batch;
  models::ViT model(small("softmax", 0), 3, {DType::f64});
  const std::vector<double> before = model(batch.images).values();
  {
    train::FroNorms norms(model);
    CHECK((model(batch.images).values() == before));
  }
  CHECK((model(batch.images).values() == before));
}

TEST_CASE("in a run, the clamp bounds every head at every step and the penalty lowers the norm", "[constraint]") {
  const auto data = tiny_data(64, 20), runs = fresh_folder("constraint");
  const std::vector<std::string> common = {"--steps", "30", "--attention", "x^3/sqrt(N)", "--init-std", "0.4", "--warmup-epochs", "0"};
  const auto run = [&](const char* name, std::vector<std::string> more) {
    more.insert(more.begin(), common.begin(), common.end());
    const Finished f = run_norma(args_of(data, runs / name, more));
    CAPTURE(f.err);
    REQUIRE(f.code == 0);
    return steps_of(runs / name);
  };
  const auto plain = run("plain", {}), clamped = run("clamped", {"--clamp", "fro:0.5"}), penalized = run("penalized", {"--penalty", "fro:1"});
  REQUIRE(plain.size() == 30);
  double largest = 0;
  for (const auto& row : plain) largest = std::max(largest, mean_fro(row));
  CHECK(largest > 0.6);  // so that the clamp has something to do
  for (const auto& row : clamped)
    for (auto& layer : row["attention"])
      for (double fro : layer["fro"]) CHECK(fro <= 0.5 * (1 + 1e-6));
  CHECK(mean_fro(penalized.front()) == Approx(mean_fro(plain.front())));
  CHECK(penalized.front()["fro"].get<double>() == Approx(mean_fro(plain.front())).epsilon(1e-5));
  CHECK(mean_fro(penalized.back()) < 0.9 * mean_fro(penalized.front()));
  CHECK(mean_fro(penalized.back()) < 0.9 * mean_fro(plain.back()));
  CHECK(!plain.front().contains("fro"));
  CHECK_THAT(contents(runs / "clamped/config.json"), Contains("\"clamp\": \"fro:0.5\""));
  const Finished e = run_norma({"eval", (runs / "clamped").string(), "--data-dir", data.string()});
  CAPTURE(e.err);
  CHECK(e.code == 0);
}

TEST_CASE("theory measures the spectral norm of the clamped matrix", "[constraint]") {
  const auto data = tiny_data(64, 20), out = fresh_folder("constraint-theory") / "a";
  REQUIRE(run_norma(args_of(data, out, {"--steps", "1", "--clamp", "fro:0.3"})).code == 0);
  const Finished f = run_norma({"theory", out.string(), "--data-dir", data.string(), "--spectral", "--images", "2", "--log-format", "json"});
  CAPTURE(f.err);
  REQUIRE(f.code == 0);
  const auto heads = nlohmann::json::parse(f.out)["heads"];
  REQUIRE(!heads.empty());
  for (const auto& head : heads) CHECK(head["norm"].get<double>() <= 0.3 * (1 + 1e-5));
}

TEST_CASE("wrong penalties and clamps are answered with what is near, exit code 2", "[constraint]") {
  const std::vector<std::pair<std::vector<std::string>, std::string>> table = {
      {{"--penalty", "frob:1"}, "norma: --penalty: norm \"frob\" is unknown (did you mean \"fro\"?); there is: fro\n"},
      {{"--clamp", "spectral:1"}, "norma: --clamp: norm \"spectral\" is unknown; there is: fro\n"},
      {{"--penalty", "fro:-1"}, "norma: --penalty: -1 in \"fro:-1\" must be more than 0 and finite\n"},
      {{"--clamp", "fro:0"}, "norma: --clamp: 0 in \"fro:0\" must be more than 0 and finite\n"},
      {{"--clamp", "fro:inf"}, "norma: --clamp: inf in \"fro:inf\" must be more than 0 and finite\n"},
      {{"--penalty", "fro:x"}, "norma: --penalty: \"x\" in \"fro:x\" is not a number; write fro:NUMBER, as in fro:0.01\n"},
      {{"--penalty", "fro:"}, "norma: --penalty: \"\" in \"fro:\" is not a number; write fro:NUMBER, as in fro:0.01\n"},
      {{"--penalty", "0.01"}, "norma: --penalty: \"0.01\" names no norm (did you mean \"fro:0.01\"?)\n"},
      {{"--clamp", "for"}, "norma: --clamp: \"for\" has no number; write fro:NUMBER, as in fro:0.01\n"},
      {{"--clamp", "none"}, "norma: --clamp: \"none\" is unknown; write fro:NUMBER, as in fro:0.01\n"},
  };
  for (const auto& [flags, text] : table) {
    std::vector<std::string> args = {"train", "vit"};
    args.insert(args.end(), flags.begin(), flags.end());
    const Finished f = run_norma(args);
    CHECK(f.code == 2);
    CHECK_THAT(f.err, Equals(text));
  }
}
