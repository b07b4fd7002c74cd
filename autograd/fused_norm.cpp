// Softmax, log-softmax, layer norm and RMS norm: rows of the last axis, each with the composition it replaces.
#include <algorithm>

#include "autograd/fused_util.h"
#include "autograd/late_sums.h"

namespace norma {

using fused::narrow;
using fused::widen;

namespace {

Tensor softmax_composite(const Tensor& x) {
  if (x.numel() == 0) return exp(x);
  const Tensor wide = widen(x);
  const Tensor e = exp(wide - max(wide.detach(), {-1}, true));
  return narrow(e / sum(e, {-1}, true), x.dtype());
}

Tensor log_softmax_composite(const Tensor& x) {
  if (x.numel() == 0) return exp(x);
  const Tensor wide = widen(x);
  const Tensor shifted = wide - fused::shift_of(wide, -1);  // first: logsumexp(x) has the rounding of x
  return narrow(shifted - log(sum(exp(shifted), {-1}, true)), x.dtype());
}

Tensor softmax_last(const Tensor& x, bool log) {
  Fused op;
  op.name = log ? "log_softmax" : "softmax";
  op.composite = [log](std::span<const Tensor> in) {
    return log ? log_softmax_composite(in[0]) : softmax_composite(in[0]);
  };
  op.forward = [log](std::span<const Tensor> in, Tensors&) {
    Tensor y = empty(in[0].shape(), place_of(in[0]));
    return backend_of(y).softmax(fused::dense_rows(in[0]).view(), y.view(), log) ? y : Tensor();
  };
  op.vjp = [log](const Ctx&, std::span<const Tensor>, const Tensor& y, const Tensors&, const Tensor& g) -> Tensors {
    Tensor dx = empty(y.shape(), place_of(y));
    if (!backend_of(y).softmax_backward(y.view(), g.view(), dx.view(), log)) return {};
    return {dx};
  };
  return norma::apply(op, {x});
}

Tensor softmax_along(const char* name, const Tensor& x, int axis, bool log) {
  check_floating(name, x);
  axis = normalize_axis(name, axis, x.shape());
  if (axis == x.rank() - 1) return softmax_last(x, log);
  return transpose(softmax_last(transpose(x, axis, -1), log), axis, -1);
}

/// x normalised in its own wide type, before weight and bias.
Tensor normalised(const Tensor& x, double eps, bool rms) {
  const Tensor centred = rms ? x : fused::centred(x, {-1});
  return centred * rsqrt(mean(square(centred), {-1}, true) + eps);
}

void check_row(const char* name, const char* what, const Tensor& x, const Tensor& parameter) {
  if (parameter.shape() != Shape{x.size(-1)}) {
    fail("{}: {} {} does not fit x {}; expected [{}]", name, what, parameter.shape(), x.shape(), x.size(-1));
  }
  fused::check_parameter(name, what, x, parameter);
}

/// Where the device leaves the sums for dweight and dbias, either of which may be none, until the backward pass is over; empty where they are to be
/// there at once, as other nodes read them. `in` is x and the parameters.
Tensor room_for_sums(std::span<const Tensor> in, const Tensor& dweight, const Tensor& dbias) {
  const bool leaves = std::all_of(in.begin() + 1, in.end(), [](const Tensor& p) { return !p || p.is_leaf(); });
  if (!LateSums::innermost() || !leaves || (!dweight && !dbias)) return {};
  const Index n = in[0].size(-1), parts = backend_of(in[0]).norm_sum_parts(in[0].numel() / std::max<Index>(n, 1));
  return parts > 0 ? empty({parts, 2, n}, place_of(dweight ? dweight : dbias)) : Tensor();
}

/// Layer norm and RMS norm; weight and bias may be empty.
Tensor row_norm(const char* name, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps, bool rms) {
  check_floating(name, x);
  if (x.rank() == 0) fail("{}: x is 0-d; it needs a last axis to normalise", name);
  if (!(eps >= 0)) fail("{}: eps = {} must be >= 0", name, eps);
  if (weight) check_row(name, "weight", x, weight);
  if (bias) check_row(name, "bias", x, bias);
  const bool wanted = grad_enabled();

  Fused op;
  op.name = name;
  op.composite = [=](std::span<const Tensor> in) {
    Tensor y = normalised(widen(in[0]), eps, rms);
    if (in[1]) y = y * widen(in[1]);
    if (in[2]) y = y + widen(in[2]);
    return narrow(y, in[0].dtype());
  };
  op.forward = [=](std::span<const Tensor> in, Tensors& extra) {
    const Place statistics{wide_of(in[0].dtype()), in[0].device()};
    const Shape rows{in[0].size(-1) == 0 ? 0 : in[0].numel() / in[0].size(-1)};
    const Tensor y = empty(in[0].shape(), place_of(in[0]));
    const Tensor mean = wanted && !rms ? empty(rows, statistics) : Tensor(),
                 rstd = wanted ? empty(rows, statistics) : Tensor();
    const Tensor dense = fused::dense_rows(in[0]);
    const LayerNormForward args{dense.view(), y.view(), view_of(in[1]), view_of(in[2]), view_of(mean), view_of(rstd), eps, rms};
    if (in[0].numel() == 0 || !backend_of(y).layer_norm(args)) return Tensor();
    extra = {mean, rstd};
    return y;
  };
  op.vjp = [=](const Ctx& ctx, std::span<const Tensor> in, const Tensor&, const Tensors& extra,
               const Tensor& g) -> Tensors {
    const auto room = [&](int i) { return ctx.needs(i) ? empty(in[i].shape(), place_of(in[i])) : Tensor(); };
    const Tensor dx = empty(in[0].shape(), place_of(in[0])), dweight = room(1), dbias = room(2);
    const Tensor sums = room_for_sums(in, dweight, dbias);
    const Tensor dense = fused::dense_rows(in[0]);
    LayerNormBackward args{dense.view(), g.view(), dx.view()};
    args.weight = view_of(in[1]), args.mean = view_of(extra[0]), args.rstd = view_of(extra[1]);
    args.dweight = view_of(dweight), args.dbias = view_of(dbias), args.sums = view_of(sums), args.rms = rms;
    const Tensor residual = ctx.arrived(0);
    const bool takes = residual && residual.is_contiguous();
    if (takes) args.add = residual.view();
    if (!backend_of(g).layer_norm_backward(args)) return {};
    if (sums) LateSums::innermost()->add(sums, dweight, dbias);
    if (takes) ctx.take(0);
    return {dx, dweight, dbias};
  };
  return norma::apply(op, {x, weight, bias});
}

}  // namespace

Tensor softmax(const Tensor& x, int axis) { return softmax_along("softmax", x, axis, false); }
Tensor log_softmax(const Tensor& x, int axis) { return softmax_along("log_softmax", x, axis, true); }

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  return row_norm("layer_norm", x, weight, bias, eps, false);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return row_norm("rms_norm", x, weight, {}, eps, true);
}

}  // namespace norma
