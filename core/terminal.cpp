#include "core/terminal.h"

#include <sys/ioctl.h>

#include <algorithm>

namespace norma {
namespace {

bool begins_character(char c) { return (c & 0xc0) != 0x80; }

/// The bytes of the first `count` characters of a text that has more.
std::size_t bytes_of(std::string_view text, std::size_t count) {
  std::size_t at = 0;
  for (std::size_t seen = 0; at < text.size(); ++at)
    if (begins_character(text[at]) && seen++ == count) break;
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
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins_character));
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
