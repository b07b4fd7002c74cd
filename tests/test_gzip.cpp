// gzip files as the readers of data sets take them: in one or several members, and right to the last byte of their checksums and lengths.
#include <zlib.h>

#include <catch2/catch.hpp>
#include <functional>

#include "core/error.h"
#include "datasets/formats.h"
#include "tests/folders.h"
#include "tests/written_run.h"

using namespace norma;
using namespace norma::test;
namespace fs = std::filesystem;

namespace {

std::string packed(const std::string& bytes) {
  const fs::path file = fs::current_path() / "packed.gz";
  gzFile f = gzopen(file.c_str(), "wb");
  gzwrite(f, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(f);
  return contents(file);
}

/// An IDX file of 28x28 images: more than any buffer of the reader.
std::string idx_images(int count) {
  std::string s{0, 0, 8, 3, 0, 0, static_cast<char>(count >> 8), static_cast<char>(count & 255), 0, 0, 0, 28, 0, 0, 0, 28};
  for (int i = 0; i < count * 28 * 28; ++i) s += static_cast<char>(i * 7 + i / 784);
  return s;
}

std::string records(int count) {  // of CIFAR-10
  std::string s;
  for (int n = 0; n < count; ++n) s += static_cast<char>(n % 10) + std::string(3072, static_cast<char>(n));
  return s;
}

}  // namespace

TEST_CASE("a gzip file is read to its very end, whatever it holds", "[gzip]") {
  const fs::path folder = fresh_folder("gzip"), file = folder / "x.gz";
  struct Kind {
    std::string name, content;
    std::function<void()> read;
  };
  const std::vector<Kind> kinds = {{"images", idx_images(2000), [&] { datasets::read_idx(file, 3); }},
                                   {"CIFAR-10, a whole number of the reader's buffers", records(512), [&] {
                                      datasets::Bytes pixels, labels;
                                      datasets::read_cifar(file, pixels, labels);
                                    }},
                                   {"anything, as norma data get reads it", std::string(1 << 20, 'a'), [&] { datasets::content_of(file, 1 << 30); }}};
  const auto too_early = [](std::size_t bytes) { return fmt::format("x.gz: the gzip data ends too early (truncated file of {} bytes)", bytes); };
  for (const Kind& kind : kinds) {
    CAPTURE(kind.name);
    const std::string whole = packed(kind.content);
    write(file, whole);
    CHECK_NOTHROW(kind.read());
    for (std::size_t cut = 1; cut <= 8; ++cut) {  // the checksum and the length
      write(file, whole.substr(0, whole.size() - cut));
      CHECK_THROWS_WITH(kind.read(), too_early(whole.size() - cut));
    }
    for (std::size_t at = whole.size() - 8; at < whole.size(); ++at) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ 1);
      write(file, flipped);
      CHECK_THROWS_WITH(kind.read(), at < whole.size() - 4 ? "x.gz: gzip data is damaged: incorrect data check" : "x.gz: gzip data is damaged: incorrect length check");
    }
    const std::size_t half = kind.content.size() / 2;
    const std::string members = packed(kind.content.substr(0, half)) + packed(kind.content.substr(half));
    write(file, members);
    CHECK_NOTHROW(kind.read());
    write(file, members.substr(0, members.size() - 3));
    CHECK_THROWS_WITH(kind.read(), too_early(members.size() - 3));
    write(file, whole + std::string(600'000, '\0'));  // padding, of a medium with blocks
    CHECK_NOTHROW(kind.read());
    write(file, whole + "xy");
    CHECK_THROWS_WITH(kind.read(), "x.gz: gzip data is damaged: incorrect header check");
  }
}

TEST_CASE("several members, and a plain file of the same name, hold the same bytes", "[gzip]") {
  const fs::path folder = fresh_folder("gzip-members"), file = folder / "x.gz";
  const std::string content = idx_images(2000);
  const auto bytes = [&] {
    const datasets::Bytes all = datasets::read_idx(file, 3).bytes;
    return std::string(all.begin(), all.end());
  };
  write(file, packed(content.substr(0, 700'000)) + packed("") + packed(content.substr(700'000)));
  CHECK((bytes() == content.substr(16)));
  write(file, content);
  CHECK((bytes() == content.substr(16)));
}
