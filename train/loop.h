// Training an image classifier, start to end.
#pragma once

#include <atomic>
#include <functional>
#include <optional>

#include "datasets/loader.h"
#include "train/config.h"
#include "train/run_folder.h"

namespace norma::train {

/// What the loop tells whoever watches (the progress bar).
struct Progress {
  Index step = 0, steps = 0, epoch = 0, epochs = 0;
  double loss = 0, accuracy = 0, images_per_second = 0, seconds = 0, seconds_left = 0;  // loss and accuracy: of training batches
  std::string what = {};                                                                // which loss and accuracy these are
};
struct Watcher {
  std::function<void(const Progress&)> progress = [](const Progress&) {};
  std::function<void(const std::string&)> message = [](const std::string&) {};
  std::function<void(Index, Index)> testing = [](Index, Index) {};  // images done and all, within an evaluation
};

constexpr Index give_up_after = 10;  // steps in a row that were skipped
enum class Ending { finished, interrupted, diverged };
const char* name(Ending ending);
struct Evaluation {
  double loss = 0, accuracy = 0;
};
struct Outcome {
  Ending ending = Ending::finished;
  Index step = 0;              // where the run stands
  Index skipped_in_a_row = 0;  // of the steps before it
  bool too_large = false;      // diverged: the last gradient was finite, but more than adamw takes in f32
  Evaluation test;
  double seconds = 0;
  bool anomaly = false;          // diverged: --anomaly stopped it before a step
  std::filesystem::path bundle;  // of that step (train/anomaly_bundle.h); empty where it could not be written
};

/// Mean loss and accuracy over a whole set; nothing where `stop` was set meanwhile. Where the loss is not finite the accuracy is NaN: outputs
/// that are no numbers name no class, though the first would count as named.
std::optional<Evaluation> evaluate(const models::ViT& model, const datasets::ImageSet& set, datasets::LoaderConfig loader, const std::atomic<bool>& stop,
                                   const Watcher& watcher = {});

/// Trains as `config` says into its run folder. `stop` (set by a signal) ends after the current step, or within an evaluation, which is then
/// made again, with a checkpoint. `resume` goes on from the newest checkpoint, to the bit; throws when it was made with another configuration or data set.
Outcome train(const TrainConfig& config, bool resume, const std::atomic<bool>& stop, const Watcher& watcher);

/// How the loader of a run is set up. training: batches of config.batch, shuffled and augmented, the last partial one dropped; otherwise all
/// images in their order, as they are.
datasets::LoaderConfig loader_config(const TrainConfig& config, const models::ViTConfig& model, bool training);

}  // namespace norma::train
