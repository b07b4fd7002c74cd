// Attention functions that tests run through: one of each kind of path in the kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "core/scoring.h"

namespace norma::checks {

inline Scoring softmax_scoring() { return {}; }

inline Scoring power(int p, double coefficient, Scoring::Scale scale) {
  Scoring s;
  s.kind = Scoring::Kind::polynomial;
  s.coefficient[static_cast<std::size_t>(p)] = coefficient;
  s.scale = scale;
  return s;
}

/// phi(s) and phi'(s), but for softmax, before row factors and division by a row's sum; `keys`: the length of the row.
inline std::pair<double, double> phi(const Scoring& scoring, double s, std::int64_t keys) {
  switch (scoring.kind) {
    case Scoring::Kind::relu: return {std::max(s, 0.0), s > 0 ? 1 : 0};
    case Scoring::Kind::sigmoid: {
      const double bias = scoring.bias - (scoring.bias_minus_log_keys ? std::log(static_cast<double>(keys)) : 0);
      const double a = 1 / (1 + std::exp(-(s + bias)));
      return {a, a * (1 - a)};
    }
    case Scoring::Kind::softmax:
    case Scoring::Kind::polynomial: break;
  }
  double a = 0, slope = 0, power = 1, power_before = 0;  // s^p, s^(p - 1)
  for (int p = 0; p <= Scoring::max_degree; ++p, power_before = power, power *= s) {
    const double c = scoring.coefficient[static_cast<std::size_t>(p)];
    a += c * power;
    slope += c * p * power_before;
  }
  return {a, slope};
}

/// What a row is multiplied with that sees `seen` of `keys` keys.
inline double row_factor(const Scoring& scoring, std::int64_t keys, std::int64_t seen) {
  using Scale = Scoring::Scale;
  const auto n = static_cast<double>(keys), valid = static_cast<double>(std::max<std::int64_t>(1, seen));
  switch (scoring.scale) {
    case Scale::inverse_sqrt_keys: return 1 / std::sqrt(n);
    case Scale::inverse_keys: return 1 / n;
    case Scale::inverse_sqrt_valid_keys: return 1 / std::sqrt(valid);
    case Scale::inverse_valid_keys: return 1 / valid;
    default: return 1;
  }
}

inline std::vector<std::pair<std::string, Scoring>> scorings() {
  using Scale = Scoring::Scale;
  Scoring mixed = power(3, 1.0 / 14, Scale::one);
  mixed.coefficient[0] = 0.2, mixed.coefficient[1] = 0.5, mixed.coefficient[2] = -0.3;
  Scoring even = power(2, 1, Scale::one);
  even.normalize = true;
  Scoring even4 = power(4, 0.5, Scale::inverse_keys);
  even4.coefficient[0] = 0.1, even4.coefficient[2] = 1, even4.normalize = true;
  Scoring sigmoid;
  sigmoid.kind = Scoring::Kind::sigmoid, sigmoid.bias = 0.3, sigmoid.bias_minus_log_keys = true;
  Scoring relu;
  relu.kind = Scoring::Kind::relu, relu.scale = Scale::inverse_valid_keys;
  return {{"softmax", softmax_scoring()},
          {"x", power(1, 1, Scale::one)},
          {"x/n", power(1, 1, Scale::inverse_valid_keys)},
          {"x^2/N", power(2, 1, Scale::inverse_keys)},
          {"x^3/sqrt(N)", power(3, 1, Scale::inverse_sqrt_keys)},
          {"x^3/sqrt(n)", power(3, 1, Scale::inverse_sqrt_valid_keys)},
          {"x^4/14", power(4, 1.0 / 14, Scale::one)},
          {"x^8", power(8, 1, Scale::one)},
          {"mixed", mixed},
          {"x^2/sum", even},
          {"(0.1 + x^2 + 0.5 x^4)/sum", even4},
          {"sigmoid", sigmoid},
          {"relu/n", relu}};
}

}  // namespace norma::checks
