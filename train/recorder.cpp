#include "train/recorder.h"

#include "inspect/probe.h"
#include "train/record_folder.h"

namespace norma::train {
namespace {

constexpr std::string_view matrix = ".weights";  // the tap of an attention layer that A goes through

std::vector<std::string> attention_layers(models::ViT& model) {
  std::vector<std::string> layers;
  nn::for_each_tap(model, [&](const std::string& name, nn::Tap&) {
    if (name.ends_with(matrix)) layers.push_back(name.substr(0, name.size() - matrix.size()));
  });
  return layers;
}

std::vector<std::string> chosen(models::ViT& model, const TrainConfig& config) {
  return as_usage("",
                  [&] { return inspect::matching(config.record, attention_layers(model), config.named("record")); });
}

inspect::ProbeImages probe_images(const datasets::ImageSet& set, const models::ViTConfig& shape) {
  inspect::ProbeImages p{set.count,
                         set.channels,
                         shape.image,
                         shape.patch,
                         centred(set, shape.image),
                         {},
                         shape.pool == models::ViTConfig::Pool::cls};
  for (const std::uint8_t label : set.labels) p.labels.push_back(class_name(set, label));
  return p;
}

double mib(double bytes) { return bytes / (1 << 20); }

}  // namespace

void check_record(const TrainConfig& config, const models::ViTConfig& shape) {
  if (config.record.empty()) return;
  const nn::ShapesOnly names;
  models::ViT model(shape, 0);
  chosen(model, config);
}

FlightRecorder::FlightRecorder(models::ViT& model, const TrainConfig& config, const datasets::ImageSet& test,
                               const datasets::LoaderConfig& loader, Index last)
    : model_(model),
      run_(config.out),
      every_(config.record_every),
      records_(last / every_ + 1 + (last % every_ != 0)),  // from step 0 on, and the end
      places_(chosen(model, config)) {
  if (config.record_images > test.count)
    throw UsageError(fmt::format("{}: {} are more than the {} test images", config.named("record_images"),
                                 config.record_images, test.count));
  const models::ViTConfig& shape = model.config();
  const datasets::ImageSet probe = slice(test, 0, config.record_images);
  images_ = probe_images(probe, shape);
  datasets::LoaderConfig whole = loader;
  whole.batch = probe.count;
  batch_ = datasets::Loader(probe, whole).next().images;

  const auto tokens =
      static_cast<double>(shape.tokens());  // in double: as a whole number the product may be beyond any
  bytes_ = static_cast<double>(places_.size()) * static_cast<double>(probe.count * shape.heads) * tokens * tokens *
           static_cast<double>(size_of(loader.place.dtype));
  if (const double all = mib(bytes_) * static_cast<double>(records_);
      all > static_cast<double>(config.record_limit_mib))
    throw UsageError(
        fmt::format("{}: {} records of {:.3g} MiB would be {:.0f} MiB in {}, more than {} {}; record fewer "
                    "layers, images (--record-images) or steps (--record-every), or raise the limit",
                    config.named("record"), records_, mib(bytes_), all, (run_ / "record").string(),
                    config.named("record_limit_mib"), config.record_limit_mib));
}

std::string FlightRecorder::announcement() const {
  std::string places;
  for (const std::string& place : places_) places += (places.empty() ? "" : ", ") + place;
  return fmt::format(
      "recorder: A of {} on {} test images every {} steps: {} records, {:.3g} MiB in {}; the full matrices are formed "
      "for "
      "these records only",
      places, images_.count, every_, records_, mib(bytes_) * static_cast<double>(records_), (run_ / "record").string());
}

void FlightRecorder::before_step(Index step) const {
  if (step % every_ == 0) record(step);
}

void FlightRecorder::record(Index step) const {
  const NoGrad off;
  inspect::Probe probe(model_);
  for (const std::string& place : places_) probe.value(place + std::string(matrix), inspect::keep_all());
  (void)model_(batch_);
  std::map<std::string, Tensors> taken = probe.take_values();
  nn::Named weights;
  for (const std::string& place : places_) weights.emplace_back(place, taken.at(place + std::string(matrix)).at(0));
  write_record(run_, step, images_, weights);
}

}  // namespace norma::train
