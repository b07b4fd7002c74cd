// IDX and CIFAR-10 readers over one byte stream that unpacks gzip where it finds it.
#include "datasets/formats.h"

#include <fmt/format.h>
#include <libdeflate.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/sha256.h"

namespace norma::datasets {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t most_packed = 1032;  // bytes that deflate makes of one

/// A whole gzip file unpacked by libdeflate, three times as fast as zlib. Empty where the file is no gzip, holds
/// several members or is damaged: zlib then reads it, or says what is wrong with it.
Bytes unpacked(const fs::path& path, std::uint64_t file_bytes) {
  std::ifstream in(path, std::ios::binary);
  std::uint8_t magic[2] = {};
  if (!in.read(reinterpret_cast<char*>(magic), 2) || magic[0] != 0x1f || magic[1] != 0x8b || file_bytes < 18) return {};
  Bytes packed, bytes;
  packed.resize_uninitialized(file_bytes);
  in.seekg(0);
  if (!in.read(reinterpret_cast<char*>(packed.data()), static_cast<std::streamsize>(file_bytes))) return {};
  const std::uint8_t* last = packed.data() + file_bytes - 4;  // the unpacked size, modulo 2^32
  const std::uint64_t size = last[0] | last[1] << 8 | last[2] << 16 | std::uint64_t{last[3]} << 24;
  if (size == 0 || size > file_bytes * most_packed) return {};
  const std::unique_ptr<libdeflate_decompressor, void (*)(libdeflate_decompressor*)> tool(
      libdeflate_alloc_decompressor(), libdeflate_free_decompressor);
  if (!tool) return {};
  bytes.resize_uninitialized(size);
  std::size_t used = 0;
  if (libdeflate_gzip_decompress_ex(tool.get(), packed.data(), file_bytes, bytes.data(), size, &used, nullptr) !=
          LIBDEFLATE_SUCCESS ||
      used != file_bytes)
    return {};
  return bytes;
}

/// The bytes of a plain file as they are and those of a gzip file unpacked, to its very end: checksums and lengths are
/// checked.
class Stream {
 public:
  explicit Stream(const fs::path& path) : name_(path.filename().string()) {
    std::error_code error;
    if (!fs::is_regular_file(path, error))
      fail("{}: {}", path.string(), error ? error_text(error.value()) : "is not a file");
    file_bytes_ = fs::file_size(path);
    whole_ = unpacked(path, file_bytes_);
    if (!whole_.empty()) return;
    errno = 0;
    file_.reset(std::fopen(path.c_str(), "rb"));
    if (!file_) fail("{}: cannot be opened, {}", path.string(), error_text(errno));
    buffer_.resize(1u << 18);
    refill();
    gzip_ = left_ >= 2 && next_[0] == 0x1f && next_[1] == 0x8b;
    if (gzip_ && inflateInit2(&inflate_, 15 + 16) != Z_OK)
      fail("{}: cannot be unpacked, {}", name_, error_text(ENOMEM));
  }
  ~Stream() {
    if (gzip_) inflateEnd(&inflate_);
  }
  Stream(const Stream&) = delete;
  const std::string& name() const { return name_; }
  /// The most bytes the file can hold.
  std::uint64_t limit() const { return file_ && !gzip_ ? file_bytes_ : file_bytes_ * most_packed; }

  /// Up to `bytes` bytes, fewer only at the end, and then all of the file was right.
  std::size_t read(void* to, std::size_t bytes) {
    auto* next = static_cast<std::uint8_t*>(to);
    std::size_t done = 0;
    if (!file_) {
      done = std::min(bytes, whole_.size() - at_);
      std::copy_n(whole_.data() + at_, done, next);
      at_ += done;
      return done;
    }
    while (done < bytes && (left_ > 0 || refill()))
      done += gzip_ ? unpack(next + done, bytes - done) : copy(next + done, bytes - done);
    if (done < bytes && gzip_ && within_)
      fail("{}: the gzip data ends too early (truncated file of {} bytes)", name_, file_bytes_);
    return done;
  }
  /// The next `bytes` bytes, fewer only at the end.
  Bytes take(std::size_t bytes) {
    Bytes out;
    if (!file_ && bytes >= whole_.size() - at_) {  // all there is: in the memory it lies in
      whole_.erase(whole_.begin(), whole_.begin() + static_cast<std::ptrdiff_t>(at_));
      at_ = 0;
      out.swap(whole_);
    } else {
      out.resize_uninitialized(bytes);
      out.resize(read(out.data(), bytes));
    }
    return out;
  }

 private:
  /// False at the end of the file.
  bool refill() {
    next_ = buffer_.data();
    left_ = std::fread(buffer_.data(), 1, buffer_.size(), file_.get());
    if (std::ferror(file_.get())) fail("{}: cannot be read, {}", name_, error_text(errno));
    return left_ > 0;
  }
  std::size_t copy(std::uint8_t* to, std::size_t bytes) {
    const std::size_t n = std::min(bytes, left_);
    std::copy_n(next_, n, to);
    next_ += n, left_ -= n;
    return n;
  }
  /// Of what the buffer holds. Members of a gzip file follow one another; zeros behind the last are padding.
  std::size_t unpack(std::uint8_t* to, std::size_t bytes) {
    if (!within_ && file_begun_)
      for (; left_ > 0 && *next_ == 0; --left_) ++next_;
    if (left_ == 0) return 0;
    within_ = file_begun_ = true;
    const auto room = static_cast<unsigned>(std::min<std::size_t>(bytes, 1u << 30));
    inflate_.next_in = next_, inflate_.avail_in = static_cast<unsigned>(left_), inflate_.next_out = to,
    inflate_.avail_out = room;
    const int code = inflate(&inflate_, Z_NO_FLUSH);
    next_ = inflate_.next_in, left_ = inflate_.avail_in;
    if (code == Z_STREAM_END) {
      within_ = false;
      inflateReset(&inflate_);
    } else if (code != Z_OK) {
      fail("{}: gzip data is damaged: {}", name_, inflate_.msg ? inflate_.msg : zError(code));
    }
    return room - inflate_.avail_out;
  }
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::string name_;
  std::uint64_t file_bytes_ = 0;
  Bytes whole_;
  std::size_t at_ = 0;                      // of whole_
  std::unique_ptr<std::FILE, Close> file_;  // null: all bytes are in whole_
  Bytes buffer_;                            // of the file as it is
  std::uint8_t* next_ = nullptr;            // in it, what is not used yet
  std::size_t left_ = 0;
  bool gzip_ = false, file_begun_ = false, within_ = false;  // within_: a member has begun and not ended
  z_stream inflate_{};
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
  idx.bytes = in.take(bytes);
  if (idx.bytes.size() < bytes)
    fail("{}: ends after {} of {} bytes of {}", in.name(), idx.bytes.size(), bytes, what_of(expected));
  std::uint8_t more = 0;
  if (in.read(&more, 1) != 0)
    fail("{}: holds more than the {} bytes of {} its header promises", in.name(), bytes, what_of(expected));
  return idx;
}

void read_cifar(const fs::path& path, Bytes& pixels, Bytes& labels) {
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
