// The f32 kernels on a few rows at a time, which are widened into the first cache and rounded out of it.
#include "backends/cpu/norm_bf16.h"

#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/norm_rows.h"

namespace norma::cpu {
namespace {

/// Rows of n floats that a piece of this many operands takes: half of the first cache.
Index piece_rows(Index n, Index operands) { return std::max<Index>(1, 4096 / std::max<Index>(1, n * operands)); }

/// body(first, count, buffer) over rows in pieces; the buffer holds `operands` times piece_rows(n, operands) rows.
template <class Body>
void pieces(Index begin, Index end, Index n, Index operands, Body&& body) {
  const Index most = piece_rows(n, operands);
  float* buffer = scratch<float>(Slot::norm_wide, std::max<Index>(1, operands * most * n));
  for (Index i = begin; i < end; i += most) body(i, std::min(most, end - i), buffer);
}

const bf16* row(const View& x, const MatrixRows& rows, Index i) { return x.as<bf16>() + i * rows.row; }
bf16* row_out(const View& x, const MatrixRows& rows, Index i) { return x.as<bf16>() + i * rows.row; }

}  // namespace

void softmax_bf16(const View& x, const MatrixRows& from, const View& y, const MatrixRows& to, bool log) {
  const Index n = from.columns;
  parallel_for(from.rows, rows_per_task(n), [&](Index begin, Index end) {
    pieces(begin, end, n, 1, [&](Index i, Index count, float* wide) {
      widen_rows(count, n, row(x, from, i), from.row, wide);
      NORMA_KERNELS(norm_kernels).f32.softmax(count, n, wide, n, wide, n, log);
      narrow_rows(count, n, wide, row_out(y, to, i), to.row);
    });
  });
}

void softmax_backward_bf16(const View& y, const MatrixRows& value, const View& dy, const MatrixRows& from, const View& dx, const MatrixRows& to,
                           bool log) {
  const Index n = value.columns;
  parallel_for(value.rows, rows_per_task(n), [&](Index begin, Index end) {
    pieces(begin, end, n, 2, [&](Index i, Index count, float* wide) {
      float* gradient = wide + count * n;
      widen_rows(count, n, row(y, value, i), value.row, wide);
      widen_rows(count, n, row(dy, from, i), from.row, gradient);
      NORMA_KERNELS(norm_kernels).f32.softmax_backward(count, n, wide, n, gradient, n, gradient, n, log);
      narrow_rows(count, n, gradient, row_out(dx, to, i), to.row);
    });
  });
}

}  // namespace norma::cpu
