// The header of a safetensors file: what is where. Parsed from untrusted bytes without allocating anything the bytes
// ask for.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/shape.h"

namespace norma::train::safetensors {

constexpr std::uint64_t max_header = 100'000'000;  // as the reference implementation
constexpr std::size_t max_name = 1024, max_tensors = 1'000'000;

struct Entry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the first one after the header
  bool half = false;                 // F16 in the file, read as f32, which holds every one of its numbers
};

struct Header {
  std::vector<Entry> entries;  // in the order of their data, which fills the file without holes
  std::map<std::string, std::string> metadata;
};

/// `name` begins every error text; `data_bytes` is what the file holds after the header.
Header parse_header(std::string_view text, std::uint64_t data_bytes, const std::string& name);
std::string print_header(const Header& header);  // padded with spaces to a multiple of 8 bytes

}  // namespace norma::train::safetensors
