#include "apps/watched_runs.h"

#include <charconv>
#include <iterator>

#include "train/run_folder.h"
#include "train/run_groups.h"
#include "train/saved_run.h"

namespace norma::apps {
namespace {

using train::Json;

/// The next whole number of `text` and the one character after it, both taken off; -1 where there is none.
Index take_number(std::string_view& text) {
  Index value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const auto used = static_cast<std::size_t>(end - text.data());
  text.remove_prefix(std::min(text.size(), used + 1));
  return error == std::errc{} ? value : -1;
}

}  // namespace

WatchedRuns::WatchedRuns(const std::vector<std::string>& folders) {
  for (const std::string& folder : folders) {
    sources_.push_back({folder, train::MetricsTail(std::filesystem::path(folder) / "metrics.jsonl")});
    runs_.emplace_back();
    read(sources_.size() - 1);
  }
  group();
  read_at_ = std::chrono::steady_clock::now();
}

void WatchedRuns::read(std::size_t i) {
  inspect::PageRun& run = runs_[i];
  inspect::PageRun head = train::read_run_head(sources_[i].folder);
  head.rows = std::move(run.rows), head.generation = run.generation;
  run = std::move(head);
  const auto record = run.config.find("record");
  if (record != run.config.end() && *record != "")
    run.recording.notes = {
        "the matrices that --record keeps are not on this page; norma report shows them, also while the run goes on"};
  train::MetricsTail::News news = sources_[i].metrics.read();
  look_for_trainer(sources_[i], !news.rows.empty());
  if (news.anew) {
    run.rows.clear();
    ++run.generation;
  }
  std::move(news.rows.begin(), news.rows.end(), std::back_inserter(run.rows));
  if (!news.wrong.empty()) throw Error(news.wrong);
  run.note += (run.note.empty() || news.cut.empty() ? "" : "\n") + news.cut;
}

/// A lock that was never seen is missed only when nothing was written for a minute.
void WatchedRuns::look_for_trainer(Source& source, bool grew) {
  source.held = train::FolderLock::listed(source.folder);
  if (!source.held) return;
  source.seen = source.seen || *source.held;
  source.hidden = !source.seen && (source.hidden || (source.begun && grew));
  source.begun = true;
  if (!source.seen && (source.hidden || source.metrics.seconds_since_written().value_or(0) < 60)) source.held.reset();
}

void WatchedRuns::group() {
  const std::vector<train::RunGroup> settings = train::group_runs(runs_);
  differences_ = train::differences_by_seed(settings, runs_);
}

/// Several readers cost no more than one.
void WatchedRuns::refresh() {
  const auto now = std::chrono::steady_clock::now();
  if (now - read_at_ < std::chrono::milliseconds(300)) return;
  read_at_ = now;
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    try {
      read(i);
    } catch (const Error& e) {
      runs_[i].note = e.what();  // what was read before stays to be seen
      sources_[i].held.reset();
    }
  }
  group();
}

std::string WatchedRuns::page(const std::string& nonce) {
  refresh();
  return inspect::make_page(inspect::page_title(runs_), runs_, differences_, nonce);
}

std::string WatchedRuns::data(const std::string& since) {
  refresh();
  std::string_view seen = since;
  Json all = Json::array();
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    const Index generation = take_number(seen), rows = take_number(seen);
    const bool fits =
        generation == runs_[i].generation && rows >= 0 && rows <= static_cast<Index>(runs_[i].rows.size());
    all.push_back(inspect::run_json(runs_[i], fits ? static_cast<std::size_t>(rows) : 0));
    const auto quiet = sources_[i].metrics.seconds_since_written();
    all.back()["quiet_seconds"] = quiet ? Json(*quiet) : Json();
    all.back()["held"] = sources_[i].held ? Json(*sources_[i].held) : Json();
  }
  return Json{{"runs", std::move(all)}, {"differences", differences_}}.dump(-1, ' ', false,
                                                                            Json::error_handler_t::replace);
}

}  // namespace norma::apps
