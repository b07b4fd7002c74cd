#include "backends/cpu/attention_sampled.h"

#include <algorithm>
#include <cmath>

namespace norma::cpu {
namespace {

double& stat(double* stats, AttentionStat s) { return stats[static_cast<int>(s)]; }

}  // namespace

RowSample::RowSample(std::int64_t rows) : all_(rows) {
  constexpr std::int64_t each = SampledRows::most / SampledRows::groups;
  begin_[0] = 0;
  for (std::int64_t g = 0; g < SampledRows::groups; ++g) {
    const std::int64_t begin = rows * g / SampledRows::groups, end = rows * (g + 1) / SampledRows::groups;
    const std::int64_t taken = std::min(each, end - begin), first = begin + (end - begin - taken) / 2;
    for (std::int64_t i = 0; i < taken; ++i) rows_.row[rows_.count++] = first + i;
    begin_[g + 1] = rows_.count;
    weight_[g] = taken ? static_cast<double>(end - begin) / static_cast<double>(taken) : 0;
  }
}

double RowSample::of_group(std::int64_t group, const SampledSums::Each& each) const {
  double sum = 0;
  for (std::int64_t i = begin_[group]; i < begin_[group + 1]; ++i) sum += each[i];
  return weight_[group] * sum;
}
double RowSample::total(const SampledSums::Each& each) const {
  double sum = 0;
  for (std::int64_t g = 0; g < SampledRows::groups; ++g) sum += of_group(g, each);
  return sum;
}

void RowSample::estimate(const SampledSums& sums, double pairs, double* stats) const {
  using enum AttentionStat;
  stat(stats, fro2) = total(sums.fro2), stat(stats, jac2) = total(sums.jac2);
  stat(stats, score_sum) = total(sums.score_sum), stat(stats, score_sum2) = total(sums.score_sum2);
  stat(stats, negative) = total(sums.negative), stat(stats, small) = total(sums.small);
  stat(stats, AttentionStat::min) = *std::min_element(sums.min, sums.min + rows_.count);
  stat(stats, AttentionStat::max) = *std::max_element(sums.max, sums.max + rows_.count);
  stat(stats, score_max) = *std::max_element(sums.score_max, sums.score_max + rows_.count);
  stat(stats, entries) = pairs, stat(stats, entropy) = std::nan("");
  stat(stats, grad_a2) = stat(stats, grad_s2) = 0;

  constexpr auto groups = static_cast<double>(SampledRows::groups);
  const double mean = total(sums.fro2) / groups;
  double spread = 0;
  for (std::int64_t g = 0; g < SampledRows::groups; ++g)
    spread += std::pow(of_group(g, sums.fro2) - mean, 2) / (groups - 1);
  const double left = 1 - static_cast<double>(rows_.count) / static_cast<double>(all_);
  stat(stats, fro2_error) = std::sqrt(groups * spread * left);
}

void RowSample::estimate_gradients(const SampledSums& sums, double* stats) const {
  stat(stats, AttentionStat::grad_a2) = total(sums.grad_a2), stat(stats, AttentionStat::grad_s2) = total(sums.grad_s2);
}

}  // namespace norma::cpu
