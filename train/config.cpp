#include "train/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "train/constraint.h"

namespace norma::train {

nlohmann::ordered_json to_json(const TrainConfig& config) {
  TrainConfig copy = config;
  Options fields;
  copy.fields(fields);
  return fields.to_json();
}

TrainConfig written_config(const nlohmann::ordered_json& fields, const std::string& name) {
  TrainConfig config;
  Options options;
  config.fields(options);
  as_written([&] {
    options.read_json(fields.dump(), name);
    options.apply();
  });
  config.files = options.from_json();
  return config;
}

void apply_preset(TrainConfig& config) {
  const models::ViTConfig p = models::vit_preset(config.preset);
  config.width = p.width;
  config.depth = p.depth;
  config.heads = p.heads;
}

std::string TrainConfig::named(const std::string& field) const {
  if (files.contains(field)) return file_of(field) + field;
  std::string flag = "--" + field;
  std::replace(flag.begin(), flag.end(), '_', '-');
  return flag;
}

std::string TrainConfig::file_of(const std::string& field) const {
  const auto file = files.find(field);
  return file == files.end() ? "" : file->second + ": ";
}

models::ViTConfig vit_config(const TrainConfig& c, Index image, Index channels, Index classes) {
  const auto one_of = [&](const char* field, const std::string& value, std::initializer_list<const char*> known) {
    if (std::find(known.begin(), known.end(), value) == known.end())
      throw UsageError(fmt::format("{}: \"{}\" is unknown; there {} {}", c.named(field), value,
                                   known.size() == 1 ? "is" : "are", fmt::join(known, ", ")));
  };
  one_of("model", c.model, {"vit"}), one_of("pool", c.pool, {"cls", "mean"}),
      one_of("positions", c.positions, {"learned", "sincos"});
  if (image && c.pad > image)
    throw UsageError(fmt::format(
        "{}: {} must be in 0..{}, the side of the data set's images: a window further off holds nothing of them",
        c.named("pad"), c.pad, image));
  models::ViTConfig m;
  m.image = c.image ? c.image : image;
  m.patch = c.patch;
  m.channels = c.channels ? c.channels : channels;
  m.classes = c.classes ? c.classes : classes;
  m.width = c.width;
  m.depth = c.depth;
  m.heads = c.heads;
  m.mlp_ratio = c.mlp_ratio;
  m.pool = c.pool == "cls" ? models::ViTConfig::Pool::cls : models::ViTConfig::Pool::mean;
  m.positions = c.positions == "learned" ? models::ViTConfig::Positions::learned : models::ViTConfig::Positions::sincos;
  m.drop_path = c.drop_path;
  m.dropout = c.dropout;
  m.clamp_fro = parse_fro(c.named("clamp"), c.clamp);
  m.attention = as_usage(c.file_of("attention"), [&] { return nn::parse_scoring(c.attention); });
  m.form = as_usage(c.file_of("attention_form"), [&] { return nn::parse_attention_form(c.attention_form); });
  as_usage("", [&] { models::check(m); });
  m.init_std = c.init_std > 0 ? c.init_std : 0.02 * std::sqrt(768.0 / static_cast<double>(c.width));
  if (c.dtype == "bf16") m.activations = DType::bf16;
  return m;
}

models::ViTConfig vit_config(const TrainConfig& c, const datasets::ImageSet& set) {
  const models::ViTConfig m = vit_config(c, std::max(set.height, set.width), set.channels, set.classes);
  if (m.image < std::max(set.height, set.width))
    throw UsageError(
        fmt::format("{}: {} given, but the images of {} are {}x{} and are not cut; give {} or more, in whose middle "
                    "they then stand, or leave it out",
                    c.named("image"), m.image, set.name, set.height, set.width, std::max(set.height, set.width)));
  if (m.channels != set.channels)
    throw UsageError(fmt::format("{}: {} given, but the images of {} have {}; leave it out", c.named("channels"),
                                 m.channels, set.name, set.channels));
  if (m.classes < set.classes)
    throw UsageError(
        fmt::format("{}: {} given, but {} has {}; leave it out", c.named("classes"), m.classes, set.name, set.classes));
  return m;
}

DType parameter_dtype(const TrainConfig& c) { return wide_of(parse_dtype(c.dtype)); }

ScheduleConfig schedule_of(const TrainConfig& c, Index steps_per_epoch) {
  constexpr double most_steps = 0x1p53;  // more than any training has, and few enough to count with
  return {.kind = c.schedule,
          .lr = c.lr,
          .min_lr = c.min_lr,
          .warmup_lr = std::min(1e-6, c.lr),
          .warmup_steps = std::llround(std::fmin(c.warmup_epochs * static_cast<double>(steps_per_epoch), most_steps)),
          .total_steps = c.epochs * steps_per_epoch};
}

RunSteps steps_of(const TrainConfig& c, Index per_epoch) {
  const Index total = c.epochs * per_epoch;
  return {per_epoch, total, c.steps ? std::min(c.steps, total) : total};
}

std::string ema_notice(const TrainConfig& c, const RunSteps& steps) {
  const auto last = static_cast<double>(steps.last);
  const double initial = std::pow(c.ema, last);  // what is left of them
  if (c.ema == 0 || steps.last < 1 || initial < 0.01) return "";
  std::string text =
      fmt::format("{} {}: of the average that is tested, {:.0f} % are the initial weights still after {} steps",
                  c.named("ema"), c.ema, 100 * initial, steps.last);
  if (steps.last > 5) text += fmt::format("; {} {:.4g} leaves less than 1 %", c.named("ema"), 1 - 5 / last);
  return text;
}

std::string warmup_notice(const TrainConfig& c, const RunSteps& steps) {
  const ScheduleConfig schedule = schedule_of(c, steps.per_epoch);
  if (steps.last < 1 || steps.last >= schedule.warmup_steps) return "";
  const double per_epoch = static_cast<double>(steps.per_epoch);
  std::string text = fmt::format(
      "{} {} ends within the warm-up of {} steps ({} {}): the learning rate reaches {:.2g} of {:.2g}",
      c.named(steps.last < steps.total ? "steps" : "epochs"), steps.last < steps.total ? c.steps : c.epochs,
      schedule.warmup_steps, c.named("warmup_epochs"), c.warmup_epochs, learning_rate(schedule, steps.last - 1), c.lr);
  double shorter = 0;  // half of the run, to one digit, as one would type it
  const std::string typed = fmt::format("{:.1g}", static_cast<double>(steps.last) / 2 / per_epoch);
  std::from_chars(typed.data(), typed.data() + typed.size(), shorter);
  if (const auto makes = std::llround(shorter * per_epoch); makes > 0)
    text += fmt::format("; {} {} makes it {}", c.named("warmup_epochs"), typed, makes);
  return text;
}

}  // namespace norma::train
