#include "apps/model_flags.h"

#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"
#include "backends/cpu/parallel.h"
#include "core/backend.h"
#include "datasets/rand_augment.h"
#include "train/constraint.h"

namespace norma::apps {

std::optional<ModelFlags> read_model_flags(const Args& args, const char* usage, const std::vector<std::string>& only) {
  ModelFlags flags;
  bool help = false, print_config = false;
  std::string config_file, log_format = "text";
  train::Options options;
  // A config file holds the fields of TrainConfig only; the flags below are of the command line.
  flags.config.fields(options);
  if (!only.empty()) options.only(only);
  options.group("General");
  options("config", config_file, "JSON file with any of these fields (comments allowed); flags win over it");
  if (only.empty()) options("resume", flags.resume, "go on from the newest checkpoint in --out, to the bit");
  options("log_format", log_format, "text, or json: one object on stdout");
  options("print_config", print_config, "print the configuration that would be used, and stop");
  options("help", help, "print this, and stop");

  auto words = read_words(options, args, usage);
  if (!words) return std::nullopt;
  flags.words = std::move(*words);
  if (auto file = options.given("config")) options.read_json(std::filesystem::path(*file));
  if (auto preset = options.given("preset")) flags.config.preset = *preset;
  if (!flags.words.empty() && flags.words[0] == "vit") flags.words.erase(flags.words.begin());
  try {
    apply_preset(flags.config);
  } catch (const UsageError&) {
    throw;
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
  options.apply();

  auto positive = [](const char* flag, double value, bool zero_allowed) {
    if (value < 0 || (value == 0 && !zero_allowed))
      throw UsageError(fmt::format("--{}: {} must be {}", flag, value, zero_allowed ? "0 or more" : "more than 0"));
  };
  const auto& c = flags.config;
  positive("batch", static_cast<double>(c.batch), false);
  positive("epochs", static_cast<double>(c.epochs), false);
  positive("steps", static_cast<double>(c.steps), true);
  positive("log-every", static_cast<double>(c.log_every), false);
  positive("checkpoint-every", static_cast<double>(c.checkpoint_every), true);
  positive("record-every", static_cast<double>(c.record_every), false);
  positive("record-images", static_cast<double>(c.record_images), false);
  positive("record-limit-mib", static_cast<double>(c.record_limit_mib), false);
  positive("pad", static_cast<double>(c.pad), true);
  for (auto [flag, value, most] : {std::tuple{"rand-augment", c.rand_augment, datasets::RandAugment::most_operations},
                                   {"rand-magnitude", c.rand_magnitude, datasets::RandAugment::most_magnitude}})
    if (value < 0 || value > most) throw UsageError(fmt::format("--{}: {} must be in 0..{}", flag, value, most));
  positive("lr", c.lr, true);
  positive("clip", c.clip, true);
  positive("weight-decay", c.weight_decay, true);
  for (auto [flag, p] : {std::pair{"drop-path", c.drop_path}, {"dropout", c.dropout}, {"label-smoothing", c.label_smoothing}, {"ema", c.ema}})
    if (p < 0 || p >= 1) throw UsageError(fmt::format("--{}: {} must be in [0, 1)", flag, p));
  if (auto given = options.given("threads"); given && c.threads < 1)
    throw UsageError(fmt::format("--threads: {} is not a number of threads; give 1 or more, or leave it out for all cores", *given));
  train::parse_fro("penalty", c.penalty), train::parse_fro("clamp", c.clamp);
  if (c.optimizer != "adamw" && c.optimizer != "sgd") throw UsageError(fmt::format("--optimizer: \"{}\" is unknown; there are adamw, sgd", c.optimizer));
  if (c.schedule != "cosine" && c.schedule != "constant") throw UsageError(fmt::format("--schedule: \"{}\" is unknown; there are cosine, constant", c.schedule));
  if (c.gemm != "own" && c.gemm != "fma" && c.gemm != "openblas")
    throw UsageError(fmt::format("--gemm: \"{}\" is unknown; there are own, fma, openblas", c.gemm));
  if (c.dtype != "f32" && c.dtype != "f64" && c.dtype != "bf16")
    throw UsageError(fmt::format("--dtype: \"{}\" is not possible; there are f32, f64, bf16", c.dtype));
  if (log_format != "text" && log_format != "json") throw UsageError(fmt::format("--log-format: \"{}\" is unknown; there are text, json", log_format));
  flags.json = log_format == "json";

  if (print_config) {
    train::Options fields;
    flags.config.fields(fields);
    fmt::print("{}\n", fields.to_json().dump(2));
    return std::nullopt;
  }
  return flags;
}

void prepare(const train::TrainConfig& config) {
  if (config.threads) cpu::set_threads(static_cast<int>(config.threads));
  using enum cpu::GemmProvider;
  cpu::set_gemm_provider(config.gemm == "own" ? own : config.gemm == "fma" ? fma : openblas);
  try {
    if (!config.cpu.empty()) cpu::set_isa(config.cpu);
    backend(parse_device(config.device));
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
}

}  // namespace norma::apps
