// The words of the element-wise language. A line here gives the enum value and the name; backends/common/functors.h gives
// the meaning, autograd/ops_elementwise.cpp the derivative, checks/op_table_elementwise.cpp the line that tests it.
#pragma once

#include <cstdint>
#include <string_view>

namespace norma {

// Each with whether it has a meaning for integers. power takes one constant parameter.
#define NORMA_UNARY_OPS(X)                                                                                        \
  X(neg, true) X(abs, true) X(exp, false) X(log, false) X(log1p, false) X(sqrt, false) X(rsqrt, false)            \
  X(sin, false) X(cos, false) X(tanh, false) X(erf, false) X(sigmoid, false) X(relu, true) X(gelu, false)         \
  X(gelu_tanh, false) X(silu, false) X(softplus, false) X(square, true) X(reciprocal, false) X(power, true)       \
  X(sign, true) X(step, true)
#define NORMA_BINARY_OPS(X) \
  X(add) X(sub) X(mul) X(div) X(pow) X(max) X(min) X(less) X(less_equal) X(greater) X(greater_equal) X(equal) X(not_equal)
#define NORMA_REDUCE_OPS(X) X(sum) X(max) X(min) X(argmax) X(argmin)

#define NORMA_ENUM(word, ...) word,
enum class UnaryOp : std::uint8_t { NORMA_UNARY_OPS(NORMA_ENUM) count };
enum class BinaryOp : std::uint8_t { NORMA_BINARY_OPS(NORMA_ENUM) count };
enum class ReduceOp : std::uint8_t { NORMA_REDUCE_OPS(NORMA_ENUM) count };
#undef NORMA_ENUM

std::string_view name(UnaryOp op);
std::string_view name(BinaryOp op);
std::string_view name(ReduceOp op);

#define NORMA_INTEGERS(word, integers) integers,
/// Where it is false, a user's integers are refused.
constexpr bool has_integers(UnaryOp op) {
  constexpr bool has[] = {NORMA_UNARY_OPS(NORMA_INTEGERS)};
  return has[static_cast<int>(op)];
}
#undef NORMA_INTEGERS

inline bool is_comparison(BinaryOp op) { return op >= BinaryOp::less; }

}  // namespace norma
