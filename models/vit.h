// The Vision Transformer (Dosovitskiy et al., arXiv 2010.11929) with the attention function as data (arXiv 2410.18613).
// Names of weights are timm's, so that its checkpoints load.
#pragma once

#include <optional>

#include "nn/layers.h"

namespace norma::models {

struct ViTConfig {
  Index image = 224, patch = 16, channels = 3, classes = 1000;
  Index width = 192, depth = 12, heads = 3, mlp_ratio = 4;
  enum class Pool { cls, mean } pool = Pool::cls;
  enum class Positions { learned, sincos } positions = Positions::learned;
  Scoring attention;
  double drop_path = 0;  // grows linearly over the blocks
  double dropout = 0;    // of attention weights
  double clamp_fro = 0;  // largest Frobenius norm of a head's attention matrix; 0: no bound
  AttentionForm form = AttentionForm::automatic;
  /// Of all weights, the patch kernel beside learned positions included. timm and DeiT draw nn.Linear alone so, and leave the kernel and its bias
  /// PyTorch's U(-r, r) with r = 1/sqrt(channels patch^2), of deviation r/sqrt(3): 0.021 of 16x16x3, but 0.083 of 4x4x3 and 0.17 of 2x2x3.
  double init_std = 0.02;
  std::optional<DType> activations;  // bf16: mixed precision, with parameters of f32; empty: the dtype of the images
  Index patches() const { return (image / patch) * (image / patch); }
  Index tokens() const { return patches() + (pool == Pool::cls ? 1 : 0); }
  Index head_tokens() const { return pool == Pool::cls ? 1 : tokens(); }  // how many the head uses
};
/// "tiny", "small" or "base": the sizes of DeiT-Ti, DeiT-S (arXiv 2012.12877, table 1) and ViT-Base (arXiv 2010.11929, table 1); throws listing them.
ViTConfig vit_preset(std::string_view name);
/// Throws naming the field: sizes that do not divide, zero sizes, what is out of its range.
void check(const ViTConfig& config);

class ViTBlock : public nn::Module {
 public:
  ViTBlock(const ViTConfig& config, double drop_path, nn::Init& init);
  /// [B, T, C] -> [B, T, C], or the first `out_tokens` tokens of it, [B, out_tokens, C], without the work for the others.
  Tensor operator()(const Tensor& x, Index out_tokens = nn::all_tokens) const;
  void visit(nn::Visitor& v) override {
    v("norm1", norm1), v("attn", attn), v("norm2", norm2), v("mlp", mlp), v("out", out);
  }
  nn::LayerNorm norm1, norm2;
  nn::SelfAttention attn;
  nn::MLP mlp;
  nn::DropPath drop;
  nn::Tap out;
};

class ViT : public nn::Module {
 public:
  ViT(const ViTConfig& config, std::uint64_t seed, Place place = {});
  /// Images [B, channels, image, image] -> logits [B, classes].
  Tensor operator()(const Tensor& images) const;
  /// After the last norm: [B, T, C].
  Tensor features(const Tensor& images) const { return features(images, nn::all_tokens); }
  void visit(nn::Visitor& v) override;
  const ViTConfig& config() const { return config_; }

 private:
  Tensor features(const Tensor& images, Index out_tokens) const;  // of the first `out_tokens` tokens
  ViTConfig config_;
  struct PatchEmbed : nn::Module {
    void visit(nn::Visitor& v) override { v("proj.weight", weight), v("proj.bias", bias); }
    Tensor weight, bias;  // [C, channels, patch, patch], [C]
  } patch_embed_;
  Tensor cls_token_, pos_embed_;  // [1, 1, C], [1, T, C]
  std::vector<ViTBlock> blocks_;
  nn::LayerNorm norm_;
  nn::Linear head_;
};

/// Floating-point operations of one training step on `batch` images (forward + backward, a multiply-add is two): matrix products
/// only: of each block and image 3 N ((8 + 4 mlp_ratio) C^2 + 4 N C), N tokens; of the head three products, of the patch embedding two,
/// since images have no gradient; less what the last block leaves out with Pool::cls.
double training_flops(const ViTConfig& config, Index batch);
/// Numbers that the model learns; none of them is stored for this.
Index parameter_count(const ViTConfig& config);

}  // namespace norma::models
