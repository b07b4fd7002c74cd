// Element-wise ops: each with its derivative, written with recorded ops so that it can be differentiated again.
#include <cmath>
#include <numbers>

#include "autograd/fused_util.h"

namespace norma {

using fused::narrow;
using fused::widen;

namespace {

/// A unary op. `keep` says what the derivative sees first: the input (keep0), the output (keep_output) or nothing.
template <class Derivative>
Tensor map(UnaryOp op, const Tensor& x, unsigned keep, Derivative derivative, double parameter = 0) {
  return record(run_unary(op, x, parameter), {x},
                {name(op).data(), keep, [derivative, keep](const Ctx& c, const Tensor& g) -> Tensors {
                   return {derivative(keep == keep_nothing ? Tensor{} : c.saved(0), g)};
                 }});
}

/// The same, with a derivative of several operations, which backends may have as one kernel.
template <class Derivative>
Tensor map_fused(UnaryOp op, const Tensor& x, unsigned keep, Derivative derivative) {
  return record(run_unary(op, x), {x},
                {name(op).data(), keep, [derivative](const Ctx& c, const Tensor& g) -> Tensors { return {derivative(c.saved(0), g)}; },
                 [op](const Ctx& c, const Tensor& g) -> Tensors {
                   const Tensor kept = contiguous(c.saved(0)), dy = contiguous(g), dx = empty(kept.shape(), place_of(kept));
                   if (!backend_of(kept).unary_backward(op, kept.view(), dy.view(), dx.view())) return {};
                   return {dx};
                 }});
}

/// A derivative of several operations, which rounds bf16 once, at its end.
template <class Derivative>
auto rounded_once(Derivative derivative) {
  return [derivative](const Tensor& kept, const Tensor& g) { return narrow(derivative(widen(kept), widen(g)), g.dtype()); };
}

/// The gradients of a broadcasting binary op, each computed where it is asked for and summed back to its operand's shape.
template <class A, class B>
Tensors pair(const Ctx& c, const Shape& a_shape, const Shape& b_shape, A a_gradient, B b_gradient) {
  return {c.needs(0) ? sum_to(a_gradient(), a_shape) : Tensor{}, c.needs(1) ? sum_to(b_gradient(), b_shape) : Tensor{}};
}

Tensor gelu_slope(const Tensor& x) {  // Phi(x) + x phi(x)
  const Tensor cdf = erf(x * (1 / std::numbers::sqrt2)) * 0.5 + 0.5;
  return cdf + x * exp(square(x) * -0.5) * (0.5 * std::numbers::sqrt2 * std::numbers::inv_sqrtpi);
}

Tensor gelu_tanh_slope(const Tensor& x) {
  const double k = std::numbers::sqrt2 * std::numbers::inv_sqrtpi, cubic = 0.044715;
  const Tensor x2 = square(x), t = tanh(x * (x2 * (k * cubic) + k));
  return (t + 1.0) * 0.5 + x * (1.0 - square(t)) * (x2 * (1.5 * k * cubic) + 0.5 * k);
}

}  // namespace

Tensor neg(const Tensor& x) {
  if (x && x.dtype() == DType::boolean) fail("neg: a bool has no sign; logical_not() turns it round");
  return map(UnaryOp::neg, x, keep_nothing, [](const Tensor&, const Tensor& g) { return neg(g); });
}
Tensor abs(const Tensor& x) {
  return map_fused(UnaryOp::abs, x, keep0, [](const Tensor& x0, const Tensor& g) { return g * sign(x0); });
}
Tensor exp(const Tensor& x) {
  return map(UnaryOp::exp, x, keep_output, [](const Tensor& y, const Tensor& g) { return g * y; });
}
Tensor log(const Tensor& x) {
  return map(UnaryOp::log, x, keep0, [](const Tensor& x0, const Tensor& g) { return g / x0; });
}
Tensor log1p(const Tensor& x) {
  return map_fused(UnaryOp::log1p, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) { return g / (x0 + 1.0); }));
}
Tensor sqrt(const Tensor& x) {
  return map_fused(UnaryOp::sqrt, x, keep_output, rounded_once([](const Tensor& y, const Tensor& g) { return g * 0.5 / y; }));
}
Tensor rsqrt(const Tensor& x) {
  return map_fused(UnaryOp::rsqrt, x, keep_output, rounded_once([](const Tensor& y, const Tensor& g) { return g * (square(y) * y) * -0.5; }));
}
Tensor sin(const Tensor& x) {
  return map_fused(UnaryOp::sin, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) { return g * cos(x0); }));
}
Tensor cos(const Tensor& x) {
  return map_fused(UnaryOp::cos, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) { return -(g * sin(x0)); }));
}
Tensor tanh(const Tensor& x) {
  return map_fused(UnaryOp::tanh, x, keep_output, rounded_once([](const Tensor& y, const Tensor& g) { return g * (1.0 - square(y)); }));
}
Tensor erf(const Tensor& x) {
  return map_fused(UnaryOp::erf, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) {
    return g * exp(-square(x0)) * (2 * std::numbers::inv_sqrtpi);
  }));
}
Tensor sigmoid(const Tensor& x) {
  return map_fused(UnaryOp::sigmoid, x, keep_output, rounded_once([](const Tensor& y, const Tensor& g) { return g * (y * (1.0 - y)); }));
}
Tensor relu(const Tensor& x) {
  return map_fused(UnaryOp::relu, x, keep_output, [](const Tensor& y, const Tensor& g) {
    const Tensor zero = scalar_like(0, y);
    return where(not_equal(y, zero), g, zero);  // y >= 0, or NaN
  });
}
Tensor gelu(const Tensor& x) {
  return map_fused(UnaryOp::gelu, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) { return g * gelu_slope(x0); }));
}
Tensor gelu_tanh(const Tensor& x) {
  return map_fused(UnaryOp::gelu_tanh, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) { return g * gelu_tanh_slope(x0); }));
}
Tensor silu(const Tensor& x) {
  return map_fused(UnaryOp::silu, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) {
    const Tensor s = sigmoid(x0);
    return g * (s * (x0 * (1.0 - s) + 1.0));
  }));
}
Tensor softplus(const Tensor& x) {
  return map_fused(UnaryOp::softplus, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) { return g * sigmoid(x0); }));
}
Tensor square(const Tensor& x) {
  return map_fused(UnaryOp::square, x, keep0, rounded_once([](const Tensor& x0, const Tensor& g) { return g * x0 * 2.0; }));
}
Tensor reciprocal(const Tensor& x) {
  return map_fused(UnaryOp::reciprocal, x, keep_output, rounded_once([](const Tensor& y, const Tensor& g) { return -(g * square(y)); }));
}
Tensor sign(const Tensor& x) {
  return map(UnaryOp::sign, x, keep_nothing, [](const Tensor&, const Tensor&) { return Tensor{}; });
}
Tensor step(const Tensor& x) {
  return map(UnaryOp::step, x, keep_nothing, [](const Tensor&, const Tensor&) { return Tensor{}; });
}
Tensor pow(const Tensor& x, Scalar power) {
  check_present("pow", x);
  if (!is_floating(x.dtype())) return pow(x, scalar_like(power, x, "pow"));
  const double exponent = power.value();
  const auto slope = rounded_once([exponent](const Tensor& x0, const Tensor& g) { return g * pow(x0, exponent - 1) * exponent; });
  // The exponent 0 ends the chain: 0 * x^-1 would be NaN at x = 0.
  return map(UnaryOp::power, x, keep0, [exponent, slope](const Tensor& x0, const Tensor& g) {
    if (exponent == 0) return Tensor{};
    return exponent == 1 ? g : slope(x0, g);
  }, exponent);
}

