// Element-wise kernels. One kernel per dtype: the op is a switch inside it, the same way for all threads, so that compiling stays
// short; what an op means is in backends/common/functors.h.
#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/gelu.h"

namespace norma::cuda {
namespace {

template <class From>
NORMA_KERNEL void copy_kernel(Elements<2> e, DType to) {
  const Cursor<2> c(e);
  From x[unit];
  c.load(0, x);
  visit_dtype(to, [&](auto tag) {
    using To = typename decltype(tag)::type;
    To y[unit];
    NORMA_UNROLL
    for (unsigned k = 0; k < unit; ++k) y[k] = convert<To>(x[k]);
    c.store(1, y);
  });
}

template <class T>
NORMA_KERNEL void fill_kernel(Elements<1> e, double value) {
  const Cursor<1> c(e);
  T y[unit];
  NORMA_UNROLL
  for (unsigned k = 0; k < unit; ++k) y[k] = convert<T>(value);
  c.store(0, y);
}

template <class T>
constexpr bool is_floating_element = std::is_same_v<T, bf16> || std::is_floating_point_v<T>;

/// A word applied to an element. GELU is in double in functors.h; here in the arithmetic of the elements, as in all other kernels.
template <class Op, class T>
NORMA_DEVICE T apply_word(Op op, T x, double parameter) {
  using C = Compute<T, false>;
  if constexpr (std::is_same_v<Op, Unary<UnaryOp::gelu>> && is_floating_element<T>)
    return convert<T>(gelu_of<T>(convert<C>(x)));
  else if constexpr (std::is_same_v<Op, Unary<UnaryOp::gelu_tanh>> && is_floating_element<T>)
    return convert<T>(gelu_tanh(convert<C>(x)));
  else
    return apply_unary(op, x, parameter);
}

template <class T>
NORMA_KERNEL void unary_kernel(Elements<2> e, UnaryOp op, double parameter) {
  const Cursor<2> c(e);
  T x[unit];
  c.load(0, x);
  with_unary(op, [&](auto f) {
    if constexpr (decltype(f)::integers || is_floating_element<T>) {
      NORMA_UNROLL
      for (unsigned k = 0; k < unit; ++k) x[k] = apply_word(f, x[k], parameter);
      c.store(1, x);
    }
  });
}

/// Operands v, dy and dx, as of UnaryGradient.
template <class T>
NORMA_KERNEL void unary_gradient_kernel(Elements<3> e, UnaryOp op) {
  using C = Compute<T, false>;
  const Cursor<3> c(e);
  T v[unit], dy[unit];
  c.load(0, v);
  c.load(1, dy);
  with_unary(op, [&](auto f) {
    const auto gradient = gradient_of(f);
    if constexpr (decltype(gradient)::exists) {
      NORMA_UNROLL
      for (unsigned k = 0; k < unit; ++k) dy[k] = convert<T>(gradient(convert<C>(v[k]), convert<C>(dy[k])));
      c.store(2, dy);
    }
  });
}

template <class T>
NORMA_KERNEL void binary_kernel(Elements<3> e, BinaryOp op) {
  const Cursor<3> c(e);
  T a[unit], b[unit];
  c.load(0, a);
  c.load(1, b);
  with_binary(op, [&](auto f) {
    using Out = std::conditional_t<std::is_same_v<decltype(f(0.0, 0.0)), bool>, bool, T>;
    Out y[unit];
    NORMA_UNROLL
    for (unsigned k = 0; k < unit; ++k) y[k] = apply_binary<Out>(f, a[k], b[k]);
    c.store(2, y);
  });
}

template <class T>  // by size alone
NORMA_KERNEL void where_kernel(Elements<4> e) {
  const Cursor<4> c(e);
  bool condition[unit];
  T a[unit], b[unit];
  c.load(0, condition);
  c.load(1, a);
  c.load(2, b);
  NORMA_UNROLL
  for (unsigned k = 0; k < unit; ++k) a[k] = condition[k] ? a[k] : b[k];
  c.store(3, a);
}

template <class T>
NORMA_DEVICE T gelu_value(T x) {
  return convert<T>(gelu_of<T>(convert<Compute<T, false>>(x)));
}
template <class T>
NORMA_DEVICE T times_slope(T dy, T x) {
  using C = Compute<T, false>;
  return convert<T>(convert<C>(dy) * gelu_slope_of<T>(convert<C>(x)));
}

/// Operands x, dy and dx, and before dx, where there are four, gelu(x).
template <class T, int operands>
NORMA_KERNEL void gelu_gradient_kernel(Elements<operands> e) {
  const Cursor<operands> c(e);
  T x[unit], dy[unit];
  c.load(0, x);
  c.load(1, dy);
  NORMA_UNROLL
  for (unsigned k = 0; k < unit; ++k) dy[k] = times_slope(dy[k], x[k]), x[k] = gelu_value(x[k]);
  if (operands == 4) c.store(2, x);
  c.store(operands - 1, dy);
}

/// GELU, its gradient dy gelu'(x), or both, where 16 bytes may move by one access, as a thread's do here: what finding its
/// elements costs is shared by more of them. dy may be y.
template <class T, bool gradient, bool both>
NORMA_KERNEL void dense_gelu_kernel(const T* x, const T* dy, T* value, T* y, std::uint32_t n) {
  constexpr int width = 16 / sizeof(T);
  const std::uint32_t first = (block_id().x * element_threads + thread_id()) * width;
  if (first + width <= n) {
    Pack<T, width> h = load_pack<width>(x + first), out;
    if constexpr (gradient) out = load_pack<width>(dy + first);
    NORMA_UNROLL
    for (int k = 0; k < width; ++k) {
      if constexpr (gradient)
        out.v[k] = times_slope(out.v[k], h.v[k]);
      else
        out.v[k] = gelu_value(h.v[k]);
      if constexpr (both) h.v[k] = gelu_value(h.v[k]);
    }
    if constexpr (both) store_pack(value + first, h);
    store_pack(y + first, out);
  } else {
    for (std::uint32_t i = first; i < n; ++i) {
      const T h = x[i];
      if constexpr (both) value[i] = gelu_value(h);
      if constexpr (gradient)
        y[i] = times_slope(dy[i], h);
      else
        y[i] = gelu_value(h);
    }
  }
}
/// Operands x and y, or those of gelu_gradient_kernel. False where addresses do not allow it, or the elements lie otherwise.
template <class T, int operands>
bool run_dense_gelu(void* stream, const Elements<operands>& e) {
  if (!e.dense) return false;
  for (const void* data : e.data)
    if (reinterpret_cast<std::uintptr_t>(data) % 16 != 0) return false;
  constexpr unsigned each = element_threads * (16 / sizeof(T));
  constexpr bool gradient = operands > 2, both = operands > 3;
  launch(stream, {(e.loop.size + each - 1) / each}, element_threads, 0, dense_gelu_kernel<T, gradient, both>, static_cast<const T*>(e.data[0]),
         static_cast<const T*>(e.data[gradient ? 1 : 0]), static_cast<T*>(e.data[both ? 2 : operands - 1]), static_cast<T*>(e.data[operands - 1]),
         e.loop.size);
  return true;
}
template <int operands>
void run_gelu_gradient(void* stream, const Elements<operands>& e, DType dtype) {
  if (dtype == DType::f32 && run_dense_gelu<float>(stream, e)) return;
  if (dtype == DType::bf16 && run_dense_gelu<bf16>(stream, e)) return;
  const Extent grid = element_grid(e.loop.size);
  if (dtype == DType::f64) return launch(stream, grid, element_threads, 0, gelu_gradient_kernel<double, operands>, e);
  if (dtype == DType::f32) return launch(stream, grid, element_threads, 0, gelu_gradient_kernel<float, operands>, e);
  launch(stream, grid, element_threads, 0, gelu_gradient_kernel<bf16, operands>, e);
}

}  // namespace

void copy_elements(void* stream, const Elements<2>& e, DType from, DType to) {
  visit_dtype(from, [&](auto tag) {
    using From = typename decltype(tag)::type;
    launch(stream, element_grid(e.loop.size), element_threads, 0, copy_kernel<From>, e, to);
  });
}

void fill_elements(void* stream, const Elements<1>& e, DType dtype, double value) {
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, element_grid(e.loop.size), element_threads, 0, fill_kernel<T>, e, value);
  });
}

