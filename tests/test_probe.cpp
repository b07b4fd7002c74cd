// Watching a model: what a Probe records, how its statistics compare with the matrix itself, and what it says.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>

#include "inspect/probe.h"
#include "models/vit.h"
#include "nn/glob.h"

using namespace norma;
using namespace norma::inspect;

namespace {

models::ViTConfig small_vit(const std::string& attention) {
  models::ViTConfig config;
  config.image = 8, config.patch = 4, config.classes = 5, config.width = 16, config.depth = 2, config.heads = 2;
  config.init_std = 0.3;
  config.attention = nn::parse_scoring(attention);
  return config;
}

Tensor images(Index batch, DType dtype = DType::f64) {
  nn::Init init(7, {dtype});
  return init.normal({batch, 3, 8, 8}, 1).track(false);
}

double root_of_squares(const Tensor& x) {
  double sum = 0;
  for (double v : x.values()) sum += v * v;
  return std::sqrt(sum);
}

Approx about(double expected) { return Approx(expected).epsilon(1e-10).margin(1e-13); }

/// A head's statistics from its matrices, by the definitions.
struct Definition {
  double fro = 0, jacobian = 0, scores = 0, scores2 = 0, score_max = -1e300, sums = 0, sums2 = 0, min = 1e300,
         max = -1e300;
  double negative = 0, small = 0, entropy = 0, grad_a = 0, grad_s = 0;
};

}  // namespace

TEST_CASE("globs", "[probe]") {
  using nn::glob_match;
  CHECK(glob_match("blocks.*.out", "blocks.11.out"));
  CHECK(glob_match("*", ""));
  CHECK(glob_match("*attn*", "blocks.3.attn.weights"));
  CHECK(glob_match("blocks.{1,11}.attn", "blocks.11.attn"));
  CHECK(glob_match("blocks.{1,*2}.{attn,mlp}", "blocks.12.mlp"));
  CHECK(glob_match("a{,b}", "a"));
  CHECK_FALSE(glob_match("blocks.{1,2}.attn", "blocks.12.attn"));
  CHECK_FALSE(glob_match("blocks.*.out", "blocks.1.outer"));
  CHECK_FALSE(glob_match("", "a"));
  CHECK_FALSE(glob_match("a", ""));
  CHECK(glob_match("{a,b}{c,d}*", "bd.e"));
  CHECK(glob_match("{a}{}", "a"));
  CHECK(glob_match("a{b,c", "a{b,c"));
  CHECK(glob_match("a,b}", "a,b}"));
  CHECK_FALSE(glob_match("{a,b}", "a,b"));
}

TEST_CASE("globs in globs, and globs of many stars and braces", "[probe]") {
  using nn::glob_match;
  for (const char* text : {"ad", "abd", "acd", "a*d", "a.b.d"}) CHECK(glob_match("a{,{b,c},*}d", text));
  CHECK_FALSE(glob_match("a{,{b,c}}d", "a,d"));
  CHECK_FALSE(glob_match("a{{b,c},{d,e}}", "abd"));
  CHECK(glob_match("{a,{b}", "{a,b"));
  std::string stars, braces, nested = "a";
  for (int i = 0; i < 30; ++i) stars += "*a", braces += "{a,a*,*}", nested = "{" + nested + "a,*}";
  const std::string long_name(200, 'a');
  CHECK(glob_match(stars, long_name));
  CHECK_FALSE(glob_match(stars + "x", long_name));
  CHECK_FALSE(glob_match(std::string(30, '*') + "x", long_name));
  CHECK(glob_match(braces, long_name));
  CHECK_FALSE(glob_match(braces + "x", long_name));
  CHECK(glob_match(nested, long_name));
  CHECK_FALSE(glob_match(nested + nested + "x", long_name));
}

