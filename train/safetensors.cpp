// Reading and writing around the header. The metadata of our files holds "norma.crc32c", the checksums of the tensors
// in the order of their data, and "norma.digest", the SHA-256 of the header's length and text with the digest's own
// digits as zeros: together they cover every byte of the file, and the data is read once.
#include "train/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <functional>
#include <set>

#include "core/atomic_file.h"
#include "core/backend.h"
#include "core/crc32c.h"
#include "core/sha256.h"
#include "core/text.h"
#include "train/json.h"

namespace norma::train {

namespace {

using safetensors::Entry;
using safetensors::Header;

const std::string crc_key = "norma.crc32c", digest_key = "norma.digest";
const std::string digest_mark =
    "\"norma.digest\":\"";  // how our writer begins it; inside a string the quotes would be escaped
constexpr std::size_t digest_size = 64;

using LengthBytes = std::array<std::byte, 8>;

LengthBytes length_bytes(std::uint64_t length) {
  LengthBytes bytes;
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<std::byte>(length >> (8 * i));
  return bytes;
}

/// `at`: where the digest's digits stand in the header.
std::string header_digest(std::string header, std::size_t at) {
  std::fill_n(header.begin() + static_cast<std::ptrdiff_t>(at), digest_size, '0');
  Sha256 hash;
  hash.update(length_bytes(header.size()));
  hash.update(header.data(), header.size());
  return hash.hex();
}

/// Checks the digest and returns the stored checksums; none for files that are not ours.
std::vector<std::string> stored_checksums(Header& header, const std::string& text, const std::string& name) {
  const auto digest = header.metadata.find(digest_key), list = header.metadata.find(crc_key);
  if (digest == header.metadata.end() && list == header.metadata.end()) return {};
  const std::size_t mark = text.find(digest_mark);
  const std::size_t at = mark + digest_mark.size();
  if (digest == header.metadata.end() || list == header.metadata.end() || mark == std::string::npos ||
      at + digest_size > text.size()) {
    fail("{}: header: checksums are incomplete; the file is damaged, or another program has changed it", name);
  }
  const std::string now = header_digest(text, at);
  if (digest->second != now) {
    fail("{}: header: digest {} differs from stored {}; the file is damaged, or another program has changed it", name,
         now, in_quotes(digest->second));
  }
  std::vector<std::string> sums;
  for (std::size_t i = 0; i < list->second.size(); i += 9) sums.push_back(list->second.substr(i, 8));
  if (sums.size() != header.entries.size()) {
    fail("{}: header: {} checksums for {} tensors", name, sums.size(), header.entries.size());
  }
  header.metadata.erase(digest_key);
  header.metadata.erase(crc_key);
  return sums;
}

/// Where the bytes come from: a file or memory.
struct Source {
  std::uint64_t size = 0;
  std::function<void(std::uint64_t offset, void* to, std::size_t bytes)> read;
};

float from_half(std::uint16_t bits) {
  const std::uint32_t sign = bits >> 15 & 1u, exponent = bits >> 10 & 31u, fraction = bits & 1023u;
  const float size = exponent == 0
                         ? static_cast<float>(fraction) * 0x1p-24f
                         : std::bit_cast<float>((exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13);
  return sign != 0 ? -size : size;
}

Tensor read_tensor(const Entry& entry, const std::string& checksum, std::uint64_t data_start, const Source& source,
                   const std::string& name) {
  Tensor tensor = empty(entry.shape, {entry.dtype});
  const std::size_t size = entry.end - entry.begin;
  std::vector<std::uint16_t> halves(entry.half ? size / 2 : 0);
  auto* bytes = static_cast<std::byte*>(entry.half ? halves.data() : tensor.view().data);
  if (size > 0) source.read(data_start + entry.begin, bytes, size);
  const std::span<const std::byte> data(bytes, size);
  const std::string sum = fmt::format("{:08x}", crc32c(data));
  if (!checksum.empty() && checksum != sum) {
    fail("{}: tensor {}: checksum {} differs from stored {}; the file is damaged", name, in_quotes(entry.name), sum,
         checksum);
  }
  std::transform(halves.begin(), halves.end(), static_cast<float*>(tensor.view().data), from_half);
  if (entry.dtype == DType::boolean) {  // any other value in a bool is undefined behaviour
    const auto bad = std::find_if(data.begin(), data.end(), [](std::byte b) { return b > std::byte{1}; });
    if (bad != data.end()) {
      fail("{}: tensor {}: element {} of BOOL is {}, not 0 or 1", name, in_quotes(entry.name), bad - data.begin(),
           std::to_integer<int>(*bad));
    }
  }
  return tensor;
}

/// `text` receives what it is parsed from.
Header read_header(const Source& source, const std::string& name, std::string& text) {
  if (source.size < 8) fail("{}: {} bytes, too short for the 8-byte header length", name, source.size);
  LengthBytes prefix;
  source.read(0, prefix.data(), 8);
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < 8; ++i) length |= std::to_integer<std::uint64_t>(prefix[i]) << (8 * i);
  if (length > safetensors::max_header) fail("{}: header length {} exceeds {}", name, length, safetensors::max_header);
  if (length > source.size - 8) {
    fail("{}: header says {} bytes, file has {} after byte 8 (truncated?)", name, length, source.size - 8);
  }
  text.resize(length);
  source.read(8, text.data(), length);
  return safetensors::parse_header(text, source.size - 8 - length, name);
}

TensorFile read_from(const Source& source, const std::string& name) {
  std::string text;
  Header header = read_header(source, name, text);
  const std::vector<std::string> sums = stored_checksums(header, text, name);
  TensorFile file{{}, std::move(header.metadata)};
  for (std::size_t i = 0; i < header.entries.size(); ++i) {
    const Entry& entry = header.entries[i];
    file.tensors.emplace_back(entry.name,
                              read_tensor(entry, sums.empty() ? "" : sums[i], 8 + text.size(), source, name));
  }
  return file;
}

/// A tensor's bytes on the host, row-major, and what keeps them alive.
struct HostBytes {
  Tensor tensor;
  std::vector<std::byte> copy;
  std::span<const std::byte> bytes;
};

HostBytes host_bytes(const Tensor& source) {
  HostBytes host{source.detach(), {}, {}};
  if (!source.is_contiguous()) {
    host.tensor = empty(source.shape(), place_of(source));
    copy_into(host.tensor, source.detach());
  }
  const std::size_t size = static_cast<std::size_t>(source.numel()) * size_of(source.dtype());
  const void* data = host.tensor.view().data;
  if (source.device().kind == Device::Kind::cuda) {
    host.copy.resize(size);
    backend(source.device()).download(host.copy.data(), data, size);
    data = host.copy.data();
  }
  host.bytes = {static_cast<const std::byte*>(data), size};
  return host;
}

void check_text(const std::string& text, const char* what, const std::string& file) {
  if (invalid_utf8(text) != std::string::npos) fail("{}: {} {} is not UTF-8", file, what, in_quotes(text));
  if (text.find('\0') != std::string::npos) fail("{}: {} {} holds a NUL byte", file, what, in_quotes(text));
}

void check_names(const TensorFile& file, const std::string& path) {
  std::set<std::string> seen;
  for (const auto& [name, tensor] : file.tensors) {
    check_text(name, "tensor name", path);
    if (name == "__metadata__" || name.size() > safetensors::max_name)
      fail("{}: {} cannot name a tensor", path, in_quotes(name));
    if (!seen.insert(name).second) fail("{}: two tensors are named {}", path, in_quotes(name));
    if (!tensor) fail("{}: tensor {} is empty (no storage)", path, in_quotes(name));
  }
  for (const auto& [key, value] : file.metadata) {
    check_text(key, "metadata key", path);
    check_text(value, "metadata value of", path);
    if (key == crc_key || key == digest_key || key.size() > safetensors::max_name) {
      fail("{}: {} cannot be a metadata key", path, in_quotes(key));
    }
  }
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, const TensorFile& file) {
  check_names(file, path.string());
  // Larger elements first, so that all data is aligned; within a size the order given.
  nn::Named ordered = file.tensors;
  std::stable_sort(ordered.begin(), ordered.end(),
                   [](const auto& a, const auto& b) { return size_of(a.second.dtype()) > size_of(b.second.dtype()); });
  Header header{{}, file.metadata};
  std::vector<HostBytes> data;
  std::string sums;
  std::uint64_t at = 0;
  for (const auto& [name, tensor] : ordered) {
    data.push_back(host_bytes(tensor));
    const auto bytes = data.back().bytes;
    sums += fmt::format("{}{:08x}", sums.empty() ? "" : " ", crc32c(bytes));
    header.entries.push_back({name, tensor.dtype(), tensor.shape(), at, at + bytes.size()});
    at += bytes.size();
  }
  header.metadata[crc_key] = sums;
  header.metadata[digest_key] = std::string(digest_size, '0');
  std::string text = safetensors::print_header(header);
  if (text.size() > safetensors::max_header)
    fail("{}: a header of {} bytes exceeds {}", path.string(), text.size(), safetensors::max_header);
  const std::size_t mark = text.find(digest_mark) + digest_mark.size();
  text.replace(mark, digest_size, header_digest(text, mark));

  AtomicFile out(path, 8 + text.size() + at);
  out.write(length_bytes(text.size()));
  out.write(bytes_of(text));
  for (const HostBytes& d : data) out.write(d.bytes);
  out.commit();
}

namespace {

/// f(source, name) of a file that is open for so long.
template <class F>
auto from_file(const std::filesystem::path& path, F f) {
  const std::string name = path.string();
  struct Closer {
    int fd;
    ~Closer() {
      if (fd >= 0) close(fd);
    }
  } file{opened(path, O_RDONLY)};
  struct stat status {};
  if (file.fd < 0 || fstat(file.fd, &status) != 0) fail("{}: cannot be opened, {}", name, error_text(errno));
  if (!S_ISREG(status.st_mode)) fail("{}: is not a file", name);
  const auto read = [&](std::uint64_t offset, void* to, std::size_t bytes) {
    auto* next = static_cast<std::byte*>(to);
    while (bytes > 0) {
      const ssize_t n =
          pread(file.fd, next, std::min<std::size_t>(bytes, std::size_t{1} << 30), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("{}: cannot be read at byte {}, {}", name, offset, error_text(errno));
      if (n == 0) fail("{}: became shorter while it was read, at byte {}", name, offset);
      next += n;
      offset += static_cast<std::uint64_t>(n);
      bytes -= static_cast<std::size_t>(n);
    }
  };
  return f(Source{static_cast<std::uint64_t>(status.st_size), read}, name);
}

}  // namespace

TensorFile read_safetensors(const std::filesystem::path& path) { return from_file(path, read_from); }

Header read_safetensors_header(const std::filesystem::path& path) {
  return from_file(path, [](const Source& source, const std::string& name) {
    std::string text;
    return read_header(source, name, text);
  });
}

TensorFile parse_safetensors(std::span<const std::byte> bytes, const std::string& name) {
  const auto read = [&](std::uint64_t offset, void* to, std::size_t count) {
    if (count > 0) std::memcpy(to, bytes.data() + offset, count);
  };
  return read_from({bytes.size(), read}, name);
}

}  // namespace norma::train
