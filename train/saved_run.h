// Reading a run folder back, finished or still running.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "inspect/page.h"
#include "train/json.h"

namespace norma::train {

/// How it stands with a run.
struct RunStatus {
  std::string ending;  // interrupted, diverged or finished; empty: it goes on, or was killed
  double seconds = 0;  // that all its sessions trained, to the last checkpoint while it goes on
  Index tokens = 0;    // N; 0: an earlier version wrote it
  Index step = -1;     // of its newest checkpoint, 0 before the first; -1: not told
  // Of the training and the test images, as in its checkpoints; empty: it has none yet, or an earlier version wrote it.
  std::string data_hash = {}, test_hash = {};
};

/// All of a run but its recording; the note says what was left out: a last line that is cut short (being written), a status.json that is
/// damaged. Throws naming the file and line that is wrong, also where another version of this program wrote something else there: config,
/// rows and summary that are returned have the types that the program's pages and tables read.
inspect::PageRun read_run(const std::filesystem::path& path);

/// The same without rows and what its note says of them: a run that has made no step yet has this already.
inspect::PageRun read_run_head(const std::filesystem::path& path);

/// Of status.json; as at the beginning of a run where there is none.
RunStatus read_status(const std::filesystem::path& path);

/// Of a run's folder, oldest first.
std::vector<std::filesystem::path> checkpoints(const std::filesystem::path& run);
std::filesystem::path checkpoint_file(const std::filesystem::path& run, Index step);
/// That a checkpoint's name tells; -1 where it is not called as one.
Index step_of_checkpoint(const std::filesystem::path& file);

/// Whether there is something of that name; throws where the system does not tell.
bool is_there(const std::filesystem::path& path);

/// Throws where something in a run's folder is a folder and should be a file, or the other way round.
void check_kinds(const std::filesystem::path& run);

/// One line of metrics.jsonl, checked; `where` begins the text of an error, and `remedy` ends it where the line is no JSON.
Json parse_row(std::string_view line, const std::string& where, std::string_view remedy);

/// The whole lines of a metrics.jsonl, none where there is no file; `note` says what was left out.
std::vector<Json> read_metrics(const std::filesystem::path& file, std::string& note);

}  // namespace norma::train
