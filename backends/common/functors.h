// The meaning of each element-wise word, for every backend: one line per op. Scalar functions of the compute type:
// float, double, or an integer type for the ops that have an integer meaning (`integers`); bf16 computes in float, and
// the other integer cases in double (convert.h). Includes no tensor headers, so that files compiled for one instruction
// set or for CUDA can use it.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <type_traits>

#include "core/op_list.h"

#if defined(__CUDACC__)
#define NORMA_HD __host__ __device__ __forceinline__
#else
#define NORMA_HD inline __attribute__((always_inline))
#endif

namespace norma {

/// x's type without sign: integer arithmetic wraps around instead of overflowing.
template <class T>
using Wrapping = typename std::conditional_t<std::is_integral_v<T> && !std::is_same_v<T, bool>, std::make_unsigned<T>,
                                             std::type_identity<T>>::type;

namespace detail {

template <class T>
NORMA_HD T integer_power(T x, std::uint64_t exponent) {  // products in the order of the exponent's bits
  Wrapping<T> result = 1, factor = static_cast<Wrapping<T>>(x);
  for (;; factor = static_cast<Wrapping<T>>(factor * factor)) {
    if (exponent & 1) result = static_cast<Wrapping<T>>(result * factor);
    if ((exponent >>= 1) == 0) return static_cast<T>(result);
  }
}

/// x^p. Integer exponents up to 8 in size are products: exact where the result is, the sign of x kept for odd p.
template <class T>
NORMA_HD T power(T x, double p) {
  if constexpr (std::is_integral_v<T>) {
    if (p >= 0 && p == std::floor(p) && p < 64) return integer_power(x, static_cast<std::uint64_t>(p));
    return static_cast<T>(std::pow(static_cast<double>(x), p));
  } else {
    if (p == 2) return x * x;
    if (p == 3) return x * x * x;
    if (p == std::floor(p) && std::fabs(p) <= 8) {
      const T result = integer_power(x, static_cast<std::uint64_t>(std::fabs(p)));
      return p < 0 ? T(1) / result : result;
    }
    return std::pow(x, static_cast<T>(p));
  }
}

template <class T>
NORMA_HD T pow(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    if (b >= 0) return integer_power(a, static_cast<std::uint64_t>(b));
    return a == T(1) ? T(1) : a == static_cast<T>(-1) ? static_cast<T>(b % 2 == 0 ? 1 : -1) : T(0);
  } else {
    return std::pow(a, b);
  }
}

/// Integer division truncates; by zero it gives 0 and the smallest number by -1 wraps, where the processor would trap.
template <class T>
NORMA_HD T divide(T a, T b) {
  if constexpr (std::is_integral_v<T>) {
    if (b == 0) return 0;
    if constexpr (std::is_signed_v<T>)
      if (b == -1) return static_cast<T>(-static_cast<Wrapping<T>>(a));
  }
  return static_cast<T>(a / b);
}

/// Phi(x) = erfc(-x / sqrt 2) / 2, exact also in the negative tail: erfc's argument z carries its rounding error e,
/// because erfc magnifies it by 2 z^2.
NORMA_HD double normal_cdf(double x) {
  constexpr double c = 0.70710678118654757, c_rest = -4.8336466567264567e-17;  // 1 / sqrt 2 in two parts
  if (!(std::fabs(x) < 40)) return x > 0 ? 1 : x < 0 ? 0 : x;                  // beyond all digits; NaN
  const double z = -x * c, e = std::fma(-x, c, -z) - x * c_rest;
  const double slope = 1.1283791670955126 * std::exp(-z * z);  // -erfc'(z)
  return 0.5 * (std::erfc(z) - slope * e);
}

template <class T>
NORMA_HD T gelu(T x) {
  return x == -INFINITY ? T(0) : static_cast<T>(x * normal_cdf(static_cast<double>(x)));
}

template <class T>
NORMA_HD T sigmoid(T x) {  // without overflow, and without losing the small values on the left
  const T e = std::exp(-std::fabs(x));
  return x < 0 ? e / (1 + e) : 1 / (1 + e);
}

/// 0.5 x (1 + tanh u), u = sqrt(2 / pi) (x + 0.044715 x^3), written as x sigmoid(2 u): no cancellation for negative x.
template <class T>
NORMA_HD T gelu_tanh(T x) {
  const double d = static_cast<double>(x);
  return x == -INFINITY ? T(0) : static_cast<T>(d * sigmoid(1.5957691216057308 * (d + 0.044715 * d * d * d)));
}

constexpr double erf_slope = 2 * std::numbers::inv_sqrtpi;                                         // erf'(0)
constexpr double tanh_scale = std::numbers::sqrt2 * std::numbers::inv_sqrtpi, tanh_cubic = 0.044715;  // of gelu_tanh

template <class T>
NORMA_HD T gelu_tanh_slope(T x) {
  const T x2 = x * x, t = std::tanh(x * (x2 * T(tanh_scale * tanh_cubic) + T(tanh_scale)));
  return (t + 1) * T(0.5) + x * (1 - t * t) * (x2 * T(1.5 * tanh_scale * tanh_cubic) + T(0.5 * tanh_scale));
}

template <class T>
NORMA_HD T silu_slope(T x) {
  const T s = sigmoid(x);
  return s * (x * (1 - s) + 1);
}

}  // namespace detail

