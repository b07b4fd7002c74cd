// IDX and CIFAR-10 readers over one byte stream that unpacks gzip where it finds it.
#include "datasets/formats.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/sha256.h"

namespace norma::datasets {

namespace fs = std::filesystem;

namespace {

/// zlib's gzFile reads plain files as they are and gzip files unpacked, with their checksums.
class Stream {
 public:
  explicit Stream(const fs::path& path) : name_(path.filename().string()) {
    std::error_code error;
    if (!fs::is_regular_file(path, error))
      fail("{}: {}", path.string(), error ? error_text(error.value()) : "is not a file");
    file_bytes_ = fs::file_size(path);
    errno = 0;
    file_.reset(gzopen(path.c_str(), "rb"));
    if (!file_) fail("{}: cannot be opened, {}", path.string(), error_text(errno != 0 ? errno : ENOMEM));
    gzbuffer(file_.get(), 1u << 18);
  }
  const std::string& name() const { return name_; }
  /// The most bytes the file can hold: deflate packs at most 1032 to 1.
  std::uint64_t limit() const { return gzdirect(file_.get()) != 0 ? file_bytes_ : file_bytes_ * 1032; }

  /// Up to `bytes` bytes, fewer only at the end.
  std::size_t read(void* to, std::size_t bytes) {
    auto* next = static_cast<std::uint8_t*>(to);
    std::size_t done = 0;
    while (done < bytes) {
      const int n =
          gzread(file_.get(), next + done, static_cast<unsigned>(std::min<std::size_t>(bytes - done, 1u << 24)));
      if (n < 0) damaged();
      if (n == 0) break;
      done += static_cast<std::size_t>(n);
    }
    at_ += done;
    int code = Z_OK;  // a gzip file cut off gives its bytes first and the error with the end of them
    if (done < bytes && (gzerror(file_.get(), &code), code != Z_OK)) damaged();
    return done;
  }

 private:
  [[noreturn]] void damaged() {
    int code = Z_OK;
    const char* text = gzerror(file_.get(), &code);
    if (code == Z_ERRNO) fail("{}: cannot be read, {}", name_, error_text(errno));
    if (code == Z_BUF_ERROR) fail("{}: the gzip data ends too early (truncated file of {} bytes)", name_, file_bytes_);
    fail("{}: gzip data is damaged: {}", name_, text);
  }
  struct Close {
    void operator()(gzFile f) const { gzclose(f); }
  };
  std::string name_;
  std::uint64_t file_bytes_ = 0, at_ = 0;
  std::unique_ptr<gzFile_s, Close> file_;
};

const char* what_of(std::uint32_t magic) {
  return magic == 0x803 ? "images" : magic == 0x801 ? "labels" : "no data of this kind";
}

}  // namespace

Idx read_idx(const fs::path& path, int rank) {
  Stream in(path);
  const auto number = [&](const char* what) {
    std::uint8_t b[4];
    const std::size_t n = in.read(b, 4);
    if (n < 4) fail("{}: ends inside the {} of its header", in.name(), what);
    return std::uint32_t{b[0]} << 24 | std::uint32_t{b[1]} << 16 | std::uint32_t{b[2]} << 8 | std::uint32_t{b[3]};
  };
  const std::uint32_t magic = number("magic number"), expected = 0x800u + static_cast<std::uint32_t>(rank);
  if (magic != expected) {
    fail("{}: holds {} (magic 0x{:08x}), expected {} (0x{:08x}){}", in.name(), what_of(magic), magic, what_of(expected),
         expected, magic == 0x803 || magic == 0x801 ? "; are the files swapped?" : "");
  }
  Idx idx;
  std::uint64_t bytes = 1;
  const std::uint64_t header = 4 + 4 * static_cast<std::uint64_t>(rank);
  for (int i = 0; i < rank; ++i) {
    const std::uint32_t size = number("sizes");
    idx.sizes.push_back(size);
    if (__builtin_mul_overflow(bytes, std::uint64_t{size}, &bytes)) bytes = ~std::uint64_t{0};
  }
  if (bytes > in.limit() - std::min(in.limit(), header)) {
    fail("{}: its header promises {} bytes of {}, more than the file can hold", in.name(), fmt::join(idx.sizes, " x "),
         what_of(expected));
  }
  idx.bytes.resize(bytes);
  const std::size_t n = in.read(idx.bytes.data(), bytes);
  if (n < bytes) fail("{}: ends after {} of {} bytes of {}", in.name(), n, bytes, what_of(expected));
  std::uint8_t more = 0;
  if (in.read(&more, 1) != 0)
    fail("{}: holds more than the {} bytes of {} its header promises", in.name(), bytes, what_of(expected));
  return idx;
}

void read_cifar(const fs::path& path, std::vector<std::uint8_t>& pixels, std::vector<std::uint8_t>& labels) {
  constexpr std::size_t image = 3072, record = image + 1, chunk = 256;
  Stream in(path);
  if (const std::uint64_t limit = in.limit(); limit < record * 100'000) {  // plain files: all at once
    pixels.reserve(pixels.size() + limit / record * image);
    labels.reserve(labels.size() + limit / record);
  }
  std::vector<std::uint8_t> buffer(chunk * record);
  std::uint64_t total = 0;
  for (std::size_t n = buffer.size(); n == buffer.size();) {
    n = in.read(buffer.data(), buffer.size());
    total += n;
    for (std::size_t at = 0; at + record <= n; at += record) {
      labels.push_back(buffer[at]);
      pixels.insert(pixels.end(), buffer.begin() + static_cast<std::ptrdiff_t>(at + 1),
                    buffer.begin() + static_cast<std::ptrdiff_t>(at + record));
    }
  }
  if (total == 0) fail("{}: is empty", in.name());
  if (total % record != 0) fail("{}: size is not a multiple of 3073 (remainder {})", in.name(), total % record);
}

void check_labels(std::span<const std::uint8_t> labels, Index classes, const std::string& file) {
  const auto bad = std::find_if(labels.begin(), labels.end(), [&](std::uint8_t label) { return label >= classes; });
  if (bad != labels.end()) {
    fail("{}: record {}: label {} is outside 0..{}", file, bad - labels.begin(), int{*bad}, classes - 1);
  }
}

Content content_of(const fs::path& path, std::uint64_t limit) {
  Stream in(path);
  Sha256 hash;
  Content content;
  std::vector<std::uint8_t> buffer(1u << 18);
  for (std::size_t n = buffer.size(); n == buffer.size();) {
    n = in.read(buffer.data(), buffer.size());
    content.bytes += n;
    if (content.bytes > limit) fail("{}: holds more than {} bytes", in.name(), limit);
    hash.update(buffer.data(), n);
  }
  content.sha256 = hash.hex();
  return content;
}

}  // namespace norma::datasets
