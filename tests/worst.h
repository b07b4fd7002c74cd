// The largest of many errors, in which a NaN counts as infinite: std::max(worst, error) would pass over it.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace norma::test {

inline double worse(double worst, double error) { return std::isnan(error) ? HUGE_VAL : std::max(worst, error); }

/// The largest |a - b|; infinite where one is no number, or not as many are there.
template <class A, class B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) worst = worse(worst, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return worst;
}

}  // namespace norma::test
