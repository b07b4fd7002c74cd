// Element-wise words on rows of floats and doubles. The same function serves every element of a row, also the last few, so that
// a result does not depend on where its element lies.
#include <numbers>

#include "backends/cpu/kernels/vmath.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// x * sigmoid(z), and 0 where x is -infinity.
template <class V>
NORMA_INLINE V times_sigmoid(V x, V z) {
  using T = Scalar<V>;
  return x == splat(-static_cast<T>(__builtin_inf())) ? V{} : x * sigmoid(z);
}

template <class T, class Op>
NORMA_INLINE void map(std::int64_t n, const T* x, T* out, Op op) {
  constexpr int width = lanes<T>;
  std::int64_t i = 0;
  for (; i + width <= n; i += width) store(out + i, op(load(x + i)));
  if (i < n) store_n(out + i, op(load_n(x + i, static_cast<int>(n - i), T(1))), static_cast<int>(n - i));
}

template <class T>
void power(std::int64_t n, const T* x, T* out, double p) {
  using V = Vec<T>;
  const V one = splat(T(1));
  if (p == 2) return map(n, x, out, [](V v) { return v * v; });
  if (p == 3) return map(n, x, out, [](V v) { return v * v * v; });
  const double size = p < 0 ? -p : p;
  if (size <= 8 && size == static_cast<int>(size)) {  // products in the order of the exponent's bits
    const int bits = static_cast<int>(size);
    const bool inverse = p < 0;
    return map(n, x, out, [=](V v) {
      V result = one;
      for (int rest = bits; rest; rest >>= 1, v = v * v)
        if (rest & 1) result = result * v;
      return inverse ? one / result : result;
    });
  }
  if (size == 0.5) {  // pow(-0, 0.5) is 0 and pow(-infinity, 0.5) is infinity, as no square root is
    const T infinity = static_cast<T>(__builtin_inf());
    const bool inverse = p < 0;
    return map(n, x, out, [=](V v) {
      const V root = v == -infinity ? splat(infinity) : sqrt(v + V{});
      return inverse ? one / root : root;
    });
  }
  const V exponent = splat(static_cast<T>(p));
  map(n, x, out, [=](V v) { return pow(v, exponent); });
}

template <class T>
void unary(UnaryOp op, std::int64_t n, const T* x, T* out, double parameter) {
  using V = Vec<T>;
  const V one = splat(T(1)), zero = {};
  switch (op) {
#define NORMA_MAP(word, expression) \
  case UnaryOp::word:               \
    return map(n, x, out, [=](V v) -> V { return expression; });
    NORMA_MAP(neg, -v)
    NORMA_MAP(abs, abs(v))
    NORMA_MAP(exp, exp(v))
    NORMA_MAP(log, log(v))
    NORMA_MAP(log1p, log1p(v))
    NORMA_MAP(sqrt, sqrt(v))
    NORMA_MAP(rsqrt, one / sqrt(v))
    NORMA_MAP(sin, sin(v))
    NORMA_MAP(cos, cos(v))
    NORMA_MAP(tanh, tanh(v))
    NORMA_MAP(erf, erf(v))
    NORMA_MAP(sigmoid, sigmoid(v))
    NORMA_MAP(relu, v <= zero ? zero : v)  // NaN stays
    NORMA_MAP(gelu, gelu(v))
    NORMA_MAP(gelu_tanh, times_sigmoid(v, (v + v * v * v * T(0.044715)) * T(1.5957691216057308)))
    NORMA_MAP(silu, times_sigmoid(v, v))
    NORMA_MAP(softplus, (v > zero ? v : zero) + log1p(exp(-abs(v))))
    NORMA_MAP(square, v * v)
    NORMA_MAP(reciprocal, one / v)
    NORMA_MAP(sign, v > zero ? one : (v < zero ? -one : zero))
    NORMA_MAP(step, v > zero ? one : zero)
#undef NORMA_MAP
    case UnaryOp::power:
      return power(n, x, out, parameter);
    case UnaryOp::count:
      return;
  }
}

/// An operand that moves with the element, or stays.
template <bool moves, class T>
struct Operand {
  const T* p;
  Vec<T> first;
  NORMA_INLINE explicit Operand(const T* start) : p(start), first(splat(*start)) {}
  NORMA_INLINE Vec<T> at(std::int64_t i) const { return moves ? load(p + i) : first; }
  NORMA_INLINE Vec<T> at(std::int64_t i, int count) const { return moves ? load_n(p + i, count, T(1)) : first; }
};

template <class T, bool a_moves, bool b_moves, class Op>
NORMA_INLINE void zip_as(std::int64_t n, const T* a, const T* b, T* out, Op op) {
  constexpr int width = lanes<T>;
  const Operand<a_moves, T> left(a);
  const Operand<b_moves, T> right(b);
  std::int64_t i = 0;
  for (; i + width <= n; i += width) store(out + i, op(left.at(i), right.at(i)));
  const int count = static_cast<int>(n - i);
  if (count) store_n(out + i, op(left.at(i, count), right.at(i, count)), count);
}

template <class T, class Op>
NORMA_INLINE void zip(std::int64_t n, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step, T* out, Op op) {
  if (n == 0) return;
  if (a_step && b_step) return zip_as<T, true, true>(n, a, b, out, op);
  if (a_step) return zip_as<T, true, false>(n, a, b, out, op);
  if (b_step) return zip_as<T, false, true>(n, a, b, out, op);
  zip_as<T, false, false>(n, a, b, out, op);
}

