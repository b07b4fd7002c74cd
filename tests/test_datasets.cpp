// Readers, and messages for damaged files, on tiny files made here; the installed Fashion-MNIST where it is.
#include <zlib.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "core/error.h"
#include "datasets/catalog.h"
#include "datasets/dataset.h"
#include "datasets/formats.h"
#include "tests/errors.h"
#include "tests/folders.h"
#include "tests/program.h"
#include "tests/refused_threads.h"
#include "train/json.h"

namespace fs = std::filesystem;
using namespace norma;
using namespace norma::test;
using namespace norma::datasets;

namespace {

/// While alive, an environment variable has another value.
struct Environment {
  std::string name, old;
  Environment(const char* variable, const std::string& value) : name(variable) {
    if (const char* now = std::getenv(variable)) old = now;
    setenv(variable, value.c_str(), 1);
  }
  ~Environment() { setenv(name.c_str(), old.c_str(), 1); }
};

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

}  // namespace

TEST_CASE("datasets: IDX, gzip and plain, with statistics over the training split", "[datasets]") {
  const TemporaryFolder dir;
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

TEST_CASE("datasets: class-names.txt beside the files says what the classes are", "[datasets]") {
  const TemporaryFolder dir;
  write_fashion(dir.path);
  write(dir.path / "class-names.txt", "circle\r\nsquare \nblue triangle\n\n");
  const auto load = [&] { return error_of_set("fashion-mnist", dir.path, dir.path); };
  CHECK(load() == "train-labels-idx1-ubyte.gz: record 3: label 3 is outside 0..2");
  write_gz(dir.path / "train-labels-idx1-ubyte.gz", be(0x801) + be(20) + std::string(20, '\2'));
  write(dir.path / "t10k-labels-idx1-ubyte", be(0x801) + be(5) + std::string(5, '\1'));
  const ImageData data = load_images("fashion-mnist", dir.path);
  CHECK((data.train.classes == 3 && data.test.classes == 3));
  CHECK(data.test.class_names == std::vector<std::string>{"circle", "square", "blue triangle"});
  CHECK(data.notice == fmt::format("data set \"fashion-mnist\" in {}: 20 training and 5 test images of 3 classes of its own (class-names.txt)", dir.path.string()));
  write(dir.path / "class-names.txt", "\n \n");
  CHECK(load() == "class-names.txt: names no class; write one name a line, that of label 0 first");
  write(dir.path / "class-names.txt", "a\n\nb\n");
  CHECK(load() == "class-names.txt: line 2 is empty; write one name a line, that of label 0 first");
  write(dir.path / "class-names.txt", "th\xc3\xa9\ncaf\xe9\n");  // the second in Latin-1
  CHECK(load() == "class-names.txt: line 2 is not UTF-8; save the file as UTF-8");
  std::string many;
  for (int i = 0; i < 257; ++i) many += "x\n";
  write(dir.path / "class-names.txt", many);
  CHECK(load() == "class-names.txt: names 257 classes; labels are bytes, 256 is the most");
}

TEST_CASE("datasets: CIFAR-10's binary version", "[datasets]") {
  const TemporaryFolder dir;
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

  write(dir.path / "cifar-10-batches-bin" / "test_batch.bin", cifar_records(600));  // more than are read at a time
  const ImageSet many = load_images("cifar-10", dir.path).test;
  REQUIRE((many.count == 600 && many.pixels.size() == 600 * 3072));
  for (std::size_t n = 0; n < 600; ++n)
    if (many.labels[n] != n % 10 || many.pixels[n * 3072 + 1023] != n % 256 || many.pixels[n * 3072 + 1024] != (40 + n) % 256) FAIL("record " << n);

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
  const TemporaryFolder dir;
  const Environment data("NORMA_DATA", (dir.path / "d").string()), home("HOME", (dir.path / "h").string());
  const std::vector<fs::path> named = {dir.path / "u" / "cifar-10", dir.path / "u" / "cifar-10-batches-bin", dir.path / "u"};
  const std::vector<fs::path> expected = {dir.path / "d" / "cifar-10",
                                          dir.path / "d" / "cifar-10-batches-bin",
                                          dir.path / "d",
                                          dir.path / "h" / ".cache" / "norma" / "cifar-10",
                                          dir.path / "h" / ".cache" / "norma" / "cifar-10-batches-bin",
                                          "/usr/share/datasets/cifar-10",
                                          "/usr/share/datasets/cifar-10-batches-bin"};
  CHECK(locations("cifar-10") == expected);
  CHECK(locations("cifar-10", dir.path / "u") == named);
  CHECK(home_of(known_set("cifar-10"), dir.path / "u") == dir.path / "u" / "cifar-10");
  CHECK(home_of(known_set("cifar-10")) == dir.path / "d" / "cifar-10");
  CHECK(error_of([&] { load_images("cifar-10", dir.path / "u"); }) ==
        fmt::format("data set \"cifar-10\": there is no folder {} to look in; name another with --data-dir", (dir.path / "u").string()));
  CHECK_THAT(error_of([&] { load_images("cifar-10"); }),
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

TEST_CASE("datasets: a folder that is named and holds no file of the set is refused, though the set lies elsewhere", "[datasets]") {
  const TemporaryFolder dir;
  const Environment data("NORMA_DATA", (dir.path / "d").string()), home("HOME", (dir.path / "h").string());
  const fs::path own = dir.path / "own", usual = dir.path / "d" / "cifar-10";
  fs::create_directories(own);
  write(own / "data-batch-1.bin", "so named by hand");
  const std::string begin = fmt::format(
      "data set \"cifar-10\": {} holds none of its files (data_batch_1.bin, data_batch_2.bin, data_batch_3.bin, data_batch_4.bin, data_batch_5.bin, test_batch.bin); ", own.string());
  CHECK_THAT(error_of([&] { load_images("cifar-10", own); }), Catch::StartsWith(begin + "get it with: unpack cifar-10-binary.tar.gz"));
  write_cifar(usual);
  CHECK(error_of([&] { load_images("cifar-10", own); }) == begin + "without --data-dir those in " + usual.string() + " are read");
  CHECK(error_of([&] { load_images("cifar-10", own, "a.json: "); }) == "a.json: " + begin + "--data-dir " + usual.string() + " reads those there");
  CHECK(load_images("cifar-10").test.count == 3);
  CHECK(load_images("cifar-10", usual).test.count == 3);
  CHECK(load_images("cifar-10", dir.path / "d").test.count == 3);

  CHECK_THAT(error_of([&] { load_images("fashion-mnist", own); }), Catch::Contains(" holds none of its files (train-images-idx3-ubyte or .gz, train-labels-idx1-ubyte or .gz, "));
  const auto refused = [&](const std::vector<std::string>& args) {
    const test::Finished f = test::run_norma(args);
    CHECK(f.code == 1);
    CHECK_THAT(f.err, Catch::Contains("fashion-mnist\": " + own.string() + " holds none of its files"));
  };
  refused({"train", "vit", "--data-dir", own.string(), "--steps", "1", "--out", (dir.path / "run").string()});
  refused({"twin", "vit", "--data-dir", own.string(), "--steps", "1", "--out", (dir.path / "run").string()});
  CHECK(!fs::exists(dir.path / "run"));
  REQUIRE(test::run_norma(test::tiny_run(test::tiny_data(64, 20), dir.path / "run")).code == 0);
  for (const char* verb : {"eval", "inspect", "theory"}) refused({verb, (dir.path / "run").string(), "--data-dir", own.string()});
  const auto listed = train::Json::parse(test::run_norma({"data", "--data-dir", own.string(), "--log-format", "json"}).out)[1];
  CHECK((listed["installed"].is_null() && listed.value("elsewhere", "") == usual.string()));
  CHECK_THAT(test::run_norma({"data", "--data-dir", own.string()}).out, Catch::Contains("  elsewhere  " + usual.string() + ", which is read without --data-dir\n"));
}

TEST_CASE("datasets: norma data says where a set is, and of none that is not there that it is installed", "[datasets]") {
  const TemporaryFolder dir;
  const Environment unset("NORMA_DATA", ""), home("HOME", dir.path.string());
  const fs::path data = test::tiny_data(64, 20);
  const test::Finished f = test::run_norma({"data", "--data-dir", data.string(), "--log-format", "json"});
  REQUIRE(f.code == 0);
  const auto sets = train::Json::parse(f.out);
  CHECK(sets[0]["installed"] == (data / "fashion-mnist").string());
  CHECK(sets[1]["installed"].is_null());

  fs::remove(data / "fashion-mnist" / "t10k-labels-idx1-ubyte");  // as training finds it, which goes no further
  const auto part = train::Json::parse(test::run_norma({"data", "--data-dir", data.string(), "--log-format", "json"}).out)[0];
  CHECK(part["installed"].is_null());
  CHECK(part["incomplete"] == train::Json{{"folder", (data / "fashion-mnist").string()}, {"missing", "t10k-labels-idx1-ubyte[.gz]"}});
  CHECK_THAT(test::run_norma({"data", "--data-dir", data.string()}).out,
             Catch::Contains("installed  in part, in " + (data / "fashion-mnist").string() + ": t10k-labels-idx1-ubyte[.gz] missing; get it with: "));
}

TEST_CASE("datasets: damaged IDX files are named with what is wrong", "[datasets]") {
  const TemporaryFolder dir;
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

TEST_CASE("datasets: read the same where the system gives no thread beside this one", "[datasets]") {
  if (!can_refuse_threads) return;
  const auto folder = tiny_data(40, 7);
  const ImageData beside = load_images("fashion-mnist", folder);
  const RefusedThreads none;
  const ImageData alone = load_images("fashion-mnist", folder);
  for (const auto& [a, b] : {std::pair{&beside.train, &alone.train}, {&beside.test, &alone.test}}) {
    CHECK(hash_of(*a) == hash_of(*b));
    CHECK((a->mean == b->mean && a->std == b->std));
  }
}

TEST_CASE("datasets: a channel without differences has deviation 1", "[datasets]") {
  const TemporaryFolder dir;
  write_fashion(dir.path / "fashion-mnist", 1, 1);
  write(dir.path / "fashion-mnist" / "train-images-idx3-ubyte.gz", idx_images(1, 1, 1));
  write(dir.path / "fashion-mnist" / "t10k-images-idx3-ubyte", idx_images(1, 1, 1));
  CHECK(load_images("fashion-mnist", dir.path).train.std == std::vector<float>{1});
}
