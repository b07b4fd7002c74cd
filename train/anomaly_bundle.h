// What is kept of a step that produced a value that is not finite (--anomaly): a report, and all that is needed to run that step again.
// In the run folder: anomaly-STEP.json (config, random position, report) and anomaly-STEP.safetensors (batch, weights, optimizer).
#pragma once

#include <filesystem>

#include "train/config.h"
#include "train/json.h"
#include "train/step.h"

namespace norma::train {

/// The anomaly with names for its place and for the parameters and the batch among its inputs. Statistics that do not exist are null.
Json report_of(const Anomaly& anomaly, models::ViT& model, const datasets::Batch& batch, Index step);
/// The same for a reader, lines ending in '\n'.
std::string report_text(const Json& report);

struct Bundle {
  TrainConfig config;  // image, channels and classes as the data set gave them
  Index step = 0;
  Json report;
  datasets::Batch batch;
  nn::Named state;                  // "model/...", "optimizer/...", "ema/..." before the step
  std::filesystem::path file = {};  // that it was read from
};
/// Writes both files atomically, the JSON last: where it is, the bundle is whole. Returns its path.
std::filesystem::path write_bundle(const std::filesystem::path& folder, const Bundle& bundle);
/// `path`: either file, or a run folder (then its newest bundle). Throws naming the file and what is wrong with it.
Bundle read_bundle(const std::filesystem::path& path);

/// Runs the bundle's step again and returns its report; null where all values were finite. Throws naming the file where there is no such step.
Json replay(const Bundle& bundle);

}  // namespace norma::train
