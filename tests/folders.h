// Files of a test: folders, a data set, contents.
#pragma once

#include <filesystem>
#include <string>

#include "core/shape.h"

namespace norma::test {

/// An empty folder for one test, removed first if it is left from before.
std::filesystem::path fresh_folder(const std::string& name);

/// A data folder that holds a tiny data set in Fashion-MNIST's format: images whose brightness tells the class.
std::filesystem::path tiny_data(Index train, Index test, Index height = 28, Index width = 28);

/// A folder of its own outside the tests' folder, gone with this.
struct TemporaryFolder {
  std::filesystem::path path;
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
};

/// How many there are in a folder; 0 where there is none.
std::size_t files_in(const std::filesystem::path& folder);

/// All bytes of a file.
std::string contents(const std::filesystem::path& file);

}  // namespace norma::test
