// Products with their epilogues: linear (bias, residual) and mlp (two linears around GELU, keeping one intermediate).
#include "autograd/fused_util.h"
#include "autograd/rounded_weights.h"

namespace norma {

using fused::dense_rows;

namespace {

Shape with_last(const Tensor& x, Index n) { return x.shape().with(-1, n); }

void check_linear(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  check_present(op, x, "x");
  check_floating(op, x);
  check_present(op, weight, "weight");
  if (x.rank() == 0) fail("{}: x is 0-d; it needs a last axis to multiply", op);
  if (weight.rank() != 2 || weight.size(1) != x.size(-1)) {
    fail("{}: weight {} does not fit x {}; expected [n, {}]", op, weight.shape(), x.shape(), x.size(-1));
  }
  fused::check_parameter(op, "weight", x, weight);
  const Index n = weight.size(0);
  if (bias) {
    if (bias.shape() != Shape{n}) {
      fail("{}: bias {} does not fit weight {}; expected [{}]", op, bias.shape(), weight.shape(), n);
    }
    check_same_place(op, weight, bias);
  }
  if (residual) {
    if (residual.shape() != with_last(x, n)) {
      fail("{}: residual {} does not fit the output {}", op, residual.shape(), with_last(x, n));
    }
    check_same_place(op, x, residual);
  }
}

Tensor linear_composite(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  const Index k = x.size(-1);
  Index rows = 1;
  for (int axis = 0; axis + 1 < x.rank(); ++axis) rows *= x.size(axis);
  const Tensor rounded = fused::widen(fused::narrow(weight, x.dtype()));
  Tensor y = reshape(matmul(reshape(fused::widen(x), Shape{rows, k}), transpose(rounded)), with_last(x, weight.size(0)));
  if (bias) y = y + fused::widen(bias);
  if (residual) y = y + fused::widen(residual);
  return fused::narrow(y, x.dtype());
}

/// A place for a weight as it is rounded, from the forward pass of a layer whose x has a gradient to its backward pass; empty where the backend
/// has no use for it.
Tensor room_for_rounded(const Tensor& x, const Tensor& weight, bool gradient_of_x) {
  if (!gradient_of_x || x.dtype() == weight.dtype() || !backend_of(x).rounds_weights()) return {};
  return empty(weight.shape(), place_of(x));
}

/// A weight and its bias as RoundedWeights holds them, both or none of them.
struct RoundedCopies {
  Tensor weight, bias;
  RoundedCopies(const Tensor& x, const Tensor& w, const Tensor& b) : weight(RoundedWeights::of(w, x.dtype())), bias(RoundedWeights::of(b, x.dtype())) {
    if (!weight || (b && !bias)) weight = bias = Tensor();
  }
};

/// One call of the backend for Y = X W^T + b (+ residual), optionally with GELU. `pre` may be empty. `rounded_weight` receives what the backward pass
/// reads in place of the weight, if there is such.
bool run_linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual, const Tensor& y,
                bool gelu, const Tensor& pre, bool gradient_of_x, Tensor& rounded_weight) {
  const RoundedCopies copies(x, weight, bias);
  rounded_weight = copies.weight ? copies.weight : room_for_rounded(x, weight, gradient_of_x);
  const Tensor rows = dense_rows(x), w = dense_rows(weight), b = dense_rows(bias), r = dense_rows(residual);
  LinearForward args{rows.view(), w.view(), y.view(), view_of(b), view_of(r), view_of(pre), gelu};
  (copies.weight ? args.rounded_weight : args.rounded_weight_out) = view_of(rounded_weight), args.rounded_bias = view_of(copies.bias);
  return backend_of(y).linear(args);
}

/// One call for the gradients of a linear: each where its target is given. With `pre`, x is gelu(pre) and dx gets
/// gelu'(pre).
bool run_backward(const Tensor& dy, const Tensor& x, const Tensor& weight, const Tensor& rounded_weight, const Tensor& pre, const Tensor& dx,
                  const Tensor& dw, const Tensor& db) {
  const Tensor g = dense_rows(dy), input = dense_rows(pre ? pre : x), w = dense_rows(weight);
  LinearBackward args{g.view()};
  if (dw) args.x = input.view();
  if (dx) args.weight = w.view(), args.rounded_weight = view_of(rounded_weight);
  args.x_is_pre_gelu = static_cast<bool>(pre);
  args.dx = view_of(dx), args.dweight = view_of(dw), args.dbias = view_of(db);
  if (pre && dx) args.gelu_pre = input.view();
  return backend_of(g).linear_backward(args);
}

/// Both layers of an MLP in one call, x, w1 and w2 being the first of its inputs.
bool run_mlp(std::span<const Tensor> in, const Tensor& b1, const Tensor& b2, const Tensor& residual, const Tensor& pre, const Tensor& y) {
  const Tensor x = dense_rows(in[0]), w1 = dense_rows(in[1]), w2 = dense_rows(in[2]);
  const Tensor first = dense_rows(b1), second = dense_rows(b2), r = dense_rows(residual);
  return backend_of(y).mlp({x.view(), w1.view(), w2.view(), y.view(), view_of(first), view_of(second), view_of(r), view_of(pre)});
}

/// The gradients of its inputs, into grads and those of its biases.
bool run_mlp_backward(const Tensor& dy, std::span<const Tensor> in, const Tensor& pre, std::span<const Tensor> grads, const Tensor& db1,
                      const Tensor& db2) {
  const Tensor g = dense_rows(dy), x = dense_rows(in[0]), w1 = dense_rows(in[1]), w2 = dense_rows(in[2]);
  return backend_of(g).mlp_backward({g.view(), x.view(), pre.view(), w1.view(), w2.view(), grads[1].view(), grads[2].view(), view_of(grads[0]),
                             view_of(db1), view_of(db2)});
}

/// Where the gradient of an input goes; none where it is not asked for.
Tensor room_for(const Ctx& ctx, std::span<const Tensor> in, int i) {
  const Tensor& x = in[static_cast<std::size_t>(i)];
  return ctx.needs(i) ? empty(x.shape(), place_of(x)) : Tensor();
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  check_linear("linear", x, weight, bias, residual);
  const bool back = grad_enabled() && x.tracked();

  Fused op;
  op.name = "linear";
  op.composite = [](std::span<const Tensor> in) { return linear_composite(in[0], in[1], in[2], in[3]); };
  op.forward = [back](std::span<const Tensor> in, Tensors& extra) {
    const Tensor y = empty(with_last(in[0], in[1].size(0)), place_of(in[0]));
    extra.resize(1);
    return run_linear(in[0], in[1], in[2], in[3], y, false, {}, back, extra[0]) ? y : Tensor();
  };
  op.vjp = [](const Ctx& ctx, std::span<const Tensor> in, const Tensor&, const Tensors& extra, const Tensor& g) -> Tensors {
    const Tensor dx = room_for(ctx, in, 0), dw = room_for(ctx, in, 1), db = room_for(ctx, in, 2);
    if ((dx || dw || db) && !run_backward(g, in[0], in[1], extra[0], {}, dx, dw, db)) return {};
    return {dx, dw, db, in[3] ? g : Tensor()};
  };
  return norma::apply(op, {x, weight, bias, residual});
}

Tensor mlp(const Tensor& x, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2,
           const Tensor& residual) {
  check_linear("mlp: first layer", x, w1, b1, {});
  check_present("mlp", w2, "the second weight");
  if (w2.rank() != 2 || w2.size(1) != w1.size(0)) {
    fail("mlp: second weight {} does not fit the first {}; expected [n, {}]", w2.shape(), w1.shape(), w1.size(0));
  }
  check_same_place("mlp", w1, w2);
  const Shape output = with_last(x, w2.size(0));
  if (b2 && b2.shape() != Shape{w2.size(0)}) {
    fail("mlp: second bias {} does not fit weight {}; expected [{}]", b2.shape(), w2.shape(), w2.size(0));
  }
  if (residual && residual.shape() != output)
    fail("mlp: residual {} does not fit the output {}", residual.shape(), output);
  if (b2) check_same_place("mlp", w2, b2);
  if (residual) check_same_place("mlp", x, residual);
  bool wanted = false;
  for (const Tensor* input : {&x, &w1, &w2, &b1, &b2, &residual}) wanted = wanted || (grad_enabled() && input->tracked());
  const bool back = grad_enabled() && x.tracked(), hidden_back = back || (grad_enabled() && (w1.tracked() || b1.tracked()));

  Fused op;
  op.name = "mlp";
  op.composite = [](std::span<const Tensor> in) { return linear(gelu(linear(in[0], in[1], in[3])), in[2], in[4], in[5]); };
  op.forward = [=](std::span<const Tensor> in, Tensors& extra) {
    const Tensor pre = wanted ? empty(with_last(in[0], in[1].size(0)), place_of(in[0])) : Tensor();
    const Tensor y = empty(output, place_of(in[0]));
    extra = {pre, {}, {}};
    if (!run_mlp(in, in[3], in[4], in[5], pre, y)) {
      const Tensor hidden = empty(with_last(in[0], in[1].size(0)), place_of(in[0]));
      if (!run_linear(in[0], in[1], in[3], {}, hidden, true, pre, back, extra[1])) return Tensor();
      if (!run_linear(hidden, in[2], in[4], in[5], y, false, {}, hidden_back, extra[2])) return Tensor();
    }
    return y;
  };
  op.vjp = [](const Ctx& ctx, std::span<const Tensor> in, const Tensor&, const Tensors& extra, const Tensor& g) -> Tensors {
    Tensors grads;
    for (int i : {0, 1, 2, 3, 4}) grads.push_back(room_for(ctx, in, i));
    grads.push_back(in[5] ? g : Tensor());
    const Tensor& pre = extra[0];
    if (grads[1] && grads[2] && run_mlp_backward(g, in, pre, grads, grads[3], grads[4])) return grads;
    const bool first = grads[0] || grads[1] || grads[3];
    const Tensor dh = first ? empty(pre.shape(), place_of(pre)) : Tensor();  // gradient of the pre-activation
    if ((first || grads[2] || grads[4]) && !run_backward(g, {}, in[2], extra[2], pre, dh, grads[2], grads[4])) return {};
    if (first && !run_backward(dh, in[0], in[1], extra[1], {}, grads[0], grads[1], grads[3])) return {};
    return grads;
  };
  return norma::apply(op, {x, w1, w2, b1, b2, residual});
}

}  // namespace norma
