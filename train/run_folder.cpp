#include "train/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <span>
#include <tuple>

#include "core/atomic_file.h"
#include "core/crc32c.h"
#include "core/folder.h"
#include "train/json.h"
#include "train/metrics_tail.h"

namespace norma::train {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kept_checkpoints = 2;

/// Returns when what was written has reached the disk; the number of the error, 0 where there is none.
int sync(const fs::path& path, int flags) {
  const int fd = opened(path, flags);
  if (fd < 0) return errno;
  int error = 0;
  do error = ::fsync(fd) == 0 ? 0 : errno;
  while (error == EINTR);
  ::close(fd);
  return error;
}

/// Bytes of metrics.jsonl; 0 where there is none.
Index size_of_log(const fs::path& run) {
  const fs::path file = run / "metrics.jsonl";
  if (!is_there(file)) return 0;
  std::error_code error;
  const auto size = fs::file_size(file, error);
  if (error) fail("{}: has no size ({})", file.string(), error.message());
  return static_cast<Index>(size);
}

/// Of the first bytes of metrics.jsonl.
std::uint32_t checksum_of_log(const fs::path& run, Index bytes) {
  if (bytes == 0) return 0;
  const fs::path file = run / "metrics.jsonl";
  std::ifstream in(file, std::ios::binary);
  std::vector<char> buffer(1u << 18);
  std::uint32_t crc = 0;
  for (Index left = bytes; left > 0; left -= static_cast<Index>(in.gcount())) {
    in.read(buffer.data(), std::min(left, static_cast<Index>(buffer.size())));
    if (in.gcount() == 0) fail("{}: cannot be read to byte {}", file.string(), bytes);
    crc = crc32c(std::as_bytes(std::span(buffer.data(), static_cast<std::size_t>(in.gcount()))), crc);
  }
  return crc;
}

/// Whether something would be lost. What a run leaves that ended before its first step (too large for the memory, say)
/// may be written over.
bool holds_run(const fs::path& run) {
  if (!checkpoints(run).empty()) return true;
  if (!is_there(run / "status.json")) return is_there(run / "config.json") || is_there(run / "metrics.jsonl");
  return is_there(run / "summary.json") || size_of_log(run) > 0;
}

/// Removes what writers of these files left that were killed. Nobody else writes a run's own while the folder is held;
/// pages are made at any time.
void remove_unfinished(const fs::path& run) {
  constexpr std::string_view ours[] = {".checkpoint-", ".config.json.",         ".status.json.", ".summary.json.",
                                       ".anomaly-",    ".events.out.tfevents.", ".step-"},
                             pages[] = {".report.html.", ".inspect-"};
  std::error_code error;
  for (const fs::path& folder : {run, run / "record"})
    for (const auto& entry : entries_of(folder)) {
      const std::string name = entry.path().filename().string();
      const auto begins_as = [&](std::string_view begin) { return name.starts_with(begin); };
      const bool own = std::any_of(std::begin(ours), std::end(ours), begins_as),
                 page = std::any_of(std::begin(pages), std::end(pages), begins_as) && is_abandoned(name);
      if ((own || page) && name.ends_with(".tmp")) fs::remove(entry.path(), error);
    }
}

/// Makes a folder, and those it lies in; the names of the new ones reach the disk, where the file system can do that.
void make_folder(const fs::path& path) {
  std::vector<fs::path> made;
  std::error_code error;
  for (fs::path at = path; !at.empty() && !fs::exists(at, error); at = at.parent_path()) made.push_back(at);
  fs::create_directories(path, error);
  if (error) fail("run folder {}: cannot be made ({}); choose another with --out", path.string(), error.message());
  for (const fs::path& at : made) sync(at.has_parent_path() ? at.parent_path() : ".", O_RDONLY | O_DIRECTORY);
}

Json to_json(const RunState& s) {
  Json j = {{"step", s.step},
            {"skipped", s.skipped},
            {"skipped_in_a_row", s.skipped_in_a_row},
            {"metrics_bytes", s.metrics_bytes},
            {"tested", s.tested},
            {"config", s.config},
            {"data_hash", s.data_hash}};
  if (!s.test_hash.empty()) j["test_hash"] = s.test_hash;
  if (!s.instructions.empty()) j["instructions"] = s.instructions;
  if (!s.last_row.empty()) j["last_row"] = s.last_row;
  if (!s.unwritten_row.empty()) j["unwritten_row"] = s.unwritten_row;
  if (s.metrics_crc) j["metrics_crc32c"] = *s.metrics_crc;
  return j;
}

RunState state_from(const Json& j, const std::string& where) {
  auto whole = [&](const char* key) {
    if (!j.contains(key) || !j[key].is_number_unsigned() ||
        j[key].get<std::uint64_t>() > std::numeric_limits<Index>::max())
      fail("{}: state has no whole number \"{}\"", where, key);
    return static_cast<Index>(j[key].get<std::uint64_t>());
  };
  auto text = [&](const char* key) {
    if (!j.contains(key) || !j[key].is_string()) fail("{}: state has no text \"{}\"", where, key);
    return j[key].get<std::string>();
  };
  const Index step = whole("step"),
              tested = j.contains("tested") ? whole("tested") : step;  // checkpoints before it was kept: all was tested
  std::optional<std::uint32_t> crc;
  if (j.contains("metrics_crc32c")) crc = static_cast<std::uint32_t>(whole("metrics_crc32c"));
  return {step,
          whole("skipped"),
          whole("skipped_in_a_row"),
          whole("metrics_bytes"),
          tested,
          text("config"),
          text("data_hash"),
          j.contains("test_hash") ? text("test_hash") : "",
          j.contains("instructions") ? text("instructions") : "",
          j.contains("last_row") ? text("last_row") : "",
          j.contains("unwritten_row") ? text("unwritten_row") : "",
          crc};
}

}  // namespace

