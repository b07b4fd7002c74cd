// norma gradcheck: derivatives against finite differences, of the ops in the table of op cases, or of a small model.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "apps/model_flags.h"
#include "checks/op_case.h"
#include "core/suggest.h"

namespace norma::apps {
namespace {

struct Check {
  std::string what;
  GradcheckReport first, second;
  bool has_second = false;
  Index kinks() const { return first.kinks + second.kinks; }
};

Check check_case(const checks::OpCase& c) {
  Tensors inputs;
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    Tensor t = checks::make(c.inputs[i], c, i, {DType::f64});
    if (!c.inputs[i].constant) t.track();
    inputs.push_back(t);
  }
  Check out{c.title(), gradcheck(c.run, inputs), {}, c.order > 1};
  if (out.has_second) out.second = gradgradcheck(c.run, inputs);
  return out;
}

/// Where flags say nothing: small, since each parameter costs four forward passes, with two heads and two blocks as the
/// smallest that have all paths.
train::TrainConfig small_model() {
  train::TrainConfig c;
  c.preset.clear();
  c.image = 8, c.channels = 1, c.classes = 3, c.width = 8, c.depth = 2, c.heads = 2;
  return c;
}

models::ViTConfig shape_of(const train::TrainConfig& c) { return vit_config(c, 8, 1, 3); }

/// Of the ops that have a derivative, each once, by the alphabet.
std::vector<std::string> op_names() {
  std::set<std::string> names;
  for (const auto& c : checks::op_table())
    if (c.order > 0 && !c.large) names.insert(c.op);
  return {names.begin(), names.end()};
}

/// Words are ops, and flags are of a model.
void check_words(const ModelFlags& flags) {
  for (const std::string& name : flags.given) {
    if (flags.words.empty() || name == "threads") continue;
    throw UsageError(fmt::format("gradcheck: {} is for a model and \"{}\" is an op; check one of them at a time",
                                 flags.config.named(name), flags.words[0]));
  }
  const std::vector<std::string> names = op_names();
  for (const std::string& word : flags.words) {
    if (word == "all" || std::find(names.begin(), names.end(), word) != names.end()) continue;
    if (std::any_of(checks::op_table().begin(), checks::op_table().end(),
                    [&](const checks::OpCase& c) { return c.op == word; }))
      throw UsageError(fmt::format("gradcheck: \"{}\" has no derivative", word));
    const std::string near = did_you_mean(word, names);
    throw UsageError(fmt::format("gradcheck: unknown op \"{}\"{}", word,
                                 near.empty() ? fmt::format("; there are all, {}", fmt::join(names, ", ")) : near));
  }
  if (!flags.words.empty()) return;
  constexpr Index most_parameters = 50000;
  if (const Index count = models::parameter_count(shape_of(flags.config)); count > most_parameters)
    throw UsageError(
        fmt::format("gradcheck: this model has {} parameters, and each costs four forward passes; at most {} are "
                    "checked: give a smaller --width, "
                    "--depth or --image (8, 2 and 8 if left out)",
                    count, most_parameters));
}

/// A model of the given sizes in f64, by its parameters: the loss of three random images, in training, with the same
/// masks each time where it has dropout.
Check check_model(const train::TrainConfig& c) {
  const models::ViTConfig shape = shape_of(c);
  models::ViT model(shape, static_cast<std::uint64_t>(c.seed), {DType::f64});
  const Tensor images =
      randn({3, shape.channels, shape.image, shape.image}, {static_cast<std::uint64_t>(c.seed), 1}, {DType::f64});
  Tensor labels = from_values({0, static_cast<double>(1 % shape.classes), static_cast<double>(2 % shape.classes)}, {3},
                              {DType::i64});
  Tensors inputs;
  nn::for_each_parameter(model, [&](const std::string&, Tensor& t) { inputs.push_back(t.detach().track()); });
  auto loss = [&](std::span<const Tensor> ps) {
    std::size_t i = 0;
    nn::for_each_parameter(model, [&](const std::string&, Tensor& t) { t = ps[i++]; });
    const nn::Training training;
    const RandomScope masks(static_cast<std::uint64_t>(c.seed), 2);
    return cross_entropy(model(images), labels);
  };
  return {fmt::format("vit {}/{}/{} with {}", shape.width, shape.depth, shape.heads, nn::to_string(shape.attention)),
          gradcheck(loss, inputs, {.step = 3e-5}),
          {},
          false};
}

}  // namespace

int gradcheck_verb(const Args& args) {
  auto flags = read_model_flags(
      args, R"(usage: norma gradcheck OP... [flags]    derivatives of ops, first and second order (norma gradcheck all)
       norma gradcheck --model vit [flags]  derivatives of a small model with any --attention

Every entry of the Jacobian is compared with a five-point finite difference in float64, on the CPU. With --dropout or --drop-path the model
drops what a step of training would, the same in every evaluation. Where they disagree finer steps decide, as a kink (of relu, of --clamp) may
lie within the step; at a kink itself an entry is to lie between the differences of both sides, and how many such there are is printed.
)",
      {"Model", "seed", "threads"}, check_words, small_model(), [](train::Options& options) {
        options.describe("image", "image side in pixels; 0: 8");
        options.describe("channels", "colour channels; 0: 1");
        options.describe("classes", "number of classes; 0: 3");
      });
  if (!flags) return ok;
  flags->config.dtype = "f64", flags->config.device = "cpu";  // a config file may hold others
  prepare(flags->config);
  std::vector<Check> checks;
  const bool model = flags->words.empty();
  if (model) checks.push_back(check_model(flags->config));
  for (const std::string& word : flags->words)
    for (const auto& c : checks::op_table())
      if ((word == "all" || c.op == word) && c.order > 0 && !c.large) checks.push_back(check_case(c));
  bool good = true;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Check& c : checks) {
    good &= c.first.ok && (!c.has_second || c.second.ok);
    rows.push_back(
        {{"what", c.what},
         {"first_order", c.first.ok},
         {"worst", c.first.worst},
         {"kinks", c.kinks()},
         {"second_order", c.has_second ? nlohmann::ordered_json(c.second.ok) : nlohmann::ordered_json()},
         {"worst_second", c.has_second ? nlohmann::ordered_json(c.second.worst) : nlohmann::ordered_json()}});
    if (!flags->json)
      fmt::print("{:<52} first {} ({:.2f} of the tolerance){}{}\n", c.what,
                 c.first.ok ? "ok" : "WRONG at " + c.first.where, without_sign_of_nan(c.first.worst),
                 c.has_second ? fmt::format("  second {} ({:.2f})", c.second.ok ? "ok" : "WRONG at " + c.second.where,
                                            without_sign_of_nan(c.second.worst))
                              : "",
                 c.kinks() > 0 ? fmt::format("  entries at a kink: {}", c.kinks()) : "");
  }
  if (flags->json) print_result({{"ok", good}, {"checks", rows}}, true);
  return good ? ok : failure;
}

}  // namespace norma::apps
