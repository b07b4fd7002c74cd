// An element's moving average. Includes no tensor headers, so that files compiled for CUDA can use it.
#pragma once

#include "backends/common/convert.h"

namespace norma {

/// average * decay + value * rest, every step rounded to T as mul and add round it.
template <class T>
NORMA_HD T averaged(T average, T value, T decay, T rest) {
  const T kept = apply_binary<T>(Binary<BinaryOp::mul>{}, average, decay), added = apply_binary<T>(Binary<BinaryOp::mul>{}, value, rest);
  return apply_binary<T>(Binary<BinaryOp::add>{}, kept, added);
}

}  // namespace norma
