#include "core/shape.h"

#include <algorithm>
#include <ostream>

namespace norma {

Shape::Shape(std::span<const Index> sizes) {
  if (sizes.size() > max_rank) fail("shape: {} dimensions, at most {} are possible", sizes.size(), max_rank);
  for (Index s : sizes) append(s);
}

void Shape::append(Index size) {
  if (rank_ == max_rank) fail("shape: {} has no room for another dimension, at most {} are possible", text(), max_rank);
  if (size < 0) fail("shape: dimension {} is negative ({})", rank_, size);
  size_[rank_++] = size;
}

Shape Shape::without(int axis) const {
  if (axis < 0) axis += rank_;
  Shape s;
  for (int i = 0; i < rank_; ++i)
    if (i != axis) s.append(size_[i]);
  return s;
}

Index Shape::numel() const {
  Index n = 1;
  bool overflow = false;
  for (Index s : *this) {
    if (s == 0) return 0;
    overflow |= __builtin_mul_overflow(n, s, &n);
  }
  if (overflow) fail("shape: the number of elements of {} overflows the 63-bit size limit", text());
  return n;
}

bool Shape::operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

std::string Shape::text() const {
  std::string s = "[";
  for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(size_[i]);
  return s + "]";
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.text(); }

Shape broadcast(std::string_view op, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape out;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const Index sa = ia < 0 ? 1 : a[ia], sb = ib < 0 ? 1 : b[ib];
    if (sa != sb && sa != 1 && sb != 1)
      fail("{}: shapes {} and {} do not broadcast: axis {} is {} and {}", op, a, b, i - rank, sa, sb);
    out.append(sa == 1 ? sb : sa);
  }
  return out;
}

int normalize_axis(std::string_view op, int axis, const Shape& shape) {
  const int rank = shape.rank();
  if (axis < -rank || axis >= rank) {
    if (rank == 0) fail("{}: axis {} out of range, {} has no axes", op, axis, shape);
    fail("{}: axis {} out of range [{}, {}] for shape {}", op, axis, -rank, rank - 1, shape);
  }
  return axis < 0 ? axis + rank : axis;
}

}  // namespace norma
