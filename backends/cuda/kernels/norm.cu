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

/// dx of one row, by a warp that holds it in registers.
template <class T, class W, int packs>
NORMA_DEVICE void part_gradient(const NormRows& r, std::int64_t row, unsigned lane, bool aligned) {
  using C = Compute<T, false>;
  RowPart<T, packs> x, dy, add;
  RowPart<W, packs> weight;
  x.load(static_cast<const T*>(r.x) + row * r.x_row, r.n, lane, aligned);
  dy.load(static_cast<const T*>(r.dy) + row * r.dy_row, r.n, lane, aligned);
  if (r.add) add.load(static_cast<const T*>(r.add) + row * r.add_row, r.n, lane, aligned);
  if (r.weight) weight.load(static_cast<const W*>(r.weight), r.n, lane, aligned);
  const C mean = r.rms ? C(0) : static_cast<const C*>(r.mean)[row], rstd = static_cast<const C*>(r.rstd)[row];
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
  sum = r.rms ? C(0) : reduce_lanes<warp_size>(sum, Plus{}) / n;
  product = reduce_lanes<warp_size>(product, Plus{}) / n;
  NORMA_UNROLL
  for (int k = 0; k < packs; ++k)
    NORMA_UNROLL
    for (int i = 0; i < 4; ++i) {
      const C own = std::fma(-normal[k][i], product, gradient[k][i] - sum);
      x.pack[k].v[i] = convert<T>(r.add ? std::fma(rstd, own, convert<C>(add.pack[k].v[i])) : rstd * own);
    }
  x.store(static_cast<T*>(r.y) + row * r.y_row, r.n, lane, aligned);
}
template <class T, class W, int packs>
NORMA_KERNEL void norm_backward_part_kernel(NormRows r, bool aligned) {
  const RowTeam<false> team(r.rows);
  if (team.active) part_gradient<T, W, packs>(r, team.row, team.lane, aligned);
}

/// The rows [first, last) whose sums for dweight and dbias are taken together.
struct RowBlock {
  std::int64_t first, last;
  NORMA_DEVICE RowBlock(const NormRows& r, std::int64_t block) {
    const std::int64_t size = norm_block_rows(r.rows);
    first = block * size, last = first + size < r.rows ? first + size : r.rows;
  }
};

/// First stage of dweight and dbias: the columns from j on, `v` of them, over one block of rows, of which several are on their way at a time.
template <class T, int v>
NORMA_DEVICE void sum_columns(const NormRows& r, std::int64_t block, std::int64_t j) {
  using C = Compute<T, false>;
  const auto [first, last] = RowBlock(r, block);
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
template <class T, int v>
NORMA_KERNEL void NORMA_BOUNDS(row_threads, 8) norm_sums_kernel(NormRows r) {
  const std::int64_t j = (std::int64_t{block_id().x} * block_threads() + thread_id()) * v;
  if (j < r.n) sum_columns<T, v>(r, block_id().y, j);
}

/// dx and that first stage by one launch, for rows of up to 512 elements in registers: a block has one block of rows, a row at a time for each of
/// its warps, and then reads them again by columns, now from its multiprocessor's cache. The second stage is not here: the
/// last block to be done could add up what all have left, but then one multiprocessor would read all partial sums (of 4,160 rows of 192 elements 200
/// KB, some 2 us), behind a fence and a counter that every block passes (some 1 us): that is what a launch costs, and one launch can do it for all
/// norms of a model. Longer rows want more registers than so many threads have, and their time is that of their bytes.
constexpr int most_fused_packs = 4;
template <int packs>
constexpr unsigned fused_threads = packs > 2 ? 512 : 1024;
template <class T, class W, int packs, int v>
NORMA_KERNEL void NORMA_BOUNDS(fused_threads<packs>, 1) norm_backward_fused_kernel(NormRows r, bool aligned) {
  const std::int64_t block = block_id().x;
  const auto [first, last] = RowBlock(r, block);
  for (std::int64_t row = first + thread_id() / warp_size; row < last; row += block_threads() / warp_size)
    part_gradient<T, W, packs>(r, row, thread_id() % warp_size, aligned);
  for (std::int64_t j = std::int64_t{thread_id()} * v; j < r.n; j += std::int64_t{block_threads()} * v) sum_columns<T, v>(r, block, j);
}

constexpr unsigned join_groups = 32, join_threads = join_columns * join_groups;

/// Second stage: a block has a few columns of one norm, so that narrow rows make blocks enough; a thread adds every join_groups-th partial sum of
/// its column, and what the groups have is added in their order.
template <class C>
NORMA_KERNEL void NORMA_BOUNDS(join_threads, 1) norm_join_kernel(const JoinTable table) {
  const unsigned column = thread_id() % join_columns, group = thread_id() / join_columns;
  std::int64_t begin, end;
  const JoinRow& r = table.row[row_of(table, block_id().x, begin, end)];
  const std::int64_t j = begin + column;
  double* space = reinterpret_cast<double*>(shared_memory()) + column;  // [group, dweight and dbias, column]
  double sums[2] = {0, 0};
  for (std::int64_t block = group; block < r.blocks && j < end; block += join_groups) {
    const C* partial = static_cast<const C*>(r.partial) + 2 * block * r.n;
    sums[0] += partial[j];
    sums[1] += partial[r.n + j];
  }
  NORMA_UNROLL
  for (unsigned which = 0; which < 2; ++which) space[(2 * group + which) * join_columns] = sums[which];
  block_barrier();
  C* to = static_cast<C*>(group == 0 ? r.dweight : r.dbias);
  if (group > 1 || j >= end || !to) return;
  double sum = 0;
  for (unsigned g = 0; g < join_groups; ++g) sum += space[(2 * g + group) * join_columns];
  to[j] = convert<C>(sum);
}

/// Two columns a thread where two elements of every row may move by one access.
template <class T>
bool in_pairs(const NormRows& r) {
  const auto fits = [](const void* p, std::int64_t row) { return reinterpret_cast<std::uintptr_t>(p) % (2 * sizeof(T)) == 0 && row % 2 == 0; };
  return r.n % 2 == 0 && fits(r.x, r.x_row) && fits(r.dy, r.dy_row);
}
template <class T>
void launch_sums(void* stream, const NormRows& r) {
  const bool pairs = in_pairs<T>(r);
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
    const bool sums = r.partial;
    bool summed = false;
    const bool parts = r.y && run_parts<T, W>(r, [&](auto packs, bool aligned) {
      constexpr int n = decltype(packs)::value;
      if constexpr (n <= most_fused_packs) {
        summed = sums;
        if (sums)
          return launch(stream, {static_cast<unsigned>(norm_blocks(r.rows))}, fused_threads<n>, 0,
                        in_pairs<T>(r) ? norm_backward_fused_kernel<T, W, n, 2> : norm_backward_fused_kernel<T, W, n, 1>, r, aligned);
      }
      launch(stream, part_blocks(r.rows), row_threads, 0, norm_backward_part_kernel<T, W, n>, r, aligned);
    });
    if (r.y && !parts) launch_rows(stream, r.rows, r.n, norm_backward_kernel<T, W, false>, norm_backward_kernel<T, W, true>, r);
    if (sums && !summed) launch_sums<T>(stream, r);
  });
}

void join_norm_rows(void* stream, const JoinTable& table, DType dtype) {
  const auto run = [&](auto kernel) { launch(stream, {table.pieces}, join_threads, 2 * join_threads * sizeof(double), kernel, table); };
  dtype == DType::f64 ? run(norm_join_kernel<double>) : run(norm_join_kernel<float>);
}

}  // namespace norma::cuda
