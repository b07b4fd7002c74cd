// SHA-256 (FIPS 180-4), for checking files and naming data by content.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace norma {

class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  void update(const void* data, std::size_t bytes) { update({static_cast<const std::byte*>(data), bytes}); }
  /// The digest in lower-case hex of all bytes so far; the object takes no more bytes afterwards.
  std::string hex();

 private:
  std::array<std::uint32_t, 8> state_ = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                         0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
  std::array<std::uint8_t, 64> block_{};
  std::uint64_t length_ = 0;
};

std::string sha256(std::span<const std::byte> bytes);

}  // namespace norma
