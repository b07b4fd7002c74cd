// An MLP in one pass over blocks of rows, whose hidden activations stay in the second-level cache: of all that is wide only the
// pre-activation goes to memory, for the backward pass. The arithmetic is in kernels/bf16/mlp.cpp.
#include <algorithm>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/matrix_rows.h"
#include "backends/cpu/mlp_kernels.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

// Of scratch(): the first two belong to the caller while its tasks run, the others to each task.
enum Slot { slot_weights, slot_sums, slot_work, slot_columns };

constexpr Index unit = 32;
constexpr Index cache = 1400 * 1024;    // bytes of the second-level cache that a block may fill
constexpr Index sums_bytes = 16 << 20;  // that all slices' sums may take

Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }
Index round_up(Index a) { return ceil_div(a, unit) * unit; }
/// Piece `i` of `count` of [0, size), cut at multiples of 32.
Index cut(Index size, Index count, Index i) { return std::min(size, ceil_div(size, unit) * i / count * unit); }

template <class T>
const MlpTable<T>* table() {
  const MlpKernels* kernels = gemm_provider() == GemmProvider::own ? NORMA_BF16_KERNELS(mlp_kernels) : nullptr;
  if (!kernels) return nullptr;
  if constexpr (sizeof(T) == sizeof(float))
    return &kernels->f32;
  else
    return bf16_form() == Bf16Form::tiles ? &kernels->bf16 : nullptr;
}

/// Hidden elements that are computed at a time: at most `most`, fewer where their weights would fill the cache.
Index chunk_of(Index in, Index hidden, Index out, Index most) {
  return std::min(round_up(hidden), std::clamp<Index>(2 * 36864 / (in + out) / unit * unit, unit, most));
}

/// Whether one pass is better than two layers: where these are wide, too few rows fit beside their weights; where they are narrow or few, tiles
/// are not filled; and each slice of rows has its own sums of the weights' gradients.
template <class T>
bool worth_it(Index rows, Index in, Index hidden, Index out) {
  const bool fits = (in + out) * static_cast<Index>(sizeof(T)) <= 2048 && hidden <= 8 * std::max(in, out);
  return fits && rows >= 8 * unit && std::min({in, hidden, out}) >= unit;
}

/// With as many rows as the cache holds beside the weights of a chunk.
MlpSizes fitted(MlpSizes s, Index (*work)(const MlpSizes&), Index weight_bytes) {
  while (s.rows > 3 * unit && work(s) + weight_bytes > cache) s.rows -= unit;
  return s;
}

/// Packs weight [k, n]; gives where the next one begins.
template <class T>
Word* pack(const MlpTable<T>& t, Index k, Index n, Matrix<const float> weight, Word* panels) {
  const Index group = std::max<Index>(1, 32768 / (k * unit));
  parallel_for(ceil_div(n, unit), group, [&](Index from, Index to) {
    const Index j = from * unit;
    t.pack(k, std::min(n, to * unit) - j, {weight.data + j * weight.col, weight.row, weight.col}, panels + j * t.packed(k));
  });
  return panels + t.packed(k) * round_up(n);
}

template <class T>
constexpr DType dtype_of = sizeof(T) == sizeof(float) ? DType::f32 : DType::bf16;
bool dense(DType dtype, std::initializer_list<const View*> views) {
  return std::all_of(views.begin(), views.end(), [&](const View* x) { return !x || (x->dtype == dtype && as_dense_rows(*x)); });
}
template <class T>
Rows<T> rows_of(const View* x, Index row) {
  if (!x) return {};
  const MatrixRows r = *as_dense_rows(*x);
  return {static_cast<T*>(x->data) + row * r.row, r.row};
}
Matrix<const float> matrix(const View& x) { return {x.as<float>(), as_dense_rows(x)->row, 1}; }
Matrix<const float> transposed(const View& x) { return {x.as<float>(), 1, as_dense_rows(x)->row}; }
float* vector(const View* x) { return x ? x->as<float>() : nullptr; }

