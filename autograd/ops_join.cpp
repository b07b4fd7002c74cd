// Ops that put tensors side by side or take them apart: cat, stack, split, pad, roll.
#include <limits>

#include "autograd/dispatch.h"

namespace norma {

namespace {

/// The elements [start, start + count) of one axis of a fresh tensor, for writing.
View part(const Tensor& y, int axis, Index start, Index count) {
  return y.with_layout(slice(y.layout(), axis, start, count, 1)).view();
}

}  // namespace

Tensor cat(std::span<const Tensor> xs, int axis) {
  if (xs.empty()) fail("cat: needs at least one tensor");
  check_present("cat", xs[0]);
  const int a = normalize_axis("cat", axis, xs[0].shape());
  Shape shape = xs[0].shape();
  Index total = 0;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    check_same_place("cat", xs[0], xs[i]);
    const Shape& s = xs[i].shape();
    if (s.rank() != shape.rank() || !(s.with(a, 0) == shape.with(a, 0))) {
      std::string expected;
      for (int k = 0; k < shape.rank(); ++k) {
        expected += (k ? ", " : "") + (k == a ? std::string("*") : fmt::format("{}", shape[k]));
      }
      fail("cat: tensor {} has shape {}, expected [{}] to join along axis {}", i, s, expected, a);
    }
    if (__builtin_add_overflow(total, s[a], &total)) fail("cat: the sizes along axis {} add up to more than {}", a, std::numeric_limits<Index>::max());
  }
  shape.set(a, total);
  Tensor y = empty(shape, place_of(xs[0]));
  std::vector<Index> starts;
  Index start = 0;
  for (const Tensor& x : xs) {
    backend_of(y).copy(x.view(), part(y, a, start, x.shape()[a]));
    starts.push_back(start);
    start += x.shape()[a];
  }
  starts.push_back(start);
  return record(y, xs, {"cat", keep_nothing, [a, starts](const Ctx& c, const Tensor& g) {
                          Tensors parts(starts.size() - 1);
                          for (std::size_t i = 0; i < parts.size(); ++i) {
                            if (c.needs(static_cast<int>(i))) parts[i] = slice(g, a, starts[i], starts[i + 1]);
                          }
                          return parts;
                        }});
}

Tensor stack(std::span<const Tensor> xs, int axis) {
  if (xs.empty()) fail("stack: needs at least one tensor");
  check_present("stack", xs[0]);
  const int a = normalize_new_axis("stack", axis, xs[0].shape());
  Tensors rows;
  for (std::size_t i = 0; i < xs.size(); ++i) {
    check_same_place("stack", xs[0], xs[i]);
    if (!(xs[i].shape() == xs[0].shape())) {
      fail("stack: tensor {} has shape {}, the first has {}", i, xs[i].shape(), xs[0].shape());
    }
    rows.push_back(unsqueeze(xs[i], a));
  }
  return cat(rows, a);
}

Tensors split(const Tensor& x, Index size, int axis) {
  check_present("split", x);
  if (size < 1) fail("split: the size of a part must be at least 1, got {}", size);
  const int a = normalize_axis("split", axis, x.shape());
  const Index n = x.shape()[a];
  Tensors parts;
  for (Index start = 0; start < n; start += size) parts.push_back(slice(x, a, start, std::min(start + size, n)));
  if (parts.empty()) parts.push_back(x);
  return parts;
}

Tensor pad(const Tensor& x, int axis, Index before, Index after, double value) {
  check_present("pad", x);
  const int a = normalize_axis("pad", axis, x.shape());
  if (before < 0 || after < 0) fail("pad: {} before and {} after must not be negative; cut with slice()", before, after);
  if (before == 0 && after == 0) return alias(x);
  check_value("pad", value, x.dtype());
  const Index n = x.shape()[a];
  Index length = 0;
  if (__builtin_add_overflow(before, n, &length) || __builtin_add_overflow(length, after, &length))
    fail("pad: {} before and {} after an axis of {} are more than {} elements", before, after, n, std::numeric_limits<Index>::max());
  Tensor y = empty(x.shape().with(a, length), place_of(x));
  backend_of(y).fill(value, part(y, a, 0, before));
  backend_of(y).copy(x.view(), part(y, a, before, n));
  backend_of(y).fill(value, part(y, a, before + n, after));
  return record(y, {x}, {"pad", keep_nothing, [a, before, n](const Ctx&, const Tensor& g) -> Tensors {
                           return {slice(g, a, before, before + n)};
                         }});
}

Tensor roll(const Tensor& x, int axis, Index shift) {
  check_present("roll", x);
  const int a = normalize_axis("roll", axis, x.shape());
  const Index n = x.shape()[a], k = n ? (shift % n + n) % n : 0;  // element i goes to i + k
  if (k == 0) return alias(x);
  Tensor y = empty(x.shape(), place_of(x));
  backend_of(y).copy(part(x, a, 0, n - k), part(y, a, k, n - k));
  backend_of(y).copy(part(x, a, n - k, k), part(y, a, 0, k));
  return record(y, {x}, {"roll", keep_nothing, [a, k](const Ctx&, const Tensor& g) -> Tensors { return {roll(g, a, -k)}; }});
}

Tensor roll(const Tensor& x, std::initializer_list<std::pair<int, Index>> axes_and_shifts) {
  check_present("roll", x);
  Tensor y = x;
  for (const auto& [axis, shift] : axes_and_shifts) y = roll(y, axis, shift);
  return y;
}

}  // namespace norma
