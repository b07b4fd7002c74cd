// Element types meeting: casts between any two, and the element-wise words applied to values as they are stored.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "backends/common/functors.h"
#include "core/element.h"

namespace norma {

/// The cast of `copy`: floating to integer truncates, cut at the ends of the range, NaN gives 0; anything to bool is !=
/// 0.
template <class To, class From>
NORMA_HD To convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<From, bf16>) {
    return convert<To>(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, bf16>) {
    return bf16(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, bool>) {
    return x != From(0);
  } else if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    constexpr auto low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    // The bounds as doubles: high may round up to the first value that does not fit, hence >=.
    if (!(x == x)) return 0;
    if (static_cast<double>(x) <= static_cast<double>(low)) return low;
    if (static_cast<double>(x) >= static_cast<double>(high)) return high;
    return static_cast<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

/// The type an op computes in for elements of type T.
template <class T, bool integers>
using Compute = std::conditional_t<
    std::is_same_v<T, bf16>, float,
    std::conditional_t<std::is_floating_point_v<T>, T,
                       std::conditional_t<!integers, double, std::conditional_t<std::is_same_v<T, bool>, int, T>>>>;

/// What sums of elements of type T are kept in on the exact path: double, or i64, which Binary<BinaryOp::add> adds modulo 2^64.
template <class T>
using Accumulator = std::conditional_t<std::is_integral_v<T>, std::int64_t, double>;

template <class Op, class T>
NORMA_HD T apply_unary(Op op, T x, double parameter) {
  return convert<T>(op(convert<Compute<T, Op::integers>>(x), parameter));
}

/// Out is T, or bool for comparisons.
template <class Out, class Op, class T>
NORMA_HD Out apply_binary(Op op, T a, T b) {
  using C = Compute<T, Op::integers>;
  return convert<Out>(op(convert<C>(a), convert<C>(b)));
}

}  // namespace norma
