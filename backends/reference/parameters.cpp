// The reference backend's verbs over all parameters of a model: the sum of squares of their gradients, AdamW, moving averages.
#include <cmath>

#include "backends/common/average.h"
#include "backends/reference/reference.h"
#include "backends/reference/walk.h"

namespace norma {

using namespace reference;

void ReferenceBackend::sum_of_squares(std::span<const View> xs, const View& out) {
  double sum = 0;
  for (const View& x : xs)
    typed(x, [&]<class T>(T) {
      each(x.shape(), [&](const Tuple& i) {
        const double value = convert<double>(at<T>(x, i));
        sum += value * value;
      });
    });
  *out.as<double>() = sum;
}

void ReferenceBackend::adamw(const AdamW& args) {
  const double scale = *args.gradient_scale.as<double>(), *rates = args.rates.as<double>(), lr = rates[0];
  if (!std::isfinite(scale)) return;
  for (const AdamW::Parameter& parameter : args.parameters)
    typed(parameter.value, [&]<class T>(T) {
      each(parameter.value.shape(), [&](const Tuple& i) {
        const double g = scale * convert<double>(at<T>(parameter.gradient, i));
        T &x = at<T>(parameter.value, i), &m = at<T>(parameter.m, i), &v = at<T>(parameter.v, i);
        const double mean = args.beta1 * convert<double>(m) + (1 - args.beta1) * g;
        const double square = args.beta2 * convert<double>(v) + (1 - args.beta2) * g * g;
        const double denominator = std::sqrt(square) / std::sqrt(rates[2]) + args.eps;
        x = convert<T>((1 - lr * parameter.decay) * convert<double>(x) - lr / rates[1] * mean / denominator);
        m = convert<T>(mean), v = convert<T>(square);
      });
    });
}

void ReferenceBackend::moving_averages(std::span<const MovingAverage> all, double decay) {
  for (const MovingAverage& one : all)
    typed(one.average, [&]<class T>(T) {
      each(one.average.shape(), [&](const Tuple& i) {
        T& average = at<T>(one.average, i);
        average = averaged(average, at<T>(one.value, i), convert<T>(1 - decay));
      });
    });
}

}  // namespace norma
