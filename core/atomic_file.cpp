#include "core/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <system_error>

#include "core/error.h"

namespace norma {

std::string error_text(int error) {
  std::string text = std::generic_category().message(error);
  if (!text.empty() && text[0] >= 'A' && text[0] <= 'Z') text[0] = static_cast<char>(text[0] - 'A' + 'a');
  return text;
}

int opened(const std::filesystem::path& path, int flags, unsigned mode) {
  int fd;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  return fd;
}

AtomicFile::AtomicFile(const std::filesystem::path& path, std::uint64_t need) : path_(path), need_(need) {
  // Renaming would put a file in the place of a device.
  std::error_code ignored;
  const auto there = std::filesystem::status(path, ignored);
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there) && !std::filesystem::is_directory(there))
    fail("{}: is a device or a pipe; name a file", path.string());
  static std::atomic<unsigned> counter{0};
  do {
    temporary_ = path.parent_path() / fmt::format(".{}.{}-{}.tmp", path.filename().string(), getpid(), counter++);
    fd_ = opened(temporary_, O_WRONLY | O_CREAT | O_EXCL, 0666);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) {
    fail("{}: cannot be created, {}", path.string(), error_text(errno));
  }
}

AtomicFile::~AtomicFile() { discard(); }

void AtomicFile::discard() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  if (!temporary_.empty()) unlink(temporary_.c_str());
  temporary_.clear();
}

void AtomicFile::fail_with(int error, const char* doing) {
  discard();  // first, so that the free space named is what a next attempt finds
  std::error_code ignored;
  const auto folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
  const auto space = std::filesystem::space(folder, ignored);
  fail("{}: need {} bytes, {} written, {}{} ({} bytes free in {}); the file was not changed", path_.string(), need_,
       written_, doing, error_text(error), ignored ? 0 : space.available, folder.string());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  const Written done = write_all(fd_, bytes);
  written_ += done.bytes;
  if (done.error != 0) fail_with(done.error, "");
}

void AtomicFile::commit() {
  while (fsync(fd_) != 0) {
    if (errno != EINTR) fail_with(errno, "fsync: ");
  }
  const int closed = close(fd_);
  fd_ = -1;
  if (closed != 0 && errno != EINTR) fail_with(errno, "close: ");
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    if (errno == EISDIR) {
      discard();
      fail("{}: is a folder; name a file", path_.string());
    }
    fail_with(errno, "rename: ");
  }
  temporary_.clear();
  // The new name lies in the folder, which has to reach the disk as well. Some file systems cannot sync a folder:
  // EINVAL.
  const auto folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
  const int fd = opened(folder, O_RDONLY | O_DIRECTORY);
  if (fd < 0) return;  // a folder that may be written but not read: nothing more can be done
  const int synced = fsync(fd), error = errno;
  close(fd);
  if (synced != 0 && error != EINVAL && error != EINTR) {
    fail("{}: the folder could not be synced, {}", folder.string(), error_text(error));
  }
}

void write_atomically(const std::filesystem::path& path, std::string_view text) {
  AtomicFile out(path, text.size());
  out.write(std::as_bytes(std::span(text)));
  out.commit();
}

bool is_abandoned(const std::string& name) {  // .NAME.PID-N.tmp
  constexpr std::string_view after = ".tmp";
  if (!name.starts_with('.') || !name.ends_with(after)) return false;
  const std::size_t dot = name.rfind('.', name.size() - after.size() - 1);
  int process = 0;
  std::from_chars(name.data() + dot + 1, name.data() + name.size(), process);
  return process > 0 && ::kill(process, 0) != 0 && errno == ESRCH;
}

// A full disk first shows as a short write without an error.
Written write_all(int fd, std::span<const std::byte> bytes) {
  Written done;
  while (done.bytes < bytes.size() && done.error == 0) {
    // At most 1 GiB a call: Linux writes no more than 2 GiB - 4 KiB at once.
    const std::size_t some = std::min<std::size_t>(bytes.size() - done.bytes, std::size_t{1} << 30);
    const ssize_t n = ::write(fd, bytes.data() + done.bytes, some);
    if (n > 0)
      done.bytes += static_cast<std::size_t>(n);
    else if (n == 0 || errno != EINTR)
      done.error = n == 0 ? ENOSPC : errno;
  }
  return done;
}

}  // namespace norma
