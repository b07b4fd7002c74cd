// Softmax and cross-entropy over rows.
#include <limits>

#include "backends/cuda/kernels/norm.h"
#include "backends/cuda/kernels/rows.h"

namespace norma::cuda {
namespace {

/// e^x of elements T in their arithmetic C. Where those are bf16, by one instruction: sums of a row are off by some 1e-6 of their size.
template <class T, class C>
NORMA_DEVICE C exp_of(C x) {
  if constexpr (std::is_same_v<T, bf16>)
    return quick_exp2(x * 1.4426950408889634f);
  else
    return std::exp(x);
}

template <class T>
constexpr int in_16_bytes = 16 / sizeof(T);
NORMA_DEVICE bool at_16_bytes(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

template <class C>
struct RowSums {
  C top, sum;  // the row's maximum, sum of exp(x - top)
};
/// Both from one reading of the row: a thread's sum is of exp(x - its own maximum so far), which starts at the lowest number, so that -inf
/// counts for nothing. A thread of a long row takes 16 bytes at a time, of which it finds the maximum first; where its address does not allow
/// that it takes the same elements one by one, for the same bits.
template <class T, class C, bool wide>
NORMA_DEVICE RowSums<C> sums_of(const RowTeam<wide>& team, const T* x, std::int64_t n) {
  C mine = std::numeric_limits<C>::lowest(), sum = 0;
  std::int64_t j = team.lane;
  if constexpr (wide) {
    constexpr int v = in_16_bytes<T>, at_once = 2;
    constexpr std::int64_t step = std::int64_t{RowTeam<wide>::size} * v;
    const auto include = [&](const Pack<T, v>& pack) {
      C top = mine, value[v];
      NORMA_UNROLL
      for (int k = 0; k < v; ++k) value[k] = convert<C>(pack.v[k]), top = Larger{}(value[k], top);
      sum *= exp_of<T>(mine - top);
      NORMA_UNROLL
      for (int k = 0; k < v; ++k) sum += exp_of<T>(value[k] - top);
      mine = top;
    };
    const bool aligned = at_16_bytes(x);
    std::int64_t at = std::int64_t{team.lane} * v;
    for (; aligned && at + (at_once - 1) * step + v <= n; at += at_once * step) {
      Pack<T, v> some[at_once];
      NORMA_UNROLL
      for (int i = 0; i < at_once; ++i) some[i] = load_pack<v>(x + at + i * step);
      NORMA_UNROLL
      for (int i = 0; i < at_once; ++i) include(some[i]);
    }
    NORMA_ROLLED
    for (; at + v <= n; at += step) {
      Pack<T, v> one;
      NORMA_UNROLL
      for (int k = 0; k < v; ++k) one.v[k] = x[at + k];
      include(one);
    }
    j += n / v * v;
  }
  for (; j < n; j += team.size) {
    const C value = convert<C>(x[j]), above = value - mine, factor = exp_of<T>(-std::fabs(above));
    sum = above > 0 ? std::fma(sum, factor, C(1)) : sum + factor;
    mine = Larger{}(value, mine);
  }
  const C top = team.reduce(mine, Larger{});
  return {top, team.reduce(sum * exp_of<T>(mine - top), Plus{})};  // NaN where the top is +inf
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
  T* to = static_cast<T*>(r.dlogits) + team.row * r.dlogits_row;
  const C* sums = static_cast<const C*>(r.sums) + 2 * team.row;
  const C top = sums[0], factor = sums[1], scale = *static_cast<const C*>(r.scale);
  const auto gradient = [&](T z, C target) { return convert<T>(std::fma(exp_of<T>(convert<C>(z) - top), factor, -target) * scale); };
  std::int64_t done = 0;
  if constexpr (wide)
    if (!row.soft && at_16_bytes(row.z) && at_16_bytes(to)) {
      constexpr int v = in_16_bytes<T>, at_once = 2;
      constexpr std::int64_t step = std::int64_t{RowTeam<wide>::size} * v;
      const C chosen = row.rest + row.smooth, other = row.smooth;
      const auto make = [&](Pack<T, v>& z, std::int64_t at) {
        const int own = row.chosen >= at && row.chosen < at + v ? static_cast<int>(row.chosen - at) : -1;
        NORMA_UNROLL
        for (int k = 0; k < v; ++k) z.v[k] = gradient(z.v[k], k == own ? chosen : other);
        store_pack(to + at, z);
      };
      std::int64_t at = std::int64_t{team.lane} * v;
      for (; at + (at_once - 1) * step + v <= r.n; at += at_once * step) {
        Pack<T, v> some[at_once];
        NORMA_UNROLL
        for (int i = 0; i < at_once; ++i) some[i] = load_pack<v>(row.z + at + i * step);
        NORMA_UNROLL
        for (int i = 0; i < at_once; ++i) make(some[i], at + i * step);
      }
      NORMA_ROLLED
      for (; at + v <= r.n; at += step) {
        Pack<T, v> one = load_pack<v>(row.z + at);
        make(one, at);
      }
      done = r.n / v * v;
    }
  write_row(team, r.n - done, to + done, [&](std::int64_t j) { return gradient(row.z[done + j], row.target(done + j)); });
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
