// How the statistics of attention are merged, for every backend.
#pragma once

#include "backends/common/functors.h"
#include "core/scoring.h"

namespace norma {

namespace detail {

NORMA_HD double merge_sum(double a, double b) { return a + b; }
NORMA_HD double merge_min(double a, double b) { return a < b ? a : b; }
NORMA_HD double merge_max(double a, double b) { return a > b ? a : b; }

}  // namespace detail

/// A statistic of two parts of a matrix together, from those of each; of equal extremes, and where a is NaN, b.
NORMA_HD double merged(AttentionStat s, double a, double b) {
  switch (s) {
#define NORMA_CASE(word, rule) \
  case AttentionStat::word:    \
    return detail::merge_##rule(a, b);
    NORMA_ATTENTION_STATS(NORMA_CASE)
#undef NORMA_CASE
    case AttentionStat::count:
      break;
  }
  return 0;
}

}  // namespace norma
