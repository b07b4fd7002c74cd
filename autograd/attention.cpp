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

/// The tensors of one call as the kernels see them: outside the graph, each [B, H, rows, width] with its last axis
/// dense.
struct Parts {
  Tensor q, k, v;
};

/// [B, N, H, e] in memory, [B, H, N, e] to the reader.
Tensor head_major(const Tensor& token_major) {
  Layout layout = token_major.layout();
  return token_major.with_layout(transpose(layout, 1, 2));
}

double scale_of(const AttentionOptions& options, Index width) {
  if (options.scale != 0) return options.scale;
  return width == 0 ? 1.0 : 1 / std::sqrt(static_cast<double>(width));
}

/// What both passes are told.
Attention described(const AttentionOptions& o, Index width) {
  return {o.scoring, scale_of(o, width), o.causal, view_of(o.key_mask), o.dropout, o.stream, view_of(o.stats), o.form};
}
/// The kernel wrote into the statistics.
void wrote_stats(const AttentionOptions& options) {
  if (options.stats) options.stats.storage()->bump();
}

bool run_forward(const Parts& in, const AttentionOptions& options, const Tensor& out, const Tensor& row_lse) {
  if (in.q.numel() == 0 || in.k.numel() == 0 || in.v.numel() == 0) return false;
  if (options.clamp_fro > 0) return false;  // ||A||_F is known only once all of A is
  if (!backend_of(out).attention({described(options, in.q.size(3)), in.q.view(), in.k.view(), in.v.view(), out.view(), view_of(row_lse)})) return false;
  wrote_stats(options);
  return true;
}

bool run_backward(const Parts& in, const AttentionOptions& options, const Tensor& out, const Tensor& dout,
                  const Tensor& row_lse, const Parts& grads) {
  if (!backend_of(out).attention_backward({described(options, in.q.size(3)), in.q.view(), in.k.view(), in.v.view(), out.view(), dout.view(),
                                           grads.q.view(), grads.k.view(), grads.v.view(), view_of(row_lse)}))
    return false;
  wrote_stats(options);
  return true;
}

/// Room for the rows' log-sum-exp, where the backward pass will want it.
Tensor lse_room(const Parts& in, const AttentionOptions& options, bool wanted) {
  if (!wanted || options.scoring.kind != Scoring::Kind::softmax) return {};
  return empty({in.q.size(0), in.q.size(1), in.q.size(2)}, {wide_of(in.q.dtype()), in.q.device()});
}

/// out[B, H, N, e], its memory [B, N, H, e].
Tensor composite(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  const Tensor scores = matmul(fused::widen(q), transpose(fused::widen(k))) * scale_of(options, q.size(3));
  Tensor a = attention_weights(scores, options);
  if (options.dropout != 0) a = dropout(a, options.dropout, options.stream);
  const Tensor out = fused::narrow(matmul(a, fused::widen(v)), q.dtype());
  return transpose(contiguous(transpose(out, 1, 2)), 1, 2);
}

void check_qkv(const Tensor& q, const Tensor& k, const Tensor& v) {
  check_floating("attention", q);
  check_present("attention", k);
  check_present("attention", v);
  for (const auto& [what, x] : {std::pair{"q", &q}, std::pair{"k", &k}, std::pair{"v", &v}}) {
    if (x->rank() != 4) fail("attention: {} must be [B, H, tokens, width], got {}", what, x->shape());
  }
  if (k.size(0) != q.size(0) || k.size(1) != q.size(1) || k.size(3) != q.size(3)) {
    fail("attention: q {} and k {} differ in batch, heads or width; expected [B, H, N, d] and [B, H, M, d]", q.shape(),
         k.shape());
  }
  if (v.size(0) != k.size(0) || v.size(1) != k.size(1) || v.size(2) != k.size(2)) {
    fail("attention: k {} and v {} differ in batch, heads or keys; expected [B, H, M, d] and [B, H, M, e]", k.shape(),
         v.shape());
  }
  check_same_place("attention", q, k);
  check_same_place("attention", q, v);
}

