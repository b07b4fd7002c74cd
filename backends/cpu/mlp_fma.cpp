// An MLP in one pass over blocks of rows by the products of gemm_kernels.h. Hidden activations exist for a block's rows and a chunk of
// hidden elements at a time, in the second-level cache: the product that makes them takes them through GELU on its way out, and those that
// follow read them from there, by rows or by columns.
#include "backends/cpu/mlp_fma.h"

#include "backends/cpu/gemm.h"
#include "backends/cpu/mlp_rows.h"

namespace norma::cpu {
namespace {

constexpr Index unit = 48, least = 24;                     // multiples of the rows and columns, and of the rows, of all micro-tiles
constexpr Index longest_block = 144, longest_chunk = 192;  // rows; hidden elements that are computed at a time

using Table = GemmTable<float>;

/// The micro-tiles of multiply-adds, if they are wide enough for what a block costs beside its products.
const Table* table() {
  const Table& t = NORMA_KERNELS(gemm_kernels).f32;
  return t.nr >= 16 ? &t : nullptr;
}

struct Widths {
  Index rows, in, hidden, out;
  /// `most`: of in and out together, so that a block and its panels stay in the second-level cache.
  bool worth_it(Index most) const {
    return in + out <= most && hidden <= 8 * std::max(in, out) && rows >= 256 && std::min({in, hidden, out}) >= 32;
  }
  Index chunk() const { return std::min(round_up(hidden, unit), longest_chunk); }
};
Widths widths(const View& x, const View& w1, const View& w2) { return {as_rows(x)->rows, w1.shape()[1], w1.shape()[0], w2.shape()[0]}; }

/// Between rows of a block: an odd number of cache lines.
Index apart(Index n) { return round_up(n, 32) + 16; }

/// A packed weight [k, n], in pieces of k.
class Weight {
 public:
  Weight(const Table& t, Index k, Index n, Index piece) : t_(t), k_(k), n_(round_up(n, t.nr)), columns_(n), piece_(piece) {}
  Index size() const { return k_ * n_; }
  float* pack(Matrix<const float> weight, float* to) {
    panels_ = to;
    const Index panels = n_ / t_.nr, pieces = ceil_div(k_, piece_);
    parallel_tasks(pieces * panels, [&](Index i) {
      const Index p = i / panels * piece_, j = i % panels * t_.nr, depth = std::min(piece_, k_ - p);
      t_.pack_b(depth, std::min(t_.nr, columns_ - j), {weight.data + p * weight.row + j * weight.col, weight.row, weight.col}, false,
                to + p * n_ + j * depth);
    });
    return to + size();
  }
  /// From element p of k, the first of a piece, and column j, the first of a panel.
  Panels<float> at(Index p, Index j) const {
    const Index depth = std::min(piece_, k_ - p);
    return t_.packed_panels(panels_ + p * n_ + j * depth, depth);
  }

