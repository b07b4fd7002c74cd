#include "checks/draws.h"

namespace norma::checks {

std::vector<double> drawn(Index count, RandomStream stream, double low, double high) {
  std::vector<double> x(static_cast<std::size_t>(count));
  Philox words{};
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i % 4 == 0) words = stream.block(i / 4);
    x[i] = low + (high - low) * uniform_from(words[i % 4]);
  }
  return x;
}

Tensor drawn(const Shape& shape, RandomStream stream, Place place, double low, double high) {
  return from_values(drawn(shape.numel(), stream, low, high), shape, place);
}

Tensor drawn_keys(Index batch, Index keys, Device device) {
  std::vector<double> seen = drawn(batch * keys, {5, 5}, 0, 1);
  for (double& x : seen) x = x < 0.7;
  return from_values(seen, {batch, keys}, {DType::boolean, device});
}

}  // namespace norma::checks