Tensor room_like(const Tensor& x) { return empty(x.shape(), place_of(x)); }

}  // namespace

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionOptions& options) {
  check_qkv(q, k, v);
  check_attention_options("attention", options);
  check_attention_form("attention", options, q.size(3));
  fused::check_masks("attention", options, q.size(0), q.size(1), k.size(2), q.device());
  const bool wanted = grad_enabled() && (q.tracked() || k.tracked() || v.tracked());
  const auto parts = [](std::span<const Tensor> in) {
    return Parts{fused::dense_last(in[0]), fused::dense_last(in[1]), fused::dense_last(in[2])};
  };

  Fused op;
  op.name = "attention";
  op.composite = [options](std::span<const Tensor> in) { return composite(in[0], in[1], in[2], options); };
  op.forward = [=](std::span<const Tensor> in, Tensors& extra) {
    const Parts p = parts(in);
    const Tensor out = head_major(empty({p.q.size(0), p.q.size(2), p.q.size(1), p.v.size(3)}, place_of(p.q)));
    const Tensor row_lse = lse_room(p, options, wanted);
    if (!run_forward(p, options, out, row_lse)) return Tensor();
    extra = {row_lse};
    return out;
  };
  op.vjp = [=](const Ctx&, std::span<const Tensor> in, const Tensor& y, const Tensors& extra,
               const Tensor& g) -> Tensors {
    const Parts grads{room_like(in[0]), room_like(in[1]), room_like(in[2])};
    if (!run_backward(parts(in), options, y, fused::dense_last(g), extra[0], grads)) return {};
    return {grads.q, grads.k, grads.v, Tensor()};
  };
  return norma::apply(op, {q, k, v, options.key_mask});  // an input, so that it is noticed where it is changed before the backward pass
}

Tensor attention_packed(const Tensor& qkv, const AttentionOptions& options) {
  check_floating("attention_packed", qkv);
  if (qkv.rank() != 5 || qkv.size(2) != 3) fail("attention_packed: qkv must be [B, N, 3, H, d], got {}", qkv.shape());
  check_attention_options("attention_packed", options);
  const Index batch = qkv.size(0), tokens = qkv.size(1), heads = qkv.size(3), width = qkv.size(4);
  check_attention_form("attention_packed", options, width);
  fused::check_masks("attention_packed", options, batch, heads, tokens, qkv.device());
  const bool wanted = grad_enabled() && qkv.tracked();
  const Shape split{batch, tokens, heads, width}, merged{batch, tokens, heads * width};
  const auto parts = [](const Tensor& packed) {  // views
    const auto part = [&](Index i) {
      return head_major(packed.with_layout(squeeze(slice(packed.layout(), 2, i, 1, 1), 2)));
    };
    return Parts{part(0), part(1), part(2)};
  };
  const auto by_head = [split](const Tensor& x) {  // [B, N, H d] -> [B, H, N, d], a view of a dense tensor
    return head_major(reshape(fused::dense_rows(x), split));
  };

  Fused op;
  op.name = "attention_packed";
  op.composite = [=](std::span<const Tensor> in) {
    const auto part = [&](Index i) { return transpose(select(in[0], 2, i), 1, 2); };
    return reshape(transpose(composite(part(0), part(1), part(2), options), 1, 2), merged);
  };
  op.forward = [=](std::span<const Tensor> in, Tensors& extra) {
    const Parts p = parts(fused::dense_last(in[0]));
    const Tensor out = empty(merged, place_of(in[0]));
    const Tensor row_lse = lse_room(p, options, wanted);
    if (!run_forward(p, options, by_head(out), row_lse)) return Tensor();
    extra = {row_lse};
    return out;
  };
  op.vjp = [=](const Ctx&, std::span<const Tensor> in, const Tensor& y, const Tensors& extra,
               const Tensor& g) -> Tensors {
    const Tensor dqkv = room_like(in[0]);
    if (!run_backward(parts(fused::dense_last(in[0])), options, by_head(y), by_head(g), extra[0], parts(dqkv)))
      return {};
    return {dqkv, Tensor()};
  };
  return norma::apply(op, {qkv, options.key_mask});  // the mask as above: to be noticed where it is changed before the backward pass
}

}  // namespace norma