Tensor add(const Tensor& a, const Tensor& b) {
  const Tensor value = run_binary("add", BinaryOp::add, a, b);  // checks first
  return record(value, {a, b},
                {"add", keep_nothing, [sa = a.shape(), sb = b.shape()](const Ctx& c, const Tensor& g) {
                   return pair(c, sa, sb, [&] { return g; }, [&] { return g; });
                 }});
}
Tensor sub(const Tensor& a, const Tensor& b) {
  const Tensor value = run_binary("sub", BinaryOp::sub, a, b);  // checks first
  return record(value, {a, b},
                {"sub", keep_nothing, [sa = a.shape(), sb = b.shape()](const Ctx& c, const Tensor& g) -> Tensors {
                   return {c.needs(0) ? sum_to(g, sa) : Tensor{}, c.needs(1) ? neg(sum_to(g, sb)) : Tensor{}};
                 }});
}
Tensor mul(const Tensor& a, const Tensor& b) {
  // Each operand is kept only for the other's derivative.
  const unsigned keep = (b.tracked() ? keep0 : 0u) | (a.tracked() ? keep1 : 0u);
  const Tensor value = run_binary("mul", BinaryOp::mul, a, b);  // checks first
  return record(value, {a, b},
                {"mul", keep, [sa = a.shape(), sb = b.shape(), second = keep & keep0 ? 1 : 0](const Ctx& c, const Tensor& g) {
                   return pair(c, sa, sb, [&] { return g * c.saved(second); }, [&] { return g * c.saved(0); });
                 }});
}
Tensor div(const Tensor& a, const Tensor& b) {
  const unsigned keep = keep1 | (b.tracked() ? keep_output : 0u);
  const Tensor value = run_binary("div", BinaryOp::div, a, b);  // checks first
  return record(value, {a, b},
                {"div", keep, [sa = a.shape(), sb = b.shape()](const Ctx& c, const Tensor& g) {
                   return pair(c, sa, sb, [&] { return g / c.saved(0); },
                               [&] {  // not -(g / b) y: where y is 0, g / b may be no number
                                 const Tensor slope = widen(c.saved(1)) / -widen(c.saved(0));
                                 return narrow(widen(g) * slope, g.dtype());
                               });
                 }});
}
Tensor pow(const Tensor& a, const Tensor& b) {
  const Tensor value = run_binary("pow", BinaryOp::pow, a, b);  // checks first
  return record(value, {a, b},
                {"pow", keep0 | keep1 | keep_output, [sa = a.shape(), sb = b.shape()](const Ctx& c, const Tensor& g) {
                   const Tensor x = widen(c.saved(0)), y = widen(c.saved(1)), dy = widen(g);
                   const Tensor zero = scalar_like(0, x), one = scalar_like(1, x);
                   return pair(c, sa, sb,
                               [&] {  // x^0 is constant: keep 0 * x^-1 away where x^-1 is no number, which is the case of NaN too
                                 const Tensor ordinary = greater_equal(abs(x), fused::smallest_normal(x.dtype()));
                                 const Tensor constant = logical_and(equal(y, zero), logical_not(ordinary));
                                 return narrow(dy * y * pow(where(constant, zero, x), where(constant, one, y - 1.0)), g.dtype());
                               },
                               [&] {  // 0^y is constant from y = 0 on
                                 const Tensor constant = logical_and(equal(x, zero), greater_equal(y, zero));
                                 return narrow(dy * widen(c.saved(2)) * log(where(constant, one, x)), g.dtype());
                               });
                 }});
}

