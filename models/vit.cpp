// Shapes: B batch, T tokens, C width, P patches, p patch size, c channels, h x w patches in an image.
#include "models/vit.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/suggest.h"

namespace norma::models {

ViTConfig vit_preset(std::string_view name) {
  ViTConfig config;
  if (name == "tiny") return config;
  if (name == "small") return config.width = 384, config.heads = 6, config;
  if (name == "base") return config.width = 768, config.heads = 12, config;
  const std::vector<std::string> names = {"tiny", "small", "base"};
  fail("vit: no preset \"{}\"{}; there are tiny, small and base", name, did_you_mean(name, names));
}

namespace {

nn::AttentionConfig attention_of(const ViTConfig& config) {
  return {.width = config.width,
          .heads = config.heads,
          .scoring = config.attention,
          .dropout = config.dropout,
          .clamp_fro = config.clamp_fro,
          .form = config.form,
          .std = config.init_std};
}

/// "1, 2, 4, 8", for a message: what divides a size, from the least on, and not more than fit a line.
std::string divisors(Index size) {
  std::string text;
  for (Index d = 1, shown = 0; d <= std::min<Index>(size, 4096); ++d) {
    if (size % d != 0) continue;
    if (++shown > 12) return text + ", ...";
    text += fmt::format("{}{}", text.empty() ? "" : ", ", d);
  }
  return text;
}

}  // namespace

void check(const ViTConfig& config) {
  auto positive = [](const char* field, Index value) {
    if (value < 1) fail("vit: {} is {}, must be at least 1", field, value);
  };
  positive("image", config.image), positive("patch", config.patch), positive("channels", config.channels);
  positive("classes", config.classes), positive("width", config.width), positive("depth", config.depth);
  positive("heads", config.heads), positive("mlp_ratio", config.mlp_ratio);
  if (config.image % config.patch != 0)
    fail("vit: image {} is not a multiple of patch {}; it is of {}", config.image, config.patch,
         divisors(config.image));
  if (config.width % config.heads != 0)
    fail("vit: width {} is not a multiple of heads {}; it is of {}", config.width, config.heads,
         divisors(config.width));
  const Index side = config.image / config.patch;
  for (const Shape& sizes : {Shape{side, side, config.width}, Shape{config.width, config.channels, config.patch, config.patch},
                             Shape{config.mlp_ratio, config.width, config.width}})
    (void)sizes.numel();  // throws where it is too large a number, before any of them is multiplied out
  if (config.positions == ViTConfig::Positions::sincos && config.width % 4 != 0)
    fail("vit: width {} is not a multiple of 4, which sincos positions need", config.width);
  if (!(config.drop_path >= 0 && config.drop_path < 1))
    fail("vit: drop_path is {}, must be in [0, 1)", config.drop_path);
  if (!(config.init_std >= 0) || std::isinf(config.init_std))
    fail("vit: init_std is {}, must be zero or more", config.init_std);
  nn::check("vit", attention_of(config));
  if (config.activations && !is_floating(*config.activations))
    fail("vit: activations is {}, must be a floating dtype: f32, f64 or bf16", *config.activations);
}

namespace {

/// Sines and cosines of a patch's row and column, a quarter of the width each (as in MAE, arXiv 2111.06377); zeros for
/// the class token. [1, T, C]
std::vector<double> sincos_positions(const ViTConfig& config) {
  const Index side = config.image / config.patch, quarter = config.width / 4;
  const Index first = config.tokens() - config.patches();
  std::vector<double> values(static_cast<std::size_t>(config.tokens() * config.width), 0.0);
  for (Index patch = 0; patch < config.patches(); ++patch) {
    double* row = values.data() + (first + patch) * config.width;
    for (Index i = 0; i < quarter; ++i) {
      const double frequency = std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(quarter));
      const double across = static_cast<double>(patch % side) * frequency;
      const double down = static_cast<double>(patch / side) * frequency;
      row[i] = std::sin(across), row[quarter + i] = std::cos(across);
      row[2 * quarter + i] = std::sin(down), row[3 * quarter + i] = std::cos(down);
    }
  }
  return values;
}

/// Beside learned positions, which begin as small, as all weights (unlike timm: ViTConfig::init_std). Sines and cosines
/// are of order 1: beside them a patch begins as in MAE, uniform by the kernel's own fan-in and fan-out (Xavier), or
/// tokens would be little but positions.
Tensor initial_patches(const ViTConfig& config, nn::Init& init) {
  const Shape kernel{config.width, config.channels, config.patch, config.patch};
  if (config.positions == ViTConfig::Positions::learned) return init.trunc_normal(kernel, config.init_std);
  const Index fan_in = config.channels * config.patch * config.patch;
  return init.uniform(kernel, std::sqrt(6.0 / static_cast<double>(fan_in + config.width)));
}

}  // namespace

ViTBlock::ViTBlock(const ViTConfig& config, double drop_path, nn::Init& init)
    : norm1(config.width, init),
      norm2(config.width, init),
      attn(attention_of(config), init),
      mlp(config.width, config.mlp_ratio * config.width, init, config.init_std),
      drop(drop_path) {}