TEST_CASE("values and gradients at named places", "[probe]") {
  models::ViT model(small_vit("x^3/sqrt(N)"), 1, {DType::f64});
  Probe probe(model);
  probe.value("blocks.*.out", frobenius()).value("blocks.{0,1}.out", keep_all()).gradient("blocks.1.out", keep_all());
  const Tensor loss = sum(square(model(images(3))));
  backward(loss);

  auto values = probe.take_values();
  REQUIRE(values.size() == 2);
  for (const auto& [place, records] : values) {
    INFO(place);
    REQUIRE(records.size() == 2);
    CHECK(records[0].shape() == Shape{});
    CHECK(records[0].dtype() == DType::f64);
    CHECK(records[1].shape() == Shape{3, place == "blocks.1.out" ? 1 : 5, 16});  // of the last block the class token is read
    CHECK_FALSE(records[1].tracked());
    CHECK(records[0].item() == about(root_of_squares(records[1])));
  }
  const auto gradients = probe.take_gradients();
  REQUIRE(gradients.size() == 1);
  const Tensor found = gradients.at("blocks.1.out").at(0);

  // The last block's output feeds only the class token's logits: its gradient is that of norm and head.
  const nn::Named p = nn::parameters(model);
  const Tensor out = values.at("blocks.1.out")[1].track();
  auto of = [&](const std::string& name) {
    return std::find_if(p.begin(), p.end(), [&](const auto& entry) { return entry.first == name; })->second.detach();
  };
  const Tensor normed = layer_norm(out, of("norm.weight"), of("norm.bias"));
  const Tensor logits = linear(select(normed, 1, 0), of("head.weight"), of("head.bias"));
  const std::vector<double> expected = grad(sum(square(logits)), out).values(), got = found.values();
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == about(expected[i]));

  CHECK(probe.take_values().empty());  // taken
  (void)model(images(1));
  CHECK(probe.take_values().size() == 2);
}

TEST_CASE("the gradient of an MLP's hidden layer reaches who watches it", "[probe]") {
  models::ViTConfig config = small_vit("softmax");
  config.pool = models::ViTConfig::Pool::mean;
  models::ViT model(config, 1, {DType::f64});
  Probe probe(model);
  probe.gradient("blocks.*.mlp.hidden", frobenius());
  backward(sum(square(model(images(3)))));
  const auto gradients = probe.take_gradients();
  REQUIRE(gradients.size() == 2);
  for (const auto& [place, values] : gradients) {
    INFO(place);
    CHECK(values.at(0).item() > 0);
  }
}

TEST_CASE("a probe stops watching when it ends", "[probe]") {
  models::ViT model(small_vit("softmax"), 1, {DType::f64});
  Tensor loss;
  {
    Probe probe(model);
    probe.gradient("blocks.*.attn.weights", frobenius()).attention("*");
    loss = sum(model(images(2)));
  }
  backward(loss);  // the graph's hooks find nobody
  nn::for_each_tap(model, [](const std::string& name, nn::Tap& tap) {
    INFO(name);
    CHECK_FALSE(tap.watched());
  });
}

TEST_CASE("a norm that the linear form estimates says its error", "[probe]") {
  std::vector<HeadStats> found;
  for (const AttentionForm form : {AttentionForm::linear, AttentionForm::quadratic}) {
    nn::Init init(2, {DType::f64});
    nn::SelfAttention layer({.width = 40, .heads = 2, .scoring = nn::parse_scoring("x^2/sqrt(N)"), .form = form, .std = 0.2}, init);
    Probe probe(layer);
    probe.attention("*");
    std::vector<double> stats;  // [4, 2, statistics]
    layer.stats.on_value([&](const Tensor& x) { stats = x.values(); });
    NoGrad forward_only;
    (void)layer(init.normal({4, 400, 40}, 1));
    found.push_back(probe.take_attention().at(0).second);
    for (std::size_t h = 0; h < 2; ++h) {
      double squares = 0;  // of a norm's error: that of its square over twice the norm
      for (std::size_t b = 0; b < 4; ++b) {
        const double* at = stats.data() + (b * 2 + h) * attention_stats;
        squares += std::pow(at[static_cast<int>(AttentionStat::fro2_error)] / (2 * std::sqrt(at[static_cast<int>(AttentionStat::fro2)])), 2);
      }
      CHECK(found.back().fro_error[h] == about(std::sqrt(squares) / 4));
    }
  }
  for (std::size_t h = 0; h < 2; ++h) {  // x^2 of width 20 has 210 monomials: ||A||_F is sampled
    CHECK(found[0].fro_error[h] > 0);
    CHECK(found[0].fro_error[h] < 0.1 * found[0].fro[h]);
    CHECK(std::abs(found[0].fro[h] - found[1].fro[h]) < 3 * found[0].fro_error[h]);
    CHECK(found[1].fro_error[h] == 0);
  }
}