namespace {

/// The share of g that goes to the operand which loses by `loses`; a tie halves it, and beside NaN, where none of the three holds, each has all.
Tensor share(const Tensor& loses, const Tensor& tie, const Tensor& g) {
  return where(loses, scalar_like(0, g), where(tie, g * 0.5, g));
}

Tensor extremum(const char* op, BinaryOp word, const Tensor& a, const Tensor& b) {
  const Tensor value = run_binary(op, word, a, b);  // checks first
  return record(value, {a, b},
                {op, keep0 | keep1, [sa = a.shape(), sb = b.shape(), word](const Ctx& c, const Tensor& g) {
                   const Tensor x = c.saved(0), y = c.saved(1), tie = equal(x, y), x_above = greater(x, y), y_above = less(x, y);
                   const bool max = word == BinaryOp::max;
                   return pair(c, sa, sb, [&] { return share(max ? y_above : x_above, tie, g); },
                               [&] { return share(max ? x_above : y_above, tie, g); });
                 }});
}

}  // namespace

Tensor maximum(const Tensor& a, const Tensor& b) { return extremum("maximum", BinaryOp::max, a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return extremum("minimum", BinaryOp::min, a, b); }

Tensor less(const Tensor& a, const Tensor& b) { return run_binary("less", BinaryOp::less, a, b); }
Tensor less_equal(const Tensor& a, const Tensor& b) { return run_binary("less_equal", BinaryOp::less_equal, a, b); }
Tensor greater(const Tensor& a, const Tensor& b) { return run_binary("greater", BinaryOp::greater, a, b); }
Tensor greater_equal(const Tensor& a, const Tensor& b) { return run_binary("greater_equal", BinaryOp::greater_equal, a, b); }
Tensor equal(const Tensor& a, const Tensor& b) { return run_binary("equal", BinaryOp::equal, a, b); }
Tensor not_equal(const Tensor& a, const Tensor& b) { return run_binary("not_equal", BinaryOp::not_equal, a, b); }

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  check_dtype("where", "the condition", condition, DType::boolean);
  check_same_place("where", a, b);
  check_same_device("where", condition, a);
  const Shape shape = broadcast("where", condition.shape(), broadcast("where", a.shape(), b.shape()));
  Tensor y = empty(shape, place_of(a));
  backend_of(a).where(expanded(condition, shape), expanded(a, shape), expanded(b, shape), y.view());
  return record(y, {condition, a, b},
                {"where", keep0, [sa = a.shape(), sb = b.shape()](const Ctx& c, const Tensor& g) -> Tensors {
                   const Tensor zero = scalar_like(0, g);
                   return {Tensor{}, c.needs(1) ? sum_to(where(c.saved(0), g, zero), sa) : Tensor{},
                           c.needs(2) ? sum_to(where(c.saved(0), zero, g), sb) : Tensor{}};
                 }});
}

