// Tensors as rows of their last axis, where strides allow it.
#pragma once

#include <optional>

#include "core/tensor.h"

namespace norma {

/// `count` rows of n dense elements, `step` elements apart.
struct DenseRows {
  Index count = 1, n = 0, step = 0;
};
inline std::optional<DenseRows> dense_rows_of(const View& v) {
  const Layout& layout = v.layout;
  const int last = layout.rank() - 1;
  if (last < 0 || (layout.shape[last] > 1 && layout.strides[static_cast<std::size_t>(last)] != 1)) return std::nullopt;
  DenseRows rows{1, layout.shape[last], layout.shape[last]};
  for (int axis = last - 1; axis >= 0; --axis) {
    const Index size = layout.shape[axis];
    if (size == 1) continue;
    if (rows.count == 1) {
      rows.step = layout.stride(axis);
    } else if (layout.stride(axis) != rows.step * rows.count) {
      return std::nullopt;
    }
    rows.count *= size;
  }
  return rows;
}

}  // namespace norma
