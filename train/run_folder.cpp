#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "train/json.h"
#include "train/metrics_tail.h"

namespace norma::train {
namespace fs = std::filesystem;
namespace {

constexpr int kept_checkpoints = 2;

/// Whether something would be lost. What a run leaves that ended before its first step (too large for the memory, say) may be written over.
bool holds_run(const fs::path& run) {
  std::error_code error;
  const fs::path metrics = run / "metrics.jsonl";
  if (!fs::exists(run / "status.json")) return fs::exists(run / "config.json") || fs::exists(metrics);
  return !checkpoints(run).empty() || fs::exists(run / "summary.json") || (fs::exists(metrics) && fs::file_size(metrics, error) > 0);
}

/// Removes what writers of these files left that were killed; nobody else writes them while the folder is held.
void remove_unfinished(const fs::path& run) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(run, error)) {
    const std::string name = entry.path().filename().string();
    const bool own = name.starts_with(".checkpoint-") || name.starts_with(".config.json.") || name.starts_with(".status.json.") || name.starts_with(".summary.json.");
    if (own && name.ends_with(".tmp")) fs::remove(entry.path(), error);
  }
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

Json to_json(const RunState& s) {
  Json j = {{"step", s.step},       {"skipped", s.skipped},     {"skipped_in_a_row", s.skipped_in_a_row},
            {"metrics_bytes", s.metrics_bytes}, {"tested", s.tested}, {"config", s.config}, {"data_hash", s.data_hash}};
  if (!s.instructions.empty()) j["instructions"] = s.instructions;
  if (!s.last_row.empty()) j["last_row"] = s.last_row;
  return j;
}

RunState state_from(const Json& j, const std::string& where) {
  auto whole = [&](const char* key) {
    if (!j.contains(key) || !j[key].is_number_unsigned() || j[key].get<std::uint64_t>() > std::numeric_limits<Index>::max())
      fail("{}: state has no whole number \"{}\"", where, key);
    return static_cast<Index>(j[key].get<std::uint64_t>());
  };
  auto text = [&](const char* key) {
    if (!j.contains(key) || !j[key].is_string()) fail("{}: state has no text \"{}\"", where, key);
    return j[key].get<std::string>();
  };
  const Index step = whole("step"), tested = j.contains("tested") ? whole("tested") : step;  // checkpoints before it was kept: all was tested
  return {step, whole("skipped"), whole("skipped_in_a_row"), whole("metrics_bytes"), tested, text("config"), text("data_hash"),
          j.contains("instructions") ? text("instructions") : "", j.contains("last_row") ? text("last_row") : ""};
}

}  // namespace

