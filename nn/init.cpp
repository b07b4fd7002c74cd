// Initial values: uniform words of a Philox stream through the inverse of the distribution function, so that element i
// of a tensor is a function of (seed, how many tensors came before, i) alone.
#include <algorithm>
#include <cmath>

#include "nn/layers.h"

namespace norma::nn {
namespace {

/// Quantile of the standard normal distribution at 0.5 + q (Wichura, algorithm AS 241, PPND16), for |q| <= 0.5
/// - 1.4e-11: a 32-bit word never lies further out.
double normal_quantile(double q) {
  auto ratio = [](const double(&num)[8], const double(&den)[8], double r) {
    double n = num[7], d = den[7];
    for (int i = 6; i >= 0; --i) n = n * r + num[i], d = d * r + den[i];
    return n / d;
  };
  static constexpr double a[8] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
                                  1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
                                  3.3430575583588128105e4, 2.5090809287301226727e3};
  static constexpr double b[8] = {1,
                                  4.2313330701600911252e1,
                                  6.8718700749205790830e2,
                                  5.3941960214247511077e3,
                                  2.1213794301586595867e4,
                                  3.9307895800092710610e4,
                                  2.8729085735721942674e4,
                                  5.2264952788528545610e3};
  static constexpr double c[8] = {1.42343711074968357734e0,  4.63033784615654529590e0, 5.76949722146069140550e0,
                                  3.64784832476320460504e0,  1.27045825245236838258e0, 2.41780725177450611770e-1,
                                  2.27238449892691845833e-2, 7.74545014278341407640e-4};
  static constexpr double d[8] = {1,
                                  2.05319162663775882187e0,
                                  1.67638483018380384940e0,
                                  6.89767334985100004550e-1,
                                  1.48103976427480074590e-1,
                                  1.51986665636164571966e-2,
                                  5.47593808499534494600e-4,
                                  1.05075007164441684324e-9};
  if (std::abs(q) <= 0.425) return q * ratio(a, b, 0.180625 - q * q);
  return std::copysign(ratio(c, d, std::sqrt(-std::log(0.5 - std::abs(q))) - 1.6), q);
}

/// f of each element's uniform number in (-1/2, 1/2), which is never one of its ends.
template <class T, class F>
Tensor draw_as(RandomStream stream, const Shape& shape, Place place, F f) {
  const Tensor all =
      empty(shape, {dtype_of<T>(), place.device});     // first: too large a tensor is refused before any work
  constexpr std::size_t piece = std::size_t{1} << 20;  // of host memory at a time; whole blocks
  const auto count = static_cast<std::size_t>(shape.numel());
  std::vector<T> values;
  for (std::size_t first = 0; first < count; first += piece) {
    values.resize(std::min(piece, count - first));
    for (std::size_t i = 0; i < values.size(); i += 4) {
      const Philox words = stream.block((first + i) / 4);
      for (std::size_t k = 0; k < 4 && i + k < values.size(); ++k)
        values[i + k] = static_cast<T>(f((words[k] + 0.5) * 0x1p-32 - 0.5));
    }
    backend(place.device).upload(all.view().as<T>() + first, values.data(), values.size() * sizeof(T));
  }
  return all;
}

thread_local bool shapes_only = false;

Tensor same_everywhere(const Shape& shape, double value, Place place) {
  NoGrad constants;
  return shapes_only ? expand(full({}, value, place), shape).track() : full(shape, value, place).track();
}

template <class F>
Tensor draw(RandomStream stream, const Shape& shape, Place place, F f) {
  if (shapes_only) return same_everywhere(shape, 0, place);
  NoGrad constants;
  if (place.dtype == DType::f64) return draw_as<double>(stream, shape, place, f).track();
  Tensor values = draw_as<float>(stream, shape, place, f);
  return (place.dtype == DType::f32 ? values : cast(values, place.dtype)).track();
}

void check_deviation(const char* what, double std) {
  if (!(std >= 0 && std::isfinite(std))) fail("{}: std is {}, must be finite and not negative", what, std);
}

/// Apart from the streams of training, whose first number is a step.
RandomStream next_stream(std::uint64_t seed, std::uint64_t& next) {
  constexpr std::uint64_t initialisation = 0x696e6974696e6974u;
  return {seed, stream_id(initialisation, next++)};
}

}  // namespace

ShapesOnly::ShapesOnly() : old_(shapes_only) { shapes_only = true; }
ShapesOnly::~ShapesOnly() { shapes_only = old_; }

Tensor Init::constant(const Shape& s, double value) { return same_everywhere(s, value, place_); }

Tensor Init::fixed(const Shape& s, const std::function<std::vector<double>()>& values) {
  return shapes_only ? expand(full({}, 0, place_), s) : from_values(values(), s, place_);
}

Tensor Init::trunc_normal(const Shape& s, double std) {
  check_deviation("trunc_normal", std);
  const double share = std::erf(std::sqrt(2.0) / std);  // of the distribution, within -2 and 2
  return draw(next_stream(seed_, next_), s, place_, [=](double u) { return std * normal_quantile(u * share); });
}

Tensor Init::normal(const Shape& s, double std) {
  check_deviation("normal", std);
  return draw(next_stream(seed_, next_), s, place_, [=](double u) { return std * normal_quantile(u); });
}

Tensor Init::uniform(const Shape& s, double bound) {
  if (!(bound >= 0 && std::isfinite(bound))) fail("uniform: bound is {}, must be finite and not negative", bound);
  return draw(next_stream(seed_, next_), s, place_, [=](double u) { return 2 * bound * u; });
}

Tensor Init::xavier_uniform(const Shape& s) {
  if (s.rank() != 2) fail("xavier_uniform: shape {} is not [out, in]", s);
  return uniform(s, std::sqrt(6.0 / static_cast<double>(s[0] + s[1])));
}

}  // namespace norma::nn
