// Statistics of attention in linear form, where there is no matrix to measure: those of a few rows, scaled up.
#pragma once

#include <vector>

#include "backends/cpu/attention_linear_kernels.h"
#include "core/backend.h"

namespace norma::cpu {

/// A stratified sample of a head's rows (Cochran, Sampling Techniques, chapter 5): some rows that stand for themselves, and of the others, cut
/// into as many equal parts as there are groups, the same number from each, drawn by `head`: heads draw independently of one another, and each
/// the same in every step. Of few rows it has all, and the estimates are exact.
class RowSample {
 public:
  RowSample(std::int64_t rows, std::int64_t head, std::vector<std::int64_t> themselves = {});
  const SampledRows& rows() const { return rows_; }
  /// The statistics of a head that a forward pass has, but for those that the monomials give; so many (row, column)
  /// pairs are visible. Where rows see unlike numbers of columns, as under a causal mask, a sum is estimated by its ratio to one that is known of
  /// all rows (Cochran, chapter 6): of pairs to their number, of squared weights to those of phi = 1. So what all pairs have alike is exact.
  /// fro2_error is the standard error of fro2, from the spread within the groups.
  void estimate(const SampledSums& sums, double pairs, double* stats) const;
  /// Of a norm that is known, whatever the sample: its error is 0, or -0 where the sample, and with it the other statistics, are of some rows
  /// alone. A reader tells by that where statistics are estimates (inspect/probe.cpp).
  double no_error() const { return rows_.count < all_ ? -0.0 : 0.0; }
  /// And a backward pass.
  void estimate_gradients(const SampledSums& sums, double* stats) const;

 private:
  struct Group {
    std::int64_t begin, end;  // in rows_
    std::int64_t all;         // rows that they stand for
  };
  double total(const SampledSums::Each& each) const;
  /// Standard error of the total of each - ratio * beside.
  double error(const SampledSums::Each& each, double ratio, const SampledSums::Each& beside) const;

  std::int64_t all_;
  SampledRows rows_;
  std::vector<Group> groups_;
};

/// The rows that are the longest of x, [rows, width], `row` elements apart; at most `most`. Where few tokens are read behind attention, as the
/// class token, nearly all of the gradient is theirs.
template <class T>
std::vector<std::int64_t> longest_rows(const T* x, std::int64_t rows, std::int64_t row, std::int64_t width, std::int64_t most);

}  // namespace norma::cpu
