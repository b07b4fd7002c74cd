// Attention functions that tests run through: one of each kind of path in the kernels.
#pragma once

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