FolderLock::FolderLock(const fs::path& folder) : fd_(opened(folder, O_RDONLY | O_DIRECTORY)) {
  int error = errno;
  if (fd_ >= 0) {
    do error = ::flock(fd_, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    while (error == EINTR);
    // A file system without locks is no reason not to train.
    if (error == 0 || error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP) return;
    ::close(fd_);
  }
  if (error == EWOULDBLOCK)
    fail("run folder {}: another process is training into it; wait until it has ended, or choose another with --out",
         folder.string());
  fail(
      "run folder {}: cannot be {} ({}), so that another process could train into it too; change its permissions, or "
      "choose another with --out",
      folder.string(), fd_ < 0 ? "opened to read" : "locked", error_text(error));
}

FolderLock::~FolderLock() {
  if (fd_ >= 0) ::close(fd_);
}

bool FolderLock::still_at(const fs::path& folder) const {
  struct stat there {};
  struct stat held {};
  if (::stat(folder.c_str(), &there) != 0) return errno != ENOENT && errno != ENOTDIR;  // else whoever writes will tell
  return ::fstat(fd_, &held) != 0 || (held.st_dev == there.st_dev && held.st_ino == there.st_ino);
}

std::optional<fs::path> FolderLock::moved_to() const {
  std::error_code error;
  const fs::path now =
      fs::read_symlink(fmt::format("/proc/self/fd/{}", fd_), error);  // of a removed one "... (deleted)"
  if (error || !fs::exists(now, error) || !still_at(now)) return std::nullopt;
  return now;
}

std::optional<bool> FolderLock::listed(const fs::path& folder) {
  std::ifstream locks("/proc/locks");
  struct stat status {};
  if (!locks || ::stat(folder.c_str(), &status) != 0) return std::nullopt;
  // "1: FLOCK  ADVISORY  WRITE 2953 fe:00:11542929 0 EOF". The device may be another than stat() tells (btrfs); the
  // inode alone is enough for what this is for.
  const std::string inode = fmt::format(":{} ", status.st_ino);
  for (std::string line; std::getline(locks, line);)
    if (line.find(" FLOCK ") != std::string::npos && line.find(inode) != std::string::npos) return true;
  return false;
}

RunFolder::RunFolder(const fs::path& path, IfOccupied occupied, const Dispensable::Tell& warn)
    : path_(path),
      with_status_(warn, "the run goes on, and its status is that of before"),
      with_events_(warn, "the run goes on without an event file; --resume makes it whole again") {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_directory(path, error))
    fail("run folder {}: is a file; choose another with --out", path.string());
  make_folder(path);
  if (::access(path.c_str(), W_OK | X_OK) != 0)
    fail("run folder {}: cannot be written ({}); choose another with --out", path.string(), std::strerror(errno));
  lock_ = std::make_unique<FolderLock>(path);
  check_kinds(path);
  if (occupied != IfOccupied::resume && holds_run(path))
    fail("run folder {}: already holds a run; {}choose another with --out", path.string(),
         occupied == IfOccupied::fail_suggest_resume ? "go on with --resume, or " : "");
  remove_unfinished(path);
}

