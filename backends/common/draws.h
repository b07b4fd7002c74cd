// From random words to random numbers, the same on every backend; of normal ones a GPU's logarithm and cosine may differ in
// the last digits of f64. Element i of a tensor takes word i % 4 of block i / 4.
#pragma once

#include <cmath>
#include <cstdint>

#include "backends/common/functors.h"
#include "core/random.h"

namespace norma {

/// Dropout: an element is dropped where its word lies below p 2^32, so exactly never for p = 0 and always for p = 1. The least word
/// that is kept.
NORMA_HD std::uint64_t drop_threshold(double p) { return static_cast<std::uint64_t>(std::ceil(p * 0x1p32)); }
NORMA_HD bool keeps(std::uint32_t word, std::uint64_t threshold) { return word >= threshold; }
/// What a kept element is multiplied by; never used for p = 1.
NORMA_HD double keep_scale(double p) { return p < 1 ? 1 / (1 - p) : 0; }

/// Box-Muller: elements 2j and 2j + 1 come from words (2j, 2j + 1) = (a, b) as r cos t and r sin t with
/// r = sqrt(-2 ln((a + 1/2) / 2^32)), t = 2 pi b / 2^32; |x| < 6.8. In double on every device, rounded once at the end.
NORMA_HD void normal_pair(std::uint32_t a, std::uint32_t b, double& first, double& second) {
  const double r = std::sqrt(-2 * std::log((a + 0.5) * 0x1p-32)), t = 6.283185307179586 * (b * 0x1p-32);
  first = r * std::cos(t);
  second = r * std::sin(t);
}

}  // namespace norma
