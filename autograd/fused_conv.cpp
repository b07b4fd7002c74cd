// Convolution: a product with the images as they lie, where a kernel has one element; else as the backend has it, or unfold followed by a product, a
// piece of the images at a time, so that the columns of all are never held.
#include <algorithm>

#include "autograd/fused_util.h"
#include "autograd/windows.h"

namespace norma {

using fused::narrow;
using fused::widen;

namespace {

constexpr Index piece_bytes = Index{8} << 20;  // of the columns that are held at once

/// The sizes of one convolution; its columns are [groups, depth, places of all images].
struct ConvSizes {
  Window window;
  Index groups, batch, channels, height, width, out, out_h, out_w, depth;

  ConvSizes(const Tensor& x, const Tensor& weight, const Window& w, Index g)
      : window(w), groups(g), batch(x.size(0)), channels(x.size(1)), height(x.size(2)), width(x.size(3)), out(weight.size(0)), out_h(w.out_h(height)),
        out_w(w.out_w(width)), depth(weight.size(1) * w.kernel_h * w.kernel_w) {}

  Shape output() const { return {batch, out, out_h, out_w}; }
  Shape kernels() const { return {groups, out / groups, depth}; }
  bool one_kernel_a_channel() const { return groups == channels && groups == out; }
  /// Each output is made of one pixel: a product with the images as they lie.
  bool pointwise() const {
    return depth * groups == channels && window.stride_h * window.stride_w == 1 && window.pad_h + window.pad_w == 0 && !one_kernel_a_channel();
  }
  Tensor by_group(const Tensor& x) const { return reshape(x, Shape{x.size(0), groups, x.size(1) / groups, x.size(2) * x.size(3)}); }
  /// Windows that tile the image: each pixel is in exactly one.
  bool tiles() const {
    return window.kernel_h == window.stride_h && window.kernel_w == window.stride_w && window.pad_h == 0 && window.pad_w == 0 &&
           height % window.kernel_h == 0 && width % window.kernel_w == 0;
  }
};

/// Calls body(first, images, row, rows) for pieces of the images and of their rows of outputs, rows inside.
template <class Body>
void each_piece(const ConvSizes& c, Place place, Body&& body) {
  const Index line = c.groups * c.depth * c.out_w * static_cast<Index>(size_of(place.dtype)), lines = std::max<Index>(1, piece_bytes / line);
  const Index images = std::max<Index>(1, lines / c.out_h), rows = std::min(lines, c.out_h);
  for (Index first = 0; first < c.batch; first += images) {
    for (Index row = 0; row < c.out_h; row += rows) body(first, std::min(images, c.batch - first), row, std::min(rows, c.out_h - row));
  }
}

/// The lines that some rows of outputs read: [begin, end) of the image, where they lie inside it, and padding before and after. With more padding
/// than the kernel is high all of them may be padding, above the image or below it.
struct Lines {
  Index begin, end, before, after;
  Window window;  // over these lines alone
  Lines(const ConvSizes& c, Index row, Index rows) : begin(0), end(c.height), before(0), after(0), window(c.window) {
    if (rows == c.out_h) return;
    const Index top = row * window.stride_h - window.pad_h, bottom = top + (rows - 1) * window.stride_h + window.kernel_h;
    begin = std::clamp<Index>(top, 0, c.height), end = std::clamp(bottom, begin, c.height);
    before = std::clamp<Index>(-top, 0, bottom - top), after = bottom - top - before - (end - begin);
    window.pad_h = 0;
  }
  Index count() const { return before + (end - begin) + after; }
};

/// The columns [groups, depth, images * rows * out_w] of x[images, C, h, w] for some rows of outputs.
Tensor columns_of(const ConvSizes& c, const Tensor& x, Index row, Index rows) {
  const Lines lines(c, row, rows);
  const Tensor read = pad(slice(x, 2, lines.begin, lines.end), 2, lines.before, lines.after);
  const Tensor columns = empty({c.groups * c.depth, x.size(0), rows * c.out_w}, place_of(x));
  backend_of(x).unfold(read.view(), lines.window, transpose(columns, 0, 1).view());
  return reshape(columns, Shape{c.groups, c.depth, x.size(0) * rows * c.out_w});
}

/// Their adjoint, added into dx[images, C, h, w], or written where the rows are all there are.
void fold_into(const ConvSizes& c, const Tensor& columns, Index row, Index rows, const Tensor& dx) {
  const Index images = dx.size(0);
  const Lines lines(c, row, rows);
  const Tensor by_image = transpose(reshape(columns, Shape{c.groups * c.depth, images, rows * c.out_w}), 0, 1);
  if (rows == c.out_h) return backend_of(dx).fold(by_image.view(), lines.window, dx.view());
  if (lines.begin == lines.end) return;
  const Tensor read = empty({images, c.channels, lines.count(), c.width}, place_of(dx));
  backend_of(dx).fold(by_image.view(), lines.window, read.view());
  const View inside = slice(read, 2, lines.before, lines.before + (lines.end - lines.begin)).view(), target = slice(dx, 2, lines.begin, lines.end).view();
  backend_of(dx).binary(BinaryOp::add, target, inside, target);
}

/// The part [images, channels, rows, out_w] of what has the output's shape.
Tensor part_of(const Tensor& y, Index first, Index images, Index row, Index rows) {
  return slice(slice(y, 0, first, first + images), 2, row, row + rows);
}

/// The kernels [groups, O / groups, depth] as they are multiplied.
Tensor kernels_of(const ConvSizes& c, const Tensor& weight, DType activations) { return reshape(widen(narrow(weight, activations)), c.kernels()); }

Tensor conv_composite(const ConvSizes& c, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor columns = reshape(unfold(widen(x), c.window), Shape{c.batch, c.groups, c.depth, c.out_h * c.out_w});
  const Tensor y = reshape(matmul(kernels_of(c, weight, x.dtype()), columns), c.output());
  return narrow(bias ? y + reshape(widen(bias), Shape{c.out, 1, 1}) : y, x.dtype());
}

Tensor conv_forward(const ConvSizes& c, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const Tensor kernels = contiguous(kernels_of(c, weight, x.dtype())), wide_bias = bias ? widen(bias) : bias;
  if (c.pointwise() && place_of(x) == place_of(kernels)) {
    Tensor y = reshape(matmul(kernels, c.by_group(x)), c.output());
    if (bias) backend_of(y).binary(BinaryOp::add, y.view(), expanded(reshape(bias, Shape{c.out, 1, 1}), y.shape()), y.view());
    return y;
  }
  const Tensor y = empty(c.output(), place_of(x));
  if (c.one_kernel_a_channel() && backend_of(y).depthwise(x.view(), kernels.view(), view_of(wide_bias), c.window, y.view())) return y;
  if (backend_of(y).convolution({x.view(), kernels.view(), y.view(), c.window, c.groups, view_of(wide_bias)})) return y;
  const Tensor added = bias ? reshape(wide_bias, Shape{c.out, 1, 1, 1}) : Tensor();
  each_piece(c, place_of(kernels), [&](Index first, Index images, Index row, Index rows) {
    const Tensor columns = columns_of(c, widen(slice(x, 0, first, first + images)), row, rows);
    const Tensor product = reshape(matmul(kernels, columns), Shape{c.out, images, rows, c.out_w});
    const View to = transpose(part_of(y, first, images, row, rows), 0, 1).view();
    if (!bias) return backend_of(y).copy(product.view(), to);
    const bool rounds = y.dtype() != product.dtype();
    backend_of(y).binary(BinaryOp::add, product.view(), expanded(added, product.shape()), rounds ? product.view() : to);
    if (rounds) backend_of(y).copy(product.view(), to);
  });
  return y;
}

/// dx and the sum of dkernels, in the wide type, where they are asked for.
struct ConvGradients {
  Tensor dx, dkernels;
};

/// Of the weight image by image, so many at once that their gradients take no more room than columns may.
ConvGradients pointwise_backward(const ConvSizes& c, const Tensor& x, const Tensor& turned, const Tensor& g, bool wants_x, bool wants_weight) {
  const Tensor images = c.by_group(x), dy = c.by_group(g);
  ConvGradients out;
  if (wants_x) out.dx = reshape(matmul(turned, dy), x.shape());
  const Index at_once = std::max<Index>(1, piece_bytes / (turned.numel() * static_cast<Index>(size_of(turned.dtype()))));
  for (Index first = 0; wants_weight && first < c.batch; first += at_once) {
    const Index end = std::min(c.batch, first + at_once);
    const Tensor part = sum(matmul(slice(dy, 0, first, end), transpose(slice(images, 0, first, end))), {0});
    if (!out.dkernels)
      out.dkernels = part;
    else
      backend_of(x).binary(BinaryOp::add, out.dkernels.view(), part.view(), out.dkernels.view());
  }
  return out;
}

ConvGradients conv_backward(const ConvSizes& c, const Tensor& x, const Tensor& weight, const Tensor& g, bool wants_x, bool wants_weight) {
  const Tensor kernels = contiguous(kernels_of(c, weight, x.dtype())), turned = transpose(kernels);
  if (c.pointwise() && place_of(x) == place_of(kernels)) return pointwise_backward(c, x, turned, g, wants_x, wants_weight);
  ConvGradients out;
  if (wants_x) out.dx = empty(x.shape(), place_of(x));
  if (c.one_kernel_a_channel()) {
    const Tensor dkernels = wants_weight ? empty(kernels.shape(), place_of(kernels)) : Tensor();
    if (backend_of(x).depthwise_backward(g.view(), x.view(), kernels.view(), c.window, view_of(out.dx), view_of(dkernels))) return {out.dx, dkernels};
  }
  const Tensor dense = contiguous(g), dkernels = wants_weight ? empty(kernels.shape(), place_of(kernels)) : Tensor();
  const auto make = [&](const Tensor& dx, const Tensor& dw) {
    return backend_of(x).convolution_backward({dense.view(), x.view(), kernels.view(), c.window, c.groups, view_of(dx), view_of(dw)});
  };
  if (wants_weight && make({}, dkernels)) out.dkernels = dkernels, wants_weight = false;
  if (wants_x && make(out.dx, {})) wants_x = false;
  if (!wants_x && !wants_weight) return out;
  Tensor dx;  // of the images at hand, in the wide type
  each_piece(c, place_of(kernels), [&](Index first, Index images, Index row, Index rows) {
    const Tensor dy = transpose(part_of(g, first, images, row, rows), 0, 1);
    const Tensor lines = reshape(contiguous(widen(dy)), Shape{c.groups, c.out / c.groups, images * rows * c.out_w});
    if (wants_weight) {
      const Tensor columns = columns_of(c, widen(slice(x, 0, first, first + images)), row, rows);
      const Tensor sum = matmul(lines, transpose(columns));
      if (out.dkernels)
        backend_of(x).binary(BinaryOp::add, out.dkernels.view(), sum.view(), out.dkernels.view());
      else
        out.dkernels = sum;
    }
    if (!wants_x) return;
    const Tensor target = slice(out.dx, 0, first, first + images);
    const bool rounds = x.dtype() != kernels.dtype();
    if (row == 0) dx = rounds ? empty(target.shape(), place_of(kernels)) : target;
    if (row == 0 && rows < c.out_h) backend_of(dx).fill(0, dx.view());
    fold_into(c, matmul(turned, lines), row, rows, dx);
    if (rounds && row + rows == c.out_h) backend_of(x).copy(dx.view(), target.view());
  });
  return out;
}

void check_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, Index groups) {
  check_image("conv2d", x);
  check_present("conv2d", weight, "weight");
  fused::check_parameter("conv2d", "weight", x, weight);
  if (weight.rank() != 4) fail("conv2d: weight must be [O, C / groups, kh, kw], got {}", weight.shape());
  const Index channels = x.size(1), out = weight.size(0);
  if (out == 0) fail("conv2d: 0 output channels");
  if (groups < 1 || channels % groups != 0 || out % groups != 0) {
    fail("conv2d: {} input and {} output channels do not divide into {} groups", channels, out, groups);
  }
  if (weight.size(1) != channels / groups) {
    fail("conv2d: weight {} does not fit x {} in {} group{}; expected [{}, {}, kh, kw]", weight.shape(), x.shape(), groups, groups == 1 ? "" : "s", out,
         channels / groups);
  }
  if (!bias) return;
  check_same_place("conv2d", weight, bias);
  if (!(bias.shape() == Shape{out})) fail("conv2d: bias must be [{}], got {}", out, bias.shape());
}

}  // namespace

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, Window window, Index groups) {
  check_conv(x, weight, bias, groups);
  window.kernel_h = weight.size(2);
  window.kernel_w = weight.size(3);
  check_window("conv2d", window, x.size(2), x.size(3));
  const ConvSizes c(x, weight, window, groups);
  if (groups == 1 && c.tiles() && !c.pointwise()) {  // patches: one reordering, one product over rows of pixels
    const Tensor rows = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", {{"p", window.kernel_h}, {"q", window.kernel_w}});
    const Tensor y = linear(rows, flatten(weight, 1), bias);  // [B, oh ow, O]
    return reshape(transpose(y), c.output());
  }
  if (x.numel() == 0) return conv_composite(c, x, weight, bias);

  Fused op;
  op.name = "conv2d";
  op.composite = [=](std::span<const Tensor> in) { return conv_composite(c, in[0], in[1], in[2]); };
  op.forward = [=](std::span<const Tensor> in, Tensors&) { return conv_forward(c, in[0], in[1], in[2]); };
  op.vjp = [=](const Ctx& ctx, std::span<const Tensor> in, const Tensor&, const Tensors&, const Tensor& g) -> Tensors {
    Tensors grads(in.size());
    if (ctx.needs(0) || ctx.needs(1)) {
      const ConvGradients found = conv_backward(c, in[0], in[1], g, ctx.needs(0), ctx.needs(1));
      grads[0] = found.dx;
      if (found.dkernels) grads[1] = narrow(reshape(found.dkernels, in[1].shape()), in[1].dtype());
    }
    if (ctx.needs(2)) grads[2] = narrow(sum(widen(g), {0, 2, 3}), in[2].dtype());
    return grads;
  };
  return norma::apply(op, {x, weight, bias});
}

}  // namespace norma
