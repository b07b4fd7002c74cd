// A file that is there whole or not at all, also after a crash or on a full disk: it is written under a temporary name
// in the same folder, synced, renamed, and the folder synced. Until commit() an older file of the name is untouched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace norma {

class AtomicFile {
 public:
  /// `need`: how many bytes will be written, for the message when the disk is full. Temporary names are
  /// `.NAME.PID-N.tmp`.
  AtomicFile(const std::filesystem::path& path, std::uint64_t need);
  ~AtomicFile();  // without commit: removes the temporary file
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  /// From here on the file is there under its name; throws if it cannot be made so.
  void commit();
  const std::filesystem::path& temporary() const { return temporary_; }

 private:
  [[noreturn]] void fail_with(int error, const char* doing);
  void discard();

  std::filesystem::path path_, temporary_;
  std::uint64_t need_, written_ = 0;
  int fd_ = -1;
};

/// A whole file at once.
void write_atomically(const std::filesystem::path& path, std::string_view text);

/// Whether `name` is that of a temporary file whose process has ended, so that nobody will finish it.
bool is_abandoned(const std::string& name);

/// As ::open with O_CLOEXEC, and again where a signal came while it waited (for a network's file system, say): -1 and errno only for what
/// is wrong with the file.
int opened(const std::filesystem::path& path, int flags, unsigned mode = 0);

struct Written {
  std::size_t bytes = 0;
  int error = 0;  // 0: all of it
};
/// Goes on after a signal and after a part, until all is written or errno says why not.
Written write_all(int fd, std::span<const std::byte> bytes);

/// The text of an errno in the middle of a sentence: "no space left on device".
std::string error_text(int error);

}  // namespace norma
