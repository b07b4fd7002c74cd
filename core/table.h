// Tables of text that fit the terminal.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace norma {

struct Table {
  struct Column {
    std::size_t least = 0;  // its width, where there is room
    bool words = false;     // texts, to the left, which may be broken into lines; else numbers, to the right
    std::size_t gap = 3;    // blanks before it, but before the first
  };
  std::vector<Column> columns;
  std::vector<std::vector<std::string>> rows;  // the first is the heading; where one is short the rest is empty
};

/// Whether its lines, as they are, are at most that wide; and whether they are with words in narrower columns.
bool fits(const Table& table, std::size_t width);
bool fits_in_rows(const Table& table, std::size_t width);

/// As it is where it fits. Else its words, if that is enough, in narrower columns. Else turned: each row is a column, as many side by side as
/// there is room for, and the others below, under headings of their own.
std::string shown(const Table& table, std::size_t width);

}  // namespace norma
