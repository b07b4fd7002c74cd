// Element types: their names and sizes; core/element.h has the types themselves.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

#include "core/element.h"
#include "core/error.h"

namespace norma {

std::size_t size_of(DType dtype);
std::string_view name(DType dtype);       // "f32", "bool", ...
DType parse_dtype(std::string_view text);  // throws, listing the names
inline bool is_floating(DType d) { return d == DType::f32 || d == DType::f64 || d == DType::bf16; }
/// The dtype of what goes with activations of dtype d in mixed precision: parameters, statistics, sums (core/verbs.h).
inline DType wide_of(DType d) { return d == DType::bf16 ? DType::f32 : d; }

}  // namespace norma

template <>
struct fmt::formatter<norma::DType> {
  constexpr auto parse(fmt::format_parse_context& ctx) { return ctx.begin(); }
  auto format(norma::DType d, fmt::format_context& ctx) const {  // no format_to: g++ and clang name what it calls in libfmt.so differently
    const std::string_view text = norma::name(d);
    return std::copy(text.begin(), text.end(), ctx.out());
  }
};