 private:
  const Table& t_;
  Index k_, n_, columns_, piece_;
  const float* panels_ = nullptr;
};

Tiles<float> by_rows(const Table& t, const float* x, Index row) { return {x, t.mr * row, row, 1}; }
/// The transpose of rows that lie `row` apart.
Tiles<float> by_columns(const Table& t, const float* x, Index row) { return {x, t.mr, 1, row}; }

}  // namespace

bool mlp_by_multiply_adds(const Mlp& a) {
  if (!all_dense_rows(DType::f32, a.x, a.y, a.residual, a.pre, a.w1, a.w2, a.b1, a.b2)) return false;
  const Widths w = widths(a.x, a.w1, a.w2);
  if (!table() || !w.worth_it(512)) return false;
  const Table& t = *table();
  const Index chunk = w.chunk(), ld = apart(chunk);
  Weight w1(t, w.in, w.hidden, w.in), w2(t, w.hidden, w.out, chunk);
  w2.pack(transposed(a.w2), w1.pack(transposed(a.w1), scratch<float>(Slot::mlp_weights, w1.size() + w2.size())));
  const Index blocks = even_blocks(w.rows, longest_block, least);
  parallel_tasks(blocks, [&](Index i) {
    const Index from = cut(w.rows, least, blocks, i), count = cut(w.rows, least, blocks, i + 1) - from;
    if (count == 0) return;
    const Rows<const float> x = rows_of<const float>(a.x, from), residual = rows_of<const float>(a.residual, from);
    const Rows<float> y = rows_of<float>(a.y, from), pre = rows_of<float>(a.pre, from);
    float* hidden = scratch<float>(Slot::mlp_work, count * ld);
    for (Index h = 0; h < w.hidden; h += chunk) {
      const Index width = std::min(chunk, w.hidden - h);
      const bool last = h + width == w.hidden;
      Epilogue<float> first, second;
      first.gelu = true, first.ld = pre.row;
      if (a.b1) first.bias = a.b1.as<float>() + h;
      if (a.pre) first.pre = pre.data + h;
      second.bias = a.b2.as<float>(), second.residual = residual.data, second.ld = residual.row;
      t.block(count, width, w.in, by_rows(t, x.data, x.row), w1.at(0, h), hidden, ld, false, &first, {});
      t.block(count, w.out, width, by_rows(t, hidden, ld), w2.at(h, 0), y.data, y.row, h > 0, last ? &second : nullptr, {});
    }
  });
  return true;
}

bool mlp_by_multiply_adds(const MlpBackward& a) {
  if (!all_dense_rows(DType::f32, a.dy, a.x, a.pre, a.dx, a.w1, a.w2, a.dw1, a.db1, a.dw2, a.db2)) return false;
  const Widths w = widths(a.x, a.w1, a.w2);
  if (!table() || !w.worth_it(384)) return false;
  const Table& t = *table();
  const Index chunk = w.chunk(), ld = apart(chunk);
  Weight w1(t, w.hidden, w.in, chunk), w2(t, w.out, w.hidden, w.out);
  w2.pack(matrix(a.w2), w1.pack(matrix(a.w1), scratch<float>(Slot::mlp_weights, w1.size() + w2.size())));
  MlpSums sums;
  const MlpSums::Place dw1 = sums.matrix(w.hidden, w.in), dw2t = sums.matrix(w.hidden, w.out);
  const Index db1 = sums.vector(w.hidden), db2 = sums.vector(w.out);
  sums.allocate(w.rows);
  const auto panels = [&](Index n) { return round_up(n, t.nr) * longest_block; };
  each_share(sums, {w.rows, longest_block, unit, least, w.hidden, chunk}, a.dx.data, [&](const MlpShare& share) {
    const Index slice = share.slice, from = share.from, count = share.count;
    if (share.dw && share.first) sums.clear(slice, db1, share.h0, share.h1), sums.clear(slice, db2, 0, share.h0 == 0 ? w.out : 0);
    const Rows<const float> dy = rows_of<const float>(a.dy, from), x = rows_of<const float>(a.x, from), pre = rows_of<const float>(a.pre, from);
    const Rows<float> dx = rows_of<float>(a.dx, from);
    float* packed_x = scratch<float>(Slot::mlp_work, panels(w.in) + panels(w.out) + 2 * longest_block * ld);
    float *packed_dy = packed_x + panels(w.in), *dpre = packed_dy + panels(w.out), *hidden = dpre + longest_block * ld;
    if (share.dw) t.pack_b(count, w.in, {x.data, x.row, 1}, false, packed_x), t.pack_b(count, w.out, {dy.data, dy.row, 1}, false, packed_dy);
    const Panels<float> x_panels = t.packed_panels(packed_x, count), dy_panels = t.packed_panels(packed_dy, count);
    if (a.db2 && share.dw && share.h0 == 0) t.add_rows(count, w.out, dy.data, dy.row, sums.at(slice, db2));
    for (Index h = share.h0; h < share.h1; h += chunk) {
      const Index width = std::min(chunk, share.h1 - h);
      Epilogue<float> slope;
      slope.gelu_pre = pre.data + h, slope.ld = pre.row, slope.gelu_of_pre = hidden, slope.ld_of_gelu = ld;
      t.block(count, width, w.out, by_rows(t, dy.data, dy.row), w2.at(0, h), dpre, ld, false, &slope, {});
      if (share.dx) t.block(count, w.in, width, by_rows(t, dpre, ld), w1.at(h, 0), dx.data, dx.row, h > 0, nullptr, {});
      if (!share.dw) continue;
      t.block(width, w.in, count, by_columns(t, dpre, ld), x_panels, sums.at(slice, dw1.offset) + h * dw1.row, dw1.row, !share.first, nullptr, {});
      t.block(width, w.out, count, by_columns(t, hidden, ld), dy_panels, sums.at(slice, dw2t.offset) + h * dw2t.row, dw2t.row, !share.first, nullptr, {});
      if (a.db1) t.add_rows(count, width, dpre, ld, sums.at(slice, db1) + h);
    }
  });
  sums.give(dw1, w.hidden, w.in, a.dw1);
  sums.give_transposed(dw2t, w.hidden, w.out, a.dw2);
  sums.give(db1, w.hidden, a.db1);
  sums.give(db2, w.out, a.db2);
  return true;
}

}  // namespace norma::cpu
