// Layer norm and RMS norm over rows.
#include "backends/cuda/kernels/norm.h"

#include "backends/cuda/geometry.h"
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
  write_row(team, r.n, y, [&](std::int64_t j) {
    const C v = (convert<C>(x[j]) - rough - rest) * rstd, scale = weight ? convert<C>(weight[j]) : C(1);
    return convert<T>(bias ? std::fma(v, scale, convert<C>(bias[j])) : v * scale);
  });
}

/// The same with each row in a warp's registers, read once.
template <class T, class W, int packs>
NORMA_KERNEL void norm_part_kernel(NormRows r, bool aligned) {
  using C = Compute<T, false>;
  const RowTeam<false> team(r.rows);
  const C n = static_cast<C>(r.n);
  RowPart<T, packs> x;
  x.load(static_cast<const T*>(r.x) + team.row * r.x_row, r.n, team.lane, aligned);
  C v[packs][4], rough = 0, rest = 0, sum = 0, squares = 0;
  NORMA_UNROLL
  for (int k = 0; k < packs; ++k)
    NORMA_UNROLL
    for (int i = 0; i < 4; ++i) v[k][i] = convert<C>(x.pack[k].v[i]), sum += v[k][i];
  if (!r.rms) rough = team.reduce(sum, Plus{}) / n;
  sum = 0;
  NORMA_UNROLL
  for (int k = 0; k < packs; ++k) {
    if (x.place(team.lane, k) >= r.n) break;
    NORMA_UNROLL
    for (int i = 0; i < 4; ++i) v[k][i] -= rough, sum += v[k][i], squares = std::fma(v[k][i], v[k][i], squares);
  }
  squares = team.reduce(squares, Plus{}) / n;
  if (!r.rms) rest = team.reduce(sum, Plus{}) / n;
  if (!team.active) return;
  const C rstd = 1 / std::sqrt(squares - rest * rest + static_cast<C>(r.eps));
  if (team.lane == 0) {
    if (r.mean) static_cast<C*>(r.mean)[team.row] = rough + rest;
    if (r.rstd) static_cast<C*>(r.rstd)[team.row] = rstd;
  }
  RowPart<W, packs> weight, bias;
  if (r.weight) weight.load(static_cast<const W*>(r.weight), r.n, team.lane, aligned);
  if (r.bias) bias.load(static_cast<const W*>(r.bias), r.n, team.lane, aligned);
  NORMA_UNROLL
  for (int k = 0; k < packs; ++k)
    NORMA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const C normal = (v[k][i] - rest) * rstd, scale = r.weight ? convert<C>(weight.pack[k].v[i]) : C(1);
      x.pack[k].v[i] = convert<T>(r.bias ? std::fma(normal, scale, convert<C>(bias.pack[k].v[i])) : normal * scale);
    }
  x.store(static_cast<T*>(r.y) + team.row * r.y_row, r.n, team.lane, aligned);
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
  write_row(team, r.n, dx, [&](std::int64_t j) {
    const C normal = (convert<C>(x[j]) - mean) * rstd, own = std::fma(-normal, product, gradient(j) - sum);
    return convert<T>(add ? std::fma(rstd, own, convert<C>(add[j])) : rstd * own);
  });
}