/// Sums over rows of weights' gradients [lines, columns] and their biases', one after the other: a slice of rows has its own, and all are added
/// up in order.
class Sums {
 public:
  struct Place {
    Index offset, row;
  };
  Place matrix(Index lines, Index columns) {
    const Index ld = round_up(columns) + unit / 2;  // an odd number of cache lines
    return {grow(round_up(lines) * ld), ld};
  }
  Index vector(Index n) { return grow(round_up(n)); }

  /// As many slices as rows and memory allow; these alone decide the order of sums.
  void allocate(Index rows) {
    const Index bytes = size_ * static_cast<Index>(sizeof(float));
    slices_ = std::clamp<Index>(std::min(rows / 256, std::max<Index>(4, sums_bytes / bytes)), 1, 8);
    data_ = scratch<float>(slot_sums, slices_ * size_);
  }
  Index slices() const { return slices_; }
  float* at(Index slice, Index offset) const { return data_ + slice * size_ + offset; }
  void clear(Index slice, Index offset, Index n) const { std::fill_n(at(slice, offset), round_up(n), 0.0f); }

  void give(Place from, Index lines, Index columns, const View& to) const {
    const Rows<float> rows = rows_of<float>(&to, 0);
    parallel_for(lines, std::max<Index>(1, 16384 / columns), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) combine(columns, from.offset + i * from.row, rows.data + i * rows.row);
    });
  }
  /// The transpose.
  void give_transposed(Place from, Index lines, Index columns, const View& to) const {
    const Rows<float> rows = rows_of<float>(&to, 0);
    const auto transpose = NORMA_KERNELS(copy_kernels).transpose32;
    const auto bits = [](float* p) { return reinterpret_cast<std::uint32_t*>(p); };
    parallel_for(columns, 2 * unit, [&](Index begin, Index end) {
      const Index n = end - begin;
      float* some = scratch<float>(slot_columns, lines * n);
      for (Index i = 0; i < lines; ++i) combine(n, from.offset + i * from.row + begin, some + i * n);
      transpose(lines, n, bits(some), n, bits(rows.data + begin * rows.row), rows.row);
    });
  }
  void give(Index from, Index n, const View* to) const {
    if (to) combine(n, from, to->as<float>());
  }

 private:
  Index grow(Index count) {
    const Index offset = size_;
    size_ += count;
    return offset;
  }
  void combine(Index n, Index offset, float* to) const { NORMA_KERNELS(gemm_kernels).f32.combine(slices_, n, data_ + offset, size_, to); }

  Index size_ = 0, slices_ = 1;
  float* data_ = nullptr;
};

/// body(slice, from, count, first): the blocks of at most `most` rows of each slice in turn, slices side by side.
template <class Body>
void each_block(const Sums& sums, Index rows, Index most, Body&& body) {
  parallel_tasks(sums.slices(), [&](Index slice) {
    const Index begin = cut(rows, sums.slices(), slice), count = cut(rows, sums.slices(), slice + 1) - begin, blocks = ceil_div(count, most);
    for (Index i = 0; i < blocks; ++i) {
      const Index from = cut(count, blocks, i);
      body(slice, begin + from, cut(count, blocks, i + 1) - from, i == 0);
    }
  });
}

