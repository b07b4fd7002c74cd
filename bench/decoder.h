// A causal decoder of characters with learned positions, as nanoGPT's: what the benchmarks time beside the Vision Transformer.
#pragma once

#include <vector>

#include "nn/layers.h"

namespace norma::bench {

struct DecoderConfig {
  Index width = 384, depth = 6, heads = 6, tokens = 256, vocabulary = 65;
  double dropout = 0;
  Scoring attention;
  DType activations = DType::f32;  // or bf16: mixed precision
};

class DecoderBlock : public nn::Module {
 public:
  DecoderBlock(const DecoderConfig& config, nn::Init& init);
  Tensor operator()(const Tensor& x) const;
  void visit(nn::Visitor& v) override { v("norm1", norm1), v("attn", attn), v("norm2", norm2), v("mlp", mlp); }
  nn::LayerNorm norm1, norm2;
  nn::SelfAttention attn;
  nn::MLP mlp;
  nn::Dropout drop;
};

class Decoder : public nn::Module {
 public:
  Decoder(const DecoderConfig& config, std::uint64_t seed, Place place = {});
  Tensor operator()(const Tensor& tokens) const;  // i64 [B, T] -> logits [B, T, vocabulary]
  void visit(nn::Visitor& v) override {
    v("wte", wte_), v("wpe", wpe_), v("blocks", blocks_), v("norm", norm_), v("head", head_);
  }

 private:
  nn::Embedding wte_;
  Tensor wpe_;  // [T, C]
  std::vector<DecoderBlock> blocks_;
  nn::LayerNorm norm_;
  nn::Linear head_;
  nn::Dropout drop_;
  DType activations_;
};

/// Of a training step: matrix products of forward and backward, attention in full (not halved for the causal mask).
double training_flops(const DecoderConfig& config, Index batch);

}  // namespace norma::bench
