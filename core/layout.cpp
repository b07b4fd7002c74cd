#include "core/layout.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>
#include <vector>

namespace norma {
namespace {

/// a b, or the largest Index where that is too large: only strides of empty tensors get there, along which nobody walks.
Index product(Index a, Index b) {
  Index out = 0;
  return __builtin_mul_overflow(a, b, &out) ? std::numeric_limits<Index>::max() : out;
}

bool holds_none(const Shape& shape) { return std::find(shape.begin(), shape.end(), Index{0}) != shape.end(); }

}  // namespace

Layout::Layout(const Shape& s) : shape(s) {
  Index stride = 1;
  for (int i = s.rank() - 1; i >= 0; --i) {
    strides[i] = stride;
    stride = product(stride, std::max<Index>(s[i], 1));
  }
}

bool Layout::contiguous() const {
  if (holds_none(shape)) return true;
  Index expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape[i] == 1) continue;
    if (strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

bool Layout::overlapping() const {
  if (holds_none(shape)) return false;
  std::array<std::pair<__int128, Index>, max_rank> axes;  // how far apart neighbours lie, in rising order, and how many there are
  std::size_t count = 0;
  for (int i = 0; i < rank(); ++i) {
    if (shape[i] == 1) continue;
    const __int128 apart = strides[i] < 0 ? -static_cast<__int128>(strides[i]) : strides[i];
    std::size_t at = count++;
    for (; at > 0 && apart < axes[at - 1].first; --at) axes[at] = axes[at - 1];
    axes[at] = {apart, shape[i]};
  }
  __int128 reach = 0;  // of the axes so far: the next one's neighbours must lie beyond
  for (std::size_t i = 0; i < count; ++i) {
    const auto& [apart, size] = axes[i];
    if (apart <= reach) return true;
    reach += apart * (size - 1);
  }
  return false;
}

bool Layout::within(Index elements) const {
  if (shape.numel() == 0) return true;
  __int128 first = offset, last = offset;  // cannot overflow: all axes together have fewer than 2^63 elements
  for (int i = 0; i < rank(); ++i) {
    const __int128 reach = static_cast<__int128>(shape[i] - 1) * strides[i];
    (reach < 0 ? first : last) += reach;
  }
  return first >= 0 && last < elements;
}

Layout permute(const Layout& in, std::span<const int> axes) {
  Layout out;
  out.offset = in.offset;
  for (std::size_t i = 0; i < axes.size(); ++i) {
    out.shape.append(in.shape[axes[i]]);
    out.strides[i] = in.strides[axes[i]];
  }
  return out;
}

Layout transpose(const Layout& in, int a, int b) {
  Layout out = in;
  out.shape.set(a, in.shape[b]);
  out.shape.set(b, in.shape[a]);
  std::swap(out.strides[a], out.strides[b]);
  return out;
}

Layout expand(const Layout& in, const Shape& shape) {
  Layout out(shape, {}, in.offset);
  const int lead = shape.rank() - in.rank();
  for (int i = lead; i < shape.rank(); ++i)
    out.strides[i] = in.shape[i - lead] == shape[i] ? in.strides[i - lead] : 0;
  return out;
}

Layout slice(const Layout& in, int axis, Index start, Index count, Index step) {
  Layout out = in;
  out.shape.set(axis, count);
  if (!holds_none(out.shape)) out.offset += start * in.strides[axis];
  if (count > 1) out.strides[axis] = product(in.strides[axis], step);  // one element has no next
  return out;
}

Layout squeeze(const Layout& in, int axis) {
  Layout out(in.shape.without(axis), {}, in.offset);
  for (int i = 0, j = 0; i < in.rank(); ++i)
    if (i != axis) out.strides[j++] = in.strides[i];
  return out;
}

Layout unsqueeze(const Layout& in, int axis) {
  Layout out;
  out.offset = in.offset;
  for (int i = 0, j = 0; i <= in.rank(); ++i) {
    out.shape.append(i == axis ? 1 : in.shape[j]);
    out.strides[i] = i == axis ? 1 : in.strides[j];
    if (i != axis) ++j;
  }
  return out;
}

std::optional<Layout> reshape(const Layout& in, const Shape& shape) {
  if (in.contiguous()) {
    Layout out(shape);
    out.offset = in.offset;
    return out;
  }
  // Both shapes are cut into groups of axes with equal products; a group can be re-cut if its input axes lie evenly.
  Layout out(shape);
  out.offset = in.offset;
  std::vector<std::pair<Index, Index>> axes;  // size, stride without axes of size 1
  for (int i = 0; i < in.rank(); ++i)
    if (in.shape[i] != 1) axes.emplace_back(in.shape[i], in.strides[i]);
  std::size_t a = 0;
  int o = 0;
  while (a < axes.size()) {
    Index have = axes[a].first, want = 1;
    std::size_t last = a;
    int o_end = o;
    while (want != have) {
      if (want < have) {
        if (o_end >= shape.rank()) return std::nullopt;
        want *= shape[o_end++];
      } else {
        if (++last >= axes.size()) return std::nullopt;
        have *= axes[last].first;
      }
    }
    for (std::size_t i = a; i < last; ++i)
      if (axes[i].second != axes[i + 1].first * axes[i + 1].second) return std::nullopt;
    Index stride = axes[last].second;
    for (int i = o_end - 1; i >= o; --i) {
      out.strides[i] = stride;
      stride *= shape[i];
    }
    a = last + 1;
    o = o_end;
  }
  return out;
}

Shape coalesce(std::span<Layout*> layouts) {
  const Shape shape = layouts[0]->shape;
  std::array<int, max_rank> order{};
  std::size_t count = 0;
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] != 1) order[count++] = i;
  // Outer axes first: sort by the strides of the last operand (the output), then of the others. Stable, so ties keep order.
  auto outer = [&](int a, int b) {
    for (std::size_t k = layouts.size(); k-- > 0;) {
      const Index sa = std::abs(layouts[k]->strides[a]), sb = std::abs(layouts[k]->strides[b]);
      if (sa != sb && sa != 0 && sb != 0) return sa > sb;
    }
    return false;
  };
  for (std::size_t i = 1; i < count; ++i)  // insertion: `outer` is not transitive over zero strides
    for (std::size_t j = i; j > 0 && outer(order[j], order[j - 1]); --j) std::swap(order[j], order[j - 1]);
  for (Layout* x : layouts) {
    const Strides before = std::exchange(x->strides, {});
    for (std::size_t i = 0; i < count; ++i) x->strides[i] = before[order[i]];
  }

  Shape merged;  // its axis `last` has taken in those of `order` so far, the strides likewise
  for (std::size_t i = 0; i < count; ++i) {
    const Index size = shape[order[i]];
    const auto last = static_cast<std::size_t>(merged.rank()) - 1;
    bool joins = merged.rank() > 0;
    for (const Layout* x : layouts) joins = joins && x->strides[last] == product(x->strides[i], size);
    if (joins)
      merged.set(merged.rank() - 1, product(merged[merged.rank() - 1], size));
    else
      merged.append(size);
    for (Layout* x : layouts) x->strides[static_cast<std::size_t>(merged.rank()) - 1] = x->strides[i];
  }
  for (Layout* x : layouts) {
    std::fill(x->strides.begin() + merged.rank(), x->strides.end(), 0);
    x->shape = merged;
  }
  return merged;
}

}  // namespace norma
