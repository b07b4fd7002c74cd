// `norma data get`: brings the files of a known set from a folder or an http server, checks them, and moves them in
// place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "datasets/catalog.h"

namespace norma::datasets {

/// Called as a file comes in; total is 0 where it is not known. May throw to stop: nothing half done is left.
using FetchProgress = std::function<void(const std::string& file, std::uint64_t done, std::uint64_t total)>;

/// Fetches every file of the set that is not yet there and whole, from `from`: a folder, or the http:// address of one.
/// Each file is checked (size and SHA-256 of its contents) before it appears under its name; until then an older one
/// stays. There is no default source. Returns the folder. Throws naming the file and what is wrong with it.
std::filesystem::path fetch(const KnownSet& set, const std::string& from, const std::filesystem::path& data_dir = {},
                            const FetchProgress& progress = {});

}  // namespace norma::datasets
