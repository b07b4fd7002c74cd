// The tensor: a small shared handle on (storage, layout, dtype), with a slot for the graph that only autograd/ opens.
// Operations are free functions (autograd/ops.h). Copying a Tensor copies the handle, not the data.
#pragma once

#include <concepts>
#include <iosfwd>
#include <memory>
#include <vector>

#include "core/layout.h"
#include "core/random.h"
#include "core/storage.h"

namespace norma {

struct Node;  // autograd/node.h: how this tensor was computed

/// All a kernel ever sees of a tensor: `data` points at the element with index 0 (the offset is already applied). Tests false where there is
/// no tensor: an operand left out. A tensor without elements has an address, and tests true.
struct View {
  void* data = nullptr;
  Layout layout;  // offset is 0
  DType dtype = DType::f32;

  const Shape& shape() const { return layout.shape; }
  Index numel() const { return layout.shape.numel(); }
  template <class T>
  T* as() const { return static_cast<T*>(data); }
  explicit operator bool() const { return data != nullptr; }
};

class [[nodiscard]] Tensor {
 public:
  Tensor() = default;  // no tensor: tests false, and has nothing else to tell; what asks throws
  /// Throws where an element of the layout would lie outside the storage.
  Tensor(std::shared_ptr<Storage> storage, const Layout& layout, DType dtype);

  /// Whether there is a tensor, not what it holds: if (equal(a, b)) asks nothing.
  explicit operator bool() const { return impl_ != nullptr; }
  const Shape& shape() const { return some().layout.shape; }
  int rank() const { return shape().rank(); }
  Index size(int axis) const;  // checked; negative axes count from the end
  Index numel() const { return shape().numel(); }
  DType dtype() const { return some().dtype; }
  Device device() const { return some().storage->device(); }
  const Layout& layout() const { return some().layout; }
  bool is_contiguous() const { return layout().contiguous(); }
  const std::shared_ptr<Storage>& storage() const { return some().storage; }
  View view() const;
  /// A handle on the same storage with another layout, outside the graph; throws as the constructor does.
  Tensor with_layout(const Layout& layout) const;
  /// The same data, outside the graph.
  Tensor detach() const;

  /// The only element, as double; throws unless there is exactly one.
  double item() const;
  /// All elements in row-major order, as double.
  std::vector<double> values() const;
  /// "f32 [2, 3] [[1, 2, 3], [4, 5, 6]]"; of an axis longer than 8 the first and last three, and no more is read. Six digits of a
  /// floating number, all of an integer. fmt prints it too.
  std::string text() const;
  /// Pointer to the first element of a contiguous host tensor; throws on another dtype, layout or device.
  template <class T>
  const T* data() const { return static_cast<const T*>(host_data("data", dtype_of<T>())); }
  /// The same for writing, which counts as a write in place (copy_into): refused where that is.
  template <class T>
  T* mutable_data() const { return static_cast<T*>(writable_host_data(dtype_of<T>())); }

  /// Makes this a leaf whose gradient backward() accumulates into grad(). Throws on integers and on computed tensors.
  Tensor& track(bool on = true);
  /// Takes part in a graph: a tracked leaf, or computed from one.
  bool tracked() const { return impl_ && (impl_->leaf || impl_->node); }
  bool is_leaf() const { return some().leaf; }
  Tensor grad() const;  // empty until backward() has reached this leaf
  void set_grad(const Tensor& grad) const;  // of the same shape, dtype and device; or empty

  struct Impl {
    std::shared_ptr<Storage> storage;
    Layout layout;
    DType dtype;
    bool leaf = false;
    std::shared_ptr<Node> node;   // set by autograd; for a leaf, made on first use
    std::weak_ptr<Node> untracked;  // a leaf's node while track(false) holds: graphs that have it know this tensor still
    std::shared_ptr<Impl> grad;   // leaves only
  };
  const std::shared_ptr<Impl>& impl() const { return impl_; }
  static Tensor wrap(std::shared_ptr<Impl> impl) { Tensor t; t.impl_ = std::move(impl); return t; }

