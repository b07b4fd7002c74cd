// From scores to weights: the attention function over a few rows of scores in place, with the statistics of the weights from the same
// registers.
#pragma once

#include "backends/cpu/kernels/attention_dropout.h"
#include "backends/cpu/kernels/attention_weigh_normalized.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// Whether sums of squares of weights, the largest of them so large, keep their digits in a T: neither beyond it nor lost in it.
template <class T>
bool squares_fit(T sum, T largest) {
  constexpr T least = sizeof(T) == 4 ? static_cast<T>(1e-25) : T{0};
  return sum - sum == 0 && (sum >= least || largest == 0);
}

/// The sum of squares of rows [begin, end) of a tile, for weights whose squares do not fit.
template <class T>
__attribute__((noinline)) double squares_in_double(const Visibility<T>& visibility, const ScoreTile<T>& tile, int begin, int end) {
  double sum = 0;
  for (int m = begin; m < end; ++m) {
    const T* p = tile.p + m * tile.ld;
    const Int length = visibility.row(tile.first + m, tile.column, tile.columns).length;
    for (Int j = 0; j < length; ++j) sum += static_cast<double>(p[j]) * static_cast<double>(p[j]);
  }
  return sum;
}

/// Element-wise kinds without row normalisation: nothing is carried along a row, so the statistics are summed per tile.
template <class T, Phi phi, bool measure>
void weigh(const Visibility<T>& visibility, const ScoreTile<T>& tile, T*, T*, Statistics<T>* stats) {
  using V = Vec<T>;
  const Weight<T, phi> weight(visibility.head);
  const T small = static_cast<T>(small_weight);
  V row_sums[row_slots] = {};
  V squares{}, slopes{}, score{}, score2{};
  Mask<T> negative{}, small_count{};
  V score_max, least, most;
  if constexpr (measure) score_max = stats->score_max, least = stats->least, most = stats->most;
  // Over rows with the same factor:
  T factor = 0;
  V slopes_over_factor{}, from = splat(Statistics<T>::infinity), to = -from;  // of scores; lanes that have seen nothing stay infinite
  const auto settle = [&] {
    const T of_slope = weight.factor_of_slope(factor);
    slopes = fma(slopes_over_factor, splat(of_slope * of_slope), slopes);
    score_max = vmax(to, score_max);
    if constexpr (Weight<T, phi>::monotone) {
      const V a = weight.value(from, factor), b = weight.value(to, factor);
      const Mask<T> any = from <= to;
      least = any ? vmin(factor < 0 ? b : a, least) : least;
      most = any ? vmax(factor < 0 ? a : b, most) : most;
    }
    slopes_over_factor = V{}, from = splat(Statistics<T>::infinity), to = -from;
  };
  [[maybe_unused]] int added = 0;  // rows whose sums are in stats
  for (int m = 0; m < tile.rows; ++m) {
    T* p = tile.p + m * tile.ld;
    const Row<T> row = visibility.row(tile.first + m, tile.column, tile.columns);
    if constexpr (measure) {
      if (m > 0 && row.factor != factor) settle();
      factor = row.factor;
    }
    V row_sum{};
    for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
      const V s = load(p + j);
      const V full = weight.value(s, row.factor);
      const V a = visible.keep(full);
      store(p + j, a);
      if constexpr (measure) {
        const V seen = visible.keep(s), slope = visible.keep(weight.slope_over_factor(s, row.factor));
        squares = fma(a, a, squares);
        slopes_over_factor = fma(slope, slope, slopes_over_factor);
        score += seen;
        score2 = fma(seen, seen, score2);
        to = vmax(visible.select(s, to), to);
        if constexpr (Weight<T, phi>::monotone) {
          from = vmin(visible.select(s, from), from);
        } else {
          least = vmin(visible.select(a, least), least);
          most = vmax(visible.select(a, most), most);
        }
        if constexpr (!Weight<T, phi>::one_sign) count_below(a, V{}, visible, negative);
        count_below(abs(a), splat(small), visible, small_count);
        row_sum += a;
      }
    });
    if (measure && Weight<T, phi>::one_sign && row.factor < 0)
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) { count_below(load(p + j), V{}, visible, negative); });
    clear(p, round_up(row.length, lanes<T>), tile.clear_to);
    if constexpr (measure) {
      row_sums[m] = row_sum;
      if (tile.column == 0) stats->entries += static_cast<double>(visibility.visible(tile.first + m));
      if (m + 1 == tile.rows || row.length > columns_between_widenings) {
        settle();
        if (squares_fit(sum_lanes(squares), max_lanes(vmax(abs(least), abs(most)))))
          stats->squares.add(squares);
        else
          stats->row_squares += squares_in_double(visibility, tile, added, m + 1);
        added = m + 1;
        stats->slopes.add(slopes), stats->score.add(score), stats->score2.add(score2);
        stats->negative.add_count(negative), stats->small.add_count(small_count);
        squares = slopes = score = score2 = V{};
        negative = small_count = Mask<T>{};
      }
    }
  }
  if constexpr (measure) {
    stats->score_max = score_max, stats->least = least, stats->most = most;
    T sum[row_slots];
    combine_each(row_sums, sum, Plus{});
    for (int m = 0; m < tile.rows; ++m)
      if (tile.row_sums)
        tile.row_sums[m] += sum[m];
      else
        stats->add_row_sum(sum[m]);
  }
}

