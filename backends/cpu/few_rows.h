// Products of few rows, which use what is packed of B but a few times: each task packs its own columns of B, or all of a narrow one. Packed by
// one core and read by another, B would take longer than the product, twice as long where the cores lie on different dies (docs/performance-notes.md).
#pragma once

#include <algorithm>
#include <cstdint>

#include "backends/cpu/cut_product.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {

/// Whether A[m, k], of elements of `size` bytes, is small enough to be read by every task.
inline bool few_rows(std::int64_t m, std::int64_t k, std::int64_t size) { return m <= 512 && m * k * size <= std::int64_t{1} << 20; }

/// Into how many pieces C[m, n] is cut, by rows and columns, where micro-tiles have mr rows and panels nr columns. The sums over k, and with them the
/// bits, are the same however it is cut.
struct FewRows {
  std::int64_t rows = 1, columns = 1;
  FewRows(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t mr, std::int64_t nr, std::int64_t workers = threads()) {
    const std::int64_t panels = ceil_div(n, nr), most = std::max<std::int64_t>(1, m * n * k >> 18);  // a task is worth some microseconds
    if (panels >= 4) columns = std::min(panels, most);
    if (m >= 256 && panels < 16 && n % (2 * nr) != 0) rows = 2;  // uneven shares are halved
    while (rows * columns < std::min<std::int64_t>(workers, most) && m >= 4 * mr * rows) rows *= 2;
  }
};

}  // namespace norma::cpu
