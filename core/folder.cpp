#include "core/folder.h"

#include "core/atomic_file.h"
#include "core/error.h"

namespace norma {
namespace fs = std::filesystem;

std::vector<fs::directory_entry> entries_of(const fs::path& folder) {
  std::vector<fs::directory_entry> found;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) found.push_back(*at);
  if (error && error != std::errc::no_such_file_or_directory)
    fail("{}: cannot be listed ({})", folder.string(), error_text(error.value()));
  return found;
}

}  // namespace norma
