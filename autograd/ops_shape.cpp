// Ops that change how elements are addressed, as views; and those that copy them elsewhere (contiguous, cast, to).
#include <algorithm>
#include <cstddef>

#include "autograd/anomaly.h"
#include "autograd/dispatch.h"

namespace norma {

namespace {

std::string text(std::span<const Index> sizes) {
  std::string s;
  for (const Index n : sizes) s += fmt::format("{}{}", s.empty() ? "" : ", ", n);
  return "[" + s + "]";
}

/// Elements start, start + step, ... of one axis, already checked.
struct Cut {
  int axis;
  Index start, count, step;
};

Tensor take(const Tensor& x, Cut cut);
Tensor cut_view(const Tensor& x, Cut cut) { return x.with_layout(slice(x.layout(), cut.axis, cut.start, cut.count, cut.step)); }

/// The inverse of a cut: zeros of `shape` with x placed on the cut's elements.
Tensor put(const Tensor& x, const Shape& shape, Cut cut) {
  const Index end = cut.start + cut.count;
  if (cut.step == 1) return pad(x, cut.axis, cut.start, shape[cut.axis] - end);
  if (cut.step == -1) {
    const Index first = cut.start - cut.count + 1;
    return pad(flip(x, cut.axis), cut.axis, first, shape[cut.axis] - cut.start - 1);
  }
  Tensor y = zeros(shape, place_of(x));
  backend_of(x).copy(x.view(), cut_view(y, cut).view());
  return record(y, {x}, {"put", keep_nothing, [cut](const Ctx&, const Tensor& g) -> Tensors { return {take(g, cut)}; }});
}

/// Whether what has arrived at a gradient is the sweep's alone, so that it may be written: its memory belongs to one handle, which the sweep's table, the
/// list that Ctx reads and `arrived` share. A seed, a gradient that a hook or grad()'s result keeps, and one that also goes another way have more.
bool sweep_alone_has(const Tensor& arrived) {
  constexpr long holders = 3;
  return arrived.impl().use_count() == holders && arrived.storage().use_count() == 1 && !arrived.tracked() && !arrived.layout().overlapping();
}

/// The gradient of what was cut from, where other cuts have brought theirs: g is added in its place, so that many parts cost no more than the whole.
Tensors put_into_arrived(const Ctx& ctx, const Tensor& g, const Shape& shape, Cut cut) {
  const Tensor arrived = ctx.arrived(0);
  if (!arrived || AnomalyScope::active() || !sweep_alone_has(arrived)) return {put(g, shape, cut)};
  const View part = cut_view(arrived, cut).view();
  backend_of(g).binary(BinaryOp::add, part, g.view(), part);
  ctx.take(0);
  return {arrived};
}

Tensor take(const Tensor& x, Cut cut) {
  return record(cut_view(x, cut), {x},
                {"slice", keep_nothing, [cut, shape = x.shape()](const Ctx&, const Tensor& g) -> Tensors { return {put(g, shape, cut)}; },
                 [cut, shape = x.shape()](const Ctx& ctx, const Tensor& g) { return put_into_arrived(ctx, g, shape, cut); }});
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) {
  check_present("reshape", x);
  if (x.shape() == shape) return alias(x);
  if (x.numel() != shape.numel()) {
    fail("reshape: {} elements cannot become {} ({} elements)", x.numel(), shape, shape.numel());
  }
  const auto view = reshape(x.layout(), shape);
  return record(view ? x.with_layout(*view) : copy_of(x).with_layout(Layout(shape)), {x},
                {"reshape", keep_nothing, [from = x.shape()](const Ctx&, const Tensor& g) -> Tensors {
                   return {reshape(g, from)};
                 }});
}

Tensor reshape(const Tensor& x, std::initializer_list<Index> sizes) {
  const std::span<const Index> given(sizes.begin(), sizes.size());
  const auto open = std::count(sizes.begin(), sizes.end(), -1);
  if (open == 0) return reshape(x, Shape(given));
  check_present("reshape", x);
  if (open > 1) fail("reshape: only one size may be -1, got {}", text(given));
  Shape rest;
  for (const Index n : sizes) {
    if (n == 0) fail("reshape: -1 has no meaning beside a size of 0, got {}", text(given));
    if (n < -1) fail("reshape: a size is negative, got {}", text(given));
    if (n != -1) rest.append(n);
  }
  const Index known = rest.numel();
  if (x.numel() % known != 0) fail("reshape: {} elements cannot become {}", x.numel(), text(given));
  Shape shape;
  for (const Index n : sizes) shape.append(n == -1 ? x.numel() / known : n);
  return reshape(x, shape);
}

Tensor flatten(const Tensor& x, int first, int last) {
  check_present("flatten", x);
  if (x.rank() == 0) return reshape(x, Shape{1});
  const int a = normalize_axis("flatten", first, x.shape()), b = normalize_axis("flatten", last, x.shape());
  if (a > b) fail("flatten: the first axis {} comes after the last {} in {}", first, last, x.shape());
  Shape shape, merged;
  for (int axis = 0; axis < x.rank(); ++axis) {
    (axis < a || axis > b ? shape : merged).append(x.shape()[axis]);
    if (axis == b) shape.append(merged.numel());
  }
  return reshape(x, shape);
}

Tensor permute(const Tensor& x, std::initializer_list<int> axes) {
  return permute(x, std::span<const int>(axes.begin(), axes.size()));
}

Tensor permute(const Tensor& x, std::span<const int> axes) {
  check_present("permute", x);
  std::array<int, max_rank> order{}, inverse{};
  unsigned seen = 0;
  if (static_cast<int>(axes.size()) != x.rank()) fail("permute: {} axes are given for {}", axes.size(), x.shape());
  for (std::size_t i = 0; i < axes.size(); ++i) {
    order[i] = normalize_axis("permute", axes[i], x.shape());
    inverse[order[i]] = static_cast<int>(i);
    if (seen >> order[i] & 1u) fail("permute: axis {} is given twice for {}", axes[i], x.shape());
    seen |= 1u << order[i];
  }
  const Layout layout = permute(x.layout(), std::span<const int>(order.data(), axes.size()));
  return record(x.with_layout(layout), {x},
                {"permute", keep_nothing, [inverse, rank = axes.size()](const Ctx&, const Tensor& g) -> Tensors {
                   return {permute(g, std::span<const int>(inverse.data(), rank))};
                 }});
}

Tensor transpose(const Tensor& x, int a, int b) {
  check_present("transpose", x);
  const int i = normalize_axis("transpose", a, x.shape()), j = normalize_axis("transpose", b, x.shape());
  return record(x.with_layout(transpose(x.layout(), i, j)), {x},
                {"transpose", keep_nothing, [i, j](const Ctx&, const Tensor& g) -> Tensors { return {transpose(g, i, j)}; }});
}

Tensor squeeze(const Tensor& x, int axis) {
  check_present("squeeze", x);
  const int a = normalize_axis("squeeze", axis, x.shape());
  if (x.shape()[a] != 1) fail("squeeze: axis {} of {} has size {}, not 1", axis, x.shape(), x.shape()[a]);
  return record(x.with_layout(squeeze(x.layout(), a)), {x},
                {"squeeze", keep_nothing, [a](const Ctx&, const Tensor& g) -> Tensors { return {unsqueeze(g, a)}; }});
}

Tensor unsqueeze(const Tensor& x, int axis) {
  check_present("unsqueeze", x);
  const int a = normalize_new_axis("unsqueeze", axis, x.shape());
  return record(x.with_layout(unsqueeze(x.layout(), a)), {x},
                {"unsqueeze", keep_nothing, [a](const Ctx&, const Tensor& g) -> Tensors { return {squeeze(g, a)}; }});
}

Tensor expand(const Tensor& x, const Shape& shape) {
  check_present("expand", x);
  if (x.shape() == shape) return alias(x);
  const int extra = shape.rank() - x.rank();
  if (extra < 0) fail("expand: {} has more axes than {}", x.shape(), shape);
  for (int axis = 0; axis < x.rank(); ++axis) {
    const Index from = x.shape()[axis];
    if (from != 1 && from != shape[axis + extra]) fail("expand: {} cannot become {}: axis {} is {}", x.shape(), shape, axis, from);
  }
  return record(x.with_layout(expand(x.layout(), shape)), {x},
                {"expand", keep_nothing, [from = x.shape()](const Ctx&, const Tensor& g) -> Tensors {
                   return {sum_to(g, from)};
                 }});
}

Tensor expand(const Tensor& x, std::initializer_list<Index> sizes) {
  const std::span<const Index> given(sizes.begin(), sizes.size());
  for (const Index n : sizes)
    if (n < 0) fail("expand: a size is negative, got {}; -1 does not stand for an axis as it is, give its size", text(given));
  return expand(x, Shape(given));
}

Tensor slice(const Tensor& x, int axis, Index start, Index stop, Index step) {
  check_present("slice", x);
  const int a = normalize_axis("slice", axis, x.shape());
  if (step == 0) fail("slice: the step must not be 0");
  const Index n = x.shape()[a], low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
  const auto bound = [&](Index i) { return std::clamp(i < 0 ? i + n : i, low, high); };
  const Index from = bound(start), to = bound(stop);
  const Index count = step > 0 ? (to > from ? (to - from - 1) / step + 1 : 0) : (from > to ? 1 - (from - to - 1) / step : 0);
  if (count == n && step == 1) return alias(x);
  return take(x, {a, count ? from : 0, count, count ? step : 1});
}

Tensor select(const Tensor& x, int axis, Index index) {
  check_present("select", x);
  const int a = normalize_axis("select", axis, x.shape());
  const Index n = x.shape()[a], i = index < 0 ? index + n : index;
  if (i < 0 || i >= n) fail("select: index {} is outside axis {} of {}", index, axis, x.shape());
  return squeeze(take(x, {a, i, 1, 1}), a);
}

Tensor flip(const Tensor& x, int axis) {
  check_present("flip", x);
  const int a = normalize_axis("flip", axis, x.shape());
  const Index n = x.shape()[a];
  if (n < 2) return alias(x);
  return record(x.with_layout(slice(x.layout(), a, n - 1, n, -1)), {x},
                {"flip", keep_nothing, [a](const Ctx&, const Tensor& g) -> Tensors { return {flip(g, a)}; }});
}

namespace {
Tensor triangle(std::string_view op, const Tensor& x, Index diagonal, bool lower) {
  check_present(op, x);
  if (x.rank() < 2) fail("{}: {} has no last two axes", op, x.shape());
  const Place place{DType::i64, x.device()};
  const Tensor rows = unsqueeze(arange(x.size(-2), place), 1), columns = arange(x.size(-1), place);
  const Index limited = std::clamp(diagonal, -x.size(-2) - 1, x.size(-1));  // beyond it is all or nothing
  const Tensor last = rows + static_cast<double>(limited);  // the diagonal's column in each row
  return where(lower ? less_equal(columns, last) : greater_equal(columns, last), x, scalar_like(0, x));
}
}  // namespace

Tensor tril(const Tensor& x, Index diagonal) { return triangle("tril", x, diagonal, true); }
Tensor triu(const Tensor& x, Index diagonal) { return triangle("triu", x, diagonal, false); }

Tensor contiguous(const Tensor& x) {
  check_present("contiguous", x);
  if (x.is_contiguous()) return x;
  return record(copy_of(x), {x},
                {"contiguous", keep_nothing, [](const Ctx&, const Tensor& g) -> Tensors { return {g}; }});
}

Tensor clone(const Tensor& x) {
  check_present("clone", x);
  return record(copy_of(x), {x}, {"clone", keep_nothing, [](const Ctx&, const Tensor& g) -> Tensors { return {g}; }});
}

Tensor cast(const Tensor& x, DType dtype) {
  check_present("cast", x);
  if (x.dtype() == dtype) return x;
  Tensor y = empty(x.shape(), {dtype, x.device()});
  backend_of(x).copy(x.view(), y.view());
  if (!is_floating(dtype)) return y;
  return record(y, {x}, {"cast", keep_nothing, [from = x.dtype()](const Ctx&, const Tensor& g) -> Tensors {
                           return {cast(g, from)};
                         }});
}

Tensor to(const Tensor& x, Device device) {
  check_present("to", x);
  if (x.device() == device) return x;
  const Tensor source = x.is_contiguous() ? x.detach() : copy_of(x);
  const Tensor y = empty(x.shape(), {x.dtype(), device});
  std::vector<std::byte> host(static_cast<std::size_t>(x.numel()) * size_of(x.dtype()));
  backend_of(x).download(host.data(), source.view().data, host.size());
  backend_of(y).upload(y.view().data, host.data(), host.size());
  return record(y, {x}, {"to", keep_nothing, [from = x.device()](const Ctx&, const Tensor& g) -> Tensors {
                           return {to(g, from)};
                         }});
}

}  // namespace norma