/// attn is O = A V with A = phi(Q K^T / sqrt(d)) in every head, and phi is config.attention: nn::SelfAttention calls
/// attention_packed (autograd/attention.cpp), whose meaning op by op is autograd/attention_weights.cpp. Only A V
/// mixes tokens. After it, the last block computes just the R tokens that the head uses: the class token, or all.
Tensor ViTBlock::operator()(const Tensor& x, Index out_tokens) const {
  const nn::Inside here(*this);
  const Tensor kept = nn::first_tokens(x, out_tokens);  // [B, R, C]
  if (drop.active()) {
    const Tensor y = kept + drop(attn(norm1(x), {}, {}, out_tokens));  // [B, R, C]
    return out(y + drop(mlp(norm2(y))));                               // [B, R, C]
  }
  const Tensor y = attn(norm1(x), kept, {}, out_tokens);  // [B, R, C], the residual is added by the projection
  return out(mlp(norm2(y), y));                           // [B, R, C]
}

ViT::ViT(const ViTConfig& config, std::uint64_t seed, Place place) : config_(config) {
  check(config);
  constexpr double token_std = 0.02;
  nn::Init init(seed, place);
  patch_embed_.weight = initial_patches(config, init);
  patch_embed_.bias = init.zeros({config.width});
  if (config.pool == ViTConfig::Pool::cls) cls_token_ = init.trunc_normal({1, 1, config.width}, token_std);
  const Shape positions{1, config.tokens(), config.width};
  pos_embed_ = config.positions == ViTConfig::Positions::learned
                   ? init.trunc_normal(positions, token_std)
                   : init.fixed(positions, [&] { return sincos_positions(config); });
  for (Index i = 0; i < config.depth; ++i) {
    const double share = config.depth > 1 ? static_cast<double>(i) / static_cast<double>(config.depth - 1) : 0;
    blocks_.emplace_back(config, config.drop_path * share, init);
  }
  norm_ = nn::LayerNorm(config.width, init);
  head_ = nn::Linear(config.width, config.classes, init, true, config.init_std);
}

void ViT::visit(nn::Visitor& v) {
  v("cls_token", cls_token_);
  if (config_.positions == ViTConfig::Positions::learned)
    v("pos_embed", pos_embed_);
  else
    v.buffer("pos_embed", pos_embed_);
  v("patch_embed", patch_embed_), v("blocks", blocks_), v("norm", norm_), v("head", head_);
}

Tensor ViT::features(const Tensor& images, Index out_tokens) const {
  const nn::Inside here(*this);
  const Index c = config_.channels, size = config_.image;
  if (images.rank() != 4 || images.shape() != Shape{images.size(0), c, size, size})
    fail("vit: images of shape {}, expected [B, {}, {}, {}]", images.shape(), c, size, size);

  // A convolution whose kernel is as large as its stride is a linear layer on patches.
  const DType dtype = config_.activations.value_or(images.dtype());
  const Tensor patches =
      rearrange(cast(images, dtype), "b c (h p) (w q) -> b (h w) (c p q)", {{"p", config_.patch}, {"q", config_.patch}});
  const Tensor kernel = flatten(patch_embed_.weight, 1);  // [C, c p p]
  Tensor x;                                               // [B, P, C]
  {
    const nn::Inside embedding(patch_embed_);
    x = linear(patches, kernel, patch_embed_.bias);
  }
  if (cls_token_) {
    const Tensor cls = expand(cast(cls_token_, dtype), {x.size(0), 1, config_.width});
    x = cat({cls, x}, 1);  // [B, T, C]
  }
  x = x + cast(pos_embed_, dtype);                     // [B, T, C]
  for (const ViTBlock& block : blocks_) x = block(x, &block == &blocks_.back() ? out_tokens : nn::all_tokens);  // [B, T, C]
  return norm_(x);  // [B, out_tokens, C]
}

Tensor ViT::operator()(const Tensor& images) const {
  const nn::Inside here(*this);
  const Tensor x = features(images, config_.head_tokens());  // the class token [B, 1, C], or all
  const Tensor logits = head_(config_.pool == ViTConfig::Pool::cls ? select(x, 1, 0) : mean(x, {1}));  // [B, classes]
  return cast(logits, head_.weight.dtype());  // losses are taken in the parameters' dtype
}

Index parameter_count(const ViTConfig& config) {
  const nn::ShapesOnly counting;
  ViT model(config, 0);
  return nn::parameter_count(model);
}

double training_flops(const ViTConfig& config, Index batch) {
  const auto C = static_cast<double>(config.width), N = static_cast<double>(config.tokens());
  const auto P = static_cast<double>(config.patches()), depth = static_cast<double>(config.depth);
  const double qkv = 6 * C * C, attention = 4 * N * C;  // of one token; attention: q k^T and A v
  const double behind = (2 + 4 * static_cast<double>(config.mlp_ratio)) * C * C;  // of one token: proj 2, MLP 16
  const double blocks = depth * N * (qkv + attention + behind) - (N - static_cast<double>(config.head_tokens())) * behind;
  const double kernel = static_cast<double>(config.channels * config.patch * config.patch);
  const double embedding = 2 * P * kernel * C;
  const double head = 2 * C * static_cast<double>(config.classes);
  // A product's backward pass is two products of its size; the images need no gradient.
  return static_cast<double>(batch) * (3 * blocks + 2 * embedding + 3 * head);
}

}  // namespace norma::models
