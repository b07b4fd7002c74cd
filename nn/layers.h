// The layers of transformers. Shapes: B batch, T tokens, C width, H heads, d = C/H.
#pragma once

#include <functional>
#include <limits>
#include <vector>

#include "nn/module.h"
#include "nn/scoring.h"
#include "nn/tap.h"

namespace norma::nn {

/// Initial values are drawn from streams of one seed, in construction order: the same seed gives the same model. All but buffers (fixed)
/// are tracked already. Not copied: modules that each had a copy would begin with the same values. They take Init&.
class Init {
 public:
  explicit Init(std::uint64_t seed, Place place = {}) : seed_(seed), place_(place) {}
  Init(const Init&) = delete;
  Tensor zeros(const Shape& s) { return constant(s, 0); }
  Tensor ones(const Shape& s) { return constant(s, 1); }
  /// Normal with this deviation (finite, not negative), cut at -2 and 2, as PyTorch's and timm's trunc_normal_: of the usual 0.02 nothing
  /// is cut.
  Tensor trunc_normal(const Shape& s, double std);
  Tensor normal(const Shape& s, double std);
  Tensor uniform(const Shape& s, double bound);  // in [-bound, bound]; bound finite, not negative
  Tensor xavier_uniform(const Shape& s);         // [out, in]; bound sqrt(6 / (in + out)) (Glorot and Bengio, AISTATS 2010)
  /// A buffer: values(), row-major, which are asked for only where a model is more than counted.
  Tensor fixed(const Shape& s, const std::function<std::vector<double>()>& values);
  Place place() const { return place_; }

 private:
  Tensor constant(const Shape& s, double value);
  std::uint64_t seed_, next_ = 0;
  Place place_;
};

/// While alive, all that Init gives on this thread has its shape but shares one element: a model of any size, to be counted.
class ShapesOnly {
 public:
  [[nodiscard]] ShapesOnly();
  ~ShapesOnly();
  ShapesOnly(const ShapesOnly&) = delete;

 private:
  bool old_;
};

/// The size itself; throws naming the layer where it is negative.
Index checked_size(const char* layer, const char* what, Index size);
/// Throws where a norm, which would do without, has no weight: one that was declared and never made.
void check_made(const char* norm, const Tensor& weight);

class Linear : public Module {  // [..., in] -> [..., out]
 public:
  Linear() = default;
  Linear(Index in, Index out, Init& init, bool with_bias = true, double std = 0.02);
  template <std::floating_point T>  // Linear(in, out, init, 0.1): of that deviation, not "with a bias: 0.1"
  Linear(Index in, Index out, Init& init, T std) : Linear(in, out, init, true, std) {}
  /// x W^T + b (+ residual, in the same pass).
  Tensor operator()(const Tensor& x, const Tensor& residual = {}) const {
    const Inside here(*this);
    return linear(x, weight, bias, residual);
  }
  void visit(Visitor& v) override { v("weight", weight), v("bias", bias); }
  Tensor weight, bias;
};

class LayerNorm : public Module {  // [..., C] -> [..., C], over the last axis: norma::layer_norm
 public:
  LayerNorm() = default;
  LayerNorm(Index width, Init& init, double epsilon = 1e-6)
      : weight(init.ones({checked_size("layer_norm", "width", width)})), bias(init.zeros({width})), eps(epsilon) {}
  Tensor operator()(const Tensor& x) const {
    const Inside here(*this);
    check_made("layer_norm", weight);
    return layer_norm(x, weight, bias, eps);
  }
  void visit(Visitor& v) override { v("weight", weight), v("bias", bias); }
  Tensor weight, bias;
  double eps = 1e-6;
};

class RMSNorm : public Module {  // [..., C] -> [..., C], over the last axis: norma::rms_norm
 public:
  RMSNorm() = default;
  RMSNorm(Index width, Init& init, double epsilon = 1e-6) : weight(init.ones({checked_size("rms_norm", "width", width)})), eps(epsilon) {}
  Tensor operator()(const Tensor& x) const {
    const Inside here(*this);
    check_made("rms_norm", weight);
    return rms_norm(x, weight, eps);
  }
  void visit(Visitor& v) override { v("weight", weight); }
  Tensor weight;
  double eps = 1e-6;
};

class Embedding : public Module {  // i64 [...] -> [..., C]
 public:
  Embedding() = default;
  Embedding(Index count, Index width, Init& init, double std = 0.02)
      : weight(init.trunc_normal({checked_size("embedding", "count", count), checked_size("embedding", "width", width)}, std)) {}
  Tensor operator()(const Tensor& index) const {
    const Inside here(*this);
    return embedding(weight, index);
  }
  void visit(Visitor& v) override { v("weight", weight); }
  Tensor weight;
};

/// [B, in, h, w] -> [B, out, oh, ow]. Weight [out, in / groups, kh, kw] and bias begin as PyTorch's do, uniform in
/// +-1/sqrt(in / groups kh kw). Throws where the channels do not divide into the groups.
class Conv2d : public Module {
 public:
  Conv2d() = default;
  Conv2d(Index in, Index out, const Window& window, Init& init, Index groups_of_channels = 1, bool with_bias = true);
  Tensor operator()(const Tensor& x) const {
    const Inside here(*this);
    return conv2d(x, weight, bias, window, groups);
  }
  void visit(Visitor& v) override { v("weight", weight), v("bias", bias); }
  Tensor weight, bias;
  Window window;
  Index groups = 1;
};

class Dropout : public Module {  // active inside Training
 public:
  explicit Dropout(double chance = 0);  // throws outside [0, 1)
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor&) override {}
  double p;
};

