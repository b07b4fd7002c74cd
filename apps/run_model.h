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
  std::unique_ptr<models::ViT> model;  // with the averaged weights where the run keeps them (--ema)
  Index step = 0;
};

/// `threads` (0: all cores) and, where given, `data_dir` are this machine's; the rest comes from the run. Warnings about damaged
/// checkpoints go to stderr. Throws when the folder holds no run or no whole checkpoint.
/// `initial`: the weights it started from instead, step 0.
RunModel load_run_model(const std::filesystem::path& run, Index threads, const std::string& data_dir, bool initial = false);

}  // namespace norma::apps
