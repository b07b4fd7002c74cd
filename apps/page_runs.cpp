#include "apps/page_runs.h"

#include "apps/verbs.h"
#include "train/record_folder.h"
#include "train/saved_run.h"

namespace norma::apps {

std::vector<inspect::PageRun> read_page_runs(const std::vector<std::string>& folders) {
  std::vector<inspect::PageRun> runs;
  for (const std::string& folder : folders) {
    inspect::PageRun& run = runs.emplace_back(train::read_run(folder));
    if (!run.note.empty()) tell("{}\n", run.note);
    run.recording = train::read_records(folder, inspect::page_bytes / folders.size());
    for (const std::string& note : run.recording.notes) tell("{}\n", note);
  }
  return runs;
}

}  // namespace norma::apps
