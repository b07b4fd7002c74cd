#include "core/table.h"

#include <algorithm>

#include "core/terminal.h"

namespace norma {
namespace {

constexpr std::size_t narrowest_words = 16, widest_heading = 20;

using Lines = std::vector<std::string>;

std::string cell(const Table& table, std::size_t row, std::size_t column) {
  return column < table.rows[row].size() ? table.rows[row][column] : std::string();
}

std::size_t width_of(const Lines& lines) {
  std::size_t width = 0;
  for (const std::string& line : lines) width = std::max(width, columns(line));
  return width;
}

std::vector<std::size_t> natural_widths(const Table& table) {
  std::vector<std::size_t> widths(table.columns.size());
  for (std::size_t r = 0; r < table.rows.size(); ++r)
    for (std::size_t c = 0; c < widths.size(); ++c) widths[c] = std::max(widths[c], columns(cell(table, r, c)));
  return widths;
}

std::size_t total(const Table& table, const std::vector<std::size_t>& widths) {
  std::size_t sum = 0;
  for (std::size_t c = 0; c < widths.size(); ++c) sum += widths[c] + (c > 0 ? table.columns[c].gap : 0);
  return sum;
}

std::vector<std::size_t> wide(const Table& table) {
  std::vector<std::size_t> widths = natural_widths(table);
  for (std::size_t c = 0; c < widths.size(); ++c) widths[c] = std::max(widths[c], table.columns[c].least);
  return widths;
}

/// Takes from the widest column of words until all fits; false where that is not enough.
bool narrow(const Table& table, std::size_t width, std::vector<std::size_t>& widths) {
  widths = natural_widths(table);
  for (std::size_t sum = total(table, widths); sum > width; sum = total(table, widths)) {
    std::size_t* widest = nullptr;
    for (std::size_t c = 0; c < widths.size(); ++c)
      if (table.columns[c].words && (!widest || widths[c] > *widest)) widest = &widths[c];
    if (!widest || *widest <= narrowest_words) return false;
    --*widest;
  }
  return true;
}

/// A row of cells of several lines each.
void add_row(std::string& out, const std::vector<Lines>& cells, const std::vector<Table::Column>& columns_of,
             const std::vector<std::size_t>& widths) {
  std::size_t height = 1;
  for (const Lines& lines : cells) height = std::max(height, lines.size());
  for (std::size_t h = 0; h < height; ++h) {
    std::string line;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      const std::string text = h < cells[c].size() ? cells[c][h] : "";
      const std::string rest(widths[c] - std::min(widths[c], columns(text)), ' ');
      line += std::string(c > 0 ? columns_of[c].gap : 0, ' ') + (columns_of[c].words ? text + rest : rest + text);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
}

std::string in_rows(const Table& table, const std::vector<std::size_t>& widths) {
  std::string out;
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    std::vector<Lines> cells;
    for (std::size_t c = 0; c < widths.size(); ++c) cells.push_back(wrapped(cell(table, r, c), widths[c]));
    add_row(out, cells, table.columns, widths);
  }
  return out;
}

std::string turned(const Table& table, std::size_t width) {
  const std::size_t count = table.rows.size() - 1;
  std::size_t label = 0, most = 0, numbers = widest_heading;
  const std::vector<std::size_t> natural = natural_widths(table);
  for (std::size_t c = 0; c < natural.size(); ++c) {
    label = std::max(label, columns(cell(table, 0, c)));
    if (!table.columns[c].words) numbers = std::max(numbers, natural[c]);
  }
  std::vector<std::vector<Lines>> cells(count);  // of the rows but the heading
  std::vector<std::size_t> widths(count);
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t c = 0; c < natural.size(); ++c) {
      cells[r].push_back(wrapped(cell(table, r + 1, c), numbers));
      widths[r] = std::max(widths[r], width_of(cells[r].back()));
    }
    most = std::max(most, widths[r]);
  }
  const std::size_t gap = Table::Column{}.gap;
  const std::size_t room = std::max<std::size_t>(1, (width - std::min(width, label)) / (gap + most));
  const std::size_t parts = (count + room - 1) / room, together = (count + parts - 1) / parts;
  std::string out;
  for (std::size_t first = 0; first < count; first += together) {
    if (first > 0) out += "\n";
    const std::size_t end = std::min(count, first + together);
    std::vector<Table::Column> columns_of = {{.words = true}};
    columns_of.resize(1 + end - first);
    std::vector<std::size_t> all = {label};
    all.insert(all.end(), widths.begin() + static_cast<std::ptrdiff_t>(first),
               widths.begin() + static_cast<std::ptrdiff_t>(end));
    for (std::size_t c = 0; c < natural.size(); ++c) {
      std::vector<Lines> row = {{cell(table, 0, c)}};
      for (std::size_t r = first; r < end; ++r) row.push_back(cells[r][c]);
      add_row(out, row, columns_of, all);
    }
  }
  return out;
}

}  // namespace

bool fits(const Table& table, std::size_t width) { return total(table, wide(table)) <= width; }

bool fits_in_rows(const Table& table, std::size_t width) {
  std::vector<std::size_t> widths;
  return narrow(table, width, widths);
}

std::string shown(const Table& table, std::size_t width) {
  std::vector<std::size_t> widths;
  if (fits(table, width)) return in_rows(table, wide(table));
  if (narrow(table, width, widths)) return in_rows(table, widths);
  return table.rows.size() > 1 ? turned(table, width) : in_rows(table, natural_widths(table));
}

}  // namespace norma
