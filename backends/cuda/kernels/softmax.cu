// Softmax and cross-entropy over rows.
#include <limits>

#include "backends/cuda/kernels/norm.h"
#include "backends/cuda/kernels/rows.h"

namespace norma::cuda {
namespace {

template <class C>
struct RowSums {
  C top, sum;  // the row's maximum, sum of exp(x - top)
};
/// Both from one reading of the row: a thread's sum is of exp(x - its own maximum so far), which starts at the lowest number, so that -inf
/// counts for nothing.
template <class T, class C, class Team>
NORMA_DEVICE RowSums<C> sums_of(const Team& team, const T* x, std::int64_t n) {
  C mine = std::numeric_limits<C>::lowest(), sum = 0;
  for (std::int64_t j = team.lane; j < n; j += Team::size) {
    const C value = convert<C>(x[j]), above = value - mine, factor = std::exp(-std::fabs(above));
    sum = above > 0 ? std::fma(sum, factor, C(1)) : sum + factor;
    mine = Larger{}(value, mine);
  }
  const C top = team.reduce(mine, Larger{});
  return {top, team.reduce(sum * std::exp(mine - top), Plus{})};  // NaN where the top is +inf
}

template <class T, bool wide>
NORMA_KERNEL void softmax_kernel(SoftmaxRows r) {
  using C = Compute<T, false>;
  const RowTeam<wide> team(r.rows);
  const T* x = static_cast<const T*>(r.x) + team.row * r.x_row;
  T* y = static_cast<T*>(r.out) + team.row * r.out_row;
  const RowSums<C> s = sums_of<T, C>(team, x, r.n);
  if (!team.active) return;
  const C factor = 1 / s.sum, log_sum = std::log(s.sum);
  write_row(team, r.n, y, [&](std::int64_t j) {
    const C d = convert<C>(x[j]) - s.top;
    return convert<T>(r.log ? d - log_sum : std::exp(d) * factor);
  });
}

template <class T, bool wide>
NORMA_KERNEL void softmax_backward_kernel(SoftmaxRows r) {
  using C = Compute<T, false>;
  const RowTeam<wide> team(r.rows);
  const T* y = static_cast<const T*>(r.x) + team.row * r.x_row;
  const T* dy = static_cast<const T*>(r.dy) + team.row * r.dy_row;
  T* dx = static_cast<T*>(r.out) + team.row * r.out_row;
  C sum = 0;
  for (std::int64_t j = team.lane; j < r.n; j += team.size)
    sum = r.log ? sum + convert<C>(dy[j]) : std::fma(convert<C>(dy[j]), convert<C>(y[j]), sum);
  sum = team.reduce(sum, Plus{});
  if (!team.active) return;
  write_row(team, r.n, dx, [&](std::int64_t j) {
    const C g = convert<C>(dy[j]), v = convert<C>(y[j]);
    return convert<T>(r.log ? std::fma(-std::exp(v), sum, g) : v * (g - sum));
  });
}

/// The operands of a row of both passes.
template <class T, class C>
struct LossRow {
  const T *z, *soft;
  std::int64_t chosen;  // -1 where targets are soft
  C smooth, rest;
  NORMA_DEVICE LossRow(const CrossEntropyRows& r, std::int64_t row)
      : z(static_cast<const T*>(r.logits) + row * r.logits_row),
        soft(r.soft ? static_cast<const T*>(r.targets) + row * r.targets_row : nullptr),
        chosen(r.soft ? -1 : static_cast<const std::int64_t*>(r.targets)[row]),
        smooth(static_cast<C>(r.label_smoothing / static_cast<double>(r.n))),
        rest(static_cast<C>(1 - r.label_smoothing)) {}
  NORMA_DEVICE C target(std::int64_t j) const { return rest * (soft ? convert<C>(soft[j]) : j == chosen ? C(1) : C(0)) + smooth; }
};

/// loss = sum_c t_c (lse - z_c). Of rows that are one class alone, it is read from that class's logit.
template <class T, bool wide>
NORMA_KERNEL void cross_entropy_kernel(CrossEntropyRows r) {
  using C = Compute<T, false>;
  const RowTeam<wide> team(r.rows);
  const LossRow<T, C> row(r, team.row);
  const RowSums<C> s = sums_of<T, C>(team, row.z, r.n);
  const C log_sum = std::log(s.sum);
  C loss = 0, weight = 0;
  const bool one_class = !row.soft && row.smooth == 0;
  if (one_class && team.lane == 0 && row.chosen >= 0 && row.chosen < r.n) loss = log_sum - (convert<C>(row.z[row.chosen]) - s.top);
  for (std::int64_t j = team.lane; j < r.n && !one_class; j += team.size) {
    const C t = row.target(j);
    weight += t;
    if (t != 0) loss = std::fma(t, log_sum - (convert<C>(row.z[j]) - s.top), loss);
  }
  loss = team.reduce(loss, Plus{});
  weight = r.soft ? team.reduce(weight, Plus{}) : C(1);
  if (!team.active || team.lane != 0) return;
  static_cast<C*>(r.loss)[team.row] = loss;
  if (C* sums = static_cast<C*>(r.sums)) sums[2 * team.row] = s.top, sums[2 * team.row + 1] = weight / s.sum;
}

template <class T, bool wide>
NORMA_KERNEL void cross_entropy_backward_kernel(CrossEntropyRows r) {
  using C = Compute<T, false>;
  const RowTeam<wide> team(r.rows);
  if (!team.active) return;
  const LossRow<T, C> row(r, team.row);
  const C* sums = static_cast<const C*>(r.sums) + 2 * team.row;
  const C top = sums[0], factor = sums[1], scale = *static_cast<const C*>(r.scale);
  write_row(team, r.n, static_cast<T*>(r.dlogits) + team.row * r.dlogits_row,
            [&](std::int64_t j) { return convert<T>(std::fma(std::exp(convert<C>(row.z[j]) - top), factor, -row.target(j)) * scale); });
}

template <class F>
void with_floating(DType dtype, F&& f) {
  if (dtype == DType::f32) return f(TypeTag<float>{});
  if (dtype == DType::f64) return f(TypeTag<double>{});
  f(TypeTag<bf16>{});
}

}  // namespace

void softmax_rows(void* stream, const SoftmaxRows& r) {
  with_floating(r.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_rows(stream, r.rows, r.n, softmax_kernel<T, false>, softmax_kernel<T, true>, r);
  });
}

void softmax_backward_rows(void* stream, const SoftmaxRows& r) {
  with_floating(r.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_rows(stream, r.rows, r.n, softmax_backward_kernel<T, false>, softmax_backward_kernel<T, true>, r);
  });
}

void cross_entropy_rows(void* stream, const CrossEntropyRows& r) {
  with_floating(r.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_rows(stream, r.rows, r.n, cross_entropy_kernel<T, false>, cross_entropy_kernel<T, true>, r);
  });
}

void cross_entropy_backward_rows(void* stream, const CrossEntropyRows& r) {
  with_floating(r.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch_rows(stream, r.rows, r.n, cross_entropy_backward_kernel<T, false>, cross_entropy_backward_kernel<T, true>, r);
  });
}

}  // namespace norma::cuda
