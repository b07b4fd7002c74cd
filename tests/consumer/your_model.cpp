// A small transformer learns to write sequences backwards; docs/your-model.md goes through this file.
#include <cmath>
#include <cstdio>
#include <vector>

#include "backends/register_all.h"
#include "inspect/probe.h"
#include "nn/layers.h"
#include "train/optimizer.h"
#include "train/safetensors.h"

using namespace norma;

constexpr Index tokens = 8, letters = 16, width = 32, heads = 2;

class Block : public nn::Module {
 public:
  explicit Block(nn::Init& init)
      : norm1(width, init),
        norm2(width, init),
        attn({.width = width, .heads = heads, .scoring = nn::parse_scoring("x^3/sqrt(N)"), .std = 0.15}, init),
        mlp(width, 4 * width, init, 0.15),
        drop(0.05) {}
  Tensor operator()(const Tensor& x) const {  // [B, T, C] -> [B, T, C]
    const nn::Inside here(*this);
    const Tensor y = x + drop(attn(norm1(x)));
    return y + drop(mlp(norm2(y)));
  }
  void visit(nn::Visitor& v) override { v("norm1", norm1), v("attn", attn), v("norm2", norm2), v("mlp", mlp); }

  nn::LayerNorm norm1, norm2;
  nn::SelfAttention attn;
  nn::MLP mlp;
  nn::Dropout drop;
};

class Reverser : public nn::Module {
 public:
  explicit Reverser(nn::Init& init)
      : embed(letters, width, init, 0.15), norm(width, init), head(width, letters, init, false) {
    positions = init.trunc_normal({tokens, width}, 0.15);
    for (int i = 0; i < 2; ++i) blocks.emplace_back(init);
    head.weight = embed.weight;  // tied: one parameter with two names
  }
  Tensor operator()(const Tensor& ids) const {  // i64 [B, T] -> [B, T, letters]
    Tensor x = embed(ids) + positions;
    for (const Block& block : blocks) x = block(x);
    return head(norm(x));
  }
  void visit(nn::Visitor& v) override {
    v("embed", embed), v("pos_embed", positions), v("blocks", blocks), v("norm", norm), v("head", head);
  }

  nn::Embedding embed;
  Tensor positions;
  std::vector<Block> blocks;
  nn::LayerNorm norm;
  nn::Linear head;
};

/// 64 sequences, i64 [64, tokens]: a function of the step.
Tensor batch(Index step) {
  return randint(0, letters, {64, tokens}, {2, stream_id(static_cast<std::uint64_t>(step))});
}

double accuracy(const Reverser& model, const Tensor& ids) {
  const NoGrad evaluating;
  return mean(cast(equal(argmax(model(ids), -1), flip(ids, 1)), DType::f32)).item();
}

void train_model(Reverser& model, Index steps) {
  const auto optimizer = train::Optimizer::make({.weight_decay = 0.01}, model);
  for (Index step = 0; step < steps; ++step) {
    const nn::Training on;                                         // dropout is active
    const RandomScope draws(1, static_cast<std::uint64_t>(step));  // and draws from this
    const Tensor ids = batch(step);
    const Tensor loss = cross_entropy(model(ids), flip(ids, 1));
    backward(loss);
    const Tensor squares = train::gradient_squares(model);
    const double norm = std::sqrt(squares.item());
    optimizer->step(3e-3, train::gradient_scale(squares, loss, 1).item());  // clipped to norm 1; drops the gradients
    if (step % 50 == 0) std::printf("step %3d  loss %.3f  gradient %.2f\n", static_cast<int>(step), loss.item(), norm);
  }
}

void look_into(Reverser& model, const Tensor& ids) {
  inspect::Probe probe(model);
  probe.attention("blocks.*.attn.stats");
  backward(cross_entropy(model(ids), flip(ids, 1)));
  nn::zero_grad(model);
  for (const auto& [place, stats] : probe.take_attention())
    for (std::size_t h = 0; h < stats.fro.size(); ++h)
      std::printf("%s head %zu  |A| %.2f  |dL/dA| %.1e\n", place.c_str(), h, stats.fro[h], stats.grad_a[h]);
}

int main() {
  register_backends();
  nn::Init init(7), other(8);
  Reverser model(init);
  std::printf("%d parameters\n", static_cast<int>(nn::parameter_count(model)));
  train_model(model, 300);
  const Tensor unseen = batch(-1);
  std::printf("accuracy %.3f\n", accuracy(model, unseen));

  train::write_safetensors("reverser.safetensors", {nn::state(model), {{"letters", "16"}}});
  Reverser loaded(other);
  nn::assign(loaded, train::read_safetensors("reverser.safetensors").tensors);
  look_into(loaded, unseen);
  const bool same = all(equal(loaded(unseen), model(unseen))).item() == 1;
  std::printf("loaded: %s\n", same ? "the same to the bit" : "another model");
  return same && accuracy(loaded, unseen) > 0.95 ? 0 : 1;
}
