// An element's moving average. Includes no tensor headers, so that files compiled for CUDA can use it.
#pragma once

#include "backends/common/convert.h"

namespace norma {

/// average + (value - average) * rest, every step rounded to T as sub, mul and add round it. With two factors, decay and 1 - decay, whose rounded
/// values do not add up to 1, the average of a constant would be another number.
template <class T>
NORMA_HD T averaged(T average, T value, T rest) {
  const T step = apply_binary<T>(Binary<BinaryOp::mul>{}, apply_binary<T>(Binary<BinaryOp::sub>{}, value, average), rest);
  return apply_binary<T>(Binary<BinaryOp::add>{}, average, step);
}

}  // namespace norma