Tensor scalar_like(Scalar number, const Tensor& x, const char* op) {
  check_present(op, x);
  const double value = number.value();
  if (const auto exact = number.integer(); x.dtype() == DType::i64 && exact && std::abs(value) >= 0x1p53)
    return from_integers({*exact}, {}, place_of(x));  // fill() takes a double, which may be another number
  check_value(op, value, x.dtype(), "; convert x with cast()");
  if (x.dtype() == DType::boolean && value != 0 && value != 1)  // as an operand it would equal what it is not
    fail("{}: {} is neither 0 nor 1, but the dtype is bool; convert x with cast()", op, value);
  return full({}, value, place_of(x));
}

Tensor clamp(const Tensor& x, Scalar low, Scalar high) {
  if (low.value() > high.value()) fail("clamp: the lowest value {} is above the highest {}", low.value(), high.value());
  return minimum(maximum(x, scalar_like(low, x, "clamp")), scalar_like(high, x, "clamp"));
}

namespace {
/// Where x is not 0 or false, as bool.
Tensor truth(const char* op, const Tensor& x) {
  check_present(op, x);
  return x.dtype() == DType::boolean ? x : not_equal(x, 0);
}
}  // namespace

Tensor logical_not(const Tensor& x) { return equal(x, scalar_like(0, x, "logical_not")); }
Tensor logical_and(const Tensor& a, const Tensor& b) {
  return run_binary("logical_and", BinaryOp::min, truth("logical_and", a), truth("logical_and", b));
}
Tensor logical_or(const Tensor& a, const Tensor& b) {
  return run_binary("logical_or", BinaryOp::max, truth("logical_or", a), truth("logical_or", b));
}

}  // namespace norma
