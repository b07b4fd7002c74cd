// Shapes: B batch, T tokens, C width.
#include "bench/decoder.h"

namespace norma::bench {

DecoderBlock::DecoderBlock(const DecoderConfig& c, nn::Init& init)
    : norm1(c.width, init),
      norm2(c.width, init),
      attn({.width = c.width, .heads = c.heads, .scoring = c.attention, .causal = true, .dropout = c.dropout}, init),
      mlp(c.width, 4 * c.width, init),
      drop(c.dropout) {}

Tensor DecoderBlock::operator()(const Tensor& x) const {  // [B, T, C]
  const nn::Inside here(*this);
  if (drop.p == 0 || !nn::Training::active()) {
    const Tensor y = attn(norm1(x), x);
    return mlp(norm2(y), y);
  }
  const Tensor y = x + drop(attn(norm1(x)));
  return y + drop(mlp(norm2(y)));
}

Decoder::Decoder(const DecoderConfig& c, std::uint64_t seed, Place place)
    : drop_(c.dropout), activations_(c.activations) {
  nn::Init init(seed, place);
  wte_ = nn::Embedding(c.vocabulary, c.width, init);
  wpe_ = init.trunc_normal({c.tokens, c.width}, 0.02);
  for (Index i = 0; i < c.depth; ++i) blocks_.emplace_back(c, init);
  norm_ = nn::LayerNorm(c.width, init);
  head_ = nn::Linear(c.width, c.vocabulary, init, false);
}

Tensor Decoder::operator()(const Tensor& tokens) const {
  const nn::Inside here(*this);
  Tensor x = drop_(cast(wte_(tokens) + wpe_, activations_));  // [B, T, C]
  for (const DecoderBlock& block : blocks_) x = block(x);     // [B, T, C]
  return head_(norm_(x));                                     // [B, T, vocabulary]
}

double training_flops(const DecoderConfig& c, Index batch) {
  const auto C = static_cast<double>(c.width), N = static_cast<double>(c.tokens);
  const double block = 24 * C * C + 4 * N * C, head = 2 * C * static_cast<double>(c.vocabulary);
  return 3 * static_cast<double>(batch) * N * (static_cast<double>(c.depth) * block + head);
}

}  // namespace norma::bench
