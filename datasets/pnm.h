// Pictures a user brings along: binary PGM (P5, grey) and PPM (P6, colour) with 8 bits a sample, the formats every tool can write.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "core/shape.h"

namespace norma::datasets {

struct Picture {
  Index height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> pixels;  // [channels, height, width], as an ImageSet holds them
};

/// Throws naming the file and what is wrong with it: not such a file, more than 8 bits, sizes beyond 16384, cut short.
Picture read_pnm(const std::filesystem::path& file);

/// In the middle of a square, whose rest has the mean of the picture's border: nothing is distorted, nothing cut.
Picture squared(const Picture& picture);

/// As the model wants it: averaged (or repeated) to side x side, grey made from colours by their luma, colours from grey by repeating.
/// Throws where pixels do not fit the picture's sizes, and on channels but 1 and 3.
Picture fitted(const Picture& picture, Index side, Index channels);

}  // namespace norma::datasets
