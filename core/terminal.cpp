#include "core/terminal.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace norma {
namespace {

struct Character {
  std::size_t bytes, columns;
};

/// 2: those of East Asian scripts, and most emoji (Unicode's East_Asian_Width W and F, in blocks); 0: marks that join the character before.
std::size_t columns_of(std::uint32_t code) {
  struct Block {
    std::uint32_t first, last;
  };
  constexpr Block wide[] = {{0x1100, 0x115f},   {0x2e80, 0x303e},   {0x3041, 0xa4cf},   {0xac00, 0xd7a3},  {0xf900, 0xfaff},
                            {0xfe30, 0xfe6f},   {0xff01, 0xff60},   {0xffe0, 0xffe6},   {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff},
                            {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}};
  constexpr Block joined[] = {{0x300, 0x36f}, {0x200b, 0x200d}, {0xfe00, 0xfe0f}};
  const auto within = [code](const Block& b) { return b.first <= code && code <= b.last; };
  return std::any_of(std::begin(joined), std::end(joined), within) ? 0 : std::any_of(std::begin(wide), std::end(wide), within) ? 2 : 1;
}

/// Of UTF-8 that is not empty. A byte that begins no character takes no column.
Character first_of(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i])); };
  const std::uint32_t lead = byte(0);
  if (lead < 0x80) return {1, 1};
  if (lead < 0xc0) return {1, 0};
  const std::size_t bytes = std::min<std::size_t>(lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4, text.size());
  std::uint32_t code = lead & (lead < 0xe0 ? 31u : lead < 0xf0 ? 15u : 7u);
  for (std::size_t i = 1; i < bytes; ++i) code = code << 6 | (byte(i) & 63u);
  return {bytes, columns_of(code)};
}

/// The bytes of the first characters that together take at most `count` columns; of one character at least. The text takes more.
std::size_t bytes_of(std::string_view text, std::size_t count) {
  std::size_t at = 0;
  for (std::size_t used = 0; at < text.size();) {
    const Character next = first_of(text.substr(at));
    if (at > 0 && used + next.columns > count) break;
    at += next.bytes, used += next.columns;
  }
  return at;
}

/// Behind the last part of a path, else the last part of a name, unless that leaves less than half of the line.
std::size_t break_within(std::string_view word) {
  for (const std::string_view ends : {"/", "-_,"}) {
    const std::size_t behind = word.find_last_of(ends) + 1;  // npos + 1 is 0
    if (2 * behind > word.size()) return behind;
  }
  return word.size();
}

}  // namespace

std::size_t terminal_columns(int descriptor, std::size_t otherwise) {
  winsize size{};
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : otherwise;
}

std::size_t columns(std::string_view text) {
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Character next = first_of(text.substr(at));
    at += next.bytes, count += next.columns;
  }
  return count;
}

std::vector<std::string> wrapped(std::string_view text, std::size_t width, std::size_t indent) {
  std::vector<std::string> lines;
  std::string margin;
  while (columns(text) + margin.size() > width) {
    const std::size_t room = bytes_of(text, width - margin.size());
    const std::size_t blank = text.rfind(' ', room);
    // What stands left of the later lines is not broken: a flag, before its help.
    const bool at_blank = blank != text.npos && blank > (lines.empty() ? indent : 0);
    const std::size_t end = at_blank ? blank : break_within(text.substr(0, room));
    std::string_view line = text.substr(0, end);
    line = line.substr(0, line.find_last_not_of(' ') + 1);
    lines.push_back(margin + std::string(line));
    text.remove_prefix(std::min(text.size(), text.find_first_not_of(' ', end)));
    margin.assign(indent, ' ');
  }
  if (!text.empty() || lines.empty()) lines.push_back(margin + std::string(text));
  return lines;
}

std::string filled(std::string_view text, std::size_t width) {
  std::string out, prose;
  const auto flush = [&] {
    if (prose.empty()) return;
    for (const std::string& line : wrapped(prose, width)) out += line + "\n";
    prose.clear();
  };
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t gap = line.rfind("  ");
    if (line.empty() || line.front() == ' ' || gap != line.npos) {
      flush();
      const std::size_t column = gap == line.npos ? 1 : gap + 2;
      for (const std::string& part : wrapped(line, width, column + 24 <= width ? column : 0)) out += part + "\n";
      continue;
    }
    (prose += prose.empty() ? "" : " ").append(line);
    if (std::string_view(".:").find(line.back()) != std::string_view::npos) flush();
  }
  flush();
  return out;
}

}  // namespace norma
