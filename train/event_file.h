// TensorBoard's event file: what metrics.jsonl says, for `tensorboard --logdir RUN`. metrics.jsonl is the truth: a run that goes on
// starts a fresh event file made from the lines that are left there, so no step ever appears twice.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "train/json.h"

namespace norma::train {

/// One curve's value at a step.
struct Scalar {
  std::string tag;
  double value;
};

/// The curves of one line of metrics.jsonl: "train/loss", "test/accuracy", "attn/L03/H05/fro" (layers and heads count from 0, as in
/// "blocks.3"), "param/blocks.3.attn.qkv.weight/grad"; of a twin's line "twin/loss/0" and
/// "twin/weights/blocks.3/distance". NaN stands for every number that is not finite (null in the file).
std::vector<Scalar> scalars(const Json& row);

/// Whether a file is called as ours are.
bool is_event_file(const std::string& name);

/// `events.out.tfevents.TIME.norma` in the run's folder: TFRecords, each of one Event of tensorflow/core/util/event.proto, one for
/// each line of metrics.jsonl.
class EventFile {
 public:
  /// Takes the place of our event files in the folder, which stay where it cannot be written; those of other programs always stay.
  /// `rows` are the lines of metrics.jsonl so far; they keep the times that the file before this one has for them.
  EventFile(const std::filesystem::path& run, const std::vector<Json>& rows);
  ~EventFile();
  EventFile(const EventFile&) = delete;

  /// Throws when the disk is full.
  void append(const Json& row);

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

}  // namespace norma::train
