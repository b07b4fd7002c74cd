// What the flight recorder kept of a run, as the page shows it: attention matrices of a few images, step by step.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/dtype.h"

namespace norma::inspect {

/// The images all records are of.
struct ProbeImages {
  Index count = 0, channels = 0, side = 0, patch = 0;
  std::vector<std::uint8_t> pixels;  // [count, channels, side, side]
  std::vector<std::string> labels;   // one an image
  bool class_token = false;          // token 0 is no patch
  Index tokens() const { return (side / patch) * (side / patch) + (class_token ? 1 : 0); }
  bool operator==(const ProbeImages&) const = default;
};

struct RecordedLayer {
  std::string place;  // "blocks.0.attn"
  Index heads = 0;
  std::vector<float> a;  // [images, heads, tokens, tokens]; row i: where token i looks
};

struct Record {
  Index step = 0;  // so many steps were made before it
  std::vector<RecordedLayer> layers;
};

struct Recording {
  ProbeImages images;
  std::vector<Record> records;     // by step
  std::vector<std::string> notes;  // what was left out, and why
};

/// For the page: every matrix in 16 bits a number, its largest one and its norm beside it. Throws where matrices do not fit the images.
nlohmann::ordered_json page_data(const Recording& recording);

/// How many bytes of a page one number of a matrix takes, and how many all runs together may take.
constexpr double page_bytes_a_number = 2 * 4.0 / 3;
constexpr std::size_t page_bytes = 8 << 20;

}  // namespace norma::inspect