/// Softmax: leaves exp(s - max) and gives 1 / sum, and the log-sum-exp, per row.
template <class T, bool measure>
void weigh_softmax(const Visibility<T>& visibility, const ScoreTile<T>& tile, T* inverse, T* lse, Statistics<T>* stats) {
  using V = Vec<T>;
  constexpr T infinity = Statistics<T>::infinity;
  V lane[row_slots];
  Row<T> row[row_slots];
  for (int m = 0; m < row_slots; ++m) lane[m] = splat(-infinity);
  for (int m = 0; m < tile.rows; ++m) {
    row[m] = visibility.row(tile.first + m, 0, visibility.head.keys);
    const T* p = tile.p + m * tile.ld;
    V most = splat(-infinity);
    for_columns(row[m], [&](Int j, auto visible) __attribute__((always_inline)) {
      most = vmax(most, visible.select(load(p + j), most));
    });
    lane[m] = most;
  }
  Slots<T> top, sum;
  combine_each(lane, top.value, Larger{});
  for (T& most : top.value) most *= tile.scale;

  V sums[row_slots] = {}, squares[row_slots] = {}, cubes[row_slots] = {}, logs[row_slots] = {}, least[row_slots] = {};
  V score{}, score2{};
  for (int m = 0; m < tile.rows; ++m) {
    T* p = tile.p + m * tile.ld;
    const V scale = splat(tile.scale), shift = splat(-top.value[m]);
    V row_sum{}, square{}, cube{}, log_sum{}, low = splat(infinity);
    for_columns(row[m], [&](Int j, auto visible) __attribute__((always_inline)) {
      const V s = load(p + j), y = fma(s, scale, shift);
      const V e = visible.keep(exp_fast(y));
      store(p + j, e);
      row_sum += e;
      if constexpr (measure) {
        const V seen = visible.keep(s * scale), e2 = e * e;
        square += e2;
        cube = fma(e2, e, cube);
        log_sum = fma(e, visible.keep(y), log_sum);
        low = vmin(visible.select(e, low), low);
        score += seen;
        score2 = fma(seen, seen, score2);
      }
    });
    clear(p, round_up(row[m].length, lanes<T>), tile.clear_to);
    sums[m] = row_sum;
    if constexpr (measure) {
      squares[m] = square, cubes[m] = cube, logs[m] = log_sum, least[m] = low;
      if (m + 1 == tile.rows || row[m].length > columns_between_widenings) {
        stats->score.add(score), stats->score2.add(score2);
        score = score2 = V{};
      }
    }
  }
  combine_each(sums, sum.value, Plus{});
  for (int v = 0; v < slot_vectors<T>; ++v) {
    const V total = load(sum.value + v * lanes<T>);
    const V reciprocal = total > V{} ? T{1} / total : total;  // a row that sees nothing gives zeros; a NaN stays
    store(inverse + v * lanes<T>, reciprocal);
    store(lse + v * lanes<T>, load(top.value + v * lanes<T>) + log(total));
  }
  if constexpr (measure) {
    T square[row_slots], cube[row_slots], log_sum[row_slots], low[row_slots], log_total[slot_vectors<T> * lanes<T>];
    combine_each(squares, square, Plus{});
    combine_each(cubes, cube, Plus{});
    combine_each(logs, log_sum, Plus{});
    combine_each(least, low, Smaller{});
    for (int v = 0; v < slot_vectors<T>; ++v) store(log_total + v * lanes<T>, log(load(sum.value + v * lanes<T>)));
    Mask<T> small{};
    for (int m = 0; m < tile.rows; ++m) {
      const double count = static_cast<double>(visibility.visible(tile.first + m));
      if (count == 0) continue;
      const double total = sum.value[m], inv = inverse[m];
      const double a2 = square[m] * inv * inv, a3 = cube[m] * inv * inv * inv, one = total * inv;
      stats->entries += count;
      stats->row_squares += a2;
      stats->row_slopes += a2 - 2 * a3 + a2 * a2;
      stats->row_sum += one;
      stats->row_sum2 += one * one;
      stats->entropy += log_total[m] - log_sum[m] * inv;
      stats->row_least = Smaller{}(stats->row_least, low[m] * inv);
      stats->row_most = Larger{}(stats->row_most, inv);
      stats->row_score_max = Larger{}(stats->row_score_max, static_cast<double>(top.value[m]));
      const T* p = tile.p + m * tile.ld;
      const T limit = static_cast<T>(small_weight * total);
      if (low[m] < limit)
        for_columns(row[m], [&](Int j, auto visible) __attribute__((always_inline)) {
          count_below(load(p + j), splat(limit), visible, small);
        });
      if (m + 1 == tile.rows || row[m].length > columns_between_widenings) {
        stats->small.add_count(small);
        small = Mask<T>{};
      }
    }
    stats->small.add_count(small);
  }
}

