// Derivatives against differences: full Jacobians in f64.
#include <array>
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

/// The numbers beside one column of the Jacobian, that of one element of one input: differences, finer ones taken only where asked for.
class Column {
 public:
  Column(const Function& f, const Tensors& xs, std::size_t input, std::size_t element, const std::vector<double>& y, const GradcheckOptions& options)
      : f_(f), xs_(xs), original_(xs[input]), values_(original_.values()), y_(y), options_(options), input_(input), element_(element) {
    center_ = values_[element];
  }

  struct Judgement {
    double numeric = 0, error = 0;  // error: in tolerances
    bool kink = false;              // there is no derivative: what is claimed lies between those of the two sides
  };
  /// Of a claimed derivative of output k. A kink within the step spoils the difference, so finer steps have a say before it is wrong.
  Judgement judge(double claimed, std::size_t k) {
    const double numeric = central(0)[k];
    const double first = miss(std::abs(claimed - numeric), numeric, k, 0);
    if (first <= 1) return {numeric, first};
    for (std::size_t level = 1; level < central_.size(); ++level) {
      const double finer = central(level)[k], error = miss(std::abs(claimed - finer), finer, k, level);
      if (error <= 1) return {finer, error};
    }
    // A kink at x itself, or nearer than any step.
    const std::size_t finest = central_.size() - 1;
    const double back = side(0)[k], ahead = side(1)[k];
    const double outside = std::max(std::min(back, ahead) - claimed, claimed - std::max(back, ahead));
    if (miss(std::max(outside, 0.0), std::max(std::abs(back), std::abs(ahead)), k, finest) <= 1 && std::isfinite(claimed)) return {numeric, 0, true};
    return {numeric, first};
  }
  /// Whether f's values changed with this element, as far as was asked.
  bool moves() const { return moves_; }

 private:
  double step(std::size_t level) const { return options_.step / std::pow(8, level); }
  /// A distance in tolerances; those of finer steps make room for the rounding of f, which a difference divides by its step.
  double miss(double distance, double numeric, std::size_t k, std::size_t level) const {
    const double rounding = level == 0 ? 0 : 16 * std::numeric_limits<double>::epsilon() * std::abs(y_[k]) / step(level);
    const double error = distance / (options_.atol + options_.rtol * std::abs(numeric) + rounding);
    return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
  }
  /// sum_i factor_i f(x + offset_i h) / divisor
  std::vector<double> difference(std::initializer_list<std::pair<int, double>> terms, double h, double divisor) {
    std::vector<double> sum(y_.size());
    for (const auto& [offset, factor] : terms) {
      values_[element_] = center_ + offset * h;
      xs_[input_] = from_values(values_, original_.shape(), place_of(original_));
      const std::vector<double> y = f_(xs_).values();
      if (first_.empty()) first_ = y;
      moves_ |= y != first_;
      for (std::size_t k = 0; k < y.size(); ++k) sum[k] += factor * y[k] / divisor;
    }
    return sum;
  }
  const std::vector<double>& central(std::size_t level) {
    std::vector<double>& found = central_[level];
    const double h = step(level);
    if (found.empty()) found = difference({{-2, 1.0}, {-1, -8.0}, {1, 8.0}, {2, -1.0}}, h, 12 * h);
    return found;
  }
  /// By x and two points behind it (0) or ahead of it (1).
  const std::vector<double>& side(std::size_t which) {
    std::vector<double>& found = side_[which];
    const double h = step(central_.size() - 1) * (which == 0 ? -1 : 1);
    if (found.empty()) found = difference({{0, -3.0}, {1, 4.0}, {2, -1.0}}, h, 2 * h);
    return found;
  }

  const Function& f_;
  Tensors xs_;
  Tensor original_;
  std::vector<double> values_;
  const std::vector<double>& y_;
  const GradcheckOptions& options_;
  std::size_t input_, element_;
  double center_ = 0;
  std::array<std::vector<double>, 3> central_;  // by level: each an eighth of the step before
  std::array<std::vector<double>, 2> side_;
  std::vector<double> first_;  // of f's values, to compare the others with: y_ was recorded, and may differ in rounding
  bool moves_ = false;
};

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
  const Function moved = [&](std::span<const Tensor> in) {
    Tensor z = f(in);
    if (z.shape() != y.shape())
      fail("{}: f returned a tensor of shape {}, and of {} where an element of an input was moved; its shape must not depend on values", op, y.shape(),
           z.shape());
    return z;
  };

  GradcheckReport report;
  const std::vector<double> values = y.values();
  const std::array<std::vector<Matrix>, 2> jacobians{analytic(y, wanted, false), analytic(y, wanted, true)};
  for (std::size_t w = 0; w < wanted.size(); ++w) {
    bool moves = false, has_worst = false;
    for (std::size_t e = 0; e < static_cast<std::size_t>(wanted[w].numel()); ++e) {
      NoGrad off;
      Column column(moved, plain, slots[w], e, values, options);
      for (std::size_t k = 0; k < values.size(); ++k) {
        bool kink = false;
        for (const bool create_graph : {false, true}) {
          const double a = jacobians[create_graph][w][k][e];
          const Column::Judgement found = column.judge(a, k);
          kink |= found.kink;
          if (found.error <= report.worst) continue;
          has_worst = true;
          report.worst = found.error;
          report.where = fmt::format("input {} element {} / output {}: analytic {:.12g}, numeric {:.12g}{}", slots[w], e, k, a, found.numeric,
                                     create_graph ? " (create_graph)" : "");
        }
        report.kinks += kink;
      }
      moves |= column.moves();
    }
    if (has_worst && report.worst > 1 && !moves) report.where += "; f does not seem to use its argument";
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