template <class T>
bool run(const Mlp& a) {
  const MlpTable<T>* t = table<T>();
  if (!t || !dense(dtype_of<T>, {&a.x, &a.y, a.residual, a.pre}) || !dense(DType::f32, {&a.w1, &a.w2, a.b1, a.b2})) return false;
  const Index rows = as_rows(a.x)->rows, in = a.w1.shape()[1], hidden = a.w1.shape()[0], out = a.w2.shape()[0];
  if (!worth_it<T>(rows, in, hidden, out)) return false;
  const Index chunk = chunk_of(in, hidden, out, 192);
  const MlpSizes sizes = fitted({192, in, hidden, out, chunk}, t->mlp_work, t->packed(in + out) * chunk * 4);
  Word* w1 = scratch<Word>(slot_weights, t->packed(in) * round_up(hidden) + t->packed(hidden) * round_up(out));
  Word* w2 = pack(*t, in, hidden, transposed(a.w1), w1);
  pack(*t, hidden, out, transposed(a.w2), w2);
  Index blocks = ceil_div(rows, sizes.rows);
  if (blocks > 8) blocks = ceil_div(blocks, 8) * 8;  // even shares for 2, 4 and 8 threads
  parallel_tasks(blocks, [&](Index i) {
    const Index from = cut(rows, blocks, i), count = cut(rows, blocks, i + 1) - from;
    if (count == 0) return;
    MlpBlock<T> b{};
    b.sizes = sizes, b.sizes.rows = count;
    b.x = rows_of<const T>(&a.x, from), b.residual = rows_of<const T>(a.residual, from);
    b.pre = rows_of<T>(a.pre, from), b.y = rows_of<T>(&a.y, from);
    b.w1 = w1, b.w2 = w2, b.b1 = vector(a.b1), b.b2 = vector(a.b2);
    b.work = scratch(slot_work, static_cast<std::size_t>(t->mlp_work(b.sizes)));
    t->mlp(b);
  });
  return true;
}

template <class T>
bool run(const MlpBackward& a) {
  const MlpTable<T>* t = table<T>();
  if (!t || !dense(dtype_of<T>, {&a.dy, &a.x, &a.pre, a.dx}) || !dense(DType::f32, {&a.w1, &a.w2, &a.dw1, a.db1, &a.dw2, a.db2})) return false;
  const Index rows = as_rows(a.x)->rows, in = a.w1.shape()[1], hidden = a.w1.shape()[0], out = a.w2.shape()[0];
  if (!worth_it<T>(rows, in, hidden, out)) return false;
  constexpr bool bf16 = sizeof(T) == sizeof(Bf16Bits);
  const Index chunk = chunk_of(in, hidden, out, bf16 ? 128 : 96);
  const MlpSizes sizes = fitted({192, in, hidden, out, chunk}, t->mlp_backward_work, t->packed(in + out) * chunk * 4);
  Word* w1 = scratch<Word>(slot_weights, t->packed(hidden) * round_up(in) + t->packed(out) * round_up(hidden));
  Word* w2 = pack(*t, hidden, in, matrix(a.w1), w1);
  pack(*t, out, hidden, matrix(a.w2), w2);
  Sums sums;
  const Sums::Place dw1 = sums.matrix(in, hidden), dw2 = sums.matrix(out, hidden);
  const Index db1 = sums.vector(hidden), db2 = sums.vector(out);
  sums.allocate(rows);
  each_block(sums, rows, sizes.rows, [&](Index slice, Index from, Index count, bool first) {
    if (first) sums.clear(slice, db1, hidden), sums.clear(slice, db2, out);
    MlpBackwardBlock<T> b{};
    b.sizes = sizes, b.sizes.rows = count;
    b.dy = rows_of<const T>(&a.dy, from), b.x = rows_of<const T>(&a.x, from), b.pre = rows_of<const T>(&a.pre, from);
    b.dx = rows_of<T>(a.dx, from), b.w1 = w1, b.w2 = w2;
    b.add = !first, b.dw1t = {sums.at(slice, dw1.offset), dw1.row}, b.dw2 = {sums.at(slice, dw2.offset), dw2.row};
    b.db1 = a.db1 ? sums.at(slice, db1) : nullptr, b.db2 = a.db2 ? sums.at(slice, db2) : nullptr;
    b.work = scratch(slot_work, static_cast<std::size_t>(t->mlp_backward_work(b.sizes)));
    t->mlp_backward(b);
  });
  sums.give_transposed(dw1, in, hidden, a.dw1);
  sums.give(dw2, out, hidden, a.dw2);
  sums.give(db1, hidden, a.db1);
  sums.give(db2, out, a.db2);
  return true;
}

}  // namespace

bool CpuBackend::mlp(const Mlp& args) { return args.y.dtype == DType::bf16 ? run<Bf16Bits>(args) : run<float>(args); }
bool CpuBackend::mlp_backward(const MlpBackward& args) { return args.dy.dtype == DType::bf16 ? run<Bf16Bits>(args) : run<float>(args); }

}  // namespace norma::cpu