/// Turns a tile of scores into weights; 1 / sum and the log-sum-exp per row where the kind has them.
template <class T>
using Weigh = void (*)(const Visibility<T>&, const ScoreTile<T>&, T* inverse, T* lse, Statistics<T>*);

template <class T, bool measure>
Weigh<T> weigh_of(const AttentionHead<T>& h) {
  if constexpr (sizeof(T) == 4) {  // f64 is for checking: its powers are polynomials like any other
    switch (h.phi) {
      case Phi::power1: return weigh<T, Phi::power1, measure>;
      case Phi::power2: return h.normalize ? weigh_normalized<T, Phi::power2, measure> : weigh<T, Phi::power2, measure>;
      case Phi::power3: return weigh<T, Phi::power3, measure>;
      case Phi::power4: return h.normalize ? weigh_normalized<T, Phi::power4, measure> : weigh<T, Phi::power4, measure>;
      default: break;
    }
  }
  switch (h.phi) {
    case Phi::softmax: return weigh_softmax<T, measure>;
    case Phi::sigmoid: return weigh<T, Phi::sigmoid, measure>;
    case Phi::relu: return weigh<T, Phi::relu, measure>;
    case Phi::power1: case Phi::power2: case Phi::power3: case Phi::power4: case Phi::polynomial: break;
  }
  return h.normalize ? weigh_normalized<T, Phi::polynomial, measure> : weigh<T, Phi::polynomial, measure>;
}

/// Dropout of a tile's weights; keep and words are scratch (draw_keep).
template <class T>
void drop(const Visibility<T>& visibility, const ScoreTile<T>& tile, T* keep, std::uint32_t* words) {
  const AttentionHead<T>& h = visibility.head;
  for (int m = 0; m < tile.rows; ++m) {
    const Int row = tile.first + m, length = visibility.row(row, tile.column, tile.columns).length;
    draw_keep(h, h.first_index + static_cast<std::uint64_t>(row * h.keys + tile.column), length, keep, words);
    multiply_by(keep, length, tile.p + m * tile.ld);
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
