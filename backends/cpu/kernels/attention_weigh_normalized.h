// From scores to weights where an element-wise function is divided by its sum over the row; part of attention_weigh.h.
#pragma once

#include "backends/cpu/kernels/attention_weigh_tile.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// What only the weights a = f / F tell of a row: entropy, of those above 0, and how many are small; where some are negative or F is no ordinary
/// number also all that would else follow from f, with the sum of a^2 as result.
template <bool ordinary, class T>
NORMA_INLINE double measure_weights(const Row<T>& row, const T* p, T inverse, T threshold, Vec<T>& entropy, Mask<T>& small, Statistics<T>* stats) {
  using V = Vec<T>;
  const V below = splat(threshold);
  if constexpr (ordinary) {
    const V tiny = splat(static_cast<T>(1e-37));  // lost in any weight that counts; of 0 it makes a normal number
    for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
      const V a = fma(load(p + j), splat(inverse), tiny);  // columns that are not visible hold 0
      count_below(a, below, visible, small);
      entropy = fma(a, log_normal(a), entropy);
    });
    return 0;
  } else {
    V least = stats->least, most = stats->most, squares{};
    Mask<T> negative{};
    for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
      const V a = load(p + j) * inverse;
      squares = fma(a, a, squares);
      least = vmin(visible.select(a, least), least);
      most = vmax(visible.select(a, most), most);
      count_below(a, V{}, visible, negative);
      count_below(abs(a), below, visible, small);
      entropy = fma(a, log(a > V{} ? a : splat(T{1})), entropy);
    });
    stats->least = least, stats->most = most;
    stats->negative.add_count(negative);
    return sum_lanes(squares);
  }
}

/// Sums over a row of f'^2 and of f'^2 f, which f is to be divided by F^2 and F^3 for: of scores far from 1, f being x^8 say, they are no numbers
/// of T while f / F is one.
struct SlopeSums {
  double slopes = 0, slopes_f = 0;
};
template <class T, Phi phi>
__attribute__((noinline)) SlopeSums slopes_in_double(const Weight<double, phi>& weight, const Row<T>& row, const T* scores) {
  constexpr Int width = lanes<double>;
  D slopes{}, slopes_f{};
  for (Int j = 0; j < row.length; j += width) {
    D s{}, seen{};
    for (int i = 0; i < width && j + i < row.length; ++i)
      if (!row.mask || row.mask[j + i]) s[i] = static_cast<double>(scores[j + i]), seen[i] = 1;
    const D slope = weight.slope_over_factor(s, 1.0), squared = slope * slope * seen;
    slopes += squared;
    slopes_f += squared * weight.value(s, 1.0);
  }
  return {sum_lanes(slopes), sum_lanes(slopes_f)};
}

/// Whether the sums of f'^2 and f'^2 f over so many scores of magnitude up to `top` keep their digits in a T.
template <class T, Phi phi>
bool slopes_fit(const Weight<double, phi>& weight, double top, Int count) {
  constexpr double least = sizeof(T) == 4 ? 1e-28 : 1e-290, most = sizeof(T) == 4 ? 1e36 : 1e300;
  double f = 0, slope = 0;  // bounds, where terms may cancel
  if constexpr (phi == Phi::polynomial) {
    for (int p = weight.degree; p >= 0; --p) f = f * top + __builtin_fabs(weight.coefficient[p]);
    for (int p = weight.degree; p >= 1; --p) slope = slope * top + __builtin_fabs(weight.slope[p]);
  } else {
    f = weight.value(splat(top), 1.0)[0], slope = weight.slope_over_factor(splat(top), 1.0)[0];
  }
  const double squared = slope * slope, with_f = squared * f, sums = static_cast<double>(count);
  return squared > least && with_f > least && squared * sums < most && with_f * sums < most;
}

