// Looking into a folder.
#pragma once

#include <filesystem>
#include <vector>

namespace norma {

/// What is in it, in no order; nothing where there is no such folder. Throws with its name where it cannot be listed to the end.
std::vector<std::filesystem::directory_entry> entries_of(const std::filesystem::path& folder);

}  // namespace norma