TEST_CASE("statistics of a sample of the rows say so, also where the norm is exact", "[probe]") {
  for (const auto& [text, tokens, form, sampled] :
       {std::tuple{"x/sqrt(N)", 200, AttentionForm::automatic, 1.0}, {"x^2/sqrt(N)", 400, AttentionForm::linear, 1.0}, {"x/sqrt(N)", 48, AttentionForm::linear, 0.0},
        {"x/sqrt(N)", 200, AttentionForm::quadratic, 0.0}, {"softmax", 200, AttentionForm::automatic, 0.0}}) {
    CAPTURE(text, tokens, nn::name(form));
    nn::Init init(2);
    nn::SelfAttention layer({.width = 40, .heads = 2, .scoring = nn::parse_scoring(text), .form = form, .std = 0.2}, init);
    Probe probe(layer);
    probe.attention("*");
    const Tensor y = layer(init.normal({2, tokens, 40}, 1));
    CHECK(probe.take_attention().at(0).second.sampled == std::vector<double>(2, sampled));
    (void)layer(init.normal({2, 30, 40}, 1));
    backward(sum(square(y)));
    (void)layer(init.normal({1, tokens, 40}, 1));
    CHECK(probe.take_attention().at(0).second.sampled == std::vector<double>(2, sampled));  // of one call of two
  }
}

