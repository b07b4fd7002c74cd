// Attention over separate q, k, v and over one packed qkv: the fused kernels, and the composition they replace.
//
// The way down, on the CPU: nn::SelfAttention calls attention_packed (here), which gives apply (node.cpp) a Fused. Its forward is
// run_forward, which calls Backend::attention. backends/cpu/attention.cpp asks whether the kernels cover the call, which else is declined;
// whether it takes the linear form (attention_linear.h); and cuts it into tasks: a head each, or pieces of its rows where heads are few.
// A task is kernels/attention_forward.cpp, or attention_forward_tiles.h where products of tiles (AMX, or pairs of bf16) pay. There
// rows of scores become weights: kernels/attention_weigh.h.
//
// The way back: sweep (grad.cpp) calls Rule::first_order, which apply made. It calls Fused::vjp, which is run_backward and so
// Backend::attention_backward: kernels/attention_backward.cpp, or attention_backward_tiles.h, where attention_differentiate.h turns
// scores and dA into A and dS.
//
// With create_graph, or where the kernels decline, the composition runs instead: composite() here and attention_weights.cpp.
#include "autograd/attention.h"

#include <cmath>

namespace norma {

namespace {

/// What one call reads or writes, as the kernels see it: each [B, H, rows, width] with its last axis dense.
struct Parts {
  View q, k, v;
};

/// q, k and v of a call, copied where their last axis is not dense.
struct Dense {
  Tensor q, k, v;
  explicit Dense(std::span<const Tensor> in) : q(fused::dense_last(in[0])), k(fused::dense_last(in[1])), v(fused::dense_last(in[2])) {}
  Parts parts() const { return {q.view(), k.view(), v.view()}; }
};

/// [B, N, H, e] in memory, [B, H, N, e] to the reader.
View head_major(View token_major) {
  token_major.layout = transpose(token_major.layout, 1, 2);
  return token_major;
}

/// The three of a packed [B, N, 3, H, d].
Parts unpacked(const Tensor& packed) {
  const auto part = [&](Index i) {
    View v = packed.view();
    const Layout layout = slice(v.layout, 2, i, 1, 1);
    v.data = v.as<std::byte>() + layout.offset * static_cast<Index>(size_of(v.dtype));
    v.layout = squeeze(Layout(layout.shape, layout.strides, 0), 2);
    return head_major(v);
  };
  return {part(0), part(1), part(2)};
}

/// The heads of a dense [B, N, H d], `split` being [B, N, H, d].
View by_head(const Tensor& x, const Shape& split) {
  View v = x.view();
  v.layout = *reshape(v.layout, split);
  return head_major(v);
}

double scale_of(const AttentionOptions& options, Index width) {
  if (options.scale != 0) return options.scale;
  return width == 0 ? 1.0 : 1 / std::sqrt(static_cast<double>(width));
}

/// What both passes are told.
Attention described(const AttentionOptions& o, Index width) {
  return {o.scoring, scale_of(o, width), o.causal, view_of(o.key_mask), o.dropout, o.stream.value_or(RandomStream{}), view_of(o.stats), o.form};
}
/// The kernel wrote into the statistics.
void wrote_stats(const AttentionOptions& options) {
  if (options.stats) options.stats.storage()->bump();
}

bool run_forward(Backend& device, const Parts& in, const AttentionOptions& options, const View& out, const View& row_lse) {
  if (in.q.numel() == 0 || in.k.numel() == 0 || in.v.numel() == 0) return false;
  if (options.clamp_fro > 0) return false;  // ||A||_F is known only once all of A is
  if (!device.attention({described(options, in.q.shape()[3]), in.q, in.k, in.v, out, row_lse})) return false;
  wrote_stats(options);
  return true;
}

bool run_backward(Backend& device, const Parts& in, const AttentionOptions& options, const View& out, const View& dout, const View& row_lse,
                  const Parts& grads) {
  if (!device.attention_backward({described(options, in.q.shape()[3]), in.q, in.k, in.v, out, dout, grads.q, grads.k, grads.v, row_lse})) return false;
  wrote_stats(options);
  return true;
}

/// Room for the rows' log-sum-exp, where the backward pass will want it.
Tensor lse_room(const View& q, Device device, const AttentionOptions& options, bool wanted) {
  if (!wanted || options.scoring.kind != Scoring::Kind::softmax) return {};
  return empty(q.shape().without(3), {wide_of(q.dtype), device});
}

/// out[B, H, N, e], its memory [B, N, H, e].
Tensor composite(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const Tensor scores = matmul(fused::widen(q), transpose(fused::widen(k))) * scale_of(options, q.size(3));
  Tensor a = attention_weights(scores, options);
  if (options.dropout != 0) a = dropout(a, options.dropout, *options.stream);
  const Tensor out = fused::narrow(matmul(a, fused::widen(v)), q.dtype());
  return transpose(contiguous(transpose(out, 1, 2)), 1, 2);
}

/// Where each head of k is for several of q.
std::string advice_on_heads(const Tensor& q, const Tensor& k) {
  const Index b = k.size(0), heads = k.size(1), keys = k.size(2), d = k.size(3);
  if (heads == 0 || q.size(1) == heads || q.size(1) % heads != 0 || q.size(0) != b || q.size(3) != d) return {};
  return fmt::format("; repeat the heads of k, and so of v: reshape(expand(unsqueeze(k, 2), {{{}, {}, {}, {}, {}}}), {{{}, {}, {}, {}}}); "
                     "without copies: docs/language-model.md", b, heads, q.size(1) / heads, keys, d, b, q.size(1), keys, d);
}

void check_qkv(const Tensor& q, const Tensor& k, const Tensor& v) {
  check_floating("attention", q, "q");
  check_present("attention", k, "k");
  check_present("attention", v, "v");
  for (const auto& [what, x] : {std::pair{"q", &q}, std::pair{"k", &k}, std::pair{"v", &v}}) {
    if (x->rank() != 4) fail("attention: {} must be [B, H, tokens, width], got {}", what, x->shape());
  }
  if (k.size(0) != q.size(0) || k.size(1) != q.size(1) || k.size(3) != q.size(3)) {
    fail("attention: q {} and k {} differ in batch, heads or width; expected [B, H, N, d] and [B, H, M, d]{}", q.shape(), k.shape(), advice_on_heads(q, k));
  }
  if (v.size(0) != k.size(0) || v.size(1) != k.size(1) || v.size(2) != k.size(2)) {
    fail("attention: k {} and v {} differ in batch, heads or keys; expected [B, H, M, d] and [B, H, M, e]", k.shape(),
         v.shape());
  }
  check_same_place("attention", q, k);
  check_same_place("attention", q, v);
}

/// One mask for every call and layer, as a default would give, is no dropout.
void check_stream(const char* op, const AttentionOptions& options) {
  if (options.dropout > 0 && !options.stream) {
    fail("{}: dropout = {} has no stream to draw from; set options.stream = RandomScope::next(), anew for each call", op, options.dropout);
  }
}

Tensor room_like(const Tensor& x) { return empty(x.shape(), place_of(x)); }

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  check_qkv(q, k, v);
  check_attention_options("attention", options);
  check_attention_form("attention", options, q.size(3));
  check_stream("attention", options);
  fused::check_masks("attention", options, q.size(0), q.size(1), k.size(2), q.device());
  const bool wanted = grad_enabled() && (q.tracked() || k.tracked() || v.tracked());