FolderLock::FolderLock(const fs::path& folder) : fd_(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  // A file system without locks is no reason not to train.
  if (fd_ < 0 || ::flock(fd_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return;
  ::close(fd_);
  fail("run folder {}: another process is training into it; wait until it has ended, or choose another with --out", folder.string());
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

RunFolder::RunFolder(const fs::path& path, Held held) : path_(path) {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_directory(path, error)) fail("run folder {}: is a file; choose another with --out", path.string());
  fs::create_directories(path, error);
  if (error) fail("run folder {}: cannot be made ({}); choose another with --out", path.string(), error.message());
  if (::access(path.c_str(), W_OK) != 0)
    fail("run folder {}: cannot be written ({}); choose another with --out", path.string(), std::strerror(errno));
  lock_ = std::make_unique<FolderLock>(path);
  check_kinds(path);
  if (held != Held::resume && holds_run(path))
    fail("run folder {}: already holds a run; {}choose another with --out", path.string(), held == Held::refuse ? "go on with --resume, or " : "");
  remove_unfinished(path);
}

void RunFolder::write_config(const Json& config) const {
  write_file_atomically(path_ / "config.json", bytes_of(config.dump(2) + "\n"));
}

void RunFolder::write_summary(const Json& summary) const {
  write_file_atomically(path_ / "summary.json", bytes_of(summary.dump(2) + "\n"));
}

void RunFolder::remove_summary() const {
  std::error_code error;
  if (!fs::remove(path_ / "summary.json", error) && error)
    fail("{}: is of before the run goes on, and cannot be removed ({})", (path_ / "summary.json").string(), error.message());
}

void RunFolder::write_status(Index step, const std::string& ending, double seconds, Index tokens) const {
  write_file_atomically(path_ / "status.json", bytes_of(Json{{"step", step}, {"ending", ending}, {"seconds", seconds}, {"tokens", tokens}}.dump(2) + "\n"));
}

void RunFolder::log(const Json& row) {
  if (!events_) events_ = std::make_unique<EventFile>(path_, std::vector<Json>{});
  const std::string line = row.dump() + "\n";
  const fs::path file = path_ / "metrics.jsonl";
  const int fd = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) fail("{}: cannot be opened ({})", file.string(), std::strerror(errno));
  const ssize_t written = ::write(fd, line.data(), line.size());
  const int error = errno;
  ::close(fd);
  if (written != static_cast<ssize_t>(line.size()))
    fail("{}: {} of {} bytes written ({})", file.string(), std::max<ssize_t>(written, 0), line.size(),
         written < 0 ? std::strerror(error) : "no space left on device");
  events_->append(row);
}

void RunFolder::save(RunState state, const nn::Named& tensors) {
  std::error_code error;
  const auto size = fs::file_size(path_ / "metrics.jsonl", error);
  state.metrics_bytes = error ? 0 : static_cast<Index>(size);
  write_safetensors(path_ / fmt::format("checkpoint-{:09}.safetensors", state.step),
                    {tensors, {{"format", "norma-run-1"}, {"state", to_json(state).dump()}}});
  auto all = checkpoints(path_);
  for (std::size_t i = 0; i + kept_checkpoints < all.size(); ++i) fs::remove(all[i], error);
}

std::optional<std::pair<RunState, nn::Named>> RunFolder::load(const fs::path& run,
                                                              const std::function<void(const std::string&)>& warn) {
  auto all = checkpoints(run);
  std::string first_error;
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    try {
      TensorFile file = read_safetensors(*it);
      const auto format = file.metadata.find("format"), state = file.metadata.find("state");
      if (format == file.metadata.end() || state == file.metadata.end() || format->second != "norma-run-1")
        fail("{}: not a checkpoint of this program (format \"{}\", expected \"norma-run-1\")", it->string(),
             format == file.metadata.end() ? "" : format->second);
      RunState s = state_from(parse_json(state->second, it->string(), {}), it->string());
      return std::pair{std::move(s), std::move(file.tensors)};
    } catch (const Error& e) {
      if (first_error.empty()) first_error = e.what();
      warn(fmt::format("{}; trying the checkpoint before it", e.what()));
    }
  }
  if (!first_error.empty()) fail("no whole checkpoint in {}: {}", run.string(), first_error);
  return std::nullopt;
}

std::vector<Json> RunFolder::rows_before(const RunState& state) const {
  const fs::path file = path_ / "metrics.jsonl";
  std::error_code error;
  const Index size = fs::exists(file) ? static_cast<Index>(fs::file_size(file, error)) : 0;
  constexpr const char* remedy = "put it back whole, or begin anew with another --out";
  if (error || size < state.metrics_bytes)
    fail("{}: has {} bytes, the checkpoint of step {} was made when it had {}; the file was cut: {}", file.string(), error ? 0 : size, state.step,
         state.metrics_bytes, remedy);
  MetricsTail::News all = MetricsTail(file, static_cast<std::uintmax_t>(state.metrics_bytes),
                                      fmt::format("the checkpoint of step {} is of after this line, so the file was changed: {}", state.step, remedy)).read();
  if (!all.wrong.empty()) throw Error(all.wrong);
  if (!all.cut.empty())
    fail("{}: has no end of a line at byte {}, where it ended when the checkpoint of step {} was made, so it was changed: {}", file.string(), state.metrics_bytes, state.step, remedy);
  return std::move(all.rows);
}

void RunFolder::rewind_metrics(const RunState& state, const std::vector<Json>& rows) {
  const fs::path file = path_ / "metrics.jsonl";
  std::error_code error;
  if (fs::exists(file)) fs::resize_file(file, static_cast<std::uintmax_t>(state.metrics_bytes), error);
  if (error) fail("{}: cannot be cut to {} bytes ({})", file.string(), state.metrics_bytes, error.message());
  events_ = std::make_unique<EventFile>(path_, rows);
}

}  // namespace norma::train
