// Many tensors for one launch: a table of them among its arguments, so that a captured launch needs nothing else. Tensors are cut into pieces of a
// fixed size; a block does one of them.
#pragma once

#include <cstdint>

#include "backends/common/functors.h"

namespace norma::cuda {

/// Row has `n` elements and `first_piece`. As many rows as a launch's 4 KiB of arguments hold. Pieces are numbered through, row by row.
template <class Row, int rows, std::int64_t piece>
struct Table {
  static constexpr int capacity = rows;
  std::int32_t count = 0;
  std::uint32_t pieces = 0;
  Row row[rows];

  static constexpr std::uint32_t pieces_of(std::int64_t n) { return static_cast<std::uint32_t>((n + piece - 1) / piece); }
  void add(Row r) {
    r.first_piece = pieces;
    pieces += pieces_of(r.n);
    row[count++] = r;
  }
};

/// The table's row that piece `number` is of; [begin, end) of its elements.
template <class Row, int rows, std::int64_t piece>
NORMA_HD int row_of(const Table<Row, rows, piece>& table, std::uint32_t number, std::int64_t& begin, std::int64_t& end) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.row[middle].first_piece <= number ? low : high) = middle;
  }
  begin = std::int64_t{number - table.row[low].first_piece} * piece;
  end = begin + piece < table.row[low].n ? begin + piece : table.row[low].n;
  return low;
}

}  // namespace norma::cuda
