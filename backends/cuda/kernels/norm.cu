// Layer norm and RMS norm over rows.
#include "backends/cuda/kernels/norm.h"

#include "backends/cuda/kernels/rows.h"

namespace norma::cuda {
namespace {

/// T: elements; W: weight, bias and their gradients. The mean is taken in two steps, first roughly, then of what is left, so that
/// a large mean costs no digits.
template <class T, class W, bool wide>
NORMA_KERNEL void norm_kernel(NormRows r) {
  using C = Compute<T, false>;
  const RowTeam<wide> team(r.rows);
  const T* x = static_cast<const T*>(r.x) + team.row * r.x_row;
  const C n = static_cast<C>(r.n);
  C rough = 0, rest = 0;
  if (!r.rms) {
    C sum = 0;
    for (std::int64_t j = team.lane; j < r.n; j += team.size) sum += convert<C>(x[j]);
    rough = team.reduce(sum, Plus{}) / n;
  }
  C sum = 0, squares = 0;
  for (std::int64_t j = team.lane; j < r.n; j += team.size) {
    const C d = convert<C>(x[j]) - rough;
    sum += d, squares = std::fma(d, d, squares);
  }
  squares = team.reduce(squares, Plus{}) / n;
  if (!r.rms) rest = team.reduce(sum, Plus{}) / n;
  if (!team.active) return;
  const C rstd = 1 / std::sqrt(squares - rest * rest + static_cast<C>(r.eps));
  if (team.lane == 0) {
    if (r.mean) static_cast<C*>(r.mean)[team.row] = rough + rest;
    if (r.rstd) static_cast<C*>(r.rstd)[team.row] = rstd;
  }
  const W *weight = static_cast<const W*>(r.weight), *bias = static_cast<const W*>(r.bias);
  T* y = static_cast<T*>(r.y) + team.row * r.y_row;
  for (std::int64_t j = team.lane; j < r.n; j += team.size) {
    const C v = (convert<C>(x[j]) - rough - rest) * rstd, scale = weight ? convert<C>(weight[j]) : C(1);
    y[j] = convert<T>(bias ? std::fma(v, scale, convert<C>(bias[j])) : v * scale);
  }
}

template <class T, class W, bool wide>
NORMA_KERNEL void norm_backward_kernel(NormRows r) {
  using C = Compute<T, false>;
  const RowTeam<wide> team(r.rows);
  const T* x = static_cast<const T*>(r.x) + team.row * r.x_row;
  const T* dy = static_cast<const T*>(r.dy) + team.row * r.dy_row;
  const W* weight = static_cast<const W*>(r.weight);
  const C mean = r.rms ? C(0) : static_cast<const C*>(r.mean)[team.row], rstd = static_cast<const C*>(r.rstd)[team.row];
  const C n = static_cast<C>(r.n);
  const auto gradient = [&](std::int64_t j) { return convert<C>(dy[j]) * (weight ? convert<C>(weight[j]) : C(1)); };
  C sum = 0, product = 0;
  for (std::int64_t j = team.lane; j < r.n; j += team.size) {
    const C g = gradient(j);
    sum += g, product = std::fma(g, (convert<C>(x[j]) - mean) * rstd, product);
  }
  sum = r.rms ? C(0) : team.reduce(sum, Plus{}) / n;
  product = team.reduce(product, Plus{}) / n;
  if (!team.active) return;
  T* dx = static_cast<T*>(r.y) + team.row * r.y_row;
  const T* add = r.add ? static_cast<const T*>(r.add) + team.row * r.add_row : nullptr;
  for (std::int64_t j = team.lane; j < r.n; j += team.size) {
    const C normal = (convert<C>(x[j]) - mean) * rstd, own = std::fma(-normal, product, gradient(j) - sum);
    dx[j] = convert<T>(add ? std::fma(rstd, own, convert<C>(add[j])) : rstd * own);
  }
}

/// First stage of dweight and dbias: one thread a column, over one block of rows.
template <class T>
NORMA_KERNEL void norm_sums_kernel(NormRows r) {
  using C = Compute<T, false>;
  const std::int64_t j = std::int64_t{block_id().x} * row_threads + thread_id(), block = block_id().y;
  if (j >= r.n) return;
  const std::int64_t size = norm_block_rows(r.rows), first = block * size, last = first + size < r.rows ? first + size : r.rows;
  C dweight = 0, dbias = 0;
  for (std::int64_t i = first; i < last; ++i) {
    const C g = convert<C>(static_cast<const T*>(r.dy)[i * r.dy_row + j]);
    const C mean = r.rms ? C(0) : static_cast<const C*>(r.mean)[i];
    dweight = std::fma(g, (convert<C>(static_cast<const T*>(r.x)[i * r.x_row + j]) - mean) * static_cast<const C*>(r.rstd)[i], dweight);
    dbias += g;
  }
  C* partial = static_cast<C*>(r.partial) + 2 * block * r.n;
  partial[j] = dweight;
  partial[r.n + j] = dbias;
}

constexpr unsigned join_columns = 32, join_groups = 8;

/// Second stage: a block has a few columns, so that narrow rows make blocks enough; a thread adds every join_groups-th partial sum of its
/// column, and what the groups have is added in their order.
template <class T, class W>
NORMA_KERNEL void norm_join_kernel(NormRows r) {
  using C = Compute<T, false>;
  const unsigned column = thread_id() % join_columns, group = thread_id() / join_columns;
  const std::int64_t j = std::int64_t{block_id().x} * join_columns + column;
  double* space = reinterpret_cast<double*>(shared_memory()) + column;  // [group, dweight and dbias, column]
  double sums[2] = {0, 0};
  for (std::int64_t block = group; block < norm_blocks(r.rows) && j < r.n; block += join_groups) {
    const C* partial = static_cast<const C*>(r.partial) + 2 * block * r.n;
    sums[0] += partial[j];
    sums[1] += partial[r.n + j];
  }
  NORMA_UNROLL
  for (unsigned which = 0; which < 2; ++which) space[(2 * group + which) * join_columns] = sums[which];
  block_barrier();
  W* to = static_cast<W*>(group == 0 ? r.dweight : r.dbias);
  if (group > 1 || j >= r.n || !to) return;
  double sum = 0;
  for (unsigned g = 0; g < join_groups; ++g) sum += space[(2 * g + group) * join_columns];
  to[j] = convert<W>(sum);
}

template <class F>
void with_types(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(TypeTag<float>{}, TypeTag<float>{});
  if (dtype == DType::f64) return f(TypeTag<double>{}, TypeTag<double>{});
  f(TypeTag<bf16>{}, TypeTag<float>{});
}

}  // namespace

void layer_norm_rows(void* stream, const NormRows& r) {
  with_types(r.dtype, [&](auto t, auto w) {
    using T = typename decltype(t)::type;
    using W = typename decltype(w)::type;
    launch_rows(stream, r.rows, r.n, norm_kernel<T, W, false>, norm_kernel<T, W, true>, r);
  });
}

void layer_norm_backward_rows(void* stream, const NormRows& r) {
  with_types(r.dtype, [&](auto t, auto w) {
    using T = typename decltype(t)::type;
    using W = typename decltype(w)::type;
    if (r.y) launch_rows(stream, r.rows, r.n, norm_backward_kernel<T, W, false>, norm_backward_kernel<T, W, true>, r);
    if (!r.dweight && !r.dbias) return;
    const unsigned columns = static_cast<unsigned>((r.n + row_threads - 1) / row_threads);
    launch(stream, {columns, static_cast<unsigned>(norm_blocks(r.rows))}, row_threads, 0, norm_sums_kernel<T>, r);
    launch(stream, {static_cast<unsigned>((r.n + join_columns - 1) / join_columns)}, join_columns * join_groups,
           2 * join_columns * join_groups * sizeof(double), norm_join_kernel<T, W>, r);
  });
}

}  // namespace norma::cuda
