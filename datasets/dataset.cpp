// From files to an ImageSet: finding them, checking that they fit together, and their statistics.
#include "datasets/dataset.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <fstream>
#include <functional>
#include <future>
#include <thread>

#include "core/error.h"
#include "core/sha256.h"
#include "core/text.h"
#include "datasets/catalog.h"
#include "datasets/formats.h"

namespace norma::datasets {

namespace fs = std::filesystem;

namespace {

std::string joined(const std::vector<fs::path>& paths) {
  std::string text;
  for (const fs::path& path : paths) text += (text.empty() ? "" : ", ") + path.string();
  return text;
}

/// That a folder which was named has no file of the set, with their names: a dot for a hyphen is soon written.
[[noreturn]] void fail_without_files(const KnownSet& set, const fs::path& data_dir, const std::string& from) {
  std::string names;
  for (const KnownFile& file : set.files)
    names += (names.empty() ? "" : ", ") + file.name + (set.gzip ? " or .gz" : "");
  const fs::path usual = find_set(set).folder;
  fail("{}data set \"{}\": {} holds none of its files ({}); {}", from, set.name, data_dir.string(), names,
       usual.empty()  ? "get it with: " + set.get
       : from.empty() ? "without --data-dir those in " + usual.string() + " are read"
                      : "--data-dir " + usual.string() + " reads those there");
}

/// Where the set lies; throws where a file of it is not there.
fs::path folder_of(const KnownSet& set, const fs::path& data_dir, const std::string& from) {
  const Installed at = find_set(set, data_dir);
  if (at.folder.empty() && !data_dir.empty()) fail_without_files(set, data_dir, from);
  if (at.folder.empty())
    fail("data set \"{}\" not found; looked in {}; get it with: {}", set.name, joined(locations(set.name, data_dir)),
         set.get);
  if (!at.missing.empty())
    fail("data set \"{}\" in {} is incomplete: {} missing; get it with: {}", set.name, at.folder.string(), at.missing,
         set.get);
  return at.folder;
}

constexpr const char* names_file = "class-names.txt";

/// The names of the classes that a folder's own file gives, a line each; none where there is no such file.
std::vector<std::string> own_class_names(const fs::path& folder) {
  const fs::path file = folder / names_file;
  std::error_code ignored;
  if (!fs::exists(file, ignored)) return {};
  std::ifstream in(file);
  if (!in) fail("{}: cannot be read", names_file);
  std::vector<std::string> names;
  for (std::string line; std::getline(in, line);) {
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back()))) line.pop_back();
    if (invalid_utf8(line) != line.npos)  // records and pages hold the names
      fail("{}: line {} is not UTF-8; save the file as UTF-8", names_file, names.size() + 1);
    names.push_back(line);
  }
  while (!names.empty() && names.back().empty()) names.pop_back();
  if (names.empty()) fail("{}: names no class; write one name a line, that of label 0 first", names_file);
  if (names.size() > 256) fail("{}: names {} classes; labels are bytes, 256 is the most", names_file, names.size());
  if (const auto gap = std::find(names.begin(), names.end(), ""); gap != names.end())
    fail("{}: line {} is empty; write one name a line, that of label 0 first", names_file, gap - names.begin() + 1);
  return names;
}

/// Whether the folder names classes of its own, which are then the set's.
bool take_own_classes(KnownSet& set, const fs::path& folder) {
  try {
    std::vector<std::string> names = own_class_names(folder);
    if (names.empty()) return false;
    set.class_names = std::move(names);
    return true;
  } catch (const Error& e) {
    fail("data set \"{}\" in {}: {}", set.name, folder.string(), e.what());
  }
}

ImageSet read_idx_pair(const KnownSet& known, const fs::path& images_path, const fs::path& labels_path) {
  Idx images = read_idx(images_path, 3), labels = read_idx(labels_path, 1);
  if (images.sizes[0] != labels.sizes[0]) {
    fail("{} and {}: {} images but {} labels", images_path.filename().string(), labels_path.filename().string(),
         images.sizes[0], labels.sizes[0]);
  }
  if (images.bytes.empty()) fail("{}: holds no images", images_path.filename().string());
  check_labels(labels.bytes, static_cast<Index>(known.class_names.size()), labels_path.filename().string());
  ImageSet set;
  set.count = images.sizes[0];
  set.channels = 1;
  set.height = images.sizes[1];
  set.width = images.sizes[2];
  set.pixels = std::move(images.bytes);
  set.labels = std::move(labels.bytes);
  return set;
}

