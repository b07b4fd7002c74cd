// Sums over many tiles, kept in doubles, for the statistics of attention.
#pragma once

#include "backends/cpu/kernels/attention_rows.h"
#include "core/scoring.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// A sum of registers of T, lane by lane in double.
template <class T>
struct WideSum {
  static constexpr int parts = static_cast<int>(sizeof(double) / sizeof(T));
  D part[parts] = {};
  NORMA_INLINE void add(Vec<T> x) {
    if constexpr (parts == 1) {
      part[0] += x;
    } else {
      const Doubles d = to_doubles(x);
      part[0] += d.low;
      part[1] += d.high;
    }
  }
  NORMA_INLINE void add_count(Mask<T> negative_count) { add(-__builtin_convertvector(negative_count, Vec<T>)); }
  double total() const {
    D sum = part[0];
    for (int i = 1; i < parts; ++i) sum += part[i];
    return sum_lanes(sum);
  }
};

/// The running statistics of one head.
template <class T>
struct Statistics {
  using V = Vec<T>;
  static constexpr T infinity = static_cast<T>(__builtin_inf());
  WideSum<T> squares, slopes, score, score2, negative, small, entropies;
  V score_max = splat(-infinity), least = splat(infinity), most = splat(-infinity);
  double row_squares = 0, row_slopes = 0, row_sum = 0, row_sum2 = 0, entropy = 0, entries = 0;
  double row_least = __builtin_inf(), row_most = -__builtin_inf(), row_score_max = -__builtin_inf();

  void add_row_sum(double sum) { row_sum += sum, row_sum2 += sum * sum; }

  void write(double* to, bool has_entropy) const {
    auto set = [&](AttentionStat s, double value) { to[static_cast<int>(s)] = value; };
    auto max = [](double a, double b) { return a > b ? a : b; };
    set(AttentionStat::fro2, squares.total() + row_squares);
    set(AttentionStat::jac2, slopes.total() + row_slopes);
    set(AttentionStat::score_sum, score.total());
    set(AttentionStat::score_sum2, score2.total());
    set(AttentionStat::score_max, max(row_score_max, static_cast<double>(max_lanes(score_max))));
    set(AttentionStat::row_sum, row_sum);
    set(AttentionStat::row_sum2, row_sum2);
    set(AttentionStat::min, -max(-row_least, -static_cast<double>(min_lanes(least))));
    set(AttentionStat::max, max(row_most, static_cast<double>(max_lanes(most))));
    set(AttentionStat::negative, negative.total());
    set(AttentionStat::small, small.total());
    set(AttentionStat::entropy, has_entropy ? entropy + entropies.total() : __builtin_nan(""));
    set(AttentionStat::entries, entries);
    set(AttentionStat::grad_a2, 0);
    set(AttentionStat::grad_s2, 0);
    set(AttentionStat::fro2_error, 0);
  }
};

/// Registers of counts and sums that must be widened before they lose digits or overflow.
constexpr Int columns_between_widenings = 512;

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