TEST_CASE("attention statistics are those of the matrix", "[probe]") {
  const Index batch = 3, heads = 2, tokens = 5;
  const char* attentions[] = {"softmax",      "x^3/sqrt(N)",         "0.5x + x^3/14",
                              "x^2/sum(x^2)", "sigmoid(x - log(N))", "relu/N"};
  for (const char* text : attentions) {
    INFO(text);
    const Scoring scoring = nn::parse_scoring(text);
    models::ViT model(small_vit(text), 1, {DType::f64});
    auto train = [&] { backward(mean(square(model(images(batch))))); };

    std::vector<std::pair<std::string, HeadStats>> measured;
    {
      Probe probe(model);
      probe.attention("blocks.*.attn.stats");
      train();
      measured = probe.take_attention();
    }
    REQUIRE(measured.size() == 2);
    CHECK(measured[0].first == "blocks.0.attn.stats");
    CHECK(measured[1].first == "blocks.1.attn.stats");

    Probe probe(model);
    probe.value("*.attn.weights", keep_all()).value("*.attn.scores", keep_all());
    probe.gradient("*.attn.weights", keep_all()).gradient("*.attn.scores", keep_all());
    probe.attention("*");  // beside the matrix: the same figures from the composition
    train();
    auto values = probe.take_values(), gradients = probe.take_gradients();
    const auto beside = probe.take_attention();

    for (std::size_t layer = 0; layer < 2; ++layer) {
      const std::string place = "blocks." + std::to_string(layer) + ".attn.";
      const std::vector<double> a = values.at(place + "weights")[0].values(),
                                s = values.at(place + "scores")[0].values(),
                                da = gradients.at(place + "weights")[0].values(),
                                ds = gradients.at(place + "scores")[0].values();
      for (Index h = 0; h < heads; ++h) {
        Definition d;
        for (Index b = 0; b < batch; ++b) {
          double a2 = 0, jacobian2 = 0, da2 = 0, ds2 = 0;
          for (Index i = 0; i < tokens; ++i) {
            const auto row = static_cast<std::size_t>(((b * heads + h) * tokens + i) * tokens);
            double row_sum = 0;
            for (std::size_t j = row; j < row + static_cast<std::size_t>(tokens); ++j) {
              a2 += a[j] * a[j], da2 += da[j] * da[j], ds2 += ds[j] * ds[j], row_sum += a[j];
              d.scores += s[j], d.scores2 += s[j] * s[j], d.score_max = std::max(d.score_max, s[j]);
              d.min = std::min(d.min, a[j]), d.max = std::max(d.max, a[j]);
              d.negative += a[j] < 0, d.small += std::abs(a[j]) < 1e-3;
              if (a[j] > 0) d.entropy -= a[j] * std::log(a[j]);
            }
            d.sums += row_sum, d.sums2 += row_sum * row_sum;
            // The row's Jacobian by differentiating it: d a_k / d s_j for every pair.
            Tensor scores =
                from_values({s.begin() + static_cast<Index>(row), s.begin() + static_cast<Index>(row) + tokens},
                            {1, 1, 1, tokens}, {DType::f64});
            scores.track();
            const Tensor weights = attention_weights(scores, {scoring, 0, false, {}, 0, {}, {}});
            for (Index k = 0; k < tokens; ++k) {
              const double size = root_of_squares(grad(sum(select(weights, 3, k)), scores, {.retain_graph = true}));
              jacobian2 += size * size;
            }
          }
          d.fro += std::sqrt(a2), d.jacobian += std::sqrt(jacobian2), d.grad_a += std::sqrt(da2),
              d.grad_s += std::sqrt(ds2);
        }
        const double b = static_cast<double>(batch), rows = b * static_cast<double>(tokens);
        const double entries = rows * static_cast<double>(tokens);
        for (const HeadStats& m : {measured[layer].second, beside[layer].second}) {
          const auto at = static_cast<std::size_t>(h);
          REQUIRE(m.fro.size() == 2);
          CHECK(m.fro[at] == about(d.fro / b));
          CHECK(m.jacobian[at] == about(d.jacobian / b));
          CHECK(m.score_mean[at] == about(d.scores / entries));
          CHECK(m.score_rms[at] == about(std::sqrt(d.scores2 / entries)));
          CHECK(m.score_max[at] == about(d.score_max));
          CHECK(m.row_sum[at] == about(d.sums / rows));
          const double spread = d.sums2 / rows - d.sums / rows * d.sums / rows;
          CHECK(m.row_sum_std[at] * m.row_sum_std[at] == about(std::max(0.0, spread)));
          CHECK(m.min[at] == about(d.min));
          CHECK(m.max[at] == about(d.max));
          CHECK(m.negative_share[at] == about(d.negative / entries));
          CHECK(m.small_share[at] == about(d.small / entries));
          CHECK(m.grad_a[at] == about(d.grad_a / b));
          CHECK(m.grad_s[at] == about(d.grad_s / b));
          if (scoring.kind == Scoring::Kind::softmax || scoring.normalize)
            CHECK(m.entropy[at] == about(d.entropy / rows));
          else
            CHECK(std::isnan(m.entropy[at]));
        }
      }
    }
  }
}

TEST_CASE("of a matrix with entries that are no numbers nothing is counted or compared", "[probe]") {
  for (const char* text : {"softmax", "x^3/sqrt(N)"})
    for (const DType dtype : {DType::f32, DType::f64}) {
      CAPTURE(text, name(dtype));
      models::ViT model(small_vit(text), 1, {dtype});
      Tensor broken = images(2, dtype);
      fill(slice(slice(broken, 2, 0, 1), 3, 0, 1), NAN);  // a pixel of each image
      Probe probe(model);
      probe.attention("blocks.0.attn.stats");
      (void)model(broken);
      const HeadStats s = probe.take_attention()[0].second;
      for (const auto* field : {&s.fro, &s.min, &s.max, &s.negative_share, &s.small_share, &s.entropy, &s.score_max, &s.score_mean})
        for (const double v : *field) CHECK(std::isnan(v));
    }
}