/// Unary<op>{}(x, parameter); only power reads the parameter.
template <UnaryOp op>
struct Unary;

#define NORMA_UNARY(word, expression)                                 \
  template <>                                                         \
  struct Unary<UnaryOp::word> {                                       \
    static constexpr bool integers = has_integers(UnaryOp::word);     \
    template <class T>                                                \
    NORMA_HD T operator()(T x, [[maybe_unused]] double p = 0) const { \
      return static_cast<T>(expression);                              \
    }                                                                 \
  };

NORMA_UNARY(neg, -static_cast<Wrapping<T>>(x))
NORMA_UNARY(abs, x < 0 ? -static_cast<Wrapping<T>>(x) : x == 0 ? Wrapping<T>(0) : static_cast<Wrapping<T>>(x))
NORMA_UNARY(exp, std::exp(x))
NORMA_UNARY(log, std::log(x))
NORMA_UNARY(log1p, std::log1p(x))
NORMA_UNARY(sqrt, std::sqrt(x))
NORMA_UNARY(rsqrt, 1 / std::sqrt(x))
NORMA_UNARY(sin, std::sin(x))
NORMA_UNARY(cos, std::cos(x))
NORMA_UNARY(tanh, std::tanh(x))
NORMA_UNARY(erf, std::erf(x))
NORMA_UNARY(sigmoid, detail::sigmoid(x))
NORMA_UNARY(relu, x <= 0 ? T(0) : x)  // NaN stays
NORMA_UNARY(gelu, detail::gelu(x))
NORMA_UNARY(gelu_tanh, detail::gelu_tanh(x))
NORMA_UNARY(silu, x == -INFINITY ? T(0) : x * detail::sigmoid(x))
NORMA_UNARY(softplus, (x > 0 ? x : T(0)) + std::log1p(std::exp(-std::fabs(x))))
NORMA_UNARY(square, static_cast<Wrapping<T>>(x) * static_cast<Wrapping<T>>(x))
NORMA_UNARY(reciprocal, 1 / x)
NORMA_UNARY(power, detail::power(x, p))
NORMA_UNARY(sign, (x > 0) - (x < 0))
NORMA_UNARY(step, x > 0)
#undef NORMA_UNARY

/// UnaryGradient<op>{}(v, g): g op'(x), v being x or y = op(x) as in Backend::unary_backward. The operations and their order are those of the
/// derivative in autograd/ops_elementwise.cpp, so that both give the same bits. For words whose derivative is more than one operation.
template <UnaryOp op>
struct UnaryGradient {
  static constexpr bool exists = false;
};

#define NORMA_GRADIENT(word, expression)      \
  template <>                                 \
  struct UnaryGradient<UnaryOp::word> {       \
    static constexpr bool exists = true;      \
    template <class T>                        \
    NORMA_HD T operator()(T v, T g) const {   \
      return static_cast<T>(expression);      \
    }                                         \
  };

