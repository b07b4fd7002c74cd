// What the draws of a data set's batches share.
#pragma once

#include "core/element.h"
#include "core/random.h"

namespace norma::datasets {

enum Purpose : std::uint64_t {  // separate the streams of one epoch
  order_draws = 0x6f72646572,
  augment_draws = 0x61756775,
  edit_draws = 0x65646974
};

/// Maps 64 random bits to [0, n); the bias is below n / 2^64.
constexpr Index below(std::uint32_t high, std::uint32_t low, Index n) {
  const std::uint64_t bits = std::uint64_t{high} << 32 | low;
  return static_cast<Index>((static_cast<unsigned __int128>(bits) * static_cast<std::uint64_t>(n)) >> 64);
}

}  // namespace norma::datasets