/// Element-wise kinds whose rows are divided by their sum F: leaves f(s) and gives 1 / F per row, 1 where F is 0.
template <class T, Phi phi, bool measure>
void weigh_normalized(const Visibility<T>& visibility, const ScoreTile<T>& tile, T* inverse, T*, Statistics<T>* stats) {
  using V = Vec<T>;
  constexpr bool square = phi == Phi::power2;  // f = s^2 and f'^2 = 4 f: the sums of s^2 and of slopes are sums of f and f^2
  constexpr T infinity = Statistics<T>::infinity;
  const Weight<T, phi> weight(visibility.head);
  V sums[row_slots] = {}, squares[row_slots] = {}, slopes[row_slots] = {}, slopes_f[row_slots] = {}, least[row_slots] = {}, most[row_slots] = {};
  Row<T> row[row_slots];
  V score{}, score2{}, score_max;
  if constexpr (measure) score_max = stats->score_max;
  [[maybe_unused]] bool apart[row_slots] = {};  // rows whose sums of slopes are in `in_double`
  [[maybe_unused]] SlopeSums in_double[row_slots];
  [[maybe_unused]] const Weight<double, phi> wide(visibility.head);
  for (int m = 0; m < tile.rows; ++m) {
    row[m] = visibility.row(tile.first + m, 0, visibility.head.keys);
    T* p = tile.p + m * tile.ld;
    if constexpr (measure && !square) {
      V top{};
      for_columns(row[m], [&](Int j, auto visible) __attribute__((always_inline)) { top = vmax(visible.keep(abs(load(p + j))), top); });
      apart[m] = !slopes_fit<T, phi>(wide, static_cast<double>(max_lanes(top)), row[m].length);
      if (apart[m]) in_double[m] = slopes_in_double<T, phi>(wide, row[m], p);
    }
    V row_sum{}, f2{}, slope2{}, slope2_f{}, low = splat(infinity), high = -low;
    for_columns(row[m], [&](Int j, auto visible) __attribute__((always_inline)) {
      const V s = load(p + j), f = visible.keep(weight.value(s, T{1}));
      store(p + j, f);
      row_sum += f;
      if constexpr (measure) {
        const V seen = visible.keep(s);
        f2 = fma(f, f, f2);
        low = vmin(visible.select(f, low), low);
        high = vmax(visible.select(f, high), high);
        score += seen;
        score_max = vmax(visible.select(s, score_max), score_max);
        if constexpr (!square) {
          const V slope = visible.keep(weight.slope_over_factor(s, T{1})), squared = slope * slope;
          score2 = fma(seen, seen, score2);
          slope2 += squared;
          slope2_f = fma(squared, f, slope2_f);
        }
      }
    });
    clear(p, round_up(row[m].length, lanes<T>), tile.clear_to);
    sums[m] = row_sum;
    if constexpr (measure) {
      squares[m] = f2, slopes[m] = slope2, slopes_f[m] = slope2_f, least[m] = low, most[m] = high;
      if constexpr (square) score2 += row_sum;
      if (m + 1 == tile.rows || row[m].length > columns_between_widenings) {
        stats->score.add(score), stats->score2.add(score2);
        score = score2 = V{};
      }
    }
  }
  Slots<T> sum;
  combine_each(sums, sum.value, Plus{});
  for (int m = 0; m < tile.rows; ++m) inverse[m] = inverse_of_sum(sum.value[m]);
  if constexpr (measure) {
    stats->score_max = score_max;
    T f2[row_slots], slope2[row_slots], slope2_f[row_slots], low[row_slots], high[row_slots];
    combine_each(squares, f2, Plus{});
    combine_each(least, low, Smaller{});
    combine_each(most, high, Larger{});
    if constexpr (!square) combine_each(slopes, slope2, Plus{}), combine_each(slopes_f, slope2_f, Plus{});
    const double of_slope = weight.factor_of_slope(T{1});
    const T threshold = static_cast<T>(small_weight);
    V entropy{};
    Mask<T> small{};
    for (int m = 0; m < tile.rows; ++m) {
      const double total = sum.value[m], inv = inverse[m], one = total * inv;
      double a2 = f2[m] * inv * inv;
      const T* p = tile.p + m * tile.ld;
      if (low[m] >= 0 && total > 1e-15 && total < 1e15) {
        stats->row_least = Smaller{}(stats->row_least, low[m] * inv);
        stats->row_most = Larger{}(stats->row_most, high[m] * inv);
        measure_weights<true>(row[m], p, inverse[m], threshold, entropy, small, stats);
      } else {
        a2 = measure_weights<false>(row[m], p, inverse[m], threshold, entropy, small, stats);
      }
      const double pairs = static_cast<double>(visibility.visible(tile.first + m)), d = of_slope * inv;
      // d a_i / d s_k = f'_k / F (delta_ik - a_i): squared norm = sum_k (f'_k / F)^2 (1 - 2 a_k + sum a^2). The only weight of a row is 1 and
      // stays so: of the difference nothing would be left but its rounding, times 1 / F.
      const SlopeSums own_sums = apart[m] ? in_double[m] : SlopeSums{slope2[m], slope2_f[m]};
      const double own = pairs == 1 ? 0 : square ? total * (1 - a2) : own_sums.slopes * (1 + a2) - 2 * own_sums.slopes_f * inv;
      stats->row_squares += a2;
      stats->row_slopes += d * d * own;
      stats->row_sum += one;
      stats->row_sum2 += one * one;
      stats->entries += pairs;
      if (m + 1 == tile.rows || row[m].length > columns_between_widenings) {
        stats->entropies.add(-entropy), stats->small.add_count(small);
        entropy = V{}, small = Mask<T>{};
      }
    }
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
