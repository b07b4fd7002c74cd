// What the passes over an MLP at once share, on tiles (mlp.cpp) and by multiply-adds (mlp_fma.cpp): operands as dense rows, rows in
// blocks and slices, and sums over rows.
#pragma once

#include <algorithm>

#include "backends/common/views.h"
#include "backends/cpu/cut_product.h"
#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {

template <class T>
constexpr DType stored_dtype = sizeof(T) == sizeof(float) ? DType::f32 : DType::bf16;
template <class T>
Rows<T> rows_of(const View& x, Index row) {
  if (!x) return {};
  const MatrixRows r = *as_dense_rows(x);
  return {x.as<T>() + row * r.row, r.row};
}
inline Matrix<const float> matrix(const View& x) { return {x.as<float>(), as_dense_rows(x)->row, 1}; }
inline Matrix<const float> transposed(const View& x) { return {x.as<float>(), 1, as_dense_rows(x)->row}; }

/// Sums over rows of weights' gradients [lines, columns] and their biases', one after the other: a slice of rows has its own, and all are added
/// up in order.
class MlpSums {
 public:
  struct Place {
    Index offset, row;
  };
  Place matrix(Index lines, Index columns) {
    const Index ld = round_up(columns, whole) + whole / 2;  // an odd number of cache lines
    return {grow(round_up(lines, whole) * ld), ld};
  }
  Index vector(Index n) { return grow(round_up(n, whole)); }

  /// As many slices as rows and memory allow, even shares for 2, 4 and 8 threads; these alone decide the order of sums.
  void allocate(Index rows) {
    const Index bytes = size_ * static_cast<Index>(sizeof(float));
    slices_ = rows < 768 ? 2 : rows < 1536 || most < 8 * bytes ? 4 : 8;
    data_ = scratch<float>(Slot::mlp_sums, slices_ * size_);
  }
  Index slices() const { return slices_; }
  float* at(Index slice, Index offset) const { return data_ + slice * size_ + offset; }
  /// Elements [begin, end) of a vector, the first of them a multiple of 32.
  void clear(Index slice, Index vector, Index begin, Index end) const { std::fill(at(slice, vector) + begin, at(slice, vector) + round_up(end, whole), 0.0f); }

  void give(Place from, Index lines, Index columns, const View& to) const {
    const Rows<float> rows = rows_of<float>(to, 0);
    parallel_for(lines, std::max<Index>(1, task_elements / columns), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) combine(columns, from.offset + i * from.row, rows.data + i * rows.row);
    });
  }
  /// The transpose.
  void give_transposed(Place from, Index lines, Index columns, const View& to) const {
    const Rows<float> rows = rows_of<float>(to, 0);
    const auto transpose = NORMA_KERNELS(copy_kernels).transpose32;
    const auto bits = [](float* p) { return reinterpret_cast<std::uint32_t*>(p); };
    parallel_for(columns, whole, [&](Index begin, Index end) {
      const Index n = end - begin;
      float* some = scratch<float>(Slot::mlp_columns, lines * n);
      for (Index i = 0; i < lines; ++i) combine(n, from.offset + i * from.row + begin, some + i * n);
      transpose(lines, n, bits(some), n, bits(rows.data + begin * rows.row), rows.row);
    });
  }
  void give(Index from, Index n, const View& to) const {
    if (to) combine(n, from, to.as<float>());
  }

 private:
  static constexpr Index whole = 32;          // tiles are written whole
  static constexpr Index most = 16 << 20;  // bytes that all slices may take
  Index grow(Index count) {
    const Index offset = size_;
    size_ += count;
    return offset;
  }
  void combine(Index n, Index offset, float* to) const { NORMA_KERNELS(gemm_kernels).f32.combine(slices_, n, data_ + offset, size_, to); }

  Index size_ = 0, slices_ = 1;
  float* data_ = nullptr;
};

/// How rows and hidden elements are cut in the backward pass.
struct MlpCut {
  Index rows, most, unit;  // rows of a block at most; blocks are cut at multiples of `unit`
  Index least;             // of the gradient of X, whose rows are sums of their own, at multiples of this
  Index hidden, chunk;     // hidden elements that are computed at a time
};
/// Of a block of rows, what is computed: the gradients of weights for hidden elements [h0, h1), as part of a slice, of which it is the `first` block
/// or a later one; the gradient of X.
struct MlpShare {
  Index from, count;
  Index slice;
  bool first;
  Index h0, h1;
  bool dw, dx;
};

/// body(share) for the blocks of each slice in turn, slices side by side. More threads than slices share these by hidden elements, and compute the
/// gradient of X, which is a sum over them, by itself, in as many blocks of rows as are even shares: a quarter more to compute, and the same bits.
template <class Body>
void each_share(const MlpSums& sums, const MlpCut& c, bool dx, Body&& body) {
  const Index slices = sums.slices(), parts = std::min(ceil_div(c.hidden, c.chunk), ceil_div(threads(), slices));
  const auto begin = [&](Index slice) { return cut(c.rows, c.unit, slices, slice); };
  const auto block = [&](Index slice, Index unit, Index blocks, Index i) {
    const Index rows = begin(slice + 1) - begin(slice), from = cut(rows, unit, blocks, i);
    return MlpShare{begin(slice) + from, cut(rows, unit, blocks, i + 1) - from, slice, i == 0, 0, c.hidden, true, dx};
  };
  const auto in_turn = [&](Index slice, auto&& each) {
    const Index blocks = ceil_div(begin(slice + 1) - begin(slice), c.most);
    for (Index i = 0; i < blocks; ++i) each(block(slice, c.unit, blocks, i));
  };
  if (parts == 1) return parallel_tasks(slices, [&](Index slice) { in_turn(slice, body); });
  const Index rows = round_up(ceil_div(c.rows, slices), c.unit), fewest = ceil_div(rows, c.most);
  const Index of_weights = slices * parts, blocks = dx ? std::clamp(ceil_div(round_up(slices * fewest, threads()), slices), fewest, rows / c.least) : 0;
  parallel_tasks(of_weights + slices * blocks, [&](Index task) {
    if (task < of_weights) {
      const Index part = task % parts;
      return in_turn(task / parts, [&](MlpShare share) {
        share.h0 = cut(c.hidden, c.chunk, parts, part), share.h1 = cut(c.hidden, c.chunk, parts, part + 1), share.dx = false;
        body(share);
      });
    }
    MlpShare share = block((task - of_weights) / blocks, c.least, blocks, (task - of_weights) % blocks);
    share.dw = false;
    if (share.count > 0) body(share);
  });
}

/// As many blocks of at most `most` rows as are even shares for 2 threads, for 4 and 8 where they are many, and for any other number of threads as
/// long as each block has `least` rows.
inline Index even_blocks(Index rows, Index most, Index least) {
  const Index blocks = ceil_div(rows, most), even = round_up(blocks, blocks > 8 ? 8 : 2);
  return std::max(even, std::min(round_up(blocks, threads()), rows / least));
}

}  // namespace norma::cpu