 private:
  Impl& some() const {
    if (!impl_) none();
    return *impl_;
  }
  [[noreturn]] static void none();
  void* host_data(const char* what, DType expected) const;
  void* writable_host_data(DType expected) const;
  std::shared_ptr<Impl> impl_;
};

using Tensors = std::vector<Tensor>;
/// x.view(), or none of an empty handle.
inline View view_of(const Tensor& x) { return x ? x.view() : View(); }

// Creation. `Place` says dtype and device: zeros({2, 3}, {DType::f64}).
struct Place {
  DType dtype = DType::f32;
  Device device = {};
  bool operator==(const Place&) const = default;
};
inline Place place_of(const Tensor& t) { return {t.dtype(), t.device()}; }
Tensor empty(const Shape& shape, Place place = {});  // contents undefined
/// Throws naming op where value is no number of an integer dtype: 1.7 of i64, 300 of u8. `remedy` ends the message.
void check_value(const char* op, double value, DType dtype, const char* remedy = "");
/// Throws as check_value does. In bool all but 0 is true. A number of i64 that no double is: from_values() of integers.
Tensor full(const Shape& shape, double value, Place place = {});
inline Tensor zeros(const Shape& shape, Place place = {}) { return full(shape, 0, place); }
inline Tensor ones(const Shape& shape, Place place = {}) { return full(shape, 1, place); }
/// Of the shape, dtype and device of x; outside the graph.
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
/// 0, 1, ..., count - 1; throws where the dtype is an integer one that does not hold the last.
Tensor arange(Index count, Place place = {DType::i64});
/// Row-major; throws unless there are shape.numel() values, and as check_value does.
Tensor from_values(const std::vector<double>& values, const Shape& shape, Place place = {});
/// The same of other numbers: floats, and integers of any kind that i64 holds.
template <std::floating_point T>
Tensor from_values(const std::vector<T>& values, const Shape& shape, Place place = {}) {
  return from_values(std::vector<double>(values.begin(), values.end()), shape, place);
}
Tensor from_integers(const std::vector<Index>& values, const Shape& shape, Place place);  // what the next one calls
template <std::integral T>
  requires(!std::same_as<T, bool> && (std::signed_integral<T> || sizeof(T) < sizeof(Index)))
Tensor from_values(const std::vector<T>& values, const Shape& shape, Place place = {DType::i64}) {
  return from_integers(std::vector<Index>(values.begin(), values.end()), shape, place);
}
/// Uniform in [0, 1), and standard normal: element i is a function of (seed, stream, i) alone, the same
/// on every device (randn's to rounding). Floating dtypes; a uniform number is a multiple of 2^-24, in f64 too, and in bf16 may
/// round to 1.
Tensor rand(const Shape& shape, RandomStream stream, Place place = {});
Tensor randn(const Shape& shape, RandomStream stream, Place place = {});
/// Uniform integers in [low, high), each from 64 bits of its own (below() in core/random.h); element i is a function of (seed, stream, i) alone,
/// the same on every device. Throws where high is not above low, on bool, and where the dtype does not hold them all. Drawn on the host: not
/// within a step that is captured.
Tensor randint(Index low, Index high, const Shape& shape, RandomStream stream, Place place = {DType::i64});
/// Copies the elements from host memory, where they lie row-major in the dtype of `place`.
Tensor from_host(const void* data, const Shape& shape, Place place = {});

// In-place writes, each refused on a tensor that was computed in a recorded graph or whose elements overlap. A leaf may be written; a
// derivative that saved its old values then throws, since writes bump the storage's version. They are not recorded: no gradient
// flows from the target to the source.

/// Broadcasts, but not into a target without elements, and casts; both may lie in the same storage. While gradients are on (autograd/node.h)
/// a source that was computed in a recorded graph is refused, for its gradient would be lost.
void copy_into(const Tensor& target, const Tensor& source);
void fill(const Tensor& target, double value);  // of an integer dtype: as full

std::ostream& operator<<(std::ostream& out, const Tensor& t);  // its text()

}  // namespace norma

template <>
struct fmt::formatter<norma::Tensor> {
  constexpr auto parse(fmt::format_parse_context& ctx) { return ctx.begin(); }
  auto format(const norma::Tensor& t, fmt::format_context& ctx) const {  // no format_to: g++ and clang name what it calls in libfmt.so differently
    const std::string text = t.text();
    return std::copy(text.begin(), text.end(), ctx.out());
  }
};