ImageSet read_cifar_files(const KnownSet& known, const std::vector<fs::path>& paths) {
  ImageSet set;
  set.channels = 3;
  set.height = set.width = 32;
  set.pixels.reserve(paths.size() * 30'720'000);
  for (const fs::path& path : paths) {
    const std::size_t before = set.labels.size();
    read_cifar(path, set.pixels, set.labels);
    check_labels(std::span(set.labels).subspan(before), static_cast<Index>(known.class_names.size()),
                 path.filename().string());
  }
  set.count = static_cast<Index>(set.labels.size());
  return set;
}

struct Moments {
  std::uint64_t sum = 0, squares = 0;
};

/// Of channel c over images [begin, end).
Moments moments(const ImageSet& set, Index c, Index begin, Index end) {
  const Index plane = set.height * set.width;
  Moments m;
  for (Index n = begin; n < end; ++n) {
    const std::uint8_t* p = set.pixels.data() + (n * set.channels + c) * plane;
    Index i = 0;
    for (; i + 112 <= plane; i += 112) {  // a length that the compiler makes vectors of
      std::uint32_t some = 0, some_squares = 0;
      for (Index j = 0; j < 112; ++j) {
        const std::uint32_t x = p[i + j];
        some += x;
        some_squares += x * x;
      }
      m.sum += some;
      m.squares += some_squares;
    }
    for (; i < plane; ++i) {
      m.sum += p[i];
      m.squares += std::uint64_t{p[i]} * p[i];
    }
  }
  return m;
}

/// On a thread of its own, or by whoever waits for it where the system has no thread left to give.
constexpr auto aside = std::launch::async | std::launch::deferred;

/// Mean and standard deviation per channel from exact sums.
void measure(ImageSet& set) {
  const auto parts = static_cast<Index>(std::clamp(std::thread::hardware_concurrency(), 1u, 8u));
  for (Index c = 0; c < set.channels; ++c) {
    std::vector<std::future<Moments>> others;
    for (Index i = 1; i < parts; ++i)
      others.push_back(
          std::async(aside, moments, std::cref(set), c, set.count * i / parts, set.count * (i + 1) / parts));
    Moments all = moments(set, c, 0, set.count / parts);
    for (auto& other : others) {
      const Moments m = other.get();
      all.sum += m.sum, all.squares += m.squares;
    }
    const double total = 255 * static_cast<double>(set.count) * static_cast<double>(set.height * set.width);
    const double mean = static_cast<double>(all.sum) / total;
    const double deviation = std::sqrt(std::max(0.0, static_cast<double>(all.squares) / (255 * total) - mean * mean));
    set.mean.push_back(static_cast<float>(mean));
    set.std.push_back(deviation > 0 ? static_cast<float>(deviation) : 1.0f);  // a constant channel stays at zero
  }
}

}  // namespace

void check(const ImageSet& set) {
  const auto at_least = [&](const char* field, Index value, Index least) {
    if (value < least) fail("data set \"{}\": {} is {}, must be at least {}", set.name, field, value, least);
  };
  at_least("count", set.count, 0), at_least("channels", set.channels, 1), at_least("height", set.height, 1),
      at_least("width", set.width, 1);
  const auto holds = [&](const char* field, std::size_t have, Index need, const std::string& of) {
    if (have != static_cast<std::size_t>(need))
      fail("data set \"{}\": {} holds {}, but {} need {}", set.name, field, have, of, need);
  };
  const Shape images{set.count, set.channels, set.height, set.width};
  holds("pixels", set.pixels.size(), images.numel(), fmt::format("images {}", images));
  holds("labels", set.labels.size(), set.count, fmt::format("{} images", set.count));
  for (const auto& [field, values] : {std::pair("mean", &set.mean), std::pair("std", &set.std)}) {
    holds(field, values->size(), set.channels, fmt::format("{} channels", set.channels));
    const bool positive = values == &set.std;
    for (std::size_t c = 0; c < values->size(); ++c)
      if (const float x = (*values)[c]; !std::isfinite(x) || (positive && x <= 0))
        fail("data set \"{}\": {} of channel {} is {}, must be finite{}", set.name, field, c, x,
             positive ? " and above zero" : "");
  }
  if (const std::size_t names = set.class_names.size(); names != 0)
    holds("class_names", names, set.classes, fmt::format("{} classes", set.classes));
  const auto bad =
      std::find_if(set.labels.begin(), set.labels.end(), [&](std::uint8_t label) { return label >= set.classes; });
  if (bad != set.labels.end())
    fail("data set \"{}\": label {} is {}, but classes is {}", set.name, bad - set.labels.begin(), *bad, set.classes);
}

