#include "core/device.h"

#include <charconv>

#include "core/error.h"

namespace norma {
namespace {

[[noreturn]] void unknown(std::string_view text) {
  fail("device \"{}\" is unknown; there are cpu, cuda, cuda:INDEX, reference", text);
}

}  // namespace

std::string name(Device d) {
  const bool cuda = d.kind == Device::Kind::cuda;
  const std::string kind = cuda ? "cuda" : d.kind == Device::Kind::cpu ? "cpu" : "reference";
  return cuda || d.index != 0 ? fmt::format("{}:{}", kind, d.index) : kind;
}

void check(Device d) {
  if (d.kind == Device::Kind::cuda ? d.index < 0 : d.index != 0) unknown(name(d));
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
  unknown(text);
}

}  // namespace norma
