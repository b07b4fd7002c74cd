#include "train/config.h"

#include <cmath>

#include "train/constraint.h"

namespace norma::train {

void apply_preset(TrainConfig& config) {
  const models::ViTConfig p = models::vit_preset(config.preset);
  config.width = p.width;
  config.depth = p.depth;
  config.heads = p.heads;
}

models::ViTConfig vit_config(const TrainConfig& c, Index image, Index channels, Index classes) {
  if (c.model != "vit") throw UsageError(fmt::format("model \"{}\" is unknown; there is: vit", c.model));
  if (c.pool != "cls" && c.pool != "mean") throw UsageError(fmt::format("pool \"{}\" is unknown; there are cls, mean", c.pool));
  if (c.positions != "learned" && c.positions != "sincos")
    throw UsageError(fmt::format("positions \"{}\" is unknown; there are learned, sincos", c.positions));
  if (image && c.pad > image)
    throw UsageError(fmt::format("--pad: {} must be in 0..{}, the side of the data set's images: a window further off holds nothing of them", c.pad, image));
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
  m.clamp_fro = parse_fro("clamp", c.clamp);
  try {
    m.attention = nn::parse_scoring(c.attention);
    m.form = nn::parse_attention_form(c.attention_form);
    models::check(m);
  } catch (const Error& e) {
    throw UsageError(e.what());
  }
  m.init_std = c.init_std > 0 ? c.init_std : 0.02 * std::sqrt(768.0 / static_cast<double>(c.width));
  if (c.dtype == "bf16") m.activations = DType::bf16;
  return m;
}

models::ViTConfig vit_config(const TrainConfig& c, const datasets::ImageSet& set) {
  const models::ViTConfig m = vit_config(c, set.height, set.channels, set.classes);
  if (m.channels != set.channels) throw UsageError(fmt::format("--channels: {} given, but the images of {} have {}; leave it out", m.channels, set.name, set.channels));
  if (m.classes < set.classes) throw UsageError(fmt::format("--classes: {} given, but {} has {}; leave it out", m.classes, set.name, set.classes));
  return m;
}

DType parameter_dtype(const TrainConfig& c) {
  const DType dtype = parse_dtype(c.dtype);
  return dtype == DType::bf16 ? DType::f32 : dtype;
}

ScheduleConfig schedule_of(const TrainConfig& c, Index steps_per_epoch) {
  return {.kind = c.schedule, .lr = c.lr, .min_lr = c.min_lr,
          .warmup_steps = std::llround(c.warmup_epochs * static_cast<double>(steps_per_epoch)),
          .total_steps = c.epochs * steps_per_epoch};
}

}  // namespace norma::train