void RunFolder::check_held() const {
  if (lock_->still_at(path_)) return;
  if (const auto now = lock_->moved_to())
    fail(
        "run folder {}: was moved to {} while it was trained into, so training ends; --resume --out {} goes on there, "
        "from its last checkpoint",
        path_.string(), now->string(), now->string());
  fail(
      "run folder {}: was removed or replaced while it was trained into, so training ends, and leaves as it is what is "
      "there now; begin again with another --out, or put the folder back and go on with --resume",
      path_.string());
}

const fs::path& RunFolder::path() const {
  check_held();
  return path_;
}

void RunFolder::write_config(const Json& config) const {
  write_atomically(path() / "config.json", config.dump(2) + "\n");
}

void RunFolder::write_summary(const Json& summary) const {
  write_atomically(path() / "summary.json", summary.dump(2) + "\n");
}

void RunFolder::remove_summary() const {
  check_held();
  std::error_code error;
  if (!fs::remove(path_ / "summary.json", error) && error)
    fail("{}: is of before the run goes on, and cannot be removed ({})", (path_ / "summary.json").string(),
         error.message());
}

void RunFolder::write_status(const RunState& state, const std::string& ending, double seconds, Index tokens) {
  check_held();
  Json status = {{"step", state.step}, {"ending", ending}, {"seconds", seconds}, {"tokens", tokens}};
  if (!state.data_hash.empty()) status["data_hash"] = state.data_hash;
  if (!state.test_hash.empty()) status["test_hash"] = state.test_hash;
  if (!state.instructions.empty()) status["cpu"] = state.instructions;
  with_status_([&] { write_atomically(path_ / "status.json", status.dump(2) + "\n"); });
}

/// Throws where what this run has logged is no longer there, as when the folder's files were removed one by one.
void RunFolder::check_log() const {
  if (metrics_bytes_ == 0) return;
  if (const Index size = size_of_log(path_); size < metrics_bytes_)
    fail(
        "{}: has {} bytes, and this run has written {}: it was removed or cut meanwhile; begin anew with another --out",
        (path_ / "metrics.jsonl").string(), size, metrics_bytes_);
}

