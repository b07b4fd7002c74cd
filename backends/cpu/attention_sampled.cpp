#include "backends/cpu/attention_sampled.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/random.h"

namespace norma::cpu {
namespace {

double& stat(double* stats, AttentionStat s) { return stats[static_cast<int>(s)]; }

/// `count` different numbers below `size`, in order (Floyd's method: Bentley and Floyd, CACM 30, 1987).
std::vector<std::int64_t> drawn(std::int64_t size, std::int64_t count, RandomStream stream) {
  std::vector<std::int64_t> chosen;
  for (std::int64_t last = size - count; last < size; ++last) {
    const auto word = static_cast<std::int64_t>(stream.word(static_cast<std::uint64_t>(last)));
    const std::int64_t one = word * (last + 1) >> 32;  // rows are far below 2^31
    chosen.push_back(std::find(chosen.begin(), chosen.end(), one) == chosen.end() ? one : last);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace

RowSample::RowSample(std::int64_t rows, std::int64_t head, std::vector<std::int64_t> themselves) : all_(rows) {
  std::sort(themselves.begin(), themselves.end());
  for (const std::int64_t row : themselves) rows_.row[rows_.count++] = row, groups_.push_back({rows_.count - 1, rows_.count, 1});
  const std::int64_t others = rows - rows_.count, each = (SampledRows::most - rows_.count) / SampledRows::groups;
  for (std::int64_t g = 0; g < SampledRows::groups; ++g) {
    const std::int64_t first = others * g / SampledRows::groups, size = others * (g + 1) / SampledRows::groups - first, begin = rows_.count;
    for (std::int64_t row : drawn(size, std::min(each, size), {0x726f7773, stream_id(static_cast<std::uint64_t>(head), static_cast<std::uint64_t>(g))})) {
      row += first;
      for (const std::int64_t own : themselves) row += own <= row;  // counted without those
      rows_.row[rows_.count++] = row;
    }
    if (rows_.count > begin) groups_.push_back({begin, rows_.count, size});
  }
}

double RowSample::total(const SampledSums::Each& each) const {
  double sum = 0;
  for (const Group& g : groups_)
    sum += std::accumulate(each + g.begin, each + g.end, 0.0) * static_cast<double>(g.all) / static_cast<double>(g.end - g.begin);
  return sum;
}

double RowSample::error(const SampledSums::Each& each, double ratio, const SampledSums::Each& beside) const {
  double variance = 0;
  for (const Group& g : groups_) {
    const auto taken = static_cast<double>(g.end - g.begin), all = static_cast<double>(g.all);
    if (taken == all) continue;
    const auto mean = [&](const SampledSums::Each& x) { return std::accumulate(x + g.begin, x + g.end, 0.0) / taken; };
    const double mean_each = mean(each), mean_beside = mean(beside);
    double spread = 0;
    for (std::int64_t i = g.begin; i < g.end; ++i) {
      const double apart = each[i] - mean_each - ratio * (beside[i] - mean_beside);
      spread += apart * apart / (taken - 1);
    }
    variance += all * (all - taken) * spread / taken;
  }
  return std::sqrt(variance);
}

void RowSample::estimate(const SampledSums& sums, double pairs, double* stats) const {
  using enum AttentionStat;
  const double seen = total(sums.visible), even = total(sums.even);
  const bool unlike = seen > 0 && seen != pairs;  // rows, in what they see
  const auto of_pairs = [&](const SampledSums::Each& each) { return unlike ? total(each) / seen * pairs : total(each); };
  const auto of_squares = [&](const SampledSums::Each& each) { return unlike ? total(each) / even * sums.even_of_all : total(each); };
  stat(stats, fro2) = of_squares(sums.fro2), stat(stats, jac2) = of_squares(sums.jac2);
  stat(stats, score_sum) = of_pairs(sums.score_sum), stat(stats, score_sum2) = of_pairs(sums.score_sum2);
  stat(stats, negative) = of_pairs(sums.negative), stat(stats, small) = of_pairs(sums.small);
  stat(stats, AttentionStat::min) = *std::min_element(sums.min, sums.min + rows_.count);
  stat(stats, AttentionStat::max) = *std::max_element(sums.max, sums.max + rows_.count);
  stat(stats, score_max) = *std::max_element(sums.score_max, sums.score_max + rows_.count);
  stat(stats, entries) = pairs, stat(stats, entropy) = std::nan("");
  stat(stats, grad_a2) = stat(stats, grad_s2) = 0;
  const double deviation =
      unlike ? error(sums.fro2, stat(stats, fro2) / sums.even_of_all, sums.even) * (sums.even_of_all / even) : error(sums.fro2, 0, sums.even);
  stat(stats, fro2_error) = deviation == 0 ? no_error() : deviation;
}

void RowSample::estimate_gradients(const SampledSums& sums, double* stats) const {
  stat(stats, AttentionStat::grad_a2) = total(sums.grad_a2), stat(stats, AttentionStat::grad_s2) = total(sums.grad_s2);
}

template <class T>
std::vector<std::int64_t> longest_rows(const T* x, std::int64_t rows, std::int64_t row, std::int64_t width, std::int64_t most) {
  std::vector<double> length(static_cast<std::size_t>(rows));
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < width; ++j) {
      const auto element = static_cast<double>(x[i * row + j]);
      length[static_cast<std::size_t>(i)] += element * element;
    }
  for (double& l : length) l = std::isnan(l) ? std::numeric_limits<double>::infinity() : l;  // to be seen in what is measured
  std::vector<std::int64_t> order(static_cast<std::size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  const auto longer = [&](std::int64_t a, std::int64_t b) {
    const double left = length[static_cast<std::size_t>(a)], right = length[static_cast<std::size_t>(b)];
    return left != right ? left > right : a < b;
  };
  const auto end = order.begin() + std::min(most, rows);
  std::partial_sort(order.begin(), end, order.end(), longer);
  return {order.begin(), end};
}
template std::vector<std::int64_t> longest_rows(const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t);
template std::vector<std::int64_t> longest_rows(const double*, std::int64_t, std::int64_t, std::int64_t, std::int64_t);

}  // namespace norma::cpu
