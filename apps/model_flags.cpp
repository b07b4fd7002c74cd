#include "apps/model_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "core/backend.h"
#include "datasets/catalog.h"
#include "datasets/rand_augment.h"
#include "train/constraint.h"

namespace norma::apps {

void check_fields(const train::TrainConfig& c) {
  constexpr Index any = std::numeric_limits<Index>::max();
  struct Whole {
    const char* field;
    Index value, least, most;
  };
  for (const auto& [field, value, least, most] :
       std::initializer_list<Whole>{{"image", c.image, 0, 16384},
                                    {"patch", c.patch, 1, 16384},
                                    {"channels", c.channels, 0, 4096},
                                    {"classes", c.classes, 0, 1 << 24},
                                    {"width", c.width, 1, 1 << 16},
                                    {"depth", c.depth, 1, 1000},
                                    {"heads", c.heads, 1, 1 << 16},
                                    {"mlp_ratio", c.mlp_ratio, 1, 256},
                                    {"batch", c.batch, 1, 1000000},
                                    {"epochs", c.epochs, 1, 1000000},
                                    {"steps", c.steps, 0, any},
                                    {"pad", c.pad, 0, any},
                                    {"seed", c.seed, 0, any},
                                    {"log_every", c.log_every, 1, any},
                                    {"checkpoint_every", c.checkpoint_every, 0, any},
                                    {"record_every", c.record_every, 1, any},
                                    {"record_images", c.record_images, 1, any},
                                    {"record_limit_mib", c.record_limit_mib, 1, any},
                                    {"rand_augment", c.rand_augment, 0, datasets::RandAugment::most_operations},
                                    {"rand_magnitude", c.rand_magnitude, 0, datasets::RandAugment::most_magnitude}})
    if (value < least || value > most)
      throw UsageError(fmt::format("{}: {} must be {}", c.named(field), value,
                                   most < any ? fmt::format("in {}..{}", least, most)
                                   : least    ? "more than 0"
                                              : "0 or more"));
  for (auto [field, value] : {std::pair{"lr", c.lr},
                              {"min_lr", c.min_lr},
                              {"warmup_epochs", c.warmup_epochs},
                              {"weight_decay", c.weight_decay},
                              {"clip", c.clip},
                              {"init_std", c.init_std}})
    if (value < 0) throw UsageError(fmt::format("{}: {} must be 0 or more", c.named(field), value));
  if (constexpr double most = 1000000; c.warmup_epochs > most)
    throw UsageError(fmt::format("{}: {} must be in 0..{}", c.named("warmup_epochs"), c.warmup_epochs, most));
  for (auto [field, p] : {std::pair{"drop_path", c.drop_path},
                          {"dropout", c.dropout},
                          {"label_smoothing", c.label_smoothing},
                          {"ema", c.ema},
                          {"momentum", c.momentum}})
    if (p < 0 || p >= 1) throw UsageError(fmt::format("{}: {} must be in [0, 1)", c.named(field), p));
  if (c.schedule == "cosine" && c.min_lr > c.lr)
    throw UsageError(fmt::format("{}: {} is above {} {}, where the cosine begins; give at most that", c.named("min_lr"),
                                 c.min_lr, c.named("lr"), c.lr));
  train::parse_fro(c.named("penalty"), c.penalty), train::parse_fro(c.named("clamp"), c.clamp);
  struct Choice {
    const char* field;
    const std::string& value;
    std::vector<std::string> known;
  };
  for (const Choice& choice : std::initializer_list<Choice>{{"optimizer", c.optimizer, {"adamw", "sgd"}},
                                                            {"schedule", c.schedule, {"cosine", "constant"}},
                                                            {"gemm", c.gemm, {"own", "fma", "openblas"}},
                                                            {"dtype", c.dtype, {"f32", "f64", "bf16"}}})
    if (std::find(choice.known.begin(), choice.known.end(), choice.value) == choice.known.end())
      throw UsageError(fmt::format("{}: \"{}\" is unknown; there are {}", c.named(choice.field), choice.value,
                                   fmt::join(choice.known, ", ")));
  as_usage(c.named("data") + ": ", [&] { datasets::known_set(c.data); });
  check_threads(c.threads, c.named("threads"));
  if (c.out.empty()) throw UsageError(fmt::format("{}: is empty; name a folder", c.named("out")));
}

void check_threads(Index threads, const std::string& where) {
  if (threads < 0 || threads > cpu::most_threads)  // where the system gives fewer, the first loop says so
    throw UsageError(fmt::format("{}: {} must be in 0..{}; 0 is all cores", where, threads, cpu::most_threads));
}

std::optional<ModelFlags> read_model_flags(const Args& args, const char* usage, const std::vector<std::string>& only,
                                           const std::function<void(const ModelFlags&)>& check,
                                           const train::TrainConfig& defaults,
                                           const std::function<void(train::Options&)>& own) {
  ModelFlags flags{.config = defaults, .words = {}, .given = {}};
  bool help = false, print_config = false;
  std::string config_file, log_format = "text";
  train::Options options;
  if (own) own(options);
  flags.config.fields(options);
  options.group("General");
  options.of_command_line();  // a config file holds the fields of TrainConfig only
  options("resume", flags.resume, "go on from the newest checkpoint in --out, to the bit");
  if (!only.empty()) options.only(only);
  options("config", config_file, "JSON file with any of these fields (comments allowed); flags win over it");
  options("log_format", log_format, "text, or json: one object on stdout");
  options("print_config", print_config, "print the configuration that would be used, and stop");
  options("help", help, "print this, and stop");

  auto words = read_words(options, args, usage);
  if (!words) return std::nullopt;
  flags.words = std::move(*words);
  if (auto file = options.given("config")) options.read_json(std::filesystem::path(*file));
  if (!flags.words.empty() && flags.words[0] == "vit") flags.words.erase(flags.words.begin());
  flags.config.files = options.from_json();
  if (auto preset = options.given("preset")) {
    flags.config.preset = *preset;
    as_usage(flags.config.file_of("preset"), [&] { apply_preset(flags.config); });
  }
  options.apply();
  const nlohmann::ordered_json fields = to_json(flags.config);
  for (const auto& [name, value] : fields.items())
    if (options.given(name)) flags.given.push_back(name);

  check_fields(flags.config);
  flags.json = wants_json(log_format);
  check(flags);

  if (print_config) {
    fmt::print("{}\n", fields.dump(2));
    return std::nullopt;
  }
  return flags;
}

models::ViTConfig shape_without_data(train::TrainConfig c) {
  c.pad = 0;
  return vit_config(c, c.patch, 3, 10);
}

void refuse_words(const ModelFlags& flags, const char* verb) {
  if (!flags.words.empty())
    throw UsageError(
        fmt::format("{0}: unexpected \"{1}\"; the one model is vit, see norma {0} --help", verb, flags.words[0]));
}

void prepare(const train::TrainConfig& config) {
  if (config.threads) cpu::set_threads(static_cast<int>(config.threads));
  using enum cpu::GemmProvider;
  cpu::set_gemm_provider(config.gemm == "own" ? own : config.gemm == "fma" ? fma : openblas);
  if (!config.cpu.empty()) as_usage("", [&] { cpu::set_isa(config.cpu, config.named("cpu")); });
  as_usage(config.file_of("device"), [&] { backend(parse_device(config.device)); });
  cpu::isa();  // throws where NORMA_CPU asks for what there is not, before a folder is made
}

}  // namespace norma::apps
