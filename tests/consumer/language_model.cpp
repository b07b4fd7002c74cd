// A small language model learns to count; docs/language-model.md goes through this file.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "backends/register_all.h"
#include "inspect/probe.h"
#include "nn/layers.h"
#include "train/optimizer.h"
#include "train/prefix.h"
#include "train/safetensors.h"

namespace counting {

using namespace norma;

constexpr Index letters = 128, width = 48, heads = 4, shared_heads = 2, head_width = width / heads, context = 32;

/// i64 [n]: one number a letter.
Tensor ids_of(const std::string& text) {
  return from_values(std::vector<int>(text.begin(), text.end()), {static_cast<Index>(text.size())});
}

/// 32 windows of the text, i64 [32, context + 1]: a function of the step.
Tensor batch(const Tensor& text, Index step) {
  const Tensor starts = randint(0, text.numel() - context, {32, 1}, {2, stream_id(static_cast<std::uint64_t>(step))});
  const Tensor places = starts + arange(context + 1);
  return reshape(index_select(text, 0, flatten(places)), places.shape());
}

/// [2, context, head_width]: cosines and sines of the angles by which a position turns pairs of channels (RoPE).
Tensor angles() {
  const Tensor rates = pow(100, arange(head_width / 2, {DType::f32}) / (-head_width / 2));
  const Tensor turns = unsqueeze(arange(context, {DType::f32}), 1) * cat({rates, rates}, 0);
  return stack({cos(turns), sin(turns)}, 0);
}

Tensor turned(const Tensor& x, const Tensor& table) {  // [B, H, T, d], [2, T, d]
  const Index d = x.size(-1);
  const Tensor partner = cat({-slice(x, -1, d / 2, d), slice(x, -1, 0, d / 2)}, -1);
  return x * select(table, 0, 0) + partner * select(table, 0, 1);
}

struct Cache {
  Tensor k, v;  // [B, shared_heads, context, d]
};

class Attention : public nn::Module {
 public:
  explicit Attention(nn::Init& init)
      : q(width, width, init, false, 0.15),
        k(width, shared_heads * head_width, init, false, 0.15),
        v(width, shared_heads * head_width, init, false, 0.15),
        proj(width, width, init, false, 0.15) {}

  /// x [B, T, C] are the tokens from `first` on; the cache holds keys and values of those before.
  Tensor operator()(const Tensor& x, const Tensor& residual, const Tensor& table, Index first, Cache* cache) const {
    const nn::Inside here(*this);
    const Index B = x.size(0), T = x.size(1), M = cache ? first + T : T;
    const Tensor queries = turned(rearrange(q(x), "b t (h d) -> b h t d", {{"h", heads}}), table);
    Tensor keys = turned(rearrange(k(x), "b t (h d) -> b h t d", {{"h", shared_heads}}), table);
    Tensor values = rearrange(v(x), "b t (h d) -> b h t d", {{"h", shared_heads}});
    if (cache) {
      copy_into(slice(cache->k, 2, first, M), keys), keys = slice(cache->k, 2, 0, M);
      copy_into(slice(cache->v, 2, first, M), values), values = slice(cache->v, 2, 0, M);
    }

    AttentionOptions options;
    options.scoring = scoring, options.causal = true;
    const Index pairs = B * shared_heads, group = heads / shared_heads;  // that many query heads read the same keys
    const Shape of_keys{pairs, 1, M, head_width}, repeated = of_keys.with(1, group);
    keys = expand(reshape(keys, of_keys), repeated), values = expand(reshape(values, of_keys), repeated);
    if (stats.watched()) options.stats = zeros({pairs, group, attention_stats}, {DType::f64, x.device()});
    const Tensor y = attention(reshape(queries, {pairs, group, T, head_width}), keys, values, options);
    if (options.stats) stats(reshape(options.stats, {B, heads, attention_stats}), T);
    return proj(rearrange(reshape(y, {B, heads, T, head_width}), "b h t d -> b t (h d)"), residual);
  }
  void visit(nn::Visitor& to) override { to("q", q), to("k", k), to("v", v), to("proj", proj), to("stats", stats); }

