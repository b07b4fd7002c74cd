// Derivatives against differences: full Jacobians in f64.
#include <cmath>
#include <limits>

#include "autograd/dispatch.h"

namespace norma {

namespace {

using Matrix = std::vector<std::vector<double>>;  // [output][input element]

void check_f64(std::string_view op, std::string_view what, const Tensor& x) {
  check_present(op, x);
  if (is_floating(x.dtype()) && x.dtype() != DType::f64) {
    fail("{}: {} is {}; differences need f64, convert with cast()", op, what, x.dtype());
  }
}

/// Rows of the Jacobian with respect to every tracked input, by one sweep for each output. create_graph chooses between the
/// fused derivatives and the recorded ones.
std::vector<Matrix> analytic(const Tensor& y, const Tensors& wanted, bool create_graph) {
  std::vector<Matrix> jacobians(wanted.size());
  for (Index k = 0; k < y.numel(); ++k) {
    Tensors rows;
    if (y.tracked()) {
      std::vector<double> unit(static_cast<std::size_t>(y.numel()));
      unit[static_cast<std::size_t>(k)] = 1;
      rows = grad(y, wanted, from_values(unit, y.shape(), place_of(y)), {.create_graph = create_graph, .retain_graph = true});
    }
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      jacobians[i].push_back(rows.empty() ? std::vector<double>(static_cast<std::size_t>(wanted[i].numel())) : rows[i].values());
    }
  }
  return jacobians;
}

/// (f(x-2h) - 8 f(x-h) + 8 f(x+h) - f(x+2h)) / 12h for one element of one input.
std::vector<double> column(const Function& f, Tensors xs, std::size_t input, std::size_t element, double h) {
  const Tensor original = xs[input];
  std::vector<double> values = original.values();
  const double center = values[element];
  std::vector<double> sum;
  for (const auto& [offset, factor] : {std::pair{-2, 1.0}, {-1, -8.0}, {1, 8.0}, {2, -1.0}}) {
    values[element] = center + offset * h;
    xs[input] = from_values(values, original.shape(), place_of(original));
    const std::vector<double> y = f(xs).values();
    sum.resize(y.size());
    for (std::size_t k = 0; k < y.size(); ++k) sum[k] += factor * y[k] / (12 * h);
  }
  return sum;
}

GradcheckReport check(std::string_view op, const Function& f, std::span<const Tensor> inputs, GradcheckOptions options) {
  if (!f) fail("{}: the function is empty", op);
  Tensors wanted, plain;
  std::vector<std::size_t> slots;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_f64(op, fmt::format("input {}", i), inputs[i]);
    plain.push_back(inputs[i].detach());
    if (!inputs[i].tracked()) continue;
    wanted.push_back(inputs[i]);
    slots.push_back(i);
  }
  if (wanted.empty()) fail("{}: no input is tracked; call track() on those to differentiate by", op);
  GradMode on(true);
  const Tensor y = f(inputs);
  check_f64(op, "the result", y);

  GradcheckReport report;
  for (const bool create_graph : {false, true}) {
    const std::vector<Matrix> jacobians = analytic(y, wanted, create_graph);
    for (std::size_t w = 0; w < wanted.size(); ++w) {
      for (std::size_t e = 0; e < static_cast<std::size_t>(wanted[w].numel()); ++e) {
        NoGrad off;
        const std::vector<double> numeric = column(f, plain, slots[w], e, options.step);
        for (std::size_t k = 0; k < numeric.size(); ++k) {
          const double a = jacobians[w][k][e], n = numeric[k];
          double error = std::abs(a - n) / (options.atol + options.rtol * std::abs(n));
          if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
          if (error <= report.worst) continue;
          report.worst = error;
          report.where = fmt::format("input {} element {} / output {}: analytic {:.12g}, numeric {:.12g}{}", slots[w], e, k, a, n,
                                     create_graph ? " (create_graph)" : "");
        }
      }
    }
  }
  report.ok = report.worst <= 1;
  return report;
}

}  // namespace

GradcheckReport gradcheck(const Function& f, std::span<const Tensor> inputs, GradcheckOptions options) {
  return check("gradcheck", f, inputs, options);
}

GradcheckReport gradgradcheck(const Function& f, std::span<const Tensor> inputs, GradcheckOptions options) {
  if (!f) fail("gradgradcheck: the function is empty");
  std::vector<std::size_t> slots;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_f64("gradgradcheck", fmt::format("input {}", i), inputs[i]);
    if (inputs[i].tracked()) slots.push_back(i);
  }
  if (slots.empty()) fail("gradgradcheck: no input is tracked; call track() on those to differentiate by");
  Shape shape;
  {
    NoGrad off;
    shape = f(inputs).shape();
  }
  // A cotangent without symmetry: equal entries would hide terms that cancel.
  std::vector<double> weights;
  for (Index k = 0; k < shape.numel(); ++k) weights.push_back(0.5 + 0.7 * std::sin(1.3 * static_cast<double>(k) + 0.4));
  Tensors all(inputs.begin(), inputs.end());
  all.push_back(from_values(weights, shape, {DType::f64, inputs[0].device()}).track());

  const Function products = [&f, &slots](std::span<const Tensor> in) {
    const bool higher = grad_enabled();  // off while differences are taken: there the fused derivatives run
    GradMode on(true);
    Tensors xs(in.begin(), in.end() - 1), wanted;
    for (const std::size_t i : slots) {
      if (!xs[i].tracked()) xs[i] = xs[i].detach().track();
      wanted.push_back(xs[i]);
    }
    const Tensor y = f(xs);
    Tensors flat;
    const Tensors found = y.tracked() ? grad(y, wanted, in.back(), {.create_graph = higher}) : wanted;
    for (const Tensor& d : found) flat.push_back(reshape(y.tracked() ? d : d * 0.0, Shape{d.numel()}));
    return cat(flat, 0);
  };
  return check("gradgradcheck", products, all, options);
}

}  // namespace norma
