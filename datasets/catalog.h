// The data sets Norma knows by name: their files, how to check them, and where people get them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace norma::datasets {

/// Size and SHA-256 are those of the contents, without gzip: distributors pack the same data differently.
struct KnownFile {
  std::string name;  // without .gz
  std::uint64_t bytes;
  std::string sha256;
};

struct KnownSet {
  std::string name;
  std::string folder;  // what its folder is called where others unpack it
  bool gzip;           // its files usually come as NAME.gz; both forms are read
  std::vector<KnownFile> files;
  Index train, test;  // how many images
  std::vector<std::string> class_names;
  std::string about;  // one line: what it is
  std::string licence;
  std::string source;  // where it comes from
  std::string get;     // how to get it, for messages: "apt install ..., or norma data get ..."
};

const std::vector<KnownSet>& catalog();
/// Throws with a suggestion when there is no such set.
const KnownSet& known_set(const std::string& name);

/// Where a set lies: the first of `locations` that has any of its files, and the names of those that are not there. An empty folder: nowhere.
struct Installed {
  std::filesystem::path folder;
  std::string missing;
};
Installed find_set(const KnownSet& set, const std::filesystem::path& data_dir = {});

/// The file or its .gz form in `folder`, whichever exists; an empty path when neither does.
std::filesystem::path find_file(const std::filesystem::path& folder, const KnownFile& file);

/// The folder that `norma data get` fills by default: data_dir, else $NORMA_DATA, else ~/.cache/norma, followed by the
/// set's name.
std::filesystem::path home_of(const KnownSet& set, const std::filesystem::path& data_dir = {});

}  // namespace norma::datasets