ImageSet slice(const ImageSet& set, Index begin, Index count) {
  check(set);
  if (begin < 0 || count < 0 || count > set.count - begin)
    fail("slice: images {} to {} of {}; there are {}", begin, begin + count - 1, set.name, set.count);
  const Index size = set.channels * set.height * set.width;
  const auto pixels = set.pixels.begin() + begin * size;
  const auto labels = set.labels.begin() + begin;
  return {set.name,
          count,
          set.channels,
          set.height,
          set.width,
          set.classes,
          {pixels, pixels + count * size},
          {labels, labels + count},
          set.class_names,
          set.mean,
          set.std};
}

std::string class_name(const ImageSet& set, Index label) {
  const bool named = label >= 0 && label < static_cast<Index>(set.class_names.size());
  return named ? set.class_names[static_cast<std::size_t>(label)] : std::to_string(label);
}

std::string hash_of(const ImageSet& set) {
  Sha256 hash;
  hash.update(set.pixels.data(), set.pixels.size());
  hash.update(set.labels.data(), set.labels.size());
  return hash.hex();
}

std::vector<std::uint8_t> centred(const ImageSet& set, Index side) {
  check(set);
  if (side < set.height || side < set.width)
    fail("centred: side {} is smaller than the {}x{} images of {}; they are centred, none is cut", side, set.height,
         set.width, set.name);
  std::vector<std::uint8_t> out(static_cast<std::size_t>(Shape{set.count, set.channels, side, side}.numel()));
  const Index top = (side - set.height) / 2, left = (side - set.width) / 2;
  for (Index plane = 0; plane < set.count * set.channels; ++plane)
    for (Index y = 0; y < set.height; ++y)
      std::copy_n(set.pixels.begin() + (plane * set.height + y) * set.width, set.width,
                  out.begin() + (plane * side + top + y) * side + left);
  return out;
}

ImageData load_images(const std::string& name, const fs::path& data_dir, const std::string& from) {
  KnownSet known = known_set(name);
  if (std::error_code ignored; !data_dir.empty() && !fs::is_directory(data_dir, ignored))
    fail("{}data set \"{}\": there is no folder {} to look in; name another with --data-dir", from, name,
         data_dir.string());
  const fs::path folder = folder_of(known, data_dir, from);
  const bool own = take_own_classes(known, folder);
  std::vector<fs::path> paths;
  for (const KnownFile& file : known.files) paths.push_back(find_file(folder, file));

  const auto files = [&](bool train) {
    const auto middle = paths.end() - 1;
    return known.gzip ? read_idx_pair(known, paths[train ? 0 : 2], paths[train ? 1 : 3])
                      : read_cifar_files(known, train ? std::vector(paths.begin(), middle) : std::vector{*middle});
  };
  const auto read = [&](bool train) {
    try {
      ImageSet set = files(train);
      set.name = known.name;
      set.classes = static_cast<Index>(known.class_names.size());
      set.class_names = known.class_names;
      return set;
    } catch (const Error& e) {
      fail("data set \"{}\" in {}: {}", name, folder.string(), e.what());
    }
  };
  ImageData data;
  auto test = std::async(aside, read, false);
  data.train = read(true);
  measure(data.train);
  data.test = test.get();
  data.test.mean = data.train.mean;
  data.test.std = data.train.std;
  const ImageSet &a = data.train, &b = data.test;
  if (a.height != b.height || a.width != b.width) {
    fail("data set \"{}\" in {}: training images are {}x{} but test images are {}x{}", name, folder.string(), a.height,
         a.width, b.height, b.width);
  }
  if (own)
    data.notice = fmt::format("data set \"{}\" in {}: {} training and {} test images of {} classes of its own ({})",
                              name, folder.string(), a.count, b.count, a.classes, names_file);
  else if (a.count != known.train || b.count != known.test)
    data.notice = fmt::format("data set \"{}\" in {}: {} training and {} test images, of {} and {}", name,
                              folder.string(), a.count, b.count, known.train, known.test);
  return data;
}

}  // namespace norma::datasets
