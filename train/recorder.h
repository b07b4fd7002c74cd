// The flight recorder: the attention matrices of a few test images, kept every so many steps (--record). It watches the model
// through its own forward passes, without gradients and random numbers, so that not one bit of training changes.
#pragma once

#include <filesystem>
#include <string>

#include "datasets/loader.h"
#include "inspect/recording.h"
#include "models/vit.h"
#include "train/config.h"

namespace norma::train {

/// Throws UsageError where config.record names no layer of such a model; the images of `shape` may have another size than those to come.
void check_record(const TrainConfig& config, const models::ViTConfig& shape);

class FlightRecorder {
 public:
  /// `loader` says how images are prepared for evaluation; `last`: the step the run ends with. Writes nothing yet. Throws UsageError
  /// where config.record matches no attention layer, or the records would outgrow config.record_limit_mib.
  FlightRecorder(models::ViT& model, const TrainConfig& config, const datasets::ImageSet& test, const datasets::LoaderConfig& loader, Index last);
  /// What will be recorded, and how large it becomes.
  std::string announcement() const;
  /// Before each step: writes a record where one is due.
  void before_step(Index step) const;
  /// Writes a record of the model as it is after `step` steps. The matrices are formed for this call only.
  void record(Index step) const;

 private:
  models::ViT& model_;
  std::filesystem::path run_;
  Index every_, records_;
  std::vector<std::string> places_;  // "blocks.0.attn"
  inspect::ProbeImages images_;
  Tensor batch_;
  double bytes_;  // of the matrices of one record
};

}  // namespace norma::train
