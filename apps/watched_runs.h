// What `norma watch` shows: its runs as they stood when last asked for. Reading happens only when someone looks.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "inspect/page.h"
#include "train/metrics_tail.h"

namespace norma::apps {

class WatchedRuns {
 public:
  /// Reads the runs once. Throws where one cannot be shown; a run without a metrics.jsonl has not begun, and can.
  explicit WatchedRuns(const std::vector<std::string>& folders);

  /// The page with all that there is; see inspect::make_page for the nonce.
  std::string page(const std::string& nonce);
  /// What is new, as JSON. `since` is what a page has: for each run GENERATION.ROWS, with _ between. A run for which that does not
  /// fit what is here comes as a whole.
  std::string data(const std::string& since);

 private:
  struct Source {
    std::filesystem::path folder;
    train::MetricsTail metrics;
    std::optional<bool> held = {};  // whether a process trains into it now; nothing where that is not known
    bool begun = false;             // it was read before
    bool seen = false;              // its lock was held once
    bool hidden = false;            // it grew, and no lock was seen: it cannot be seen from here
  };
  void read(std::size_t i);
  void group();
  void refresh();
  static void look_for_trainer(Source& source, bool grew);

  std::vector<Source> sources_;
  std::vector<inspect::PageRun> runs_;    // of the same order
  std::vector<std::string> differences_;  // of their settings, by seed
  std::chrono::steady_clock::time_point read_at_{};
};

}  // namespace norma::apps
