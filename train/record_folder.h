// record/ of a run folder: one file a recorded step, step-STEP.safetensors, each whole in itself. It holds the matrices as the model
// computed them ("weights/blocks.0.attn", [images, heads, tokens, tokens]) and the images as bytes ("images").
#pragma once

#include <filesystem>
#include <vector>

#include "inspect/recording.h"
#include "nn/module.h"

namespace norma::train {

/// Writes a record atomically, over one of the same step. `weights`: a matrix of every image and head, by place.
void write_record(const std::filesystem::path& run, Index step, const inspect::ProbeImages& images, const nn::Named& weights);

/// The steps that have a file, in order.
std::vector<Index> recorded_steps(const std::filesystem::path& run);

/// Removes the records after `step`: of a future that did not happen.
void cut_records(const std::filesystem::path& run, Index step);

/// What is recorded, as much as takes `largest` bytes of a page: where it is more, steps evenly spaced from the first to the last, of
/// fewer images if need be. Notes say what is left out: that, and files that are damaged, foreign, or of other images than the newest.
inspect::Recording read_records(const std::filesystem::path& run, std::size_t largest);

}  // namespace norma::train
