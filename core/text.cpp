#include "core/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace norma {

std::size_t invalid_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned b = byte(i), next = byte(i + 1);
    if (b < 0x80) {
      i += 1;
    } else if (b >= 0xc2 && b <= 0xdf && follows(i + 1)) {
      i += 2;
    } else if (b >= 0xe0 && b <= 0xef && follows(i + 1) && follows(i + 2) && !(b == 0xe0 && next < 0xa0) &&
               !(b == 0xed && next > 0x9f)) {  // neither overlong nor half of a UTF-16 pair
      i += 3;
    } else if (b >= 0xf0 && b <= 0xf4 && follows(i + 1) && follows(i + 2) && follows(i + 3) &&
               !(b == 0xf0 && next < 0x90) && !(b == 0xf4 && next > 0x8f)) {
      i += 4;
    } else {
      return i;
    }
  }
  return std::string_view::npos;
}

std::string shortened(std::string_view text, std::size_t bytes) {
  if (text.size() <= bytes) return std::string(text);
  std::size_t end = bytes - 3;
  for (int back = 0; back < 3 && end > 0 && (text[end] & 0xc0) == 0x80; ++back) --end;
  return std::string(text.substr(0, end)) + "...";
}

std::string printable(std::string_view text) {
  std::string out;
  const auto escaped = [&out](char c) { out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c)); };
  while (!text.empty()) {
    const std::size_t good = std::min(invalid_utf8(text), text.size());
    for (std::size_t i = 0; i < good; ++i) {
      const auto byte = static_cast<unsigned char>(text[i]);
      if (byte == 0xc2 && static_cast<unsigned char>(text[i + 1]) < 0xa0) {  // U+0080 to U+009F: control characters too
        escaped(text[i]), escaped(text[++i]);
      } else if (byte < 0x20 || byte == 0x7f) {
        escaped(text[i]);
      } else {
        out += text[i];
      }
    }
    if (good < text.size()) escaped(text[good]);
    text.remove_prefix(std::min(good + 1, text.size()));
  }
  return out;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t longest = 1024;  // of what is kept
  return '"' + printable(shortened(text, longest + 3)) + '"';
}

}  // namespace norma
