// Matrix products by the Blas, over any strides: what it cannot take is copied first. bf16 elements go with bf16 or f32 weights. Where the
// Blas adds bias and residual and sums gradients of biases within the product, it does (multiply_with); GELU, exact, is always a kernel of
// our own.
#include <algorithm>
#include <optional>

#include "backends/common/rows.h"
#include "backends/cuda/cuda_backend.h"
#include "backends/cuda/kernels/parameters.h"
#include "backends/cuda/kernels/products.h"
#include "backends/cuda/launches.h"

namespace norma::cuda {
namespace {

Layout transposed_last(const Layout& layout) { return transpose(layout, layout.rank() - 2, layout.rank() - 1); }

/// The last two axes as an operand; nothing where neither is dense.
std::optional<Gemm::Operand> operand_of(const View& x) {
  const Index rows = x.shape()[-2], columns = x.shape()[-1], row = x.layout.stride(-2), column = x.layout.stride(-1);
  for (int axis = 0; axis < x.layout.rank(); ++axis)
    if (x.layout.stride(axis) < 0 && x.shape()[axis] > 1) return std::nullopt;
  if ((column == 1 || columns == 1) && (row >= columns || rows == 1)) return Gemm::Operand{x.data, rows == 1 ? columns : row};
  if ((row == 1 || rows == 1) && (column >= rows || columns == 1))
    return Gemm::Operand{x.data, columns == 1 ? rows : column, true};
  return std::nullopt;
}

View with_rows(const View& x) {  // [..., n] as one matrix; the caller knows that it has dense rows
  View m = x;
  const auto rows = *dense_columns(x);
  m.layout = Layout(Shape{rows.rows, rows.columns}, Strides{rows.row, 1}, 0);
  return m;
}

View transpose_of(const View& x) {
  View t = x;
  t.layout = transposed_last(x.layout);
  return t;
}

bool floating_matrix(const View& x) { return is_floating(x.dtype) && dense_columns(x).has_value(); }
bool weight_fits(const View& w, DType elements) { return !w || w.dtype == elements || (elements == DType::bf16 && w.dtype == DType::f32); }

void check_products(const char* op, Index count) {
  if (count > launch_limit) fail("{}: {} integers in one product; cuda takes at most {}", op, count, launch_limit);
}

}  // namespace

/// `m` in a form the Blas takes: itself, or a dense copy in `room`.
View CudaBackend::blas_ready(const View& m, std::optional<Scratch>& room) {
  if (operand_of(m)) return m;
  View dense = m, from = m;  // a batch axis of stride 0 is not repeated
  for (int axis = 0; axis + 2 < from.layout.rank(); ++axis)
    if (from.layout.stride(axis) == 0) from.layout.shape.set(axis, 1);
  dense.layout = Layout(from.shape());
  room.emplace(pool_, static_cast<std::size_t>(dense.numel()) * size_of(dense.dtype));
  dense.data = room->as<void>();
  copy(from, dense);
  dense.layout = expand(dense.layout, m.shape());
  return dense;
}

/// out = a b over leading axes; floating, not empty.
void CudaBackend::multiply(const View& left, const View& right, const View& out) {
  const auto target = operand_of(out);
  if (target && target->transposed) return multiply(transpose_of(right), transpose_of(left), transpose_of(out));
  if (!target || out.layout.overlapping()) {
    const Scratch room = scratch<char>(out.numel() * static_cast<Index>(size_of(out.dtype)));
    const View dense{room.as<void>(), Layout(out.shape()), out.dtype};
    multiply(left, right, dense);
    return copy(dense, out);
  }
  std::optional<Scratch> room_a, room_b;
  const View a = blas_ready(left, room_a), b = blas_ready(right, room_b);
  Gemm g;
  g.dtype = a.dtype, g.out_dtype = out.dtype;
  g.m = out.shape()[-2], g.n = out.shape()[-1], g.k = a.shape()[-1];
  g.a = *operand_of(a), g.b = *operand_of(b);
  g.c = out.data, g.c_pitch = target->pitch;

  // The longest merged batch axis goes in one call; the others are walked here.
  std::array<Layout, 3> batch;
  const std::array<const View*, 3> views{&a, &b, &out};
  std::array<Layout*, 3> pointers;
  for (std::size_t k = 0; k < 3; ++k) {
    for (int axis = 0; axis + 2 < out.layout.rank(); ++axis) {
      batch[k].strides[static_cast<std::size_t>(axis)] = views[k]->layout.stride(axis);
      batch[k].shape.append(out.shape()[axis]);
    }
    pointers[k] = &batch[k];
  }
  const Shape shape = coalesce(pointers);
  int longest = -1;
  for (int axis = 0; axis < shape.rank(); ++axis)
    if (longest < 0 || shape[axis] > shape[longest]) longest = axis;
  Shape rest = shape;
  if (longest >= 0) {
    g.batch = shape[longest];
    g.a.batch_stride = batch[0].stride(longest), g.b.batch_stride = batch[1].stride(longest);
    g.c_batch_stride = batch[2].stride(longest);
    rest.set(longest, 1);
  }
  const auto bytes = [](const void* p, Index elements, DType d) {
    return static_cast<const char*>(p) + elements * static_cast<Index>(size_of(d));
  };
  for (Index i = 0; i < rest.numel(); ++i) {
    Index number = i;
    std::array<Index, 3> at{};
    for (int axis = rest.rank() - 1; axis >= 0; number /= rest[axis--])
      for (std::size_t k = 0; k < 3; ++k) at[k] += number % rest[axis] * batch[k].stride(axis);
    for (Index first = 0; first < g.batch; first += Gemm::most_batch) {
      Gemm one = g;
      one.batch = std::min(g.batch - first, Gemm::most_batch);
      one.a.data = bytes(g.a.data, at[0] + first * g.a.batch_stride, g.dtype), one.b.data = bytes(g.b.data, at[1] + first * g.b.batch_stride, g.dtype);
      one.c = const_cast<char*>(bytes(g.c, at[2] + first * g.c_batch_stride, g.out_dtype));
      blas_->multiply(one);
    }
  }
}

/// A product of matrices with what `gemm` says beside it; false, and nothing is done, where the Blas takes it only otherwise.
bool CudaBackend::multiply_with(const View& left, const View& right, const View& out, Gemm gemm) {
  const auto a = operand_of(left), b = operand_of(right), c = operand_of(out);
  if (!a || !b || !c || c->transposed || out.layout.overlapping()) return false;
  gemm.dtype = left.dtype, gemm.out_dtype = out.dtype;
  gemm.m = out.shape()[0], gemm.n = out.shape()[1], gemm.k = left.shape()[1];
  gemm.a = *a, gemm.b = *b, gemm.c = out.data, gemm.c_pitch = c->pitch;
  return blas_->multiply_with(gemm);
}

/// `weight` in `dtype`: itself, or rounded into `to` or else `room`, and then the bias too; bias_there: where the bias lies in that dtype, if it does.
View CudaBackend::narrowed(const View& weight, const View& to, const View& bias, DType dtype, std::optional<Scratch>& room, const void*& bias_there) {
  bias_there = bias.dtype == dtype ? bias.data : nullptr;
  if (weight.dtype == dtype) return weight;
  const Index count = weight.numel(), at = to ? 0 : (count + 127) / 128 * 128;  // in the room: the bias at a multiple of 256 bytes
  const bool with_bias = bias && bias.dtype == DType::f32;
  if (!to || with_bias) room.emplace(pool_, static_cast<std::size_t>(at + (with_bias ? bias.numel() : 0)) * size_of(dtype));
  const View there = to ? to : View{room->as<void>(), Layout(weight.shape()), dtype};
  if (!weight.layout.contiguous()) {
    copy(weight, there);
    return there;
  }
  PairTable both;
  both.add({weight.as<float>(), there.data, count});
  if (with_bias) {
    bf16* to_bias = room->as<bf16>() + at;
    both.add({bias.as<float>(), to_bias, bias.numel()});
    bias_there = to_bias;
  }
  round_parameters(stream(), both);
  return there;
}

void CudaBackend::matmul(const View& a, const View& b, const View& out) {
  if (out.numel() == 0) return;
  if (a.shape()[-1] == 0) return fill(0, out);
  if (is_floating(out.dtype)) return multiply(a, b, out);
  check_products("matmul", out.numel());
  Layout rows = out.layout, columns = out.layout;  // where a's row and b's column of each element start
  for (int axis = 0; axis < out.layout.rank(); ++axis) {
    const auto i = static_cast<std::size_t>(axis);
    rows.strides[i] = axis == out.layout.rank() - 1 ? 0 : a.layout.stride(axis);
    columns.strides[i] = axis == out.layout.rank() - 2 ? 0 : b.layout.stride(axis);
  }
  IntegerProduct p;
  p.out = loop_of<3>(out.shape(), {rows, columns, out.layout});
  p.a = a.data, p.b = b.data, p.c = out.data, p.dtype = out.dtype;
  p.k = a.shape()[-1], p.a_step = a.layout.stride(-1), p.b_step = b.layout.stride(-2);
  multiply_integers(stream(), p);
}

bool CudaBackend::linear(const LinearForward& args) {
  const DType dtype = args.y.dtype;
  if (!floating_matrix(args.x) || !floating_matrix(args.y) || args.x.dtype != dtype || args.y.numel() == 0 ||
      args.x.numel() == 0 || !weight_fits(args.weight, dtype) || !weight_fits(args.bias, dtype) || !dense_vector(args.bias))
    return false;
  for (const View* other : {&args.residual, &args.pre})
    if (*other && (other->dtype != dtype || !floating_matrix(*other))) return false;
  std::optional<Scratch> narrow;  // parameters of another dtype are rounded once
  Gemm beside;
  beside.bias = args.rounded_bias.data;
  const View weight = args.rounded_weight ? args.rounded_weight : narrowed(args.weight, args.rounded_weight_out, args.bias, dtype, narrow, beside.bias);
  const View y = with_rows(args.y), x = with_rows(args.x);
  const auto addend = args.residual ? operand_of(with_rows(args.residual)) : Gemm::Operand{};
  const bool fits = addend && !addend->transposed && !(args.gelu && args.residual) && (args.gelu || !args.pre);
  if ((args.bias || args.residual) && fits && (!args.bias || beside.bias)) {
    beside.addend = addend->data, beside.addend_pitch = addend->pitch;
    const View target = args.pre ? with_rows(args.pre) : y;
    if (multiply_with(x, transpose_of(weight), target, beside)) {
      if (args.gelu) unary(UnaryOp::gelu, target, y, 0);
      return true;
    }
  }
  multiply(x, transpose_of(weight), y);
  if (!args.bias && !args.residual && !args.pre && !args.gelu) return true;
  Epilogue e;
  e.rows = y.shape()[0], e.n = y.shape()[1], e.y = y.data, e.y_row = y.layout.stride(0), e.dtype = dtype, e.gelu = args.gelu;
  e.bias = args.bias.data, e.bias_dtype = args.bias.dtype;
  if (args.residual) e.residual = args.residual.data, e.residual_row = dense_columns(args.residual)->row;
  if (args.pre) e.pre = args.pre.data, e.pre_row = dense_columns(args.pre)->row;
  finish_linear(stream(), e);
  return true;
}

bool CudaBackend::linear_backward(const LinearBackward& args) {
  const DType dtype = args.dy.dtype;
  if (!floating_matrix(args.dy) || args.dy.numel() == 0) return false;
  const auto elements_fit = [&](const View& v) { return !v || (v.dtype == dtype && floating_matrix(v) && v.numel() > 0); };
  if (!elements_fit(args.dx) || !elements_fit(args.gelu_pre) || (args.dweight && !elements_fit(args.x))) return false;
  if ((args.dx && !weight_fits(args.weight, dtype)) || !weight_fits(args.dweight, dtype) || !weight_fits(args.dbias, dtype)) return false;
  const View dy = with_rows(args.dy);
  bool summed = false;  // dbias, within the product for dW
  // The activation X = gelu(h) is not kept: what multiplies dX by gelu'(h) makes it beside.
  const bool beside_gradient = args.dx && args.gelu_pre && args.dweight && args.x_is_pre_gelu && args.gelu_pre.data == args.x.data &&
                               args.gelu_pre.shape() == args.x.shape() && args.gelu_pre.layout.strides == args.x.layout.strides;
  std::optional<Scratch> activated;
  View x = args.x;
  if (args.dweight && args.x_is_pre_gelu) {
    activated.emplace(pool_, static_cast<std::size_t>(x.numel()) * size_of(dtype));
    x = {activated->as<void>(), Layout(x.shape()), dtype};
  }
  if (args.dx) {
    std::optional<Scratch> narrow;
    const void* no_bias = nullptr;
    multiply(dy, args.rounded_weight ? args.rounded_weight : narrowed(args.weight, {}, {}, dtype, narrow, no_bias), with_rows(args.dx));
    if (beside_gradient)
      each_launch([&](const Elements<4>& e) { gelu_with_gradient(stream(), e, dtype); }, args.gelu_pre, args.dx, x, args.dx);
    else if (args.gelu_pre)
      unary_backward(UnaryOp::gelu, args.gelu_pre, args.dx, args.dx);
  }
  if (args.dweight) {
    if (args.x_is_pre_gelu && !beside_gradient) unary(UnaryOp::gelu, args.x, x, 0);
    Gemm beside;
    if (args.dbias.dtype == args.dweight.dtype && dense_vector(args.dbias)) beside.row_sums = args.dbias.data;
    summed = beside.row_sums && multiply_with(transpose_of(dy), with_rows(x), args.dweight, beside);
    if (!summed) multiply(transpose_of(dy), with_rows(x), args.dweight);
  }
  if (args.dbias && !summed) {
    View sums = args.dbias;
    sums.layout = Layout(Shape{1, dy.shape()[1]}, Strides{0, args.dbias.layout.stride(0)}, 0);
    reduce(ReduceOp::sum, dy, sums);
  }
  return true;
}

}  // namespace norma::cuda