TEST_CASE("gradient statistics wait for the backward pass", "[probe]") {
  models::ViT model(small_vit("x^3/sqrt(N)"), 1, {DType::f64});
  Probe probe(model);
  probe.attention("blocks.0.attn.stats");
  (void)model(images(2));
  const HeadStats forward = probe.take_attention().at(0).second;
  CHECK(forward.fro[0] > 0);
  CHECK(std::isnan(forward.grad_a[0]));
  CHECK(std::isnan(forward.grad_s[1]));

  backward(sum(model(images(2))));
  const HeadStats once = probe.take_attention().at(0).second;
  CHECK(once.grad_a[0] > 0);
  backward(sum(model(images(2))));
  (void)model(images(2));  // adds nothing to the averages but the same forward pass
  const HeadStats twice = probe.take_attention().at(0).second;
  CHECK(twice.grad_a[0] == about(once.grad_a[0]));
  CHECK(twice.fro[0] == about(once.fro[0]));
  CHECK(twice.fro[0] == about(forward.fro[0]));
}

TEST_CASE("of a loss that contains derivatives the statistics have the whole gradient", "[probe]") {
  struct Case {
    int order;   // of the derivatives in the loss
    bool own;    // the loss has the model's output beside them, and so a gradient of the kernel's own A
    bool again;  // a second sweep follows, over the output alone: the statistics are then that one's
  };
  const Tensor input = images(2);
  for (const char* text : {"softmax", "x^3/sqrt(N)", "x^2/sum(x^2)"})
    for (const bool causal : {false, true})
      for (const auto& [order, own, again] : {Case{0, true, false}, {1, true, false}, {1, false, false}, {1, true, true}, {2, true, false}, {2, false, true}}) {
        CAPTURE(text, causal, order, own, again);
        struct Swept {
          std::vector<double> gradients;
          std::vector<std::pair<std::string, HeadStats>> stats;
          std::map<std::string, Tensors> matrices;
        };
        const auto swept = [&, &order = order, &own = own, &again = again](auto watch) {
          nn::Init init(4, {DType::f64});
          nn::SelfAttention model({.width = 8, .heads = 2, .scoring = nn::parse_scoring(text), .causal = causal, .dropout = 0.3, .std = 0.5}, init);
          Probe probe(model);
          watch(probe);
          const nn::Training on;
          const RandomScope draws(1, 2);
          const Tensor x = slice(reshape(input, {2, 24, 8}), 1, 0, 6).detach().track();
          const Tensor y = mean(square(model(x)));
          Tensor derivative = y, loss = own ? y : full({}, 0, {DType::f64});
          for (int k = 0; k < order; ++k) {
            derivative = mean(square(grad(derivative, x, {.create_graph = true})));
            loss = loss + derivative;
          }
          backward(loss, {.retain_graph = true});
          if (again) backward(y);
          std::vector<double> gradients = x.grad().values();
          for (const auto& [name, p] : nn::parameters(model))
            for (const double v : p.grad().values()) gradients.push_back(v);
          return Swept{gradients, probe.take_attention(), probe.take_gradients()};
        };
        const auto by_head = [&causal = causal](const Tensor& g) { return mean(norm(causal ? tril(g) : g, {-2, -1}), 0); };
        const Swept unwatched = swept([](Probe&) {});
        const Swept fused = swept([](Probe& p) { p.attention("stats"); });
        const Swept formed = swept([&](Probe& p) { p.gradient("{weights,scores}", by_head).attention("stats"); });
        CHECK(fused.gradients == unwatched.gradients);
        const std::vector<double> da = formed.matrices.at("weights").back().values(), ds = formed.matrices.at("scores").back().values();
        for (const Swept* watched : {&fused, &formed})
          for (std::size_t h = 0; h < 2; ++h) {
            CHECK(watched->stats[0].second.grad_a[h] == about(da[h]));
            CHECK(watched->stats[0].second.grad_s[h] == about(ds[h]));
          }
      }
}

TEST_CASE("watching statistics changes no bit", "[probe]") {
  for (const auto& [text, activations] : {std::pair{"softmax", DType::f32}, {"x^3/sqrt(N)", DType::f32}, {"softmax", DType::bf16}}) {
    CAPTURE(text, name(activations));
    models::ViTConfig config = small_vit(text);
    config.width = 32, config.patch = 1, config.activations = activations;  // as wide, and as many rows, as an MLP at once wants
    models::ViT model(config, 1);
    auto everything = [&] {
      nn::zero_grad(model);
      const Tensor logits = model(images(8, DType::f32));
      backward(sum(square(logits)));
      std::vector<double> all = logits.values();
      for (const auto& [name, p] : nn::parameters(model))
        for (double x : p.grad().values()) all.push_back(x);
      return all;
    };
    const std::vector<double> before = everything();
    Probe statistics(model);
    statistics.attention("*.stats");
    CHECK(everything() == before);
    CHECK(statistics.take_attention().size() == 2);
    Probe matrices(model);
    matrices.value("*.attn.*", frobenius()).value("*.mlp.hidden", frobenius());
    CHECK(everything() == before);
    CHECK(matrices.take_values().size() == 8);  // packed, scores, weights, hidden of two layers
  }
}