template <class T, class W, int packs>
NORMA_KERNEL void norm_backward_part_kernel(NormRows r, bool aligned) {
  using C = Compute<T, false>;
  const RowTeam<false> team(r.rows);
  RowPart<T, packs> x, dy, add;
  RowPart<W, packs> weight;
  x.load(static_cast<const T*>(r.x) + team.row * r.x_row, r.n, team.lane, aligned);
  dy.load(static_cast<const T*>(r.dy) + team.row * r.dy_row, r.n, team.lane, aligned);
  if (r.add) add.load(static_cast<const T*>(r.add) + team.row * r.add_row, r.n, team.lane, aligned);
  if (r.weight) weight.load(static_cast<const W*>(r.weight), r.n, team.lane, aligned);
  const C mean = r.rms ? C(0) : static_cast<const C*>(r.mean)[team.row], rstd = static_cast<const C*>(r.rstd)[team.row];
  const C n = static_cast<C>(r.n);
  C normal[packs][4], gradient[packs][4], sum = 0, product = 0;
  NORMA_UNROLL
  for (int k = 0; k < packs; ++k)
    NORMA_UNROLL
    for (int i = 0; i < 4; ++i) {  // beyond the row the gradients are zero
      normal[k][i] = (convert<C>(x.pack[k].v[i]) - mean) * rstd;
      gradient[k][i] = convert<C>(dy.pack[k].v[i]) * (r.weight ? convert<C>(weight.pack[k].v[i]) : C(1));
      sum += gradient[k][i], product = std::fma(gradient[k][i], normal[k][i], product);
    }
  sum = r.rms ? C(0) : team.reduce(sum, Plus{}) / n;
  product = team.reduce(product, Plus{}) / n;
  if (!team.active) return;
  NORMA_UNROLL
  for (int k = 0; k < packs; ++k)
    NORMA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const C own = std::fma(-normal[k][i], product, gradient[k][i] - sum);
      x.pack[k].v[i] = convert<T>(r.add ? std::fma(rstd, own, convert<C>(add.pack[k].v[i])) : rstd * own);
    }
  x.store(static_cast<T*>(r.y) + team.row * r.y_row, r.n, team.lane, aligned);
}

/// First stage of dweight and dbias: `v` neighbouring columns a thread, over one block of rows, of which several are on their way at a time.
template <class T, int v>
NORMA_KERNEL void NORMA_BOUNDS(row_threads, 8) norm_sums_kernel(NormRows r) {
  using C = Compute<T, false>;
  const std::int64_t j = (std::int64_t{block_id().x} * block_threads() + thread_id()) * v, block = block_id().y;
  if (j >= r.n) return;
  const std::int64_t size = norm_block_rows(r.rows), first = block * size, last = first + size < r.rows ? first + size : r.rows;
  constexpr int at_once = sizeof(T) * v > 4 ? 4 : 8;  // 8 words of each
  const T *dy = static_cast<const T*>(r.dy) + j, *x = static_cast<const T*>(r.x) + j;
  const C *means = static_cast<const C*>(r.mean), *rstds = static_cast<const C*>(r.rstd);
  Pack<C, v> dweight{}, dbias{};
  const auto include = [&](const Pack<T, v>& g, const Pack<T, v>& value, C mean, C rstd) {
    NORMA_UNROLL
    for (int c = 0; c < v; ++c) {
      dweight.v[c] = std::fma(convert<C>(g.v[c]), (convert<C>(value.v[c]) - mean) * rstd, dweight.v[c]);
      dbias.v[c] += convert<C>(g.v[c]);
    }
  };
  std::int64_t i = first;
  for (; i + at_once <= last; i += at_once) {  // no branch between the rows: behind one, a load would wait for the row before
    Pack<T, v> g[at_once], value[at_once];
    C mean[at_once], rstd[at_once];
    NORMA_UNROLL
    for (int k = 0; k < at_once; ++k) {
      g[k] = load_pack<v>(dy + (i + k) * r.dy_row), value[k] = load_pack<v>(x + (i + k) * r.x_row);
      mean[k] = r.rms ? C(0) : means[i + k], rstd[k] = rstds[i + k];
    }
    NORMA_UNROLL
    for (int k = 0; k < at_once; ++k) include(g[k], value[k], mean[k], rstd[k]);
  }
  NORMA_ROLLED
  for (; i < last; ++i) include(load_pack<v>(dy + i * r.dy_row), load_pack<v>(x + i * r.x_row), r.rms ? C(0) : means[i], rstds[i]);
  C* partial = static_cast<C*>(r.partial) + 2 * block * r.n;
  store_pack(partial + j, dweight);
  store_pack(partial + r.n + j, dbias);
}

