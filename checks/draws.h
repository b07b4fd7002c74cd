// Numbers drawn for tests: no structure, and the same each time.
#pragma once

#include <vector>

#include "core/random.h"
#include "core/tensor.h"

namespace norma::checks {

/// `count` numbers of [low, high), element i from word i of the stream; an f32 holds those of [-1, 1) exactly.
std::vector<double> drawn(Index count, RandomStream stream, double low = -1, double high = 1);
/// As a tensor, rounded to its dtype.
Tensor drawn(const Shape& shape, RandomStream stream, Place place, double low = -1, double high = 1);

/// Which keys are seen, seven of ten.
Tensor drawn_keys(Index batch, Index keys, Device device);

}  // namespace norma::checks
