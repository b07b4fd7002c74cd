// The layers whose passes are more than one line. Shapes: B batch, T tokens, C width, H heads, d = C/H.
#include "nn/layers.h"

#include <cmath>

namespace norma::nn {

Index checked_size(const char* layer, const char* what, Index size) {
  if (size < 0) fail("{}: {} is {}, must not be negative", layer, what, size);
  return size;
}

void check_made(const char* norm, const Tensor& weight) {
  if (!weight)
    fail("{0}: the layer has no weight; make it of a width and an Init, or call norma::{0}() where there is to be none",
         norm);
}

Linear::Linear(Index in, Index out, Init& init, bool with_bias, double std)
    : weight(init.trunc_normal({checked_size("linear", "out", out), checked_size("linear", "in", in)}, std)),
      bias(with_bias ? init.zeros({out}) : Tensor{}) {}

Conv2d::Conv2d(Index in, Index out, const Window& w, Init& init, Index groups_of_channels, bool with_bias)
    : window(w), groups(groups_of_channels) {
  if (groups < 1 || in < 1 || out < 1 || in % groups != 0 || out % groups != 0)
    fail("conv2d: {} input and {} output channels do not divide into {} groups", in, out, groups);
  if (w.kernel_h < 1 || w.kernel_w < 1) fail("conv2d: kernel {}x{} must be at least 1", w.kernel_h, w.kernel_w);
  const Shape shape{out, in / groups, w.kernel_h, w.kernel_w};
  const double bound =
      1 / std::sqrt(static_cast<double>(shape[1]) * static_cast<double>(w.kernel_h) * static_cast<double>(w.kernel_w));
  weight = init.uniform(shape, bound);
  if (with_bias) bias = init.uniform({out}, bound);
}

namespace {

double probability(const char* layer, double p) {
  if (!(p >= 0 && p < 1)) fail("{}: the probability is {}, must be in [0, 1)", layer, p);
  return p;
}

}  // namespace

Dropout::Dropout(double chance) : p(probability("dropout", chance)) {}
DropPath::DropPath(double chance) : p(probability("drop_path", chance)) {}

Tensor Dropout::operator()(const Tensor& x) const {
  const Inside here(*this);
  return p > 0 && Training::active() ? dropout(x, p, RandomScope::next()) : x;
}

Tensor DropPath::operator()(const Tensor& x) const {
  const Inside here(*this);
  if (!active()) return x;
  Shape one_per_example = x.shape();  // [B, 1, ...]
  for (int axis = 1; axis < x.rank(); ++axis) one_per_example.set(axis, 1);
  return x * dropout(ones(one_per_example, place_of(x)), p, RandomScope::next());
}

MLP::MLP(Index width, Index hidden, Init& init, double std)
    : fc1(width, hidden, init, true, std), fc2(hidden, width, init, true, std) {}

Tensor MLP::operator()(const Tensor& x, const Tensor& residual) const {
  const Inside here(*this);
  if (hidden_tap.wants_gradient()) return fc2(hidden_tap(gelu(fc1(x))), residual);
  if (hidden_tap.watched()) (void)hidden_tap(gelu(fc1(x)));  // beside the pass at once, whose bits stay as they are
  return mlp(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias, residual);
}

void check(const char* op, const AttentionConfig& c) {
  checked_size(op, "width", c.width);
  if (c.heads < 1 || c.width % c.heads != 0) fail("{}: width {} is not a multiple of {} heads", op, c.width, c.heads);
  if (!(c.dropout >= 0 && c.dropout < 1)) fail("{}: dropout is {}, must be in [0, 1)", op, c.dropout);
  if (!(c.std >= 0 && std::isfinite(c.std))) fail("{}: std is {}, must be finite and not negative", op, c.std);
  AttentionOptions options;
  options.scoring = c.scoring, options.dropout = c.dropout, options.clamp_fro = c.clamp_fro, options.form = c.form;
  check_attention_options(op, options);
  check_attention_form(op, options, c.width / c.heads);
  for (int p = 0; c.scoring.normalize && p <= Scoring::max_degree;
       ++p) {  // what parse_scoring refuses; the ops take sums of any sign
    const double a = c.scoring.coefficient[static_cast<std::size_t>(p)];
    if (a < 0)
      fail(
          "{}: a normalised polynomial must not be negative, its row sums could vanish, but the coefficient of s^{} is "
          "{}",
          op, p, a);
  }
}

SelfAttention::SelfAttention(const AttentionConfig& c, Init& init) : config(c) {
  check("attention", c);
  (void)Shape{3, c.width, c.width}.numel();  // throws where that is too much
  qkv = Linear(c.width, 3 * c.width, init, true, c.std);
  proj = Linear(c.width, c.width, init, true, c.std);
}

namespace {

enum Part : Index { query, key, value };

/// q, k or v of a packed [B, T, 3, H, d], as [B, H, T, d]; bf16 as f32, as kernels compute scores and weights.
Tensor part(const Tensor& packed, Part which) {
  const Tensor x = rearrange(select(packed, 2, which), "b t h d -> b h t d");
  return x.dtype() == DType::bf16 ? cast(x, DType::f32) : x;
}

/// A [B, H, T, T]; its taps and those of S fire.
Tensor watched_weights(const SelfAttention& layer, const Tensor& packed, const AttentionOptions& options) {
  const double scale = 1 / std::sqrt(static_cast<double>(packed.size(4)));
  const Tensor s = layer.scores(matmul(part(packed, query), transpose(part(packed, key))) * scale);  // [B, H, T, T]
  return layer.weights(attention_weights(s, options));
}

/// A V, with gradients that pass through A: [B, T, C].
Tensor weighted_sum(const Tensor& a, const Tensor& packed, const AttentionOptions& options) {
  const Tensor kept = options.dropout > 0 ? dropout(a, options.dropout, *options.stream) : a;
  return rearrange(cast(matmul(kept, part(packed, value)), packed.dtype()), "b h t d -> b t (h d)");
}

}  // namespace

Tensor SelfAttention::operator()(const Tensor& x, const Tensor& residual, const Tensor& key_mask,
                                 Index out_tokens) const {
  const Inside here(*this);
  if (!x || x.rank() != 3)
    fail("attention: x must be [B, T, {}], got {}", config.width, x ? x.shape().text() : "an empty Tensor handle");
  if (!qkv.weight) fail("attention: the layer has no weights; make it as SelfAttention(config, init)");
  if (out_tokens < 0) fail("attention: out_tokens is {}, must be 0 or more", out_tokens);
  AttentionOptions options;
  options.scoring = config.scoring, options.causal = config.causal, options.key_mask = key_mask;
  options.clamp_fro = config.clamp_fro, options.form = config.form;
  if (config.dropout > 0 && Training::active()) options.dropout = config.dropout, options.stream = RandomScope::next();
  if (stats.watched()) options.stats = zeros({x.size(0), config.heads, attention_stats}, {DType::f64, x.device()});

  const Tensor packed =
      packed_tap(rearrange(qkv(x), "b t (three h d) -> b t three h d", {{"three", 3}, {"h", config.heads}}));
  Tensor out;  // [B, T, C]
  if (scores.wants_gradient() || weights.wants_gradient()) {
    // dL/dS and dL/dA exist only where the output is computed through S and A, in place of the fused op below.
    out = weighted_sum(watched_weights(*this, packed, options), packed, options);
  } else {
    out = attention_packed(packed,
                           options);  // the usual way; what stands around it happens only while someone watches S or A
    if (scores.watched() || weights.watched()) {  // beside the fused pass, whose bits stay as they are
      AttentionOptions only_values = options;
      only_values.stats = {};
      (void)watched_weights(*this, packed, only_values);
    }
  }
  if (options.stats) stats(options.stats, x.size(1));
  return proj(first_tokens(out, out_tokens), residual);
}

}  // namespace norma::nn