void RunFolder::log(const Json& row) {
  const std::string line = row.dump() + "\n";
  const auto bytes = std::as_bytes(std::span(line));
  const fs::path file = path() / "metrics.jsonl";
  check_log();
  const int fd = opened(file, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (fd < 0) fail("{}: cannot be opened ({})", file.string(), std::strerror(errno));
  const Written done = write_all(fd, bytes);
  if (done.error != 0 && done.bytes > 0)
    std::ignore = ::ftruncate(fd, metrics_bytes_);  // a part that stays is left out by readers, and cut off by --resume
  ::close(fd);
  if (done.error != 0)
    fail("{}: {} of {} bytes written ({})", file.string(), done.bytes, line.size(), error_text(done.error));
  metrics_bytes_ += static_cast<Index>(line.size());
  metrics_crc_ = crc32c(bytes, metrics_crc_);
  if (with_events_.failed()) return;  // behind half an event no other can be read
  with_events_([&] {
    if (!events_) events_ = std::make_unique<EventFile>(path_, std::vector<Json>{});
    events_->append(row);
  });
}

void RunFolder::save(RunState state, const nn::Named& tensors) {
  const fs::path log = path() / "metrics.jsonl";
  if (metrics_bytes_ > 0)  // a checkpoint that is ahead of the log is none
    if (const int error = sync(log, O_WRONLY))
      fail("{}: cannot be brought to the disk ({})", log.string(), std::strerror(error));
  check_log();
  state.metrics_bytes = metrics_bytes_, state.metrics_crc = metrics_crc_;
  try {
    write_safetensors(checkpoint_file(path_, state.step),
                      {tensors, {{"format", "norma-run-1"}, {"state", to_json(state).dump()}}});
  } catch (const Error&) {
    check_held();  // moved meanwhile: the reason that tells more
    throw;
  }
  std::erase(kept_, state.step);
  kept_.push_back(state.step);
  if (kept_.size() > kept_checkpoints) kept_.erase(kept_.begin());
  prune();
}

/// Older ones, and what a resume passed over: damaged, or ahead of the log. What cannot be removed stays for the next.
void RunFolder::prune() const {
  check_held();
  try {
    for (const fs::path& file : checkpoints(path_))
      if (std::find(kept_.begin(), kept_.end(), step_of_checkpoint(file)) == kept_.end()) {
        std::error_code error;
        fs::remove(file, error);
      }
  } catch (const Error&) {  // the folder cannot be listed
  }
}

std::pair<RunState, nn::Named> RunFolder::load_checkpoint(const fs::path& path) {
  TensorFile file = read_safetensors(path);
  const auto format = file.metadata.find("format"), state = file.metadata.find("state");
  if (format == file.metadata.end() || state == file.metadata.end() || format->second != "norma-run-1")
    fail("{}: not a checkpoint of this program (format \"{}\", expected \"norma-run-1\")", path.string(),
         format == file.metadata.end() ? "" : format->second);
  RunState s = state_from(parse_json(state->second, path.string(), {}), path.string());
  if (const Index named = step_of_checkpoint(path); named >= 0 && named != s.step)
    fail("{}: is the checkpoint of step {}, so it was renamed; its name is {}", path.string(), s.step,
         checkpoint_file({}, s.step).string());
  for (const auto& [name, t] : file.tensors)
    if ((name.starts_with("model/") || name.starts_with("ema/")) && !is_floating(t.dtype()))
      fail("{}: {} is {}, and parameters are floating", path.string(), name, t.dtype());
  return {std::move(s), std::move(file.tensors)};
}

std::optional<std::pair<RunState, nn::Named>> RunFolder::load(const fs::path& run,
                                                              const std::function<void(const std::string&)>& warn,
                                                              Log log) {
  auto all = checkpoints(run);
  std::string first_error;
  for (auto it = all.rbegin(); it != all.rend(); ++it) {
    try {
      auto found = load_checkpoint(*it);
      const RunState& s = found.first;
      if (log == Log::needed)
        if (const Index size = size_of_log(run); size < s.metrics_bytes)
          fail("{}: has {} bytes, the checkpoint of step {} was made when it had {}; its end is lost",
               (run / "metrics.jsonl").string(), size, s.step, s.metrics_bytes);
      return found;
    } catch (const Error& e) {
      if (first_error.empty()) first_error = e.what();
      warn(fmt::format("{}; trying the checkpoint before it", e.what()));
    }
  }
  if (!first_error.empty())
    fail("no whole checkpoint in {}: {}; put the file back whole, or begin anew with another --out", run.string(),
         first_error);
  return std::nullopt;
}

std::vector<Json> RunFolder::rows_before(const RunState& state) const {
  const fs::path file = path_ / "metrics.jsonl";
  constexpr const char* remedy = "put it back whole, or begin anew with another --out";
  MetricsTail::News all =
      MetricsTail(file, static_cast<std::uintmax_t>(state.metrics_bytes),
                  fmt::format("the checkpoint of step {} is of after this line, so the file was changed: {}",
                              state.step, remedy))
          .read();
  if (!all.wrong.empty()) throw Error(all.wrong);
  if (!all.cut.empty())
    fail(
        "{}: has no end of a line at byte {}, where it ended when the checkpoint of step {} was made, so it was "
        "changed: {}",
        file.string(), state.metrics_bytes, state.step, remedy);
  if (state.metrics_crc && checksum_of_log(path_, state.metrics_bytes) != *state.metrics_crc)
    fail(
        "{}: its first {} bytes have another checksum than when the checkpoint of step {} was made, so it was changed: "
        "{}",
        file.string(), state.metrics_bytes, state.step, remedy);
  return std::move(all.rows);
}

void RunFolder::rewind_metrics(const RunState& state, const std::vector<Json>& rows) {
  const fs::path file = path() / "metrics.jsonl";
  std::error_code error;
  if (is_there(file)) fs::resize_file(file, static_cast<std::uintmax_t>(state.metrics_bytes), error);
  if (error) fail("{}: cannot be cut to {} bytes ({})", file.string(), state.metrics_bytes, error.message());
  metrics_bytes_ = state.metrics_bytes;
  metrics_crc_ = state.metrics_crc ? *state.metrics_crc : checksum_of_log(path_, metrics_bytes_);
  kept_.clear();
  for (const fs::path& checkpoint : checkpoints(path_))
    if (const Index step = step_of_checkpoint(checkpoint); step <= state.step) kept_.push_back(step);
  if (kept_.size() > kept_checkpoints) kept_.erase(kept_.begin(), kept_.end() - kept_checkpoints);
  with_events_([&] { events_ = std::make_unique<EventFile>(path_, rows); });
}

void RunFolder::begin_again() {
  const auto refuse = [&](const std::string& why) {
    fail(
        "run folder {}: {}, but holds no checkpoint to go on from; put the newest back, or begin anew with another "
        "--out",
        path().string(), why);
  };
  const bool configured = is_there(path_ / "config.json");
  if (configured) read_run_head(path_);  // throws where it is no training run's
  if (is_there(path_ / "summary.json")) refuse("has ended (summary.json)");
  RunStatus status;
  try {
    status = read_status(path_);
  } catch (const Error&) {  // damaged: it tells nothing
  }
  if (!status.ending.empty()) refuse(fmt::format("has ended ({})", status.ending));
  if (status.step > 0) refuse(fmt::format("has made a checkpoint of step {} (status.json)", status.step));
  if (status.step < 0) {  // by what is due
    if (!configured && size_of_log(path_) > 0) refuse("has a log and no config.json");
    std::string cut;
    const Index due = configured ? read_json(path_ / "config.json").value("checkpoint_every", Index{0}) : 0;
    for (const Json& row :
         read_metrics(path_ / "metrics.jsonl", cut))  // an epoch's evaluation comes before the checkpoint of its step
      if (const Index step = row["step"]; due > 0 && step >= due + (row.contains("loss") ? 0 : 1))
        refuse(fmt::format("has made step {}", step));
  }
  std::error_code error;
  if (!fs::remove(path() / "metrics.jsonl", error) && error)
    fail("{}: cannot be removed ({})", (path_ / "metrics.jsonl").string(), error.message());
}

}  // namespace norma::train
