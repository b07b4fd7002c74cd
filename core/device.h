// Which backend holds and computes a tensor.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace norma {

struct Device {
  enum class Kind : std::uint8_t { cpu, reference, cuda };
  Kind kind = Kind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string name(Device device);            // "cpu", "reference", "cuda:0"
Device parse_device(std::string_view text);  // throws, listing what there is
void check(Device device);                   // throws the same where it has no such name: only cuda has an index, from 0

}  // namespace norma
