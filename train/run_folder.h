// A run folder: config.json, metrics.jsonl (one object a line), the same as a TensorBoard event file, checkpoints, status.json,
// summary.json. What a run was, and all that is needed to continue it to the bit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/dispensable.h"
#include "train/event_file.h"
#include "train/safetensors.h"
#include "train/saved_run.h"

namespace norma::train {

/// Where a run stands between two steps; with the tensors of a checkpoint it is the whole state.
struct RunState {
  Index step = 0;
  Index skipped = 0, skipped_in_a_row = 0;  // steps that were not taken: Learner::Update
  Index metrics_bytes = 0;                  // length of metrics.jsonl: lines after it belong to a future that did not happen
  Index tested = 0;                         // step of the last epoch's evaluation in metrics.jsonl
  std::string config;                       // config.json's text
  std::string data_hash;                    // of the training images
  std::string test_hash;                    // of the test images; empty: an earlier version wrote it
  std::string instructions;                 // Backend::instructions() of the process that wrote it
  std::string last_row;                     // the last step's line if it was logged only because the run ends here; empty otherwise
  std::string unwritten_row;                // a line that metrics.jsonl did not take (the disk was full): it goes on with it; empty: none
  std::optional<std::uint32_t> metrics_crc = {};  // CRC-32C of those bytes of metrics.jsonl; nothing in checkpoints of earlier versions
};

/// A folder held for writing. The system lets go of it when the process ends, however it ends.
class FolderLock {
 public:
  /// Throws when another process, or another lock of this one, holds the folder, or when that cannot be known; not on a file system without locks.
  explicit FolderLock(const std::filesystem::path& folder);
  FolderLock(const FolderLock&) = delete;
  ~FolderLock();
  /// Whether a path leads to the folder that is held. It may have been moved, removed or replaced; the lock goes with it.
  bool still_at(const std::filesystem::path& folder) const;
  /// Where it was moved; nothing where the system does not tell, or it was removed.
  std::optional<std::filesystem::path> moved_to() const;
  /// Whether some process of this machine holds the folder, by /proc/locks; the lock is not touched. Nothing where that cannot be read. A holder in
  /// another container, or on another machine that shares the disk, is not listed.
  static std::optional<bool> listed(const std::filesystem::path& folder);

 private:
  int fd_;
};

class RunFolder {
 public:
  enum class IfOccupied { fail_suggest_resume, fail, resume };  // what to do when the folder already holds a run
  /// Makes the folder and holds it. Throws when it cannot be written, is being trained into, holds a folder where a run has a file, or already holds
  /// a run that is not to be resumed: a checkpoint, a line of metrics or a summary, or a config.json without the status.json that tells that no step
  /// was made. Files that a killed process left half-written are removed. `warn` gets told, once each, that status.json or the event file cannot be
  /// written: the run goes on without.
  RunFolder(const std::filesystem::path& path, IfOccupied occupied, const Dispensable::Tell& warn = [](const std::string&) {});
  /// Throws when the folder was moved, removed or replaced meanwhile: what were written by its path would be another run's. All that writes asks first.
  void check_held() const;
  /// For what else writes into it: the same.
  const std::filesystem::path& path() const;

  void write_config(const Json& config) const;
  /// Appends one line to metrics.jsonl, and its numbers to the event file. Throws when the disk is full, and leaves no part of the line.
  void log(const Json& row);
  void write_summary(const Json& summary) const;
  void remove_summary() const;  // of a run that goes on
  /// How it stands with the run (status.json): its step, its ending, empty while it goes on, the seconds that all its sessions trained, and what
  /// config.json does not tell: N, where the image is the data set's, the images' hashes, and the instruction set, where the state has them.
  /// Seconds are not in the checkpoints, which are the same to the byte however often a run was stopped.
  void write_status(const RunState& state, const std::string& ending, double seconds, Index tokens);

  /// Writes checkpoint-STEP.safetensors atomically, when the log has reached the disk, and keeps it and the one before it that is known to be whole.
  /// state.metrics_bytes and its checksum are filled in.
  void save(RunState state, const nn::Named& tensors);
  /// Whether there is one to go on from.
  bool has_checkpoint() const { return !kept_.empty(); }
  enum class Log { spared, needed };
  /// The newest checkpoint that is whole, or nothing. A damaged one is passed over, told through `warn`; to go on, for which the log is needed, also
  /// one that is ahead of metrics.jsonl.
  static std::optional<std::pair<RunState, nn::Named>> load(const std::filesystem::path& run, const std::function<void(const std::string&)>& warn,
                                                            Log log = Log::spared);
  /// One checkpoint, whole or not at all.
  static std::pair<RunState, nn::Named> load_checkpoint(const std::filesystem::path& file);
  /// The lines of metrics.jsonl up to where a state stood, of a checkpoint that is not ahead of it; throws where they are not whole. Changes nothing.
  std::vector<Json> rows_before(const RunState& state) const;
  /// Cuts metrics.jsonl and the event file back to there.
  void rewind_metrics(const RunState& state, const std::vector<Json>& rows);
  /// Throws where the run made checkpoints, which are gone: with them its log would be. Else what is left of it is removed, to begin again.
  void begin_again();

 private:
  void check_log() const;
  void prune() const;
  std::filesystem::path path_;
  std::unique_ptr<FolderLock> lock_;
  std::unique_ptr<EventFile> events_;
  Index metrics_bytes_ = 0;  // what metrics.jsonl holds of this run: later bytes are none of it
  std::uint32_t metrics_crc_ = 0;
  std::vector<Index> kept_;  // steps of the checkpoints that stay, at most two; the last is known to be whole
  Dispensable with_status_, with_events_;
};

}  // namespace norma::train
