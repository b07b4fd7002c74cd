#include "tests/folders.h"

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "core/error.h"

namespace norma::test {
namespace fs = std::filesystem;

fs::path fresh_folder(const std::string& name) {
  const fs::path path = fs::current_path() / ("test-" + name);
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

TemporaryFolder::TemporaryFolder() {
  std::error_code none;  // TMPDIR may name no folder
  const fs::path outside = fs::temp_directory_path(none);
  std::string name = ((none ? fs::current_path() : outside) / "norma-test-XXXXXX").string();
  if (!mkdtemp(name.data())) fail("{}: cannot be made", name);
  path = name;
}
TemporaryFolder::~TemporaryFolder() { fs::remove_all(path); }

std::size_t files_in(const fs::path& folder) {
  return fs::exists(folder) ? static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), {})) : 0;
}

std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

fs::path tiny_data(Index train, Index test, Index height, Index width) {
  const fs::path root = fresh_folder(fmt::format("data-{}-{}{}", train, test, height == 28 && width == 28 ? "" : fmt::format("-{}x{}", height, width)));
  const fs::path folder = root / "fashion-mnist";
  fs::create_directories(folder);
  auto big_endian = [](std::ofstream& f, Index v) {
    for (int shift = 24; shift >= 0; shift -= 8) f.put(static_cast<char>(v >> shift & 255));
  };
  auto write = [&](const std::string& prefix, Index count) {
    std::ofstream images(folder / (prefix + "-images-idx3-ubyte"), std::ios::binary), labels(folder / (prefix + "-labels-idx1-ubyte"), std::ios::binary);
    big_endian(images, 0x803), big_endian(images, count), big_endian(images, height), big_endian(images, width);
    big_endian(labels, 0x801), big_endian(labels, count);
    for (Index i = 0; i < count; ++i) {
      const Index label = i % 10;
      labels.put(static_cast<char>(label));
      for (Index p = 0; p < height * width; ++p) images.put(static_cast<char>((label * 20 + (p * 7 + i * 13) % 40) & 255));
    }
  };
  write("train", train);
  write("t10k", test);
  return root;
}

}  // namespace norma::test
