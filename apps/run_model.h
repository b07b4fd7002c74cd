// A run folder brought back to life: its configuration, its data and the model of its newest checkpoint.
#pragma once

#include <memory>

#include "apps/model_flags.h"
#include "datasets/dataset.h"
#include "models/vit.h"

namespace norma::apps {

struct RunModel {
  train::TrainConfig config;
  datasets::ImageData data;
  std::unique_ptr<models::ViT> model;
  const char* weights = "";  // which ones it has: initial, trained, or averaged where the run keeps an average (--ema)
  Index step = 0;
  std::filesystem::path folder;  // the run's, also where a checkpoint in it was named
  /// To go behind the step in a line of text, since who reads it has not asked for an average: ", averaged weights (--ema 0.99)"; else nothing.
  std::string told() const;
};

struct Wanted {
  bool initial = false;   // the weights it started from instead of its newest checkpoint's: step 0
  bool matrices = false;  // attention by the matrix, whatever form the run computes it in: all statistics are then exact
};

/// `run`: a run's folder, or one of its checkpoints, checkpoint-STEP.safetensors. `threads` (0: all cores) and, where given, `data_dir`
/// are this machine's; the rest comes from the run. Warnings about damaged checkpoints go to stderr. Throws when the folder holds no run or
/// no whole checkpoint, or one that was made with another configuration than the run's config.json.
RunModel load_run_model(const std::filesystem::path& run, Index threads, const std::string& data_dir, Wanted wanted = {});

}  // namespace norma::apps
