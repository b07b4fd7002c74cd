// Modules, layers and the ViT: names, counts, initial values, dropout, taps, moves, and messages.
#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <set>

#include "models/vit.h"
#include "tests/worst.h"
#include "train/config.h"

using namespace norma;
using Catch::Matchers::Equals;

namespace {

models::ViTConfig small_vit(const std::string& attention = "softmax") {
  models::ViTConfig config;
  config.image = 8, config.patch = 4, config.classes = 5, config.width = 16, config.depth = 2, config.heads = 2;
  config.attention = nn::parse_scoring(attention);
  return config;
}

Tensor noise(const Shape& shape, DType dtype = DType::f64, std::uint64_t seed = 7) {
  nn::Init init(seed, {dtype});
  return init.normal(shape, 1).track(false);
}

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  return test::largest_difference(a.values(), b.values());
}

}  // namespace

TEST_CASE("ViT parameter counts are the paper's", "[nn]") {
  const auto count = models::parameter_count;  // of shapes alone; of a model that has them, below
  CHECK(count(models::vit_preset("tiny")) == 5717416);
  CHECK(count(models::vit_preset("small")) == 22050664);
  CHECK(count(models::vit_preset("base")) == 86567656);
  for (const auto& [name, heads] : {std::pair{"tiny", 3}, {"small", 6}, {"base", 12}}) CHECK(models::vit_preset(name).heads == heads);  // of width 64
  models::ViTConfig tiny_imagenet = models::vit_preset("tiny");
  tiny_imagenet.image = 64, tiny_imagenet.patch = 4, tiny_imagenet.classes = 200;
  CHECK(count(tiny_imagenet) == 5436296);
}

TEST_CASE("a model is counted without storage", "[nn]") {
  models::ViTConfig huge;  // 51 TB of f32
  huge.width = 65536, huge.depth = 250, huge.heads = 64, huge.classes = 1000;
  CHECK(models::parameter_count(huge) > Index{12} * 250 * 65536 * 65536);
  models::ViTConfig small;
  small.width = 64, small.depth = 2, small.heads = 2;
  models::ViT model(small, 0);
  CHECK(models::parameter_count(small) == nn::parameter_count(model));
  CHECK(nn::parameters(model)[0].second.is_contiguous());  // counting is over
  huge.image = 16384, huge.patch = 1, huge.width = 64, huge.depth = 1, huge.positions = models::ViTConfig::Positions::sincos;  // 69 GB of positions
  CHECK(models::parameter_count(huge) < 1'000'000);
}