constexpr unsigned join_columns = 32, join_groups = 32;

/// Second stage: a block has a few columns, so that narrow rows make blocks enough; a thread adds every join_groups-th partial sum of its
/// column, and what the groups have is added in their order.
template <class T, class W>
NORMA_KERNEL void NORMA_BOUNDS(join_columns * join_groups, 1) norm_join_kernel(NormRows r) {
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

/// Two columns a thread where two elements of every row may move by one access.
template <class T>
void launch_sums(void* stream, const NormRows& r) {
  const auto fits = [](const void* p, std::int64_t row) { return reinterpret_cast<std::uintptr_t>(p) % (2 * sizeof(T)) == 0 && row % 2 == 0; };
  const bool pairs = r.n % 2 == 0 && fits(r.x, r.x_row) && fits(r.dy, r.dy_row);
  const ColumnBlocks cut = column_blocks(pairs ? r.n / 2 : r.n, row_threads);
  const Extent grid{static_cast<unsigned>(cut.blocks), static_cast<unsigned>(norm_blocks(r.rows))};
  launch(stream, grid, static_cast<unsigned>(cut.threads), 0, pairs ? norm_sums_kernel<T, 2> : norm_sums_kernel<T, 1>, r);
}

/// Whether 4 elements of every row may move by one access.
template <class T, class W>
bool rows_aligned(const NormRows& r) {
  const auto fits = [](const void* p, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % (4 * bytes) == 0; };
  return fits(r.x, sizeof(T)) && fits(r.y, sizeof(T)) && fits(r.dy, sizeof(T)) && fits(r.add, sizeof(T)) && fits(r.weight, sizeof(W)) &&
         fits(r.bias, sizeof(W)) && r.x_row % 4 == 0 && r.y_row % 4 == 0 && r.dy_row % 4 == 0 && r.add_row % 4 == 0;
}
/// run(integral_constant of packs, whether they are aligned) where a row is taken so; false where it is not.
template <class T, class W, class F>
bool run_parts(const NormRows& r, F&& run) {
  if constexpr (!std::is_same_v<T, double>)
    if (in_parts(r.n)) {
      with_packs(r.n, [&](auto packs) { run(packs, rows_aligned<T, W>(r)); });
      return true;
    }
  return false;
}
constexpr Extent part_blocks(std::int64_t rows) { return {static_cast<unsigned>((rows + RowTeam<false>::per_block - 1) / RowTeam<false>::per_block)}; }

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
    const bool parts = run_parts<T, W>(r, [&](auto packs, bool aligned) {
      launch(stream, part_blocks(r.rows), row_threads, 0, norm_part_kernel<T, W, decltype(packs)::value>, r, aligned);
    });
    if (!parts) launch_rows(stream, r.rows, r.n, norm_kernel<T, W, false>, norm_kernel<T, W, true>, r);
  });
}

void layer_norm_backward_rows(void* stream, const NormRows& r) {
  with_types(r.dtype, [&](auto t, auto w) {
    using T = typename decltype(t)::type;
    using W = typename decltype(w)::type;
    const bool parts = r.y && run_parts<T, W>(r, [&](auto packs, bool aligned) {
      launch(stream, part_blocks(r.rows), row_threads, 0, norm_backward_part_kernel<T, W, decltype(packs)::value>, r, aligned);
    });
    if (r.y && !parts) launch_rows(stream, r.rows, r.n, norm_backward_kernel<T, W, false>, norm_backward_kernel<T, W, true>, r);
    if (!r.dweight && !r.dbias) return;
    launch_sums<T>(stream, r);
    launch(stream, {static_cast<unsigned>((r.n + join_columns - 1) / join_columns)}, join_columns * join_groups,
           2 * join_columns * join_groups * sizeof(double), norm_join_kernel<T, W>, r);
  });
}

}  // namespace norma::cuda
