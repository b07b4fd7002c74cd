// Sizes of a tensor: at most 8 dimensions, stored inline. Knows nothing of memory.
#pragma once

#include <array>
#include <initializer_list>
#include <iosfwd>
#include <span>
#include <string>

#include "core/dtype.h"

namespace norma {

constexpr int max_rank = 8;

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<Index> sizes) : Shape(std::span<const Index>(sizes.begin(), sizes.size())) {}
  /// Throws on more than 8 dimensions or a negative size.
  explicit Shape(std::span<const Index> sizes);

  int rank() const { return rank_; }
  /// Size of an axis; negative axes count from the end. Not checked: use normalize_axis for user input.
  Index operator[](int axis) const { return size_[axis < 0 ? axis + rank_ : axis]; }
  void set(int axis, Index size) { size_[axis < 0 ? axis + rank_ : axis] = size; }
  void append(Index size);
  Shape with(int axis, Index size) const { Shape s = *this; s.set(axis, size); return s; }
  Shape without(int axis) const;
  /// Number of elements; throws when it does not fit in 63 bits. A 0-d shape has one element.
  Index numel() const;
  const Index* begin() const { return size_.data(); }
  const Index* end() const { return size_.data() + rank_; }
  bool operator==(const Shape& other) const;
  std::string text() const;  // "[2, 3]"

 private:
  std::array<Index, max_rank> size_{};
  int rank_ = 0;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);  // its text()

/// The shape both broadcast to (NumPy rules); throws naming `op`, both shapes and the axis that differs.
Shape broadcast(std::string_view op, const Shape& a, const Shape& b);

/// Maps a possibly negative axis to [0, rank); throws naming `op` when out of range.
int normalize_axis(std::string_view op, int axis, const Shape& shape);

}  // namespace norma

template <>
struct fmt::formatter<norma::Shape> {
  constexpr auto parse(fmt::format_parse_context& ctx) { return ctx.begin(); }
  auto format(const norma::Shape& s, fmt::format_context& ctx) const {  // no format_to: g++ and clang name what it calls in libfmt.so differently
    const std::string text = s.text();
    return std::copy(text.begin(), text.end(), ctx.out());
  }
};
