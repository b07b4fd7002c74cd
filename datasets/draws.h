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

/// The same of an Index.
constexpr Index below(std::uint32_t high, std::uint32_t low, Index n) {
  return static_cast<Index>(norma::below(high, low, static_cast<std::uint64_t>(n)));
}

}  // namespace norma::datasets