  Scoring scoring = nn::parse_scoring("x^3/sqrt(n)");
  nn::Linear q, k, v, proj;
  nn::StatsTap stats;
};

class Block : public nn::Module {
 public:
  explicit Block(nn::Init& init)
      : norm1(width, init), norm2(width, init), attn(init), mlp(width, 4 * width, init, 0.15) {}
  Tensor operator()(const Tensor& x, const Tensor& table, Index first, Cache* cache) const {
    const nn::Inside here(*this);
    const Tensor y = attn(norm1(x), x, table, first, cache);
    return mlp(norm2(y), y);
  }
  void visit(nn::Visitor& v) override { v("norm1", norm1), v("attn", attn), v("norm2", norm2), v("mlp", mlp); }

  nn::RMSNorm norm1, norm2;
  Attention attn;
  nn::MLP mlp;
};

class Decoder : public nn::Module {
 public:
  explicit Decoder(nn::Init& init)
      : embed(letters, width, init, 0.15), norm(width, init), head(width, letters, init, false) {
    for (int i = 0; i < 2; ++i) blocks.emplace_back(init);
    head.weight = embed.weight;
  }
  /// Logits [B, T, letters] of ids i64 [B, T], the tokens from `first` on; caches: one for each block, or none.
  Tensor operator()(const Tensor& ids, Index first = 0, std::vector<Cache>* caches = nullptr) const {
    Tensor x = cast(embed(ids), activations);
    const Tensor turns = cast(slice(table, 1, first, first + ids.size(1)), activations);
    for (std::size_t i = 0; i < blocks.size(); ++i) x = blocks[i](x, turns, first, caches ? &(*caches)[i] : nullptr);
    return head(norm(x));
  }
  void visit(nn::Visitor& v) override {
    v("embed", embed), v("blocks", blocks), v("norm", norm), v("head", head), v.buffer("table", table);
  }
  std::vector<Cache> caches(Index batch) const {
    std::vector<Cache> empty(blocks.size());
    for (auto& [k, v] : empty) k = zeros({batch, shared_heads, context, head_width}, {activations}), v = zeros_like(k);
    return empty;
  }

