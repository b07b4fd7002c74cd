// Where the elements of a tensor lie: pure stride algebra, tested without memory. Strides and offset count elements.
#pragma once

#include <array>
#include <optional>
#include <span>

#include "core/shape.h"

namespace norma {

using Strides = std::array<Index, max_rank>;

struct Layout {
  Shape shape;
  Strides strides{};
  Index offset = 0;

  Layout() = default;
  explicit Layout(const Shape& contiguous_shape);
  Layout(const Shape& s, const Strides& st, Index off) : shape(s), strides(st), offset(off) {}
  int rank() const { return shape.rank(); }
  Index stride(int axis) const { return strides[axis < 0 ? axis + shape.rank() : axis]; }
  /// Row-major without gaps (axes of size 1 and empty tensors do not matter).
  bool contiguous() const;
  /// Two indices share an element, as those of a broadcast axis do, so that it must not be written. Some layouts whose axes interleave
  /// (strides 2 and 3) count as such though none do.
  bool overlapping() const;
  /// Every element lies in [0, elements).
  bool within(Index elements) const;
};

Layout permute(const Layout& in, std::span<const int> axes);
Layout transpose(const Layout& in, int a, int b);
/// Broadcasts to `shape` with stride 0; the caller has checked that it fits.
Layout expand(const Layout& in, const Shape& shape);
/// Elements start, start+step, ... (count of them); step may be negative.
Layout slice(const Layout& in, int axis, Index start, Index count, Index step);
Layout squeeze(const Layout& in, int axis);
Layout unsqueeze(const Layout& in, int axis);
/// A view with another shape and the same number of elements, if strides allow it.
std::optional<Layout> reshape(const Layout& in, const Shape& shape);

/// Merges axes that all operands traverse together, drops axes of size 1, and orders axes so that the last is innermost:
/// what an element-wise loop runs over. All layouts have the same shape. Returns the common shape (rank 0 = one element).
Shape coalesce(std::span<Layout*> layouts);

}  // namespace norma
