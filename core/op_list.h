// The words of the element-wise language. A line here gives the enum value and the name; backends/common/functors.h gives
// the meaning, autograd/ops_elementwise.cpp the derivative, checks/op_table_elementwise.cpp the line that tests it.
#pragma once

#include <cstdint>
#include <string_view>

namespace norma {

// power, leaky forms and the like take one constant parameter.
#define NORMA_UNARY_OPS(X)                                                                                         \
  X(neg) X(abs) X(exp) X(log) X(log1p) X(sqrt) X(rsqrt) X(sin) X(cos) X(tanh) X(erf) X(sigmoid) X(relu) X(gelu) X(gelu_tanh) \
  X(silu) X(softplus) X(square) X(reciprocal) X(power) X(sign) X(step)
#define NORMA_BINARY_OPS(X) \
  X(add) X(sub) X(mul) X(div) X(pow) X(max) X(min) X(less) X(less_equal) X(greater) X(greater_equal) X(equal) X(not_equal)
#define NORMA_REDUCE_OPS(X) X(sum) X(max) X(min) X(argmax) X(argmin)

#define NORMA_ENUM(word) word,
enum class UnaryOp : std::uint8_t { NORMA_UNARY_OPS(NORMA_ENUM) count };
enum class BinaryOp : std::uint8_t { NORMA_BINARY_OPS(NORMA_ENUM) count };
enum class ReduceOp : std::uint8_t { NORMA_REDUCE_OPS(NORMA_ENUM) count };
#undef NORMA_ENUM

std::string_view name(UnaryOp op);
std::string_view name(BinaryOp op);
std::string_view name(ReduceOp op);
inline bool is_comparison(BinaryOp op) { return op >= BinaryOp::less; }

}  // namespace norma