TEST_CASE("matrices that are formed only to be watched are told", "[probe]") {
  models::ViT model(small_vit("x^3/sqrt(N)"), 1);
  Probe statistics(model);
  statistics.attention("*.stats").value("blocks.*.out", frobenius());
  (void)model(images(3, DType::f32));
  CHECK(statistics.take_formed().empty());  // measured without the matrix
  Probe matrices(model);
  matrices.value("*.attn.weights", frobenius()).gradient("blocks.0.attn.{weights,scores}", frobenius());
  CHECK(matrices.take_formed().empty());  // nothing ran yet
  backward(sum(model(images(3, DType::f32))));
  (void)model(images(3, DType::f32));
  // weights twice in two blocks, scores twice in the first: 6 times 3 x 2 x 5 x 5 floats
  CHECK(matrices.take_formed() == "attention matrices formed for watching: 6 in 3 places, 3.5 KiB; each for its call only");
  CHECK(matrices.take_formed().empty());
  (void)model(images(3, DType::f32));
  CHECK(statistics.take_formed().empty());
}

TEST_CASE("patterns that match nothing say what is near", "[probe]") {
  models::ViT model(small_vit("softmax"), 1);
  Probe probe(model);
  CHECK_THROWS_WITH(probe.value("blocks.*.out", {}), "probe: the measure of \"blocks.*.out\" is empty; give one, such as frobenius()");
  CHECK_THROWS_WITH(probe.attention("blocks.*.atn.stats"),
                    "probe: nothing matches \"blocks.*.atn.stats\"; near: blocks.*.attn.stats");
  CHECK_THROWS_WITH(
      probe.value("block.*.out", frobenius()),
      "probe: nothing matches \"block.*.out\"; near: blocks.*.out, blocks.*.attn.packed, blocks.*.attn.scores");
  CHECK_THROWS_WITH(probe.gradient("blocks.7.out", frobenius()),
                    Catch::StartsWith("probe: nothing matches \"blocks.7.out\"; near: blocks.*.out"));
  nn::LayerNorm bare;
  Probe nowhere(bare);
  CHECK_THROWS_WITH(nowhere.attention("*"), "probe: nothing matches \"*\": the model has no such places");
}

TEST_CASE("calls whose statistics do not belong together are refused, with their place", "[probe]") {
  struct Layer : nn::Module {
    nn::StatsTap stats;
    void visit(nn::Visitor& v) override { v("stats", stats); }
    void operator()(const Tensor& filled, Index heads) const {
      const Tensor q = ones({2, heads, 4, 8});
      AttentionOptions options;
      options.stats = filled;
      (void)attention(q, q, q, options);
      stats(options.stats, 4);
    }
  } layer;
  const auto room = [](Index heads) { return zeros({2, heads, attention_stats}, {DType::f64}); };
  Probe probe(layer);
  probe.attention("stats").attention("*");  // twice: each call is recorded twice
  layer(room(4), 4), layer(room(4), 4);
  CHECK(probe.take_attention().at(0).second.fro.size() == 4);
  layer(room(4), 4), layer(room(1), 1);
  CHECK_THROWS_WITH(probe.take_attention(), "probe: stats was called with 4 heads and with 1; a StatsTap is of one layer");
  const Tensor one = room(3);
  layer(one, 3), layer(one, 3);
  CHECK_THROWS_WITH(probe.take_attention(), "probe: stats was given one tensor of statistics twice; make options.stats anew for each call");
  CHECK(probe.take_attention().empty());  // taken
}