NORMA_GRADIENT(abs, g * Unary<UnaryOp::sign>{}(v))
NORMA_GRADIENT(log1p, g / (v + 1))
NORMA_GRADIENT(sqrt, g * T(0.5) / v)
NORMA_GRADIENT(rsqrt, g * (v * v * v) * T(-0.5))
NORMA_GRADIENT(sin, g * std::cos(v))
NORMA_GRADIENT(cos, -(g * std::sin(v)))
NORMA_GRADIENT(tanh, g * (1 - v * v))
NORMA_GRADIENT(erf, g * std::exp(-(v * v)) * T(detail::erf_slope))
NORMA_GRADIENT(sigmoid, g * (v * (1 - v)))
NORMA_GRADIENT(relu, v != 0 ? g : T(0))
NORMA_GRADIENT(gelu_tanh, g * detail::gelu_tanh_slope(v))
NORMA_GRADIENT(silu, g * detail::silu_slope(v))
NORMA_GRADIENT(softplus, g * detail::sigmoid(v))
NORMA_GRADIENT(square, g * v * 2)
NORMA_GRADIENT(reciprocal, -(g * (v * v)))
#undef NORMA_GRADIENT

template <UnaryOp op>
NORMA_HD UnaryGradient<op> gradient_of(Unary<op>) {
  return {};
}

/// Binary<op>{}(a, b); comparisons return bool.
template <BinaryOp op>
struct Binary;

#define NORMA_BINARY(word, Result, has_integers, expression) \
  template <>                                                \
  struct Binary<BinaryOp::word> {                            \
    static constexpr bool integers = has_integers;           \
    template <class T>                                       \
    NORMA_HD Result operator()(T a, T b) const {             \
      return static_cast<Result>(expression);                \
    }                                                        \
  };

NORMA_BINARY(add, T, true, static_cast<Wrapping<T>>(a) + static_cast<Wrapping<T>>(b))
NORMA_BINARY(sub, T, true, static_cast<Wrapping<T>>(a) - static_cast<Wrapping<T>>(b))
NORMA_BINARY(mul, T, true, static_cast<Wrapping<T>>(a) * static_cast<Wrapping<T>>(b))
NORMA_BINARY(div, T, true, detail::divide(a, b))
NORMA_BINARY(pow, T, true, detail::pow(a, b))
NORMA_BINARY(max, T, true, a > b || a != a ? a : b)  // a NaN on either side wins
NORMA_BINARY(min, T, true, a < b || a != a ? a : b)
NORMA_BINARY(less, bool, true, a < b)
NORMA_BINARY(less_equal, bool, true, a <= b)
NORMA_BINARY(greater, bool, true, a > b)
NORMA_BINARY(greater_equal, bool, true, a >= b)
NORMA_BINARY(equal, bool, true, a == b)
NORMA_BINARY(not_equal, bool, true, a != b)
#undef NORMA_BINARY

/// Whether `candidate`, met after `best`, replaces it in a max or min reduction: ties keep the first, the first NaN
/// wins.
template <ReduceOp op, class T>
NORMA_HD bool replaces(T candidate, T best) {
  if (best != best) return false;
  if (candidate != candidate) return true;
  return op == ReduceOp::max || op == ReduceOp::argmax ? candidate > best : candidate < best;
}

/// Calls f(Unary<op>{}) for the run-time op.
template <class F>
NORMA_HD void with_unary(UnaryOp op, F&& f) {
  switch (op) {
#define NORMA_CASE(word, ...) \
  case UnaryOp::word:         \
    return f(Unary<UnaryOp::word>{});
    NORMA_UNARY_OPS(NORMA_CASE)
#undef NORMA_CASE
    case UnaryOp::count:
      break;
  }
}

/// Calls f(Binary<op>{}) for the run-time op.
template <class F>
NORMA_HD void with_binary(BinaryOp op, F&& f) {
  switch (op) {
#define NORMA_CASE(word) \
  case BinaryOp::word:   \
    return f(Binary<BinaryOp::word>{});
    NORMA_BINARY_OPS(NORMA_CASE)
#undef NORMA_CASE
    case BinaryOp::count:
      break;
  }
}

}  // namespace norma
