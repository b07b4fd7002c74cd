// Tensors made from a few numbers.
#include <cmath>

#include "autograd/dispatch.h"

namespace norma {

Tensor eye(Index n, Place place) {
  if (n < 0) fail("eye: n is {}, must not be negative", n);
  const Tensor i = arange(n, {DType::i64, place.device});
  return cast(equal(unsqueeze(i, 1), i), place.dtype);
}

Tensor linspace(double first, double last, Index count, Place place) {
  if (!is_floating(place.dtype)) fail("linspace: dtype {} is not floating; arange counts in integers", place.dtype);
  if (count < 0) fail("linspace: count is {}, must not be negative", count);
  if (!std::isfinite(last - first)) fail("linspace: from {} to {} is no finite distance", first, last);
  if (count < 2) return full({count}, first, place);
  const double step = (last - first) / static_cast<double>(count - 1);
  const Tensor i = arange(count, {DType::f64, place.device});
  const Tensor up = first + i * step, down = last - (static_cast<double>(count - 1) - i) * step;
  return cast(where(less(i * 2, count), up, down), place.dtype);  // from the nearer end, so that both are exact
}

}  // namespace norma
