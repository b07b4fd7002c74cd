// The table of known sets and the places where they may lie.
#include "datasets/catalog.h"

#include <cstdlib>

#include "core/error.h"
#include "core/suggest.h"
#include "datasets/dataset.h"

namespace norma::datasets {

namespace fs = std::filesystem;

const std::vector<KnownSet>& catalog() {
  static const std::vector<KnownSet> sets = {
      {"fashion-mnist",
       "fashion-mnist",
       true,
       {{"train-images-idx3-ubyte", 47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"},
        {"train-labels-idx1-ubyte", 60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"},
        {"t10k-images-idx3-ubyte", 7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"},
        {"t10k-labels-idx1-ubyte", 10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"}},
       60'000,
       10'000,
       {"t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"},
       "60,000 + 10,000 grey images 28x28 of clothes, 10 classes",
       "MIT (Zalando SE, 2017)",
       "https://github.com/zalandoresearch/fashion-mnist",
       "apt install dataset-fashion-mnist, or norma data get fashion-mnist --from FOLDER|URL"},
      {"cifar-10",
       "cifar-10-batches-bin",
       false,
       {{"data_batch_1.bin", 30730000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"},
        {"data_batch_2.bin", 30730000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"},
        {"data_batch_3.bin", 30730000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"},
        {"data_batch_4.bin", 30730000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"},
        {"data_batch_5.bin", 30730000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"},
        {"test_batch.bin", 30730000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"}},
       50'000,
       10'000,
       {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"},
       "50,000 + 10,000 colour images 32x32, 10 classes (binary version)",
       "none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
       "https://www.cs.toronto.edu/~kriz/cifar.html (cifar-10-binary.tar.gz)",
       "unpack cifar-10-binary.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html, then "
       "norma data get cifar-10 --from FOLDER|URL"}};
  return sets;
}

const KnownSet& known_set(const std::string& name) {
  for (const KnownSet& set : catalog()) {
    if (set.name == name) return set;
  }
  std::string all;
  for (const std::string& known : image_sets()) all += (all.empty() ? "" : ", ") + known;
  const std::string near = did_you_mean(name, image_sets());
  fail("data set \"{}\" is unknown{}; there are {}{}", name, near, all,
       near.empty()
           ? ". Images of your own go in as fashion-mnist's four files with a class-names.txt, in a folder for "
             "--data-dir: docs/own-images.md"
           : "");
}

fs::path find_file(const fs::path& folder, const KnownFile& file) {
  std::error_code ignored;
  for (const char* ending : {".gz", ""}) {
    const fs::path path = folder / (file.name + ending);
    if (fs::exists(path, ignored)) return path;
  }
  return {};
}

namespace {

fs::path from_environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? fs::path(value) : fs::path();
}

fs::path cache() {
  const fs::path home = from_environment("HOME");
  return home.empty() ? fs::path() : home / ".cache" / "norma";
}

}  // namespace

Installed find_set(const KnownSet& set, const fs::path& data_dir) {
  for (const fs::path& place : locations(set.name, data_dir)) {
    std::string missing;
    std::size_t there = 0;
    for (const KnownFile& file : set.files) {
      if (!find_file(place, file).empty())
        ++there;
      else
        missing += (missing.empty() ? "" : ", ") + file.name + (set.gzip ? "[.gz]" : "");
    }
    if (there > 0) return {place, missing};
  }
  return {};
}

fs::path home_of(const KnownSet& set, const fs::path& data_dir) {
  for (const fs::path& root : {data_dir, from_environment("NORMA_DATA"), cache()}) {
    if (!root.empty()) return root / set.name;
  }
  fail("data set \"{}\": no folder to put it in; set --data-dir, NORMA_DATA or HOME", set.name);
}

std::vector<std::string> image_sets() {
  std::vector<std::string> names;
  for (const KnownSet& set : catalog()) names.push_back(set.name);
  return names;
}

std::vector<fs::path> locations(const std::string& name, const fs::path& data_dir) {
  const KnownSet& set = known_set(name);
  std::vector<fs::path> places;
  const auto add = [&](const fs::path& root, bool itself) {
    if (root.empty()) return;
    places.push_back(root / set.name);
    if (set.folder != set.name) places.push_back(root / set.folder);
    if (itself) places.push_back(root);
  };
  add(data_dir, true);
  if (!data_dir.empty()) return places;  // who names a folder means these images, not others of the same name
  add(from_environment("NORMA_DATA"), true);
  add(cache(), false);
  add("/usr/share/datasets", false);
  return places;
}

}  // namespace norma::datasets