  DType activations = DType::f32;
  nn::Embedding embed;
  std::vector<Block> blocks;
  nn::RMSNorm norm;
  nn::Linear head;
  Tensor table = angles();
};

/// The mean over the letters that can be foretold: in a window, all after the first number.
Tensor loss_of(const Decoder& model, const Tensor& window) {
  const Index T = window.size(1) - 1;
  const Tensor logs = log_softmax(cast(model(slice(window, 1, 0, T)), DType::f32));               // [B, T, letters]
  const Tensor right = squeeze(gather(logs, -1, unsqueeze(slice(window, 1, 1, T + 1), -1)), -1);  // [B, T]
  const Tensor counts = expand(cast(greater_equal(arange(T), 7), DType::f32), right.shape());
  return -sum(right * counts) / sum(counts);
}

void train_model(Decoder& model, train::Optimizer& optimizer, const Tensor& text, Index from, Index to) {
  for (Index step = from; step < to; ++step) {
    const nn::RoundedParameters rounded(model, model.activations, text.device());
    const Tensor loss = loss_of(model, batch(text, step));
    backward(loss);
    optimizer.step(4e-3, train::gradient_scale(optimizer.gradient_squares(), loss, 1).item());
    if (step % 80 == 0) std::printf("step %3d  loss %.4f\n", static_cast<int>(step), loss.item());
  }
}

void save(const std::string& path, Decoder& model, const train::Optimizer& optimizer, Index step) {
  nn::Named all = train::with_prefix("model/", nn::state(model));
  for (const auto& named : train::with_prefix("optimizer/", optimizer.state())) all.push_back(named);
  train::write_safetensors(path, {all, {{"step", std::to_string(step)}}});
}

/// The step to go on with.
Index load(const std::string& path, Decoder& model, train::Optimizer& optimizer) {
  const train::TensorFile file = train::read_safetensors(path);
  nn::assign(model, train::without_prefix("model/", file.tensors));
  optimizer.load(train::without_prefix("optimizer/", file.tensors));
  return std::stoi(file.metadata.at("step"));
}

std::string continued(const Decoder& model, std::string text, double temperature) {
  const NoGrad generating;
  std::vector<Cache> caches = model.caches(1);
  for (Index first = 0; first < context - 1;) {
    const Tensor ids = ids_of(text.substr(static_cast<std::size_t>(first)));  // the prompt, then a letter at a time
    const Tensor logits = select(model(unsqueeze(ids, 0), first, &caches), 1, -1);
    first += ids.numel();
    const Tensor uniform = rand(logits.shape(), {3, stream_id(static_cast<std::uint64_t>(first))});
    text += static_cast<char>(argmax(cast(logits, DType::f32) / temperature - log(-log(uniform)), -1).item());
  }
  return text;
}

/// How far the logits of a cache, a letter at a time, are from those of one pass.
double cache_error(const Decoder& model, const Tensor& ids) {
  const NoGrad generating;
  std::vector<Cache> caches = model.caches(ids.size(0));
  Tensors each;
  for (Index t = 0; t < ids.size(1); ++t) each.push_back(model(slice(ids, 1, t, t + 1), t, &caches));
  const Tensor whole = cast(model(ids), DType::f64);
  return norm(cast(cat(each, 1), DType::f64) - whole).item() / norm(whole).item();
}

void look_into(Decoder& model, const Tensor& window) {
  inspect::Probe probe(model);
  probe.attention("blocks.*.attn.stats");
  const AnomalyScope watching;
  backward(loss_of(model, window));
  nn::zero_grad(model);
  for (const auto& [place, stats] : probe.take_attention()) {
    const std::vector<double>& fro = stats.fro;
    std::printf("%s |A| %.1f %.1f %.1f %.1f\n", place.c_str(), fro[0], fro[1], fro[2], fro[3]);
  }
  if (const auto& first = watching.first())
    std::printf("not finite: %s in %s\n", first->op.c_str(), nn::path_of(model, first->place).c_str());
}

int run(DType activations) {
  std::string numbers;
  for (int number = 100; number < 1000; ++number) numbers += std::to_string(number) + " ";
  const Tensor text = ids_of(numbers);

  nn::Init init(7), other(8);
  Decoder model(init), resumed(other);
  model.activations = resumed.activations = activations;
  const auto optimizer = train::Optimizer::make({.weight_decay = 0.01, .beta2 = 0.95}, model);
  train_model(model, *optimizer, text, 0, 240);
  save("counting.safetensors", model, *optimizer, 240);
  train_model(model, *optimizer, text, 240, 300);

  const auto going_on = train::Optimizer::make({.weight_decay = 0.01, .beta2 = 0.95}, resumed);
  train_model(resumed, *going_on, text, load("counting.safetensors", resumed, *going_on), 300);
  const Tensor window = batch(text, -1), ids = slice(window, 1, 0, context);
  const bool same = all(equal(resumed(ids), model(ids))).item() == 1;
  std::printf("resumed: %s\n", same ? "the same to the bit" : "another model");

  const std::string written = continued(model, "411 412 ", 0.3);
  std::printf("%s\n", written.c_str());
  const double visible = cache_error(model, ids);
  for (Block& block : model.blocks) block.attn.scoring = nn::parse_scoring("x^3/sqrt(N)");
  const double keys = cache_error(model, ids);
  std::printf("a cache against one pass: %.0e with x^3/sqrt(n), %.2f with x^3/sqrt(N)\n", visible, keys);
  fill(resumed.blocks[1].mlp.fc1.weight, 1e38);
  look_into(resumed, window);
  return same && written == "411 412 413 414 415 416 417 418 " && visible < 0.01 && keys > 0.05 ? 0 : 1;
}

}  // namespace counting

int main(int count, char** words) {
  norma::register_backends();
  return counting::run(count > 1 ? norma::parse_dtype(words[1]) : norma::DType::f32);
}