  Fused op;
  op.name = "attention";
  op.composite = [options](std::span<const Tensor> in) { return composite(in[0], in[1], in[2], options); };
  op.forward = [=](std::span<const Tensor> in, Tensors& extra) {
    const Dense x(in);
    const Tensor out = transpose(empty({x.q.size(0), x.q.size(2), x.q.size(1), x.v.size(3)}, place_of(x.q)), 1, 2);
    const Tensor row_lse = lse_room(x.q.view(), x.q.device(), options, wanted);
    if (!run_forward(backend_of(out), x.parts(), options, out.view(), view_of(row_lse))) return Tensor();
    extra = {row_lse};
    return out;
  };
  op.vjp = [=](const Ctx&, std::span<const Tensor> in, const Tensor& y, const Tensors& extra,
               const Tensor& g) -> Tensors {
    const Dense x(in);
    const Tensor dout = fused::dense_last(g), dq = room_like(x.q), dk = room_like(x.k), dv = room_like(x.v);
    if (!run_backward(backend_of(y), x.parts(), options, y.view(), dout.view(), view_of(extra[0]), {dq.view(), dk.view(), dv.view()})) return {};
    return {dq, dk, dv, Tensor()};
  };
  if (options.stats) op.composes_too = [stats = options.stats] { return fused::met_gradients(stats); };
  return norma::apply(op, {q, k, v, options.key_mask});  // an input, so that it is noticed where it is changed before the backward pass
}

Tensor attention_packed(const Tensor& qkv, const AttentionOptions& options) {
  check_floating("attention_packed", qkv);
  if (qkv.rank() != 5 || qkv.size(2) != 3) fail("attention_packed: qkv must be [B, N, 3, H, d], got {}", qkv.shape());
  check_attention_options("attention_packed", options);
  const Index batch = qkv.size(0), tokens = qkv.size(1), heads = qkv.size(3), width = qkv.size(4);
  check_attention_form("attention_packed", options, width);
  check_stream("attention_packed", options);
  fused::check_masks("attention_packed", options, batch, heads, tokens, qkv.device());
  const bool wanted = grad_enabled() && qkv.tracked();
  const Shape split{batch, tokens, heads, width}, merged{batch, tokens, heads * width};

  Fused op;
  op.name = "attention_packed";
  op.composite = [=](std::span<const Tensor> in) {
    const auto part = [&](Index i) { return transpose(select(in[0], 2, i), 1, 2); };
    return reshape(transpose(composite(part(0), part(1), part(2), options), 1, 2), merged);
  };
  op.forward = [=](std::span<const Tensor> in, Tensors& extra) {
    const Tensor packed = fused::dense_last(in[0]);
    const Parts p = unpacked(packed);
    const Tensor out = empty(merged, place_of(packed));
    const Tensor row_lse = lse_room(p.q, packed.device(), options, wanted);
    if (!run_forward(backend_of(packed), p, options, by_head(out, split), view_of(row_lse))) return Tensor();
    extra = {row_lse};
    return out;
  };
  op.vjp = [=](const Ctx&, std::span<const Tensor> in, const Tensor& y, const Tensors& extra,
               const Tensor& g) -> Tensors {
    const Tensor packed = fused::dense_last(in[0]), dout = fused::dense_rows(g), dqkv = room_like(packed);
    if (!run_backward(backend_of(packed), unpacked(packed), options, by_head(y, split), by_head(dout, split), view_of(extra[0]), unpacked(dqkv)))
      return {};
    return {dqkv, Tensor()};
  };
  if (options.stats) op.composes_too = [stats = options.stats] { return fused::met_gradients(stats); };
  return norma::apply(op, {qkv, options.key_mask});  // the mask as above: to be noticed where it is changed before the backward pass
}

}  // namespace norma
