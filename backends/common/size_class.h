// Sizes of blocks in a caching pool: few enough that a released block soon fits another request.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

namespace norma {

constexpr std::size_t small_limit = 4096;  // classes every 64 bytes up to here, then 4 per power of two
constexpr std::size_t small_classes = small_limit / 64;
constexpr std::size_t class_count = small_classes + 4 * (62 - 12) + 1;
constexpr std::size_t largest_block = std::size_t{1} << 62;

struct SizeClass {
  std::size_t index, bytes;
};

/// The class of a request: 64, 128, ..., 4096, then (5, 6, 7, 8)/4 times 4096, 8192, ...: at most a quarter is unused.
inline SizeClass size_class(std::size_t bytes) {
  if (bytes <= small_limit) {
    const std::size_t n = std::max<std::size_t>((bytes + 63) / 64, 1);
    return {n - 1, n * 64};
  }
  const int power = std::bit_width(bytes - 1) - 1;  // 2^power < bytes <= 2^(power + 1)
  const std::size_t quarter = (std::size_t{1} << power) / 4;
  const std::size_t n = (bytes + quarter - 1) / quarter;  // 5..8 quarters
  return {small_classes + 4 * static_cast<std::size_t>(power - 12) + n - 5, n * quarter};
}

}  // namespace norma
