// Statistics of attention in linear form, where there is no matrix to measure: those of a few rows, scaled up.
#pragma once

#include "backends/cpu/attention_linear_kernels.h"
#include "core/backend.h"

namespace norma::cpu {

/// The rows are cut into as many equal parts as there are groups; a group is the rows in the middle of its part. Of few
/// rows it has all, and the estimates are exact.
class RowSample {
 public:
  explicit RowSample(std::int64_t rows);
  const SampledRows& rows() const { return rows_; }
  /// The statistics of a head that a forward pass has, but for those that the monomials give; so many (row, column)
  /// pairs are visible. fro2_error is the spread between the groups, as the standard error of their sum.
  void estimate(const SampledSums& sums, double pairs, double* stats) const;
  /// And a backward pass.
  void estimate_gradients(const SampledSums& sums, double* stats) const;

 private:
  double total(const SampledSums::Each& each) const;
  double of_group(std::int64_t group, const SampledSums::Each& each) const;

  SampledRows rows_;
  std::int64_t all_, begin_[SampledRows::groups + 1];  // of a group in rows_
  double weight_[SampledRows::groups];                 // rows that one of the group stands for
};

}  // namespace norma::cpu