template <class T>
void binary(BinaryOp op, std::int64_t n, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step, T* out) {
  using V = Vec<T>;
  switch (op) {
#define NORMA_ZIP(word, expression) \
  case BinaryOp::word:              \
    return zip(n, a, a_step, b, b_step, out, [](V x, V y) -> V { return expression; });
    NORMA_ZIP(add, x + y)
    NORMA_ZIP(sub, x - y)
    NORMA_ZIP(mul, x * y)
    NORMA_ZIP(div, x / y)
    NORMA_ZIP(pow, pow(x, y))
    NORMA_ZIP(max, ((x > y) | (x != x)) ? x : y)  // a NaN on either side wins
    NORMA_ZIP(min, ((x < y) | (x != x)) ? x : y)
#undef NORMA_ZIP
    default:
      return;
  }
}

/// Plain loops: the compiler packs the truth values better than a vector type would.
template <class T, class Op>
NORMA_INLINE void compare_as(std::int64_t n, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step,
                             std::uint8_t* out, Op op) {
  if (a_step && b_step) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = op(a[i], b[i]);
  } else if (a_step) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = op(a[i], *b);
  } else {
    for (std::int64_t i = 0; i < n; ++i) out[i] = op(*a, b[i * b_step]);
  }
}

template <class T>
void compare(BinaryOp op, std::int64_t n, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step,
             std::uint8_t* out) {
  switch (op) {
#define NORMA_COMPARE(word, expression) \
  case BinaryOp::word:                  \
    return compare_as(n, a, a_step, b, b_step, out, [](T x, T y) { return expression; });
    NORMA_COMPARE(less, x < y)
    NORMA_COMPARE(less_equal, x <= y)
    NORMA_COMPARE(greater, x > y)
    NORMA_COMPARE(greater_equal, x >= y)
    NORMA_COMPARE(equal, x == y)
    NORMA_COMPARE(not_equal, x != y)
#undef NORMA_COMPARE
    default:
      return;
  }
}

/// Both sides are read whichever is chosen, so that the loops have no branch.
template <class T>
void where(std::int64_t n, const std::uint8_t* condition, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step,
           T* out) {
  const auto choose = [&](auto left, auto right) __attribute__((always_inline)) {
    for (std::int64_t i = 0; i < n; ++i) {
      const T x = left(i), y = right(i);
      out[i] = condition[i] ? x : y;
    }
  };
  if (n == 0) return;
  const auto each = [](const T* p) { return [p](std::int64_t i) { return p[i]; }; };
  const auto same = [](const T* p) { return [value = *p](std::int64_t) { return value; }; };
  if (a_step && b_step) return choose(each(a), each(b));
  if (a_step) return choose(each(a), same(b));
  if (b_step) return choose(same(a), each(b));
  choose(same(a), same(b));
}

template <class V>
NORMA_INLINE V gelu_tanh_slope(V x) {
  using T = Scalar<V>;
  constexpr double scale = std::numbers::sqrt2 * std::numbers::inv_sqrtpi, cubic = 0.044715;
  const V x2 = x * x, t = tanh(x * (x2 * T(scale * cubic) + T(scale)));
  return (t + T(1)) * T(0.5) + x * (T(1) - t * t) * (x2 * T(1.5 * scale * cubic) + T(0.5 * scale));
}

template <class V>
NORMA_INLINE V silu_slope(V x) {
  using T = Scalar<V>;
  const V s = sigmoid(x);
  return s * (x * (T(1) - s) + T(1));
}

/// The operations of UnaryGradient (backends/common/functors.h), in their order.
template <class T>
bool unary_backward(UnaryOp op, std::int64_t n, const T* kept, const T* dy, T* dx) {
  using V = Vec<T>;
  const V one = splat(T(1)), zero = {};
  switch (op) {
#define NORMA_GRADIENT(word, expression)                                                            \
  case UnaryOp::word:                                                                               \
    if (n > 0) zip_as<T, true, true>(n, kept, dy, dx, [=](V v, V g) -> V { return expression; });   \
    return true;
    NORMA_GRADIENT(abs, g * (v > zero ? one : (v < zero ? -one : zero)))
    NORMA_GRADIENT(log1p, g / (v + one))
    NORMA_GRADIENT(sqrt, g * T(0.5) / v)
    NORMA_GRADIENT(rsqrt, g * (v * v * v) * T(-0.5))
    NORMA_GRADIENT(sin, g * cos(v))
    NORMA_GRADIENT(cos, -(g * sin(v)))
    NORMA_GRADIENT(tanh, g * (one - v * v))
    NORMA_GRADIENT(erf, g * exp(-(v * v)) * T(2 * std::numbers::inv_sqrtpi))
    NORMA_GRADIENT(sigmoid, g * (v * (one - v)))
    NORMA_GRADIENT(relu, v != zero ? g : zero)
    NORMA_GRADIENT(gelu, g * gelu_grad(v))
    NORMA_GRADIENT(gelu_tanh, g * gelu_tanh_slope(v))
    NORMA_GRADIENT(silu, g * silu_slope(v))
    NORMA_GRADIENT(softplus, g * sigmoid(v))
    NORMA_GRADIENT(square, g * v * T(2))
    NORMA_GRADIENT(reciprocal, -(g * (v * v)))
#undef NORMA_GRADIENT
    default:
      return false;
  }
}

template <class T>
constexpr ElementwiseTable<T> table = {unary<T>, binary<T>, compare<T>, unary_backward<T>};

}  // namespace

const ElementwiseKernels elementwise_kernels = {table<float>, table<double>};
const WhereTable where_kernels = {where<std::uint8_t>, where<std::uint16_t>, where<std::uint32_t>, where<std::uint64_t>};

}  // namespace norma::cpu::NORMA_ISA
