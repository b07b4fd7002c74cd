// An MLP in one pass over blocks of rows, whose hidden activations stay in the second-level cache: of all that is wide only the
// pre-activation goes to memory, for the backward pass. On AMX's tiles, whose arithmetic is in kernels/bf16/mlp.cpp; mlp_fma.cpp is for multiply-adds.
#include <algorithm>

#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/mlp_fma.h"
#include "backends/cpu/mlp_kernels.h"
#include "backends/cpu/mlp_rows.h"

namespace norma::cpu {
namespace {

constexpr Index unit = 32;
constexpr Index cache = 1400 * 1024;  // bytes of the second-level cache that a block may fill

Index round_up(Index a) { return cpu::round_up(a, unit); }

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
  const Index group = std::max<Index>(1, 8192 / (k * unit));
  parallel_for(ceil_div(n, unit), group, [&](Index from, Index to) {
    const Index j = from * unit;
    t.pack(k, std::min(n, to * unit) - j, {weight.data + j * weight.col, weight.row, weight.col}, panels + j * t.packed(k));
  });
  return panels + t.packed(k) * round_up(n);
}

template <class T>
bool run(const Mlp& a) {
  const MlpTable<T>* t = table<T>();
  if (!t || !all_dense_rows(stored_dtype<T>, a.x, a.y, a.residual, a.pre) || !all_dense_rows(DType::f32, a.w1, a.w2, a.b1, a.b2)) return false;
  const Index rows = as_rows(a.x)->rows, in = a.w1.shape()[1], hidden = a.w1.shape()[0], out = a.w2.shape()[0];
  if (!worth_it<T>(rows, in, hidden, out)) return false;
  const Index chunk = chunk_of(in, hidden, out, 192);
  const MlpSizes sizes = fitted({192, in, hidden, out, chunk}, t->mlp_work, t->packed(in + out) * chunk * 4);
  Word* w1 = scratch<Word>(Slot::mlp_weights, t->packed(in) * round_up(hidden) + t->packed(hidden) * round_up(out));
  Word* w2 = pack(*t, in, hidden, transposed(a.w1), w1);
  pack(*t, hidden, out, transposed(a.w2), w2);
  const Index blocks = even_blocks(rows, sizes.rows, unit);
  parallel_tasks(blocks, [&](Index i) {
    const Index from = cut(rows, unit, blocks, i), count = cut(rows, unit, blocks, i + 1) - from;
    if (count == 0) return;
    MlpBlock<T> b{};
    b.sizes = sizes, b.sizes.rows = count;
    b.x = rows_of<const T>(a.x, from), b.residual = rows_of<const T>(a.residual, from);
    b.pre = rows_of<T>(a.pre, from), b.y = rows_of<T>(a.y, from);
    b.w1 = w1, b.w2 = w2, b.b1 = a.b1.as<float>(), b.b2 = a.b2.as<float>();
    b.work = scratch(Slot::mlp_work, static_cast<std::size_t>(t->mlp_work(b.sizes)));
    t->mlp(b);
  });
  return true;
}

template <class T>
bool run(const MlpBackward& a) {
  const MlpTable<T>* t = table<T>();
  if (!t || !all_dense_rows(stored_dtype<T>, a.dy, a.x, a.pre, a.dx) || !all_dense_rows(DType::f32, a.w1, a.w2, a.dw1, a.db1, a.dw2, a.db2)) return false;
  const Index rows = as_rows(a.x)->rows, in = a.w1.shape()[1], hidden = a.w1.shape()[0], out = a.w2.shape()[0];
  if (!worth_it<T>(rows, in, hidden, out)) return false;
  constexpr bool bf16 = sizeof(T) == sizeof(Bf16Bits);
  const Index chunk = chunk_of(in, hidden, out, bf16 ? 128 : 96);
  const MlpSizes sizes = fitted({192, in, hidden, out, chunk}, t->mlp_backward_work, t->packed(in + out) * chunk * 4);
  Word* w1 = scratch<Word>(Slot::mlp_weights, t->packed(hidden) * round_up(in) + t->packed(out) * round_up(hidden));
  Word* w2 = pack(*t, hidden, in, matrix(a.w1), w1);
  pack(*t, out, hidden, matrix(a.w2), w2);
  MlpSums sums;
  const MlpSums::Place dw1 = sums.matrix(in, hidden), dw2 = sums.matrix(out, hidden);
  const Index db1 = sums.vector(hidden), db2 = sums.vector(out);
  sums.allocate(rows);
  each_share(sums, {rows, sizes.rows, unit, unit, hidden, chunk}, a.dx.data, [&](const MlpShare& share) {
    const Index slice = share.slice;
    MlpBackwardBlock<T> b{};
    b.sizes = sizes, b.sizes.rows = share.count;
    b.dy = rows_of<const T>(a.dy, share.from), b.x = rows_of<const T>(a.x, share.from), b.pre = rows_of<const T>(a.pre, share.from);
    b.w1 = w1, b.w2 = w2, b.from = share.h0, b.to = share.h1;
    if (share.dx) b.dx = rows_of<T>(a.dx, share.from);
    if (share.dw) {
      if (share.first) sums.clear(slice, db1, share.h0, share.h1), sums.clear(slice, db2, 0, share.h0 == 0 ? out : 0);
      b.add = !share.first, b.dw1t = {sums.at(slice, dw1.offset), dw1.row}, b.dw2 = {sums.at(slice, dw2.offset), dw2.row};
      b.db1 = a.db1 ? sums.at(slice, db1) : nullptr, b.db2 = a.db2 && share.h0 == 0 ? sums.at(slice, db2) : nullptr;
    }
    b.work = scratch(Slot::mlp_work, static_cast<std::size_t>(t->mlp_backward_work(b.sizes)));
    t->mlp_backward(b);
  });
  sums.give_transposed(dw1, in, hidden, a.dw1);
  sums.give(dw2, out, hidden, a.dw2);
  sums.give(db1, hidden, a.db1);
  sums.give(db2, out, a.db2);
  return true;
}

/// On tiles where they are, else by multiply-adds.
template <class Args>
bool at_once(const Args& args, DType dtype) {
  if (dtype == DType::bf16) return run<Bf16Bits>(args);
  if (table<float>()) return run<float>(args);
  return gemm_provider() != GemmProvider::openblas && mlp_by_multiply_adds(args);
}

}  // namespace

bool CpuBackend::mlp(const Mlp& args) { return at_once(args, args.y.dtype); }
bool CpuBackend::mlp_backward(const MlpBackward& args) { return at_once(args, args.dy.dtype); }

}  // namespace norma::cpu