class DropPath : public Module {  // drops whole examples of a residual branch [B, ...] (Huang et al., arXiv 1603.09382), active inside Training
 public:
  explicit DropPath(double chance = 0);  // throws outside [0, 1)
  bool active() const { return p > 0 && Training::active(); }
  Tensor operator()(const Tensor& x) const;
  void visit(Visitor&) override {}
  double p;
};

class MLP : public Module {  // [..., C] -> [..., C] through `hidden` elements and GELU
 public:
  MLP() = default;
  MLP(Index width, Index hidden, Init& init, double std = 0.02);
  /// residual is added in the same pass where given.
  Tensor operator()(const Tensor& x, const Tensor& residual = {}) const;
  void visit(Visitor& v) override { v("fc1", fc1), v("fc2", fc2), v("hidden", hidden_tap); }
  Linear fc1, fc2;
  Tap hidden_tap;  // after GELU
};

struct AttentionConfig {
  Index width = 0, heads = 1;
  Scoring scoring = {};
  bool causal = false;
  double dropout = 0;  // of the weights, from 0 to below 1
  double clamp_fro = 0;  // above 0: the largest ||A||_F of a head, see AttentionOptions::clamp_fro; forms the matrix
  AttentionForm form = AttentionForm::automatic;
  double std = 0.02;
};

/// Throws naming op, field and value: heads that do not divide the width, a dropout, clamp or std out of range, a form that there is
/// not, and a polynomial whose rows are divided by sums that could vanish.
void check(const char* op, const AttentionConfig& config);

constexpr Index all_tokens = std::numeric_limits<Index>::max();
/// The first `count` tokens of x [B, T, C], or x itself where it has no more.
inline Tensor first_tokens(const Tensor& x, Index count) { return count < x.size(1) ? slice(x, 1, 0, count) : x; }

/// Multi-head self-attention with any scoring: [B, T, C] -> [B, T, C].
class SelfAttention : public Module {
 public:
  SelfAttention() = default;
  SelfAttention(const AttentionConfig& config, Init& init);
  /// key_mask: bool [B, T], or empty; true: visible, false: hidden (the opposite of key_padding_mask in torch.nn.MultiheadAttention).
  /// residual is added in the output projection's pass where given. Only the first `out_tokens` tokens (0 or more) are projected,
  /// [B, min(out_tokens, T), C], which is the residual's shape too; statistics and taps are those of all T.
  Tensor operator()(const Tensor& x, const Tensor& residual = {}, const Tensor& key_mask = {}, Index out_tokens = all_tokens) const;
  void visit(Visitor& v) override {
    v("qkv", qkv), v("proj", proj), v("packed", packed_tap), v("scores", scores), v("weights", weights), v("stats", stats);
  }
  AttentionConfig config;
  Linear qkv, proj;
  Tap packed_tap;       // q, k and v as the kernel reads them: [B, T, 3, H, d]
  MatrixTap scores, weights;  // watching one of these forms the matrix [B, H, T, T] for that call
  StatsTap stats;       // watching this does not
};

}  // namespace norma::nn
