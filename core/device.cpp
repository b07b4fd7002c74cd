#include "core/device.h"

#include <charconv>

#include "core/error.h"

namespace norma {

std::string name(Device d) {
  if (d.kind == Device::Kind::cpu) return "cpu";
  if (d.kind == Device::Kind::reference) return "reference";
  return "cuda:" + std::to_string(d.index);
}

Device parse_device(std::string_view text) {
  if (text == "cpu") return {};
  if (text == "reference") return {Device::Kind::reference, 0};
  if (text == "cuda") return {Device::Kind::cuda, 0};
  if (text.starts_with("cuda:")) {
    int index = -1;
    auto [end, error] = std::from_chars(text.data() + 5, text.data() + text.size(), index);
    if (error == std::errc{} && end == text.data() + text.size() && index >= 0) return {Device::Kind::cuda, index};
  }
  fail("device \"{}\" is unknown; there are cpu, cuda, cuda:INDEX, reference", text);
}

}  // namespace norma
