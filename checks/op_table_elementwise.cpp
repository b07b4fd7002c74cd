// Element-wise ops.
#include <cmath>

#include "checks/op_case.h"

namespace norma::checks {

namespace {

const Shape small{2, 3}, odd{5, 37};  // odd: longer than any vector register, with a remainder

using Unary = Tensor (*)(const Tensor&);
using Binary = Tensor (*)(const Tensor&, const Tensor&);

Input like(Input in, const Shape& shape) { return in.shape = shape, in; }

void add_unary(OpCases& cases, const char* op, Unary f, const Input& domain, int order = 2) {
  const auto run = [f](In x) { return f(x[0]); };
  cases.push_back({.op = op, .inputs = {like(domain, small)}, .run = run, .order = order, .any_shape = true});
  cases.push_back(
      {.op = op, .variant = "5x37", .inputs = {like(domain, odd)}, .run = run, .order = order, .large = true});
}

void add_binary(OpCases& cases, const char* op, Binary f, const Input& a, const Input& b, int order = 2) {
  const auto run = [f](In x) { return f(x[0], x[1]); };
  cases.push_back(
      {.op = op, .inputs = {like(a, small), like(b, small)}, .run = run, .order = order, .any_shape = true});
  cases.push_back(
      {.op = op, .variant = "broadcast", .inputs = {like(a, {2, 1, 3}), like(b, {2, 1})}, .run = run, .order = order});
  cases.push_back({.op = op, .variant = "scalar", .inputs = {like(a, {}), like(b, {3})}, .run = run, .order = order});
  cases.push_back({.op = op,
                   .variant = "5x37",
                   .inputs = {like(a, odd), like(b, {37})},
                   .run = run,
                   .order = order,
                   .large = true});
}

}  // namespace

void add_elementwise(OpCases& cases, ErrorCases& errors) {
  const Input any = real({}, -2, 2), off = nonzero({}, 2), positive = real({}, 0.3, 2);
  add_unary(cases, "neg", neg, any);
  add_unary(cases, "abs", abs, off);
  add_unary(cases, "exp", exp, any);
  add_unary(cases, "log", log, positive);
  add_unary(cases, "log1p", log1p, real({}, -0.7, 2));
  add_unary(cases, "sqrt", sqrt, positive);
  add_unary(cases, "rsqrt", rsqrt, positive);
  add_unary(cases, "sin", sin, real({}, -6, 6));
  add_unary(cases, "cos", cos, real({}, -6, 6));
  add_unary(cases, "tanh", tanh, any);
  add_unary(cases, "erf", erf, any);
  add_unary(cases, "sigmoid", sigmoid, real({}, -4, 4));
  add_unary(cases, "relu", relu, off);
  add_unary(cases, "gelu", gelu, real({}, -4, 4));
  add_unary(cases, "gelu_tanh", gelu_tanh, any);
  add_unary(cases, "silu", silu, any);
  add_unary(cases, "softplus", softplus, any);
  add_unary(cases, "square", square, any);
  add_unary(cases, "reciprocal", reciprocal, nonzero({}, 2));
  add_unary(cases, "sign", sign, off, 1);
  add_unary(cases, "step", step, off, 1);
  for (double p : {0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 2.5}) {
    cases.push_back({.op = "pow",
                     .variant = fmt::format("x^{}", p),
                     .inputs = {p == std::floor(p) && p >= 0 ? real(small, -2, 2) : real(small, 0.3, 2)},
                     .run = [p](In x) { return pow(x[0], p); },
                     .order = p == 0 || p == 1 ? 1 : 2,
                     .any_shape = true});
  }
  cases.push_back({.op = "scalar_like",
                   .inputs = {real(small)},
                   .run = [](In x) { return scalar_like(2.5, x[0]) * x[0]; },
                   .any_shape = true});

  add_binary(cases, "add", add, any, any);
  add_binary(cases, "sub", sub, any, any);
  add_binary(cases, "mul", mul, any, any);
  Input divisor = nonzero({}, 2);
  divisor.away = 0.4;  // a fifth derivative of 1/x near its pole is too large for differences
  add_binary(cases, "div", div, any, divisor);
  add_binary(cases, "pow", pow, positive, any);
  add_binary(cases, "maximum", maximum, real({}, -1, 1), real({}, -1, 1));
  add_binary(cases, "minimum", minimum, real({}, -1, 1), real({}, -1, 1));
  add_binary(cases, "less", less, any, any, 0);
  add_binary(cases, "less_equal", less_equal, any, any, 0);
  add_binary(cases, "greater", greater, any, any, 0);
  add_binary(cases, "greater_equal", greater_equal, any, any, 0);
  add_binary(cases, "equal", equal, any, any, 0);
  add_binary(cases, "not_equal", not_equal, any, any, 0);
  cases.push_back({.op = "clamp",
                   .inputs = {distinct({2, 3})},
                   .run = [](In x) { return clamp(x[0], -0.03, 0.07); },
                   .order = 1});
  cases.push_back({.op = "pow", .variant = "2^x", .inputs = {like(any, small)}, .run = [](In x) { return pow(2.0, x[0]); }});
  add_unary(cases, "logical_not", logical_not, any, 0);
  add_binary(cases, "logical_and", logical_and, any, any, 0);
  add_binary(cases, "logical_or", logical_or, any, any, 0);
  cases.push_back({.op = "logical_and",
                   .variant = "flags",
                   .inputs = {flags({4, 5}), flags({5})},
                   .run = [](In x) { return logical_and(x[0], x[1]); },
                   .order = 0});
  cases.push_back({.op = "logical_or",
                   .variant = "flags",
                   .inputs = {flags({4, 5}), flags({5})},
                   .run = [](In x) { return logical_or(x[0], x[1]); },
                   .order = 0});
  cases.push_back({.op = "where", .variant = "a number", .inputs = {flags({2, 3}), real({3})}, .run = [](In x) {
                     return where(x[0], x[1], 0.5) + where(x[0], -2, x[1]);
                   }});
  cases.push_back({.op = "where", .inputs = {flags({2, 3}), real({2, 3}), real({3})}, .run = [](In x) {
                     return where(x[0], x[1], x[2]);
                   }});
  cases.push_back(
      {.op = "where", .variant = "0-d branch", .inputs = {flags({4, 1}), real({}), real({5})}, .run = [](In x) {
         return where(x[0], x[1], x[2]);
       }});

  errors.push_back({"add",
                    [] {
                      return add(ones({2, 3}), ones({4, 3}));
                    },
                    "add: shapes [2, 3] and [4, 3] do not broadcast: axis -2 is 2 and 4"});
  errors.push_back(
      {"add", [] { return add(ones({2}), ones({2}, {DType::f64})); }, "add: dtypes f32 and f64 differ; convert with cast()"});
  errors.push_back({"mul",
                    [] {
                      return mul(ones({2}), ones({2}, {DType::f32, {Device::Kind::reference, 0}}));
                    },
                    "mul: operands on cpu and reference; move one with to()"});
  errors.push_back({"sub", [] { return sub(ones({2}), Tensor()); }, "sub: an operand is an empty Tensor handle"});
  errors.push_back({"exp", [] { return exp(arange(3)); }, "exp: needs a floating dtype, got i64; convert with cast()"});
  errors.push_back({"where", [] { return where(ones({2}), ones({2}), ones({2})); },
                    "where: the condition must be bool, got f32; convert with cast()"});
  errors.push_back({"mul", [] { return arange(3) * 0.5; },
                    "mul: 0.5 is not an integer, but the dtype is i64; convert x with cast()"});
}

}  // namespace norma::checks
