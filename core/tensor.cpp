#include "core/tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>

#include "core/backend.h"
#include "core/recording.h"

namespace norma {
namespace {

[[noreturn]] void outside(const Layout& layout, DType dtype, Index elements) {
  std::string strides;
  for (int i = 0; i < layout.rank(); ++i) strides += fmt::format("{}{}", i ? ", " : "", layout.stride(i));
  fail("tensor: the layout {} with strides [{}] and offset {} reaches outside its storage, which has {} elements of {}", layout.shape, strides, layout.offset,
       elements, dtype);
}

}  // namespace

Tensor::Tensor(std::shared_ptr<Storage> storage, const Layout& layout, DType dtype)
    : impl_(std::make_shared<Impl>(Impl{std::move(storage), layout, dtype, false, nullptr, {}, nullptr})) {
  const auto elements = static_cast<Index>(impl_->storage->bytes() / size_of(dtype));
  if (!layout.within(elements)) outside(layout, dtype, elements);
}

void Tensor::none() {
  fail("tensor: the handle is empty; it was never set, was moved from, or is the gradient of a leaf that backward() has not reached");
}

Index Tensor::size(int axis) const { return shape()[normalize_axis("size", axis, shape())]; }

View Tensor::view() const {
  const Impl& t = some();
  const Index offset = numel() == 0 ? 0 : t.layout.offset;  // of no element it may be anything
  View v{static_cast<char*>(t.storage->data()) + offset * static_cast<Index>(size_of(t.dtype)), t.layout, t.dtype};
  v.layout.offset = 0;
  return v;
}

Tensor Tensor::with_layout(const Layout& layout) const { return Tensor(storage(), layout, dtype()); }
Tensor Tensor::detach() const { return with_layout(layout()); }

namespace {

/// The elements of a contiguous tensor of T.
template <class T>
std::vector<T> downloaded(const Tensor& x) {
  std::vector<T> out(static_cast<std::size_t>(x.numel()));
  if (!out.empty()) backend(x.device()).download(out.data(), x.view().data, out.size() * sizeof(T));
  return out;
}

}  // namespace

std::vector<double> Tensor::values() const {
  if (numel() == 0) return {};
  Tensor dense = *this;
  if (dtype() != DType::f64 || !is_contiguous()) {
    dense = empty(shape(), {DType::f64, device()});
    backend(device()).copy(view(), dense.view());
  }
  return downloaded<double>(dense);
}

double Tensor::item() const {
  if (numel() != 1) fail("item: {} has {} elements, one is needed", shape(), numel());
  return values()[0];
}

namespace {

constexpr Index whole_axis = 8, end_of_axis = 3;  // what text() shows: an axis up to whole_axis, else its two ends

Index shown(Index size) { return size > whole_axis ? 2 * end_of_axis : size; }

/// Copies what is shown of x, from `axis` on, into `out`.
void gather(const Tensor& x, const Tensor& out, int axis) {
  if (axis == x.rank()) return backend(x.device()).copy(x.view(), out.view());
  if (x.size(axis) <= whole_axis) return gather(x, out, axis + 1);
  for (const bool last : {false, true}) {
    const auto end = [&](const Tensor& t) {
      return t.with_layout(slice(t.layout(), axis, last ? t.size(axis) - end_of_axis : 0, end_of_axis, 1));
    };
    gather(end(x), end(out), axis + 1);
  }
}

/// What is shown of `axis` and those after it; `next` goes on over the numbers. `form`: of one.
template <class T>
void write(std::string& out, const T*& next, const Shape& shape, int axis, const char* form) {
  if (axis == shape.rank()) {
    const T number = *next++;
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isnan(number)) return void(out += "nan");  // whose sign says nothing
    }
    out += fmt::format(fmt::runtime(form), number);
    return;
  }
  out += '[';
  for (Index i = 0; i < shown(shape[axis]); ++i) {
    if (i > 0) out += ", ";
    if (i == end_of_axis && shape[axis] > whole_axis) out += "..., ";
    write(out, next, shape, axis + 1, form);
  }
  out += ']';
}

/// What is shown of x, as T.
template <class T>
std::string written(const Tensor& x, const char* form) {
  Shape some = x.shape();
  for (int axis = 0; axis < x.rank(); ++axis) some.set(axis, shown(x.size(axis)));
  const Tensor part = empty(some, {dtype_of<T>(), x.device()});
  if (part.numel() > 0) gather(x, part, 0);
  const std::vector<T> numbers = downloaded<T>(part);
  std::string out;
  const T* next = numbers.data();
  write(out, next, x.shape(), 0, form);
  return out;
}

}  // namespace

std::string Tensor::text() const {
  if (!impl_) return "an empty Tensor handle";
  return fmt::format("{} {} {}", dtype(), shape(), is_floating(dtype()) ? written<double>(*this, "{:.6g}") : written<Index>(*this, "{}"));
}