TEST_CASE("ViT weights have timm's names", "[nn]") {
  models::ViT model(small_vit(), 1);
  std::vector<std::string> names;
  for (const auto& [name, value] : nn::parameters(model)) names.push_back(name);
  std::vector<std::string> expected = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"};
  for (const char* block : {"blocks.0.", "blocks.1."})
    for (const char* part :
         {"norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.qkv.bias", "attn.proj.weight", "attn.proj.bias",
          "norm2.weight", "norm2.bias", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias"})
      expected.push_back(std::string(block) + part);
  for (const char* last : {"norm.weight", "norm.bias", "head.weight", "head.bias"}) expected.push_back(last);
  CHECK_THAT(names, Equals(expected));

  std::set<std::string> taps;
  nn::for_each_tap(model, [&](const std::string& name, nn::Tap&) { taps.insert(name); });
  CHECK(taps.contains("blocks.1.attn.weights"));
  CHECK(taps.contains("blocks.0.attn.scores"));
  CHECK(taps.contains("blocks.0.attn.stats"));
  CHECK(taps.contains("blocks.1.mlp.hidden"));
  CHECK(taps.contains("blocks.1.out"));
  CHECK(taps.contains("blocks.0.attn.packed"));
  CHECK(taps.size() == 12);
}

TEST_CASE("initial values follow their distribution and their seed", "[nn]") {
  nn::Init init(3);
  const Tensor cut = init.trunc_normal({1000, 1000}, 1);
  double sum = 0, square = 0, fourth = 0, largest = 0;
  for (double x : cut.values())
    sum += x, square += x * x, fourth += x * x * x * x, largest = std::max(largest, std::abs(x));
  // Moments of a normal distribution cut at two deviations: variance 0.7737413, fourth moment 1.4161892.
  CHECK(std::abs(sum / 1e6) < 0.002);
  CHECK(square / 1e6 == Approx(0.7737413).epsilon(0.005));
  CHECK(fourth / 1e6 == Approx(1.4161892).epsilon(0.01));
  CHECK(largest <= 2.0);
  CHECK(largest > 1.998);
  // The deviation that is asked for is the one that comes, as PyTorch's: of 0.02 nothing is cut.
  const Tensor usual = init.trunc_normal({1025, 1024}, 0.02);
  CHECK(std::sqrt(mean(usual * usual).item()) == Approx(0.02).epsilon(0.003));
  CHECK(max(abs(usual)).item() > 4 * 0.02);
  CHECK(select(usual, 0, 1024).values() != select(usual, 0, 0).values());  // 2^20 elements on, more than are drawn at a time
  CHECK(max(abs(init.trunc_normal({10}, 0))).item() == 0);
  // The quantile and the distribution function are each other's inverse: the empirical distribution says so to
  // 1/sqrt(n).
  std::vector<double> normal = init.normal({100000}, 1).values();
  std::sort(normal.begin(), normal.end());
  double gap = 0;
  for (std::size_t i = 0; i < normal.size(); ++i)
    gap = std::max(gap, std::abs(0.5 * std::erfc(-normal[i] / std::sqrt(2.0)) - (static_cast<double>(i) + 0.5) / 1e5));
  CHECK(gap < 1.95 / std::sqrt(1e5));  // Kolmogorov and Smirnov at one in a thousand
  CHECK(normal.front() < -3.5);

  const Tensor uniform = init.xavier_uniform({30, 60});
  for (double x : uniform.values()) REQUIRE(std::abs(x) < std::sqrt(6.0 / 90));
  CHECK(max(abs(uniform)).item() > 0.99 * std::sqrt(6.0 / 90));
  CHECK_THROWS_WITH(init.xavier_uniform({3}), "xavier_uniform: shape [3] is not [out, in]");

  nn::Init again(3), other(4), wide(3, {DType::f64});
  CHECK(again.trunc_normal({1000, 1000}, 1).values() == cut.values());
  CHECK(other.trunc_normal({1000, 1000}, 1).values() != cut.values());
  CHECK(largest_difference(wide.trunc_normal({1000, 1000}, 1), cut) < 2e-7);
  CHECK(again.trunc_normal({8}, 1).values() != again.trunc_normal({8}, 1).values());
}

TEST_CASE("patch embedding is the convolution", "[nn]") {
  models::ViTConfig config = small_vit();
  config.depth = 1, config.pool = models::ViTConfig::Pool::mean;
  models::ViT model(config, 5, {DType::f64});
  // With the block's outputs and the positions at zero, features are the normalised embedding.
  nn::Named all = nn::parameters(model);
  Tensor weight, bias;
  for (auto& [name, value] : all) {
    if (name.ends_with("proj.weight") && name.starts_with("patch")) weight = value.detach();
    if (name == "patch_embed.proj.bias") copy_into(value, noise(value.shape())), bias = value.detach();
    if (name == "pos_embed" || name.ends_with("attn.proj.weight") || name.ends_with("fc2.weight")) fill(value, 0);
  }
  const Tensor images = noise({2, 3, 8, 8});
  const Tensor convolved = conv2d(images, weight, bias, {4, 4, 4, 4, 0, 0});                 // [B, C, h, w]
  const Tensor expected = layer_norm(rearrange(convolved, "b c h w -> b (h w) c"), {}, {});  // [B, P, C]
  CHECK(largest_difference(model.features(images), expected) < 1e-12);
  const Tensor aside = conv2d(ones({1, 1, 2, 2}), ones({1, 1, 2, 2}), {}, {2, 2, 2, 2, 0, 1});  // padded along one axis alone
  CHECK((aside.shape() == Shape{1, 1, 1, 2} && aside.values() == std::vector<double>{2, 2}));
}

TEST_CASE("of the last block only what the head reads is computed, with the values and gradients of all of it", "[nn]") {
  const std::string scoring = GENERATE("softmax", "x^3/sqrt(N)");
  models::ViTConfig config = small_vit(scoring);
  config.dropout = 0.2, config.drop_path = GENERATE(0.0, 0.5);
  models::ViT model(config, 5, {DType::f64});
  const nn::Named weights = nn::parameters(model);
  for (std::size_t i = 0; i < weights.size(); ++i)  // a mean of logits that biases do not decide
    copy_into(weights[i].second, noise(weights[i].second.shape(), DType::f64, i + 1) * 0.3);
  const Tensor images = noise({6, 3, 8, 8});
  const Tensor head = weights[weights.size() - 2].second, bias = weights.back().second;
  REQUIRE(weights.back().first == "head.bias");

  auto run = [&](auto logits) {
    const nn::Training training;
    const RandomScope draws(3, 0);
    const Tensor y = logits();
    backward(sum(y * y));
    Tensors found = {y.detach()};
    for (const auto& [name, weight] : weights) found.push_back(weight.grad());
    nn::zero_grad(model);
    return found;
  };
  const Tensors read = run([&] { return model(images); });
  const Tensors all = run([&] { return linear(select(model.features(images), 1, 0), head, bias); });
  for (std::size_t i = 0; i < all.size(); ++i) {
    INFO((i ? weights[i - 1].first : "logits"));
    CHECK(largest_difference(read[i], all[i]) <= 1e-12 * (1 + max(abs(all[i])).item()));
    CHECK(max(abs(all[i])).item() > 0);
  }
}

TEST_CASE("sin-cos positions do not learn", "[nn]") {
  models::ViTConfig config = small_vit();
  config.positions = models::ViTConfig::Positions::sincos;
  models::ViT model(config, 1);
  for (const auto& [name, value] : nn::state(model)) CHECK(value.is_leaf() == (name != "pos_embed"));
  const std::vector<double> positions = nn::state(model)[1].second.values();
  for (int i = 0; i < 16; ++i) CHECK(positions[static_cast<std::size_t>(i)] == 0);  // the class token's
  const double* last = positions.data() + 4 * 16;                                   // patch (1, 1)
  CHECK(last[0] == Approx(std::sin(1.0)));
  CHECK(last[4] == Approx(std::cos(1.0)));
  CHECK(last[8 + 1] == Approx(std::sin(std::pow(10000.0, -0.25))));
  const double* right = positions.data() + 2 * 16;  // patch (0, 1): a column further, no row
  CHECK((right[0] == last[0] && right[4] == last[4] && right[8] == 0 && right[12] == 1));

  nn::track(model, false), nn::track(model, true);
  for (const auto& [name, value] : nn::state(model)) CHECK(value.is_leaf() == (name != "pos_embed"));
  for (const auto& [name, value] : nn::parameters(model)) CHECK(name != "pos_embed");
  models::ViT learned(small_vit(), 1);
  CHECK(nn::parameter_count(model) == nn::parameter_count(learned) - 5 * 16);
  CHECK(nn::state(model).size() == nn::state(learned).size());  // what is saved has the same names
  const Tensor kernel = nn::state(model)[2].second;  // of patches: it begins by its own fans
  CHECK(max(abs(kernel)).item() == Approx(std::sqrt(6.0 / static_cast<double>(16 + kernel.numel() / 16))).epsilon(0.1));
}

TEST_CASE("dropout and drop path draw only in training, and the same for the same step", "[nn]") {
  CHECK_THROWS_WITH(nn::Dropout(-0.1), "dropout: the probability is -0.1, must be in [0, 1)");
  CHECK_THROWS_WITH(nn::DropPath(1), "drop_path: the probability is 1, must be in [0, 1)");
  models::ViTConfig config = small_vit();
  config.drop_path = 0.5, config.dropout = 0.3, config.depth = 3;
  const models::ViT model(config, 1, {DType::f64});
  const Tensor images = noise({4, 3, 8, 8});
  auto trained = [&](std::uint64_t step) {
    nn::Training on;
    RandomScope scope(1, step);
    return model(images).values();
  };
  const std::vector<double> plain = model(images).values();
  CHECK(plain == model(images).values());
  CHECK(trained(1) == trained(1));
  CHECK(trained(1) != trained(2));
  CHECK(trained(1) != plain);
  CHECK_FALSE(nn::Training::active());
  {
    nn::Training on;
    CHECK_THROWS_AS(model(images), Error);  // no RandomScope
    nn::Training off(false);
    CHECK(model(images).values() == plain);
  }

  nn::Training on;
  RandomScope scope(1, 1);
  const Tensor dropped = nn::DropPath(0.5)(ones({1000, 3}));
  const std::vector<double> rows = dropped.values();
  int kept = 0;
  for (std::size_t i = 0; i < rows.size(); i += 3) {
    CHECK((rows[i] == 0 || rows[i] == 2));
    CHECK((rows[i] == rows[i + 1] && rows[i] == rows[i + 2]));
    kept += rows[i] != 0;
  }
  CHECK(kept > 400);
  CHECK(kept < 600);
}

TEST_CASE("x^3/sqrt(n) counts the visible keys of each row", "[nn]") {
  const Index tokens = 5;
  auto weights = [&](const char* text, bool causal, bool masked) {
    nn::Init init(2, {DType::f64});
    nn::SelfAttention layer({.width = 8, .heads = 2, .scoring = nn::parse_scoring(text), .causal = causal, .std = 1},
                            init);
    Tensor a, s;
    layer.weights.on_value([&](const Tensor& x) { a = x.detach(); });
    layer.scores.on_value([&](const Tensor& x) { s = x.detach(); });
    const Tensor mask = masked ? from_values({1, 0, 1, 1, 1}, {1, tokens}, {DType::boolean}) : Tensor{};
    (void)layer(noise({1, tokens, 8}), {}, mask);
    return std::pair(a.values(), s.values());
  };
  for (bool causal : {false, true})
    for (bool masked : {false, true}) {
      INFO("causal " << causal << ", key mask " << masked);
      const auto [counted, scores] = weights("x^3/sqrt(n)", causal, masked);
      const auto [fixed, same_scores] = weights("x^3/sqrt(N)", causal, masked);
      std::size_t at = 0;
      for (Index h = 0; h < 2; ++h)
        for (Index i = 0; i < tokens; ++i) {
          auto visible = [&](Index j) { return (!causal || j <= i) && !(masked && j == 1); };
          double n = 0;
          for (Index j = 0; j < tokens; ++j) n += visible(j);
          for (Index j = 0; j < tokens; ++j, ++at) {
            const double cube = visible(j) ? std::pow(scores[at], 3) : 0;
            CHECK(counted[at] == Approx(cube / std::sqrt(n)).epsilon(1e-12).margin(1e-15));
            CHECK(fixed[at] == Approx(cube / std::sqrt(5.0)).epsilon(1e-12).margin(1e-15));
          }
        }
    }
}

TEST_CASE("watching the matrix changes no bit, and gradients reach it", "[nn]") {
  for (const char* text : {"softmax", "x^3/sqrt(N)", "relu/N"}) {
    INFO(text);
    nn::Init init(2, {DType::f64});
    nn::SelfAttention layer({.width = 8, .heads = 2, .scoring = nn::parse_scoring(text), .std = 0.5}, init);
    const Tensor x = noise({2, 5, 8}).track();
    auto gradient = [&](const Tensor& y) { return grad(sum(square(y)), x); };
    const Tensor y = layer(x), dx = gradient(y);

    int seen = 0;
    const int id = layer.weights.on_value([&](const Tensor&) { ++seen; });
    const Tensor watched = layer(x);
    CHECK(watched.values() == y.values());
    CHECK(gradient(watched).values() == dx.values());
    CHECK(seen == 1);

    layer.weights.remove(id);
    Tensor da;
    const int gradient_id = layer.weights.on_gradient([&](const Tensor& g) { da = g.detach(); });
    const Tensor through = layer(x);
    CHECK(largest_difference(through, y) <= 1e-14 * std::max(1.0, max(abs(y)).item()));  // |y| reaches 268 with x^3
    CHECK(largest_difference(gradient(through), dx) <= 1e-13 * std::max(1.0, max(abs(dx)).item()));
    REQUIRE(da);
    CHECK(da.shape() == Shape{2, 2, 5, 5});
    layer.weights.remove(gradient_id);
    CHECK_FALSE(layer.weights.watched());
    CHECK(layer(x).values() == y.values());
  }
}

TEST_CASE("MLP with a watched hidden layer is the same function", "[nn]") {
  nn::Init init(2, {DType::f64});
  nn::MLP layer(6, 10, init, 0.5);
  const Tensor x = noise({3, 6}), residual = noise({3, 6}, DType::f64, 8);
  const Tensor y = layer(x, residual);
  Shape seen;
  layer.hidden_tap.on_value([&](const Tensor& h) { seen = h.shape(); });
  CHECK(largest_difference(layer(x, residual), y) < 1e-14);
  CHECK(seen == Shape{3, 10});
  const nn::MLP copy = layer;  // watches nothing
  CHECK_FALSE(copy.hidden_tap.watched());
}

TEST_CASE("parameters are assigned by name, all or none", "[nn]") {
  nn::Init init(2);
  nn::Linear a(2, 3, init), b(2, 3, init);
  nn::assign(a, nn::parameters(b));
  CHECK(a.weight.values() == b.weight.values());
  CHECK(a.weight.is_leaf());

  const std::vector<double> before = a.weight.values();
  CHECK_THROWS_WITH(
      nn::assign(a, {{"weight", zeros({3, 3})}, {"gain", zeros({3})}}),
      "model: the values do not fit: missing: bias; unexpected: gain; wrong shape: weight [3, 3] instead of [3, 2]");
  const Tensor one = zeros({1});
  CHECK_THROWS_WITH(nn::assign(a, {{"weight", a.weight}, {"bias", a.bias}, {"c", one}, {"d", one}, {"e", one}, {"f", one}, {"g", one}}),
                    "model: the values do not fit: unexpected: c, d, e and 2 more");
  CHECK_THROWS_WITH(nn::assign(a, {{"weight", zeros({3, 2})}, {"weight", zeros({3, 2})}, {"bias", zeros({3})}}),
                    "model: the values do not fit: given twice: weight");
  CHECK(a.weight.values() == before);
}

TEST_CASE("models move between types, freeze and forget gradients", "[nn]") {
  models::ViT model(small_vit(), 1);
  const std::vector<double> before = nn::parameters(model)[2].second.values();
  nn::to(model, DType::f64);
  for (const auto& [name, value] : nn::parameters(model)) CHECK((value.dtype() == DType::f64 && value.is_leaf()));
  CHECK(nn::parameters(model)[2].second.values() == before);
  CHECK_THROWS_WITH(nn::to(model, DType::i64), "to: parameters cannot be i64; f32 or f64");
  CHECK_THROWS_WITH(nn::to(model, DType::bf16), "to: parameters cannot be bf16; f32 or f64; bf16 is for activations: cast(x, DType::bf16) after the embedding");
  models::ViTConfig fixed = small_vit();
  fixed.positions = models::ViTConfig::Positions::sincos;
  models::ViT other(fixed, 1);
  nn::to(other, DType::f64);
  for (const auto& [name, value] : nn::state(other)) CHECK(value.is_leaf() == (name != "pos_embed"));  // what does not learn still does not

  backward(sum(model(noise({1, 3, 8, 8}))));
  CHECK(nn::parameters(model)[0].second.grad());
  nn::zero_grad(model);
  CHECK_FALSE(nn::parameters(model)[0].second.grad());
  nn::track(model, false);
  CHECK_FALSE(model(noise({1, 3, 8, 8})).tracked());
}

TEST_CASE("ViT configurations are checked", "[nn]") {
  auto message = [](auto change) -> std::string {
    models::ViTConfig config = small_vit();
    change(config);
    try {
      models::ViT model(config, 1);
    } catch (const Error& e) {
      return e.what();
    }
    return "(accepted)";
  };
  CHECK(message([](auto&) {}) == "(accepted)");
  CHECK(message([](auto& c) { c.depth = 0; }) == "vit: depth is 0, must be at least 1");
  CHECK(message([](auto& c) { c.image = 30; }) == "vit: image 30 is not a multiple of patch 4; it is of 1, 2, 3, 5, 6, 10, 15, 30");
  CHECK(message([](auto& c) { c.heads = 3; }) == "vit: width 16 is not a multiple of heads 3; it is of 1, 2, 4, 8, 16");
  CHECK(message([](auto& c) { c.drop_path = 1; }) == "vit: drop_path is 1, must be in [0, 1)");
  CHECK(message([](auto& c) { c.init_std = std::nan(""); }) == "vit: init_std is nan, must be zero or more");
  CHECK(message([](auto& c) { c.dropout = 2; }) == "vit: dropout is 2, must be in [0, 1)");
  CHECK(message([](auto& c) { c.clamp_fro = -1; }) == "vit: clamp_fro = -1 must be 0 (off) or a positive bound of ||A||_F");
  CHECK(message([](auto& c) { c.activations = DType::i64; }) == "vit: activations is i64, must be a floating dtype: f32, f64 or bf16");
  CHECK(message([](auto& c) { c.attention = nn::parse_scoring("x^2/sum(x^2)"), c.attention.coefficient[2] = -1; }) ==
        "vit: a normalised polynomial must not be negative, its row sums could vanish, but the coefficient of s^2 is -1");
  CHECK(message([](auto& c) { c.width = 18, c.positions = models::ViTConfig::Positions::sincos; }) ==
        "vit: width 18 is not a multiple of 4, which sincos positions need");
  CHECK_THROWS_WITH(models::vit_preset("tinny"),
                    "vit: no preset \"tinny\" (did you mean \"tiny\"?); there are tiny, small and base");
  CHECK_THROWS_WITH(models::ViT(small_vit(), 1)(zeros({2, 1, 8, 8})),
                    "vit: images of shape [2, 1, 8, 8], expected [B, 3, 8, 8]");
}

TEST_CASE("training FLOPs of ViT-Tiny", "[nn]") {
  models::ViTConfig config = models::vit_preset("tiny");
  config.image = 32, config.patch = 4, config.classes = 10;
  // 12 blocks of 65 tokens: 3 * 12 * 65 * (24 * 192^2 + 4 * 65 * 192), of which the last block's projection and MLP leave
  // out 64 tokens: 3 * 64 * 18 * 192^2; embedding 2 * (2 * 64 * 48 * 192); head 3 * 2 * 192 * 10.
  CHECK(models::training_flops(config, 2) == 2.0 * (2340.0 * (884736 + 49920) - 192.0 * 663552 + 2359296 + 11520));
  config.pool = models::ViTConfig::Pool::mean;
  CHECK(models::training_flops(config, 2) == 2.0 * (2304.0 * (884736 + 49152) + 2359296 + 11520));
}

TEST_CASE("every matrix of a ViT begins with the deviation that is asked for", "[nn]") {
  models::ViTConfig config = small_vit();
  config.init_std = 0.25;
  models::ViT model(config, 3);
  for (const auto& [name, value] : nn::parameters(model)) {
    CAPTURE(name);
    const double size = std::sqrt(mean(value.detach() * value.detach()).item());
    const double error = 4 / std::sqrt(2 * static_cast<double>(value.numel()));  // four of its standard errors
    if (name == "cls_token" || name == "pos_embed") CHECK(size == Approx(0.02).epsilon(error));
    else if (value.rank() > 1) CHECK(size == Approx(0.25).epsilon(error));
    else CHECK(size == (name.ends_with("weight") ? 1 : 0));
  }
}

TEST_CASE("without a deviation that is asked for it follows from the width", "[nn]") {
  train::TrainConfig config;
  config.init_std = 0, config.width = 192, config.heads = 3;
  CHECK(train::vit_config(config, 32, 3, 10).init_std == Approx(0.04));  // 0.02 sqrt(768 / width)
}

TEST_CASE("drop path: both branches of a block fall out by themselves, more often from block to block", "[nn]") {
  models::ViTConfig config = small_vit();
  config.depth = 3, config.drop_path = 0.4;
  models::ViT model(config, 1, {DType::f64});
  for (auto& [name, p] : nn::parameters(model)) {  // branches that are constant: 1 of attention, 10 of the MLP
    if (name.ends_with("attn.proj.weight") || name.ends_with("fc2.weight")) fill(p.detach(), 0);
    if (name.ends_with("attn.proj.bias")) fill(p.detach(), 1);
    if (name.ends_with("fc2.bias")) fill(p.detach(), 10);
  }
  std::vector<Tensor> outs;
  nn::for_each_tap(model, [&](const std::string& name, nn::Tap& tap) {
    if (name.ends_with(".out")) tap.on_value([&](const Tensor& x) { outs.push_back(select(select(x.detach(), 1, 0), 1, 0)); });
  });
  const nn::Training training;
  const RandomScope draws(1, 1);
  const Index images = 400;
  (void)model(noise({images, 3, 8, 8}));
  REQUIRE(outs.size() == 3);
  for (std::size_t block = 1; block < 3; ++block) {
    const double p = 0.2 * static_cast<double>(block);
    const std::vector<double> added = (outs[block] - outs[block - 1]).values();
    std::array<int, 4> seen{};
    for (const double a : added) {
      const double branches = a * (1 - p);
      for (std::size_t i = 0; i < 4; ++i) seen[i] += std::abs(branches - std::array{0.0, 1.0, 10.0, 11.0}[i]) < 1e-9;
    }
    CAPTURE(block, seen[0], seen[1], seen[2], seen[3]);
    CHECK(seen[0] + seen[1] + seen[2] + seen[3] == images);
    const double shares[] = {p * p, (1 - p) * p, p * (1 - p), (1 - p) * (1 - p)};
    for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(seen[i] - images * shares[i]) < 4 * std::sqrt(images * shares[i] * (1 - shares[i])));
  }
}

TEST_CASE("a head that reads the mean reads it of all tokens", "[nn]") {
  models::ViTConfig config = small_vit();
  config.pool = models::ViTConfig::Pool::mean, config.init_std = 0.3;
  models::ViT model(config, 4, {DType::f64});
  const nn::Named weights = nn::parameters(model);
  REQUIRE(weights.back().first == "head.bias");
  const Tensor images = noise({3, 3, 8, 8});
  const Tensor expected = linear(mean(model.features(images), {1}), weights[weights.size() - 2].second, weights.back().second);
  CHECK(largest_difference(model(images), expected) < 1e-13);
}

TEST_CASE("attention through the watched matrix is that of the kernel, also with masks and dropout", "[nn]") {
  for (const char* text : {"softmax", "x^3/sqrt(n)"})
    for (const bool causal : {false, true})
      for (const bool masked : {false, true}) {
        CAPTURE(text, causal, masked);
        nn::Init init(2, {DType::f64});
        const Scoring scoring = nn::parse_scoring(text);
        nn::SelfAttention layer({.width = 8, .heads = 2, .scoring = scoring, .causal = causal, .dropout = 0.4, .std = 0.5}, init);
        const Tensor x = noise({2, 6, 8}).track();
        const Tensor mask = masked ? from_values({1, 1, 0, 1, 1, 0, 1, 0, 1, 1, 1, 1}, {2, 6}, {DType::boolean}) : Tensor{};
        const auto run = [&] {
          const nn::Training training;
          const RandomScope draws(3, 4);
          const Tensor y = layer(x, {}, mask);
          return Tensors{y.detach(), grad(sum(square(y)), x)};
        };
        const Tensors kernel = run();
        const int id = layer.weights.on_gradient([](const Tensor&) {});
        const Tensors matrix = run();
        layer.weights.remove(id);
        for (std::size_t i = 0; i < 2; ++i) CHECK(largest_difference(kernel[i], matrix[i]) <= 1e-13 * std::max(1.0, max(abs(matrix[i])).item()));
      }
}

TEST_CASE("small layers are their ops, with their settings", "[nn]") {
  nn::Init init(5, {DType::f64});
  const Tensor x = noise({3, 4}) * 0.1;
  const nn::LayerNorm layer(4, init, 0.5);
  CHECK(layer(x).values() == layer_norm(x, layer.weight, layer.bias, 0.5).values());
  const nn::RMSNorm rms(4, init, 0.5);
  CHECK(rms(x).values() == rms_norm(x, rms.weight, 0.5).values());
  CHECK(layer(x).values() != nn::LayerNorm(4, init)(x).values());
  const nn::Embedding table(6, 4, init);
  CHECK(table(from_values({5, 0}, {2}, {DType::i64})).values() == stack({select(table.weight, 0, 5), select(table.weight, 0, 0)}, 0).values());
  const nn::Dropout drop(0.5);
  const RandomScope draws(1, 1);
  CHECK(drop(x).values() == x.values());
  const nn::Training training;
  CHECK(drop(x).values() == dropout(x, 0.5, {1, stream_id(1, 0)}).values());
}