bool unary_elements(void* stream, const Elements<2>& e, DType dtype, UnaryOp op, double parameter) {
  bool covered = dtype == DType::f32 || dtype == DType::f64 || dtype == DType::bf16;
  with_unary(op, [&](auto f) { covered = covered || decltype(f)::integers; });
  if (!covered) return false;
  if (op == UnaryOp::gelu && dtype == DType::f32 && run_dense_gelu<float>(stream, e)) return true;
  if (op == UnaryOp::gelu && dtype == DType::bf16 && run_dense_gelu<bf16>(stream, e)) return true;
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, element_grid(e.loop.size), element_threads, 0, unary_kernel<T>, e, op, parameter);
  });
  return true;
}

void binary_elements(void* stream, const Elements<3>& e, DType dtype, BinaryOp op) {
  visit_dtype(dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    launch(stream, element_grid(e.loop.size), element_threads, 0, binary_kernel<T>, e, op);
  });
}

void where_elements(void* stream, const Elements<4>& e, DType dtype) {
  const Extent grid = element_grid(e.loop.size);
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return launch(stream, grid, element_threads, 0, where_kernel<std::uint64_t>, e);
    case DType::f32:
    case DType::i32:
      return launch(stream, grid, element_threads, 0, where_kernel<std::uint32_t>, e);
    case DType::bf16:
      return launch(stream, grid, element_threads, 0, where_kernel<std::uint16_t>, e);
    default:
      return launch(stream, grid, element_threads, 0, where_kernel<std::uint8_t>, e);
  }
}

bool has_gradient(UnaryOp op) {
  bool has = op == UnaryOp::gelu;
  with_unary(op, [&](auto f) { has = has || decltype(gradient_of(f))::exists; });
  return has;
}

void unary_gradient(void* stream, const Elements<3>& e, DType dtype, UnaryOp op) {
  if (op == UnaryOp::gelu) return run_gelu_gradient(stream, e, dtype);
  const Extent grid = element_grid(e.loop.size);
  if (dtype == DType::f64) return launch(stream, grid, element_threads, 0, unary_gradient_kernel<double>, e, op);
  if (dtype == DType::f32) return launch(stream, grid, element_threads, 0, unary_gradient_kernel<float>, e, op);
  launch(stream, grid, element_threads, 0, unary_gradient_kernel<bf16>, e, op);
}
void gelu_with_gradient(void* stream, const Elements<4>& e, DType dtype) { run_gelu_gradient(stream, e, dtype); }

}  // namespace norma::cuda