std::ostream& operator<<(std::ostream& out, const Tensor& t) { return out << t.text(); }

void* Tensor::host_data(const char* what, DType expected) const {
  if (dtype() != expected) fail("{}: the tensor is {}, {} was asked for", what, dtype(), expected);
  if (!is_contiguous()) fail("{}: the tensor of shape {} is not contiguous; call contiguous() first", what, shape());
  if (device().kind == Device::Kind::cuda) fail("{}: the tensor is on {}; move it with to() first", what, name(device()));
  return view().data;
}

namespace {

void check_writable(const char* op, const Tensor& target) {
  if (!target) fail("{}: the target is an empty Tensor handle", op);
  if (!target.is_leaf() && target.tracked())
    fail("{}: the target was computed in a recorded graph; detach() it, or compute a new tensor", op);
  if (target.layout().overlapping())
    fail("{}: the target {} is expanded, several indices share an element; make it contiguous() first", op, target.shape());
}

}  // namespace

void* Tensor::writable_host_data(DType expected) const {
  void* data = host_data("mutable_data", expected);
  check_writable("mutable_data", *this);
  storage()->bump();
  return data;
}

Tensor& Tensor::track(bool on) {
  Impl& t = some();
  if (on && !is_floating(t.dtype)) fail("track: a tensor of {} has no gradient; cast it to f32 or f64", t.dtype);
  if (t.node && !t.leaf) fail("track: this tensor was computed from others; detach() it first");
  if (on && !t.leaf) t.node = t.untracked.lock();
  if (!on && t.leaf) t.untracked = t.node, t.node = nullptr;
  t.leaf = on;
  return *this;
}

Tensor Tensor::grad() const { return wrap(some().grad); }

void Tensor::set_grad(const Tensor& grad) const {
  if (grad && grad.shape() != shape()) fail("set_grad: gradient {} for a tensor of shape {}", grad.shape(), shape());
  if (grad && place_of(grad) != place_of(*this))
    fail("set_grad: gradient of {} on {} for a tensor of {} on {}", grad.dtype(), name(grad.device()), dtype(), name(device()));
  some().grad = grad.impl();
}

Tensor empty(const Shape& shape, Place place) {
  const Index n = shape.numel();
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<std::size_t>(n), size_of(place.dtype), &bytes))
    fail("empty: {} of {} overflows the size limit", shape, place.dtype);
  return Tensor(std::make_shared<Storage>(place.device, bytes), Layout(shape), place.dtype);
}

void check_value(const char* op, double value, DType dtype, const char* remedy) {
  if (is_floating(dtype) || dtype == DType::boolean) return;
  if (value != std::trunc(value)) fail("{}: {} is not an integer, but the dtype is {}{}", op, value, dtype, remedy);
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_integral_v<T>) {
      constexpr Index low = std::numeric_limits<T>::min(), high = std::numeric_limits<T>::max();
      if (!(value >= static_cast<double>(low) && value < static_cast<double>(high) + 1))
        fail("{}: {} does not fit into {}, which goes from {} to {}{}", op, value, dtype, low, high, remedy);
    }
  });
}

Tensor full(const Shape& shape, double value, Place place) {
  check_value("full", value, place.dtype);
  Tensor t = empty(shape, place);
  backend(place.device).fill(value, t.view());
  return t;
}

namespace {
Tensor like(const char* op, const Tensor& x, double value) {
  if (!x) fail("{}: x is an empty Tensor handle", op);
  return full(x.shape(), value, place_of(x));
}
}  // namespace

Tensor zeros_like(const Tensor& x) { return like("zeros_like", x, 0); }
Tensor ones_like(const Tensor& x) { return like("ones_like", x, 1); }

namespace {
/// number(i) of every element i, made on the host.
template <class F>
Tensor of_integers(const Shape& shape, Place place, F number) {
  const Tensor t = empty(shape, place);  // first, so that what does not fit into memory is refused before any work
  const Layout flat({t.numel()});
  constexpr Index piece = Index{1} << 20;  // of host memory at a time
  std::vector<Index> numbers;
  for (Index first = 0; first < t.numel(); first += piece) {
    numbers.resize(static_cast<std::size_t>(std::min(piece, t.numel() - first)));
    for (Index i = first; Index& each : numbers) each = number(i++);
    const auto many = static_cast<Index>(numbers.size());
    if (place.dtype == DType::i64) {
      backend(place.device).upload(t.view().as<Index>() + first, numbers.data(), numbers.size() * sizeof(Index));
      continue;
    }
    const Tensor wide = from_host(numbers.data(), {many}, {DType::i64, place.device});
    backend(place.device).copy(wide.view(), t.with_layout(slice(flat, 0, first, many, 1)).view());
  }
  return t;
}
}  // namespace

Tensor arange(Index count, Place place) {
  if (count < 0) fail("arange: count {} is negative", count);
  if (count > 0) check_value("arange", static_cast<double>(count - 1), place.dtype);
  return of_integers({count}, place, [](Index i) { return i; });
}

