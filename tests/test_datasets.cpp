// Readers, messages for damaged files, and the loader's promises, on tiny files made here; the installed Fashion-MNIST
// where it is.
#include <zlib.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "datasets/catalog.h"
#include "datasets/dataset.h"
#include "datasets/formats.h"
#include "datasets/loader.h"

namespace fs = std::filesystem;
using namespace norma;
using namespace norma::datasets;

namespace {

struct TempDir {
  fs::path path;
  TempDir() {
    std::string name = (fs::temp_directory_path() / "norma-test-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~TempDir() { fs::remove_all(path); }
};

/// While alive, an environment variable has another value.
struct Environment {
  std::string name, old;
  Environment(const char* variable, const std::string& value) : name(variable) {
    if (const char* now = std::getenv(variable)) old = now;
    setenv(variable, value.c_str(), 1);
  }
  ~Environment() { setenv(name.c_str(), old.c_str(), 1); }
};

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

/// What is wrong with the files of a set in `folder`; the message begins with both.
std::string error_of_set(const char* name, const fs::path& data_dir, const fs::path& folder) {
  const std::string message = error_of([&] { load_images(name, data_dir); }), begin = fmt::format("data set \"{}\" in {}: ", name, folder.string());
  return message.starts_with(begin) ? message.substr(begin.size()) : message;
}

void write(const fs::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

void write_gz(const fs::path& path, const std::string& bytes) {
  gzFile f = gzopen(path.c_str(), "wb");
  gzwrite(f, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(f);
}

std::string be(std::uint32_t x) {
  return {static_cast<char>(x >> 24), static_cast<char>(x >> 16), static_cast<char>(x >> 8), static_cast<char>(x)};
}

/// Image n has the pixel value 10 n + its place in the row.
std::string idx_images(int count, int h = 2, int w = 3) {
  std::string s = be(0x803) + be(static_cast<std::uint32_t>(count)) + be(static_cast<std::uint32_t>(h)) +
                  be(static_cast<std::uint32_t>(w));
  for (int n = 0; n < count; ++n) {
    for (int i = 0; i < h * w; ++i) s += static_cast<char>(10 * n + i % w);
  }
  return s;
}
std::string idx_labels(int count, int bad = -1) {
  std::string s = be(0x801) + be(static_cast<std::uint32_t>(count));
  for (int n = 0; n < count; ++n) s += static_cast<char>(n == bad ? 10 : n % 10);
  return s;
}

void write_fashion(const fs::path& dir, int train = 20, int test = 5) {
  fs::create_directories(dir);
  write_gz(dir / "train-images-idx3-ubyte.gz", idx_images(train));
  write_gz(dir / "train-labels-idx1-ubyte.gz", idx_labels(train));
  write(dir / "t10k-images-idx3-ubyte", idx_images(test));
  write(dir / "t10k-labels-idx1-ubyte", idx_labels(test));
}

std::string cifar_records(int count, int first = 0) {
  std::string s;
  for (int n = first; n < first + count; ++n) {
    s += static_cast<char>(n % 10);
    for (int c = 0; c < 3; ++c) s += std::string(1024, static_cast<char>(40 * c + n));
  }
  return s;
}
void write_cifar(const fs::path& dir) {
  fs::create_directories(dir);
  for (int b = 1; b <= 5; ++b) write(dir / fmt::format("data_batch_{}.bin", b), cifar_records(2, 2 * (b - 1)));
  write(dir / "test_batch.bin", cifar_records(3));
}

/// A set of `count` images h x w whose pixel values say which image and where; mean 0, std 1/255: normalised = the
/// byte.
ImageSet counting_set(Index count, Index channels, Index h, Index w) {
  ImageSet set{"counting", count, channels, h, w, 10, {}, {}, {}, {}, {}};
  for (Index n = 0; n < count; ++n) {
    for (Index i = 0; i < channels * h * w; ++i)
      set.pixels.push_back(static_cast<std::uint8_t>(1 + (n * 37 + i) % 250));
    set.labels.push_back(static_cast<std::uint8_t>(n % 10));
  }
  set.mean.assign(static_cast<std::size_t>(channels), 0.0f);
  set.std.assign(static_cast<std::size_t>(channels), 1.0f / 255);
  return set;
}

}  // namespace

TEST_CASE("datasets: IDX, gzip and plain, with statistics over the training split", "[datasets]") {
  const TempDir dir;
  write_fashion(dir.path / "fashion-mnist");
  const ImageData data = load_images("fashion-mnist", dir.path);
  CHECK(data.train.count == 20);
  CHECK(data.test.count == 5);
  CHECK(data.train.channels == 1);
  CHECK(data.train.height == 2);
  CHECK(data.train.width == 3);
  CHECK(data.train.classes == 10);
  CHECK(data.train.class_names[9] == "ankle boot");
  CHECK(data.train.labels[13] == 3);
  CHECK(data.train.pixels[13 * 6 + 5] == 132);
  double sum = 0, squares = 0;
  for (const std::uint8_t p : data.train.pixels) {
    sum += p / 255.0 / 120;
    squares += p / 255.0 * (p / 255.0) / 120;
  }
  CHECK(data.train.mean.at(0) == Approx(sum));
  CHECK(data.train.std.at(0) == Approx(std::sqrt(squares - sum * sum)));
  CHECK(data.test.mean == data.train.mean);
  CHECK(data.test.std == data.train.std);
  CHECK(hash_of(data.train).size() == 64);
  CHECK(hash_of(data.train) != hash_of(data.test));
  CHECK(hash_of(load_images("fashion-mnist", dir.path / "fashion-mnist").train) == hash_of(data.train));
}

TEST_CASE("datasets: CIFAR-10's binary version", "[datasets]") {
  const TempDir dir;
  write_cifar(dir.path / "cifar-10-batches-bin");
  const ImageData data = load_images("cifar-10", dir.path);
  CHECK(data.train.count == 10);
  CHECK(data.test.count == 3);
  CHECK(data.train.channels == 3);
  CHECK(data.train.labels == Bytes{0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(data.train.pixels[7 * 3072 + 2048] == 87);
  CHECK(data.train.mean.at(1) == Approx(44.5 / 255));
  CHECK(data.train.std.at(2) == Approx(std::sqrt(8.25) / 255).epsilon(1e-4));
  CHECK(data.test.class_names.at(6) == "frog");
  CHECK(data.notice == fmt::format("data set \"cifar-10\" in {}: 10 training and 3 test images, of 50000 and 10000", (dir.path / "cifar-10-batches-bin").string()));

  write(dir.path / "cifar-10-batches-bin" / "data_batch_1.bin", cifar_records(2) + "x");
  CHECK(error_of_set("cifar-10", dir.path, dir.path / "cifar-10-batches-bin") ==
        "data_batch_1.bin: size is not a multiple of 3073 (remainder 1)");
  write(dir.path / "cifar-10-batches-bin" / "data_batch_1.bin", "");
  CHECK(error_of_set("cifar-10", dir.path, dir.path / "cifar-10-batches-bin") == "data_batch_1.bin: is empty");
  std::string records = cifar_records(20);
  records[17 * 3073] = 10;
  write(dir.path / "cifar-10-batches-bin" / "data_batch_1.bin", records);
  CHECK(error_of_set("cifar-10", dir.path, dir.path / "cifar-10-batches-bin") ==
        "data_batch_1.bin: record 17: label 10 is outside 0..9");
  fs::remove(dir.path / "cifar-10-batches-bin" / "data_batch_3.bin");
  CHECK_THAT(error_of([&] { load_images("cifar-10", dir.path); }),
             Catch::StartsWith("data set \"cifar-10\" in " + (dir.path / "cifar-10-batches-bin").string() +
                               " is incomplete: data_batch_3.bin missing; get it with: unpack cifar-10-binary.tar.gz"));
}

TEST_CASE("datasets: where a set is looked for", "[datasets]") {
  const TempDir dir;
  const Environment data("NORMA_DATA", (dir.path / "d").string()), home("HOME", (dir.path / "h").string());
  const std::vector<fs::path> expected = {dir.path / "u" / "cifar-10",
                                          dir.path / "u" / "cifar-10-batches-bin",
                                          dir.path / "u",
                                          dir.path / "d" / "cifar-10",
                                          dir.path / "d" / "cifar-10-batches-bin",
                                          dir.path / "d",
                                          dir.path / "h" / ".cache" / "norma" / "cifar-10",
                                          dir.path / "h" / ".cache" / "norma" / "cifar-10-batches-bin",
                                          "/usr/share/datasets/cifar-10",
                                          "/usr/share/datasets/cifar-10-batches-bin"};
  CHECK(locations("cifar-10", dir.path / "u") == expected);
  CHECK(home_of(known_set("cifar-10"), dir.path / "u") == dir.path / "u" / "cifar-10");
  CHECK(home_of(known_set("cifar-10")) == dir.path / "d" / "cifar-10");
  CHECK(error_of([&] { load_images("cifar-10", dir.path / "u"); }) ==
        fmt::format("data set \"cifar-10\": there is no folder {} to look in; name another with --data-dir", (dir.path / "u").string()));
  fs::create_directories(dir.path / "u");
  CHECK_THAT(error_of([&] { load_images("cifar-10", dir.path / "u"); }),
             Catch::StartsWith("data set \"cifar-10\" not found; looked in " + expected[0].string() + ", " +
                               expected[1].string()) &&
                 Catch::EndsWith(
                     ", /usr/share/datasets/cifar-10-batches-bin; get it with: unpack cifar-10-binary.tar.gz of "
                     "https://www.cs.toronto.edu/~kriz/cifar.html, then norma data get cifar-10 --from FOLDER|URL"));
  CHECK(known_set("fashion-mnist").get ==
        "apt install dataset-fashion-mnist, or norma data get fashion-mnist --from FOLDER|URL");
  write_cifar(dir.path / "h" / ".cache" / "norma" / "cifar-10");
  CHECK(load_images("cifar-10").test.count == 3);
  CHECK(error_of([&] { load_images("cifar10"); }) ==
        "data set \"cifar10\" is unknown (did you mean \"cifar-10\"?); there are fashion-mnist, cifar-10");
}

TEST_CASE("datasets: damaged IDX files are named with what is wrong", "[datasets]") {
  const TempDir dir;
  const fs::path folder = dir.path / "fashion-mnist";
  write_fashion(folder);
  const auto load = [&] { return error_of_set("fashion-mnist", dir.path, folder); };
  const fs::path images = folder / "train-images-idx3-ubyte.gz", labels = folder / "train-labels-idx1-ubyte.gz";
  REQUIRE(load() == "no error");

  SECTION("swapped") {
    write_gz(images, idx_labels(20));
    CHECK(load() ==
          "train-images-idx3-ubyte.gz: holds labels (magic 0x00000801), expected images (0x00000803); are the files "
          "swapped?");
    write_gz(images, idx_images(20));
    write_gz(labels, idx_images(20));
    CHECK(load() ==
          "train-labels-idx1-ubyte.gz: holds images (magic 0x00000803), expected labels (0x00000801); are the files "
          "swapped?");
  }
  SECTION("not IDX") {
    write_gz(images, "hello, world");
    CHECK(load() ==
          "train-images-idx3-ubyte.gz: holds no data of this kind (magic 0x68656c6c), expected images (0x00000803)");
    write_gz(images, be(0x803).substr(0, 3));
    CHECK(load() == "train-images-idx3-ubyte.gz: ends inside the magic number of its header");
    write_gz(images, idx_images(20).substr(0, 10));
    CHECK(load() == "train-images-idx3-ubyte.gz: ends inside the sizes of its header");
    write(images, "");
    CHECK(load() == "train-images-idx3-ubyte.gz: ends inside the magic number of its header");
  }
  SECTION("label out of range") {
    write_gz(labels, idx_labels(20, 17));
    CHECK(load() == "train-labels-idx1-ubyte.gz: record 17: label 10 is outside 0..9");
  }
  SECTION("counts differ") {
    write_gz(labels, idx_labels(19));
    CHECK(load() == "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz: 20 images but 19 labels");
  }
  SECTION("sizes do not fit the data") {
    write_gz(images, idx_images(20).substr(0, 130));
    CHECK(load() == "train-images-idx3-ubyte.gz: ends after 114 of 120 bytes of images");
    write_gz(images, idx_images(20) + "xy");
    CHECK(load() == "train-images-idx3-ubyte.gz: holds more than the 120 bytes of images its header promises");
    write_gz(images, be(0x803) + be(0xffffffffu) + be(0xffffffffu) + be(0xffffffffu));
    CHECK(load() ==
          "train-images-idx3-ubyte.gz: its header promises 4294967295 x 4294967295 x 4294967295 bytes of images, more "
          "than the file can hold");
    write_gz(images, idx_images(0));
    write_gz(labels, idx_labels(0));
    CHECK(load() == "train-images-idx3-ubyte.gz: holds no images");
  }
  SECTION("damaged gzip: every truncation") {
    std::ifstream in(images, std::ios::binary);
    const std::string whole{std::istreambuf_iterator<char>(in), {}};
    for (std::size_t n = 0; n < whole.size(); ++n) {
      write(images, whole.substr(0, n));
      CHECK_THAT(load(), Catch::StartsWith("train-images-idx3-ubyte.gz: "));
    }
    write(images, whole.substr(0, whole.size() - 1));
    CHECK(load() == fmt::format("train-images-idx3-ubyte.gz: the gzip data ends too early (truncated file of {} bytes)",
                                whole.size() - 1));
    std::string flipped = whole;
    flipped[whole.size() - 6] = static_cast<char>(flipped[whole.size() - 6] ^ 1);
    write(images, flipped);
    CHECK_THAT(load(), Catch::StartsWith("train-images-idx3-ubyte.gz: gzip data is damaged: "));
  }
  SECTION("sizes of the splits differ") {
    write(folder / "t10k-images-idx3-ubyte", idx_images(5, 3, 3));
    CHECK(load() == "training images are 2x3 but test images are 3x3");
  }
  SECTION("missing") {
    fs::remove(labels);
    CHECK_THAT(load(),
               Catch::StartsWith("data set \"fashion-mnist\" in " + folder.string() +
                                 " is incomplete: train-labels-idx1-ubyte[.gz] missing; get it with: apt install"));
    fs::create_directory(labels);
    CHECK(load() == labels.string() + ": is not a file");
  }
}

TEST_CASE("datasets: the installed Fashion-MNIST", "[datasets]") {
  if (!fs::exists("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")) {
    WARN("Debian package dataset-fashion-mnist is not installed");
    return;
  }
  const ImageData data = load_images("fashion-mnist", "/usr/share/datasets");
  CHECK(data.train.count == 60'000);
  CHECK(data.test.count == 10'000);
  CHECK(data.notice.empty());
  CHECK(data.train.mean[0] == Approx(0.2860).margin(5e-5));  // the figures everyone uses
  CHECK(data.train.std[0] == Approx(0.3530).margin(5e-5));
  for (const ImageSet* set : {&data.train, &data.test}) {
    for (int c = 0; c < 10; ++c) {
      CHECK(std::count(set->labels.begin(), set->labels.end(), c) == set->count / 10);
    }
  }
  for (const KnownFile& file : known_set("fashion-mnist").files) {
    const Content content = content_of(find_file("/usr/share/datasets/fashion-mnist", file), file.bytes);
    CHECK(content.bytes == file.bytes);
    CHECK(content.sha256 == file.sha256);
  }
}

TEST_CASE("datasets: the order of an epoch is a permutation and a function of (seed, epoch)", "[datasets]") {
  const std::vector<Index> a = epoch_order(1000, 1, 0, true);
  CHECK(a == epoch_order(1000, 1, 0, true));
  CHECK(a != epoch_order(1000, 1, 1, true));
  CHECK(a != epoch_order(1000, 2, 0, true));
  std::vector<Index> sorted = a, straight(1000);
  std::sort(sorted.begin(), sorted.end());
  std::iota(straight.begin(), straight.end(), Index{0});
  CHECK(sorted == straight);
  CHECK(epoch_order(1000, 1, 5, false) == straight);
  CHECK(epoch_order(0, 1, 0, true).empty());
  CHECK(epoch_order(1, 1, 0, true) == std::vector<Index>{0});
  // Uniform: all 24 orders of 4 about equally often (chi-square, 23 degrees of freedom; 99.9 % lie below 49.7).
  std::map<std::vector<Index>, int> seen;
  for (std::uint64_t e = 0; e < 24'000; ++e) ++seen[epoch_order(4, 7, e, true)];
  CHECK(seen.size() == 24);
  double chi2 = 0;
  for (const auto& [order, n] : seen) chi2 += (n - 1000.0) * (n - 1000.0) / 1000.0;
  CHECK(chi2 < 49.7);
}

TEST_CASE("datasets: the loader hands out the epoch's order, whole or with a shorter last batch", "[datasets]") {
  const ImageSet set = counting_set(10, 1, 2, 2);
  for (const bool drop : {true, false}) {
    LoaderConfig config;
    config.batch = 4;
    config.seed = 3;
    config.drop_last = drop;
    Loader loader(set, config);
    CHECK(loader.batches_per_epoch() == (drop ? 2 : 3));
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      const std::vector<Index> order = epoch_order(10, 3, epoch, true);
      for (Index i = 0; i < loader.batches_per_epoch(); ++i) {
        CHECK(loader.epoch() == epoch);
        CHECK(loader.index() == i);
        const Batch batch = loader.next();
        const Index size = i == 2 ? 2 : 4;
        CHECK(batch.images.shape() == Shape{size, 1, 2, 2});
        CHECK(batch.labels.dtype() == DType::i64);
        CHECK(batch.examples == std::vector<Index>(order.begin() + 4 * i, order.begin() + 4 * i + size));
        const std::vector<double> pixels = batch.images.values(), labels = batch.labels.values();
        for (Index n = 0; n < size; ++n) {
          const Index example = batch.examples[static_cast<std::size_t>(n)];
          CHECK(labels[static_cast<std::size_t>(n)] == set.labels[static_cast<std::size_t>(example)]);
          for (Index p = 0; p < 4; ++p) {
            CHECK(pixels[static_cast<std::size_t>(4 * n + p)] ==
                  Approx(set.pixels[static_cast<std::size_t>(4 * example + p)]));
          }
        }
      }
    }
  }
}

TEST_CASE("datasets: seeking anywhere gives the same batches as reading up to there", "[datasets]") {
  const ImageSet set = counting_set(50, 3, 6, 6);
  LoaderConfig config;
  config.batch = 8;
  config.seed = 11;
  config.augment = {2, true};
  std::vector<std::vector<double>> pixels;
  Loader straight(set, config);
  for (int i = 0; i < 18; ++i) pixels.push_back(straight.next().images.values());
  CHECK(pixels[0] != pixels[6]);
  Loader jumping(set, config);
  for (const int i : {17, 0, 5, 6, 6, 12, 1, 16}) {
    jumping.seek(static_cast<std::uint64_t>(i / 6), i % 6);
    CHECK(jumping.next().images.values() == pixels[static_cast<std::size_t>(i)]);
    if (i < 17) CHECK(jumping.next().images.values() == pixels[static_cast<std::size_t>(i + 1)]);
  }
  jumping.seek(0, 6);
  CHECK(jumping.epoch() == 1);
  CHECK(jumping.index() == 0);
  CHECK(jumping.next().images.values() == pixels[6]);
  CHECK(error_of([&] { jumping.seek(0, 7); }) == "loader: batch 7 is outside 0..6 of an epoch");
  CHECK(error_of([&] { jumping.seek(0, -1); }) == "loader: batch -1 is outside 0..6 of an epoch");
}

TEST_CASE("datasets: an augmented image is the original moved by at most the padding, perhaps mirrored", "[datasets]") {
  constexpr Index h = 5, w = 6, pad = 2;
  const ImageSet set = counting_set(40, 2, h, w);
  LoaderConfig config;
  config.batch = 1;
  config.shuffle = false;
  config.augment = {pad, true};
  Loader loader(set, config);
  std::set<std::tuple<Index, Index, bool>> seen;
  for (int i = 0; i < 400; ++i) {
    const Batch batch = loader.next();
    const std::vector<double> got = batch.images.values();
    int matches = 0;
    for (Index down = -pad; down <= pad; ++down) {
      for (Index right = -pad; right <= pad; ++right) {
        for (const bool mirror : {false, true}) {
          bool same = true;
          for (Index c = 0; c < 2; ++c) {
            for (Index y = 0; y < h; ++y) {
              for (Index x = 0; x < w; ++x) {
                const Index sy = y + down, sx = (mirror ? w - 1 - x : x) + right;
                const bool inside = sy >= 0 && sy < h && sx >= 0 && sx < w;
                const double want =
                    inside ? set.pixels[static_cast<std::size_t>(((batch.examples[0] * 2 + c) * h + sy) * w + sx)] : 0;
                same = same && got[static_cast<std::size_t>((c * h + y) * w + x)] == Approx(want).margin(1e-6);
              }
            }
          }
          if (same) {
            ++matches;
            seen.insert({down, right, mirror});
          }
        }
      }
    }
    CHECK(matches == 1);
  }
  CHECK(seen.size() == 50);  // all of them occur
}

TEST_CASE("datasets: a smaller image is centred on black, in every dtype", "[datasets]") {
  ImageSet set = counting_set(3, 1, 2, 2);
  set.mean = {0.5f};
  set.std = {0.25f};
  for (const DType d : {DType::f32, DType::f64, DType::bf16}) {
    LoaderConfig config;
    config.batch = 1;
    config.shuffle = false;
    config.image = 4;
    config.place = {d};
    Loader loader(set, config);
    const Batch batch = loader.next();
    CHECK(batch.images.dtype() == d);
    CHECK(batch.images.shape() == Shape{1, 1, 4, 4});
    const std::vector<double> got = batch.images.values();
    const double tolerance = d == DType::bf16 ? 1e-2 : 1e-6;
    for (int i = 0; i < 16; ++i) {
      const int y = i / 4 - 1, x = i % 4 - 1;
      const bool inside = y >= 0 && y < 2 && x >= 0 && x < 2;
      const double byte = inside ? set.pixels[static_cast<std::size_t>(2 * y + x)] : 0;
      CHECK(got[static_cast<std::size_t>(i)] == Approx((byte / 255 - 0.5) / 0.25).margin(tolerance));
    }
  }
}

TEST_CASE("datasets: a loader refuses what it cannot do", "[datasets]") {
  const ImageSet set = counting_set(3, 1, 4, 4);
  const auto make = [&](Index batch, Index image, Index pad, DType dtype) {
    LoaderConfig config;
    config.batch = batch;
    config.image = image;
    config.augment.pad = pad;
    config.place = {dtype};
    return error_of([&] { Loader loader(set, config); });
  };
  CHECK(make(2, 0, 0, DType::f32) == "no error");
  CHECK(make(0, 0, 0, DType::f32) == "loader: batch 0 must be at least 1");
  CHECK(make(2, 3, 0, DType::f32) ==
        "loader: image size 3 is smaller than the 4x4 images of counting; larger ones are centred, none is cut");
  CHECK(make(2, 0, -1, DType::f32) == "loader: padding -1 must not be negative");
  CHECK(make(2, 0, 0, DType::i64) == "loader: images need a floating dtype, not i64");
  CHECK(make(4, 0, 0, DType::f32) ==
        "loader: 3 examples of counting do not fill a batch of 4; give a smaller --batch");
}
