// Files of a test: folders, a data set, contents.
#pragma once

#include <filesystem>
#include <string>

#include "core/shape.h"

namespace norma::test {

/// An empty folder for one test, removed first if it is left from before.
std::filesystem::path fresh_folder(const std::string& name);

/// A data folder that holds a tiny data set in Fashion-MNIST's format: 28x28 images whose brightness tells the class.
std::filesystem::path tiny_data(Index train, Index test);

/// All bytes of a file.
std::string contents(const std::filesystem::path& file);

}  // namespace norma::test