Tensor from_values(const std::vector<double>& values, const Shape& shape, Place place) {
  if (static_cast<Index>(values.size()) != shape.numel())
    fail("from_values: {} values for shape {}", values.size(), shape);
  for (const double value : values) check_value("from_values", value, place.dtype);
  if (place.dtype == DType::f64) return from_host(values.data(), shape, place);
  Tensor wide = from_host(values.data(), shape, {DType::f64, place.device});
  Tensor t = empty(shape, place);
  backend(place.device).copy(wide.view(), t.view());
  return t;
}

Tensor from_integers(const std::vector<Index>& values, const Shape& shape, Place place) {
  if (static_cast<Index>(values.size()) != shape.numel()) fail("from_values: {} values for shape {}", values.size(), shape);
  if (place.dtype != DType::i64)
    for (const Index value : values) check_value("from_values", static_cast<double>(value), place.dtype);
  const Tensor wide = from_host(values.data(), shape, {DType::i64, place.device});
  if (place.dtype == DType::i64) return wide;
  Tensor t = empty(shape, place);
  backend(place.device).copy(wide.view(), t.view());
  return t;
}

namespace {
Tensor drawn(std::string_view op, RandomKind kind, const Shape& shape, RandomStream stream, Place place) {
  if (!is_floating(place.dtype)) fail("{}: {} is no floating dtype", op, name(place.dtype));
  Tensor t = empty(shape, place);
  backend(place.device).random(kind, stream, 0, t.view());
  return t;
}
}  // namespace

Tensor rand(const Shape& shape, RandomStream stream, Place place) { return drawn("rand", RandomKind::uniform, shape, stream, place); }
Tensor randn(const Shape& shape, RandomStream stream, Place place) { return drawn("randn", RandomKind::normal, shape, stream, place); }

Tensor randint(Index low, Index high, const Shape& shape, RandomStream stream, Place place) {
  if (is_floating(place.dtype) || place.dtype == DType::boolean) fail("randint: {} is no integer dtype", place.dtype);
  if (high <= low) fail("randint: no integer lies in [{}, {})", low, high);
  if (stream.replayed) fail("randint: the numbers are drawn on the host, which a captured step cannot do");
  if (place.dtype != DType::i64)  // which holds every Index
    for (const Index end : {low, high - 1}) check_value("randint", static_cast<double>(end), place.dtype);
  const std::uint64_t count = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low);
  return of_integers(shape, place, [=](Index i) {
    const auto at = static_cast<std::uint64_t>(i);
    const Philox words = stream.block(at / 2);  // two of them for each element
    const std::uint64_t drawn = below(words[at % 2 * 2], words[at % 2 * 2 + 1], count);
    return static_cast<Index>(static_cast<std::uint64_t>(low) + drawn);
  });
}

Tensor from_host(const void* data, const Shape& shape, Place place) {
  Tensor t = empty(shape, place);
  backend(place.device).upload(t.view().data, data, t.storage()->bytes());
  return t;
}

void copy_into(const Tensor& target, const Tensor& source) {
  check_writable("copy_into", target);
  if (!source) fail("copy_into: the source is an empty Tensor handle");
  if (Recording::on && source.tracked() && !source.is_leaf())
    fail("copy_into: the source was computed in a recorded graph, and a write is not recorded: write under NoGrad, or of source.detach(), "
         "where no gradient is meant, or make the whole with cat()");
  if (broadcast("copy_into", target.shape(), source.shape()) != target.shape())
    fail("copy_into: source {} does not fit into target {}", source.shape(), target.shape());
  if (target.numel() == 0 && source.numel() != 0)
    fail("copy_into: the target {} has no elements, so the source {} would be lost; is it a slice beyond the end?", target.shape(), source.shape());
  if (source.device() == target.device()) {
    Tensor from = source;
    if (source.storage() == target.storage()) {  // they may overlap: what is read must not be written before
      from = empty(source.shape(), place_of(source));
      backend(source.device()).copy(source.view(), from.view());
    }
    backend(target.device()).copy(from.with_layout(expand(from.layout(), target.shape())).view(), target.view());
  } else {
    // Through host memory: both ends are made dense first.
    Tensor dense = empty(source.shape(), place_of(source));
    backend(source.device()).copy(source.view(), dense.view());
    std::vector<std::byte> host(dense.storage()->bytes());
    backend(source.device()).download(host.data(), dense.view().data, host.size());
    Tensor here = from_host(host.data(), source.shape(), {source.dtype(), target.device()});
    backend(target.device()).copy(here.with_layout(expand(here.layout(), target.shape())).view(), target.view());
  }
  target.storage()->bump();
}

void fill(const Tensor& target, double value) {
  check_writable("fill", target);
  check_value("fill", value, target.dtype());
  backend(target.device()).fill(value, target.view());
  target.storage()->bump();
}

}  // namespace norma
