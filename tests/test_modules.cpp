// What layers and their initial values refuse, and how a module holds its children.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <type_traits>

#include "models/vit.h"
#include "nn/layers.h"
#include "tests/errors.h"

using namespace norma;
using norma::test::error_of;

TEST_CASE("a size that is negative is told with the layer's name", "[modules]") {
  nn::Init init(1);
  CHECK(error_of([&] { nn::Linear(-1, 3, init); }) == "linear: in is -1, must not be negative");
  CHECK(error_of([&] { nn::Linear(3, -1, init); }) == "linear: out is -1, must not be negative");
  CHECK(error_of([&] { nn::Embedding(-2, 3, init); }) == "embedding: count is -2, must not be negative");
  CHECK(error_of([&] { nn::LayerNorm(-2, init); }) == "layer_norm: width is -2, must not be negative");
  CHECK(error_of([&] { nn::RMSNorm(-2, init); }) == "rms_norm: width is -2, must not be negative");
}

TEST_CASE("a layer that is too large is the library's error", "[modules]") {
  nn::Init init(1);
  CHECK_THAT(error_of([&] { nn::Linear(Index{1} << 22, Index{1} << 22, init); }), Catch::StartsWith("out of memory: need 64 TiB"));
  CHECK(error_of([&] { nn::Linear(Index{1} << 31, Index{1} << 31, init); }) == "empty: [2147483648, 2147483648] of f32 overflows the size limit");
}

TEST_CASE("sizes of a vision transformer that no integer holds are refused", "[modules]") {
  const auto refused = [](auto change) {
    models::ViTConfig config;
    config.image = 32, config.patch = 4, config.width = 4, config.heads = 1;
    change(config);
    return error_of([&] { return models::parameter_count(config); });
  };
  CHECK(refused([](auto& c) { c.mlp_ratio = Index{1} << 62; }) == "shape: the number of elements of [4611686018427387904, 4, 4] overflows the 63-bit size limit");
  CHECK(refused([](auto& c) { c.image = Index{1} << 34; }) == "shape: the number of elements of [4294967296, 4294967296, 4] overflows the 63-bit size limit");
}

TEST_CASE("initial values longer than a piece of host memory are one stream", "[modules]") {
  constexpr Index piece = Index{1} << 20;
  const Tensor whole = nn::Init(7).normal({piece + 6}, 1), head = nn::Init(7).normal({piece}, 1);
  CHECK(all(equal(slice(whole, 0, 0, piece), head)).item() == 1);
  const Tensor tail = slice(whole, 0, piece, piece + 6);  // not the stream begun again
  CHECK(any(equal(tail, slice(whole, 0, 0, 6))).item() == 0);
  CHECK(stddev(tail).item() > 0.1);
}

TEST_CASE("a deviation is a number from zero on", "[modules]") {
  nn::Init init(1);
  CHECK(error_of([&] { return init.trunc_normal({2}, -1); }) == "trunc_normal: std is -1, must be finite and not negative");
  CHECK(error_of([&] { return init.trunc_normal({2}, std::numeric_limits<double>::quiet_NaN()); }) ==
        "trunc_normal: std is nan, must be finite and not negative");
  CHECK(error_of([&] { return init.normal({2}, std::numeric_limits<double>::infinity()); }) == "normal: std is inf, must be finite and not negative");
  CHECK(init.normal({2}, 0).values() == std::vector<double>{0, 0});
}

TEST_CASE("an absent weight is named", "[modules]") {
  CHECK(error_of([] { return linear(ones({2, 3}), Tensor()); }) == "linear: weight is an empty Tensor handle");
  CHECK(error_of([] { return linear(Tensor(), ones({2, 3})); }) == "linear: x is an empty Tensor handle");
  CHECK(error_of([] { return nn::LayerNorm()(ones({2, 3})); }) ==
        "layer_norm: the layer has no weight; make it of a width and an Init, or call norma::layer_norm() where there is to be none");
  CHECK(error_of([] { return nn::RMSNorm()(ones({2, 3})); }) ==
        "rms_norm: the layer has no weight; make it of a width and an Init, or call norma::rms_norm() where there is to be none");
}

TEST_CASE("assigning names the tensor that is none", "[modules]") {
  const Tensor a = zeros({2}), b = zeros({2});
  CHECK(error_of([&] { nn::assign({{"a", a}, {"b", b}}, {{"a", ones({2})}, {"b", Tensor()}}, "model"); }) ==
        "model: the values do not fit: an empty Tensor handle: b");
  CHECK(a.values() == std::vector<double>{0, 0});
}

TEST_CASE("layers may change places by an assignment of their own parameters", "[modules]") {
  nn::Init init(1);
  nn::Linear a(2, 2, init), b(2, 2, init);
  const std::vector<double> of_a = a.weight.values(), of_b = b.weight.values();
  nn::assign({{"a", a.weight}, {"b", b.weight}}, {{"a", b.weight}, {"b", transpose(a.weight)}}, "model");
  CHECK(a.weight.values() == of_b);
  CHECK(b.weight.values() == std::vector<double>{of_a[0], of_a[2], of_a[1], of_a[3]});
}

TEST_CASE("a move that fails leaves all parameters as they were", "[modules]") {
  struct Model : nn::Module {
    Tensor small = ones({2}).track(), huge = expand(ones({}), {Index{1} << 50}).track();
    void visit(nn::Visitor& v) override { v("small", small), v("huge", huge); }
  } model;
  CHECK_THAT(error_of([&] { return nn::to(model, DType::f64), 0; }), Catch::StartsWith("out of memory"));
  CHECK(model.small.dtype() == DType::f32);
}

TEST_CASE("children may be owned by pointers, and some absent", "[modules]") {
  struct Model : nn::Module {
    std::vector<std::unique_ptr<nn::Module>> blocks;
    std::unique_ptr<nn::Linear> head, none;
    void visit(nn::Visitor& v) override { v("blocks", blocks), v("head", head), v("none", none); }
  } model;
  nn::Init init(1);
  model.blocks.push_back(std::make_unique<nn::Linear>(2, 3, init));
  model.blocks.push_back(std::make_unique<nn::RMSNorm>(3, init));
  model.head = std::make_unique<nn::Linear>(3, 1, init, false);
  std::vector<std::string> names;
  for (const auto& [name, value] : nn::parameters(model)) names.push_back(name);
  CHECK(names == std::vector<std::string>{"blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "head.weight"});
}

TEST_CASE("tied weights are saved once, and loaded by either name", "[modules]") {
  struct Model : nn::Module {
    explicit Model(nn::Init& init) : embed(5, 3, init), norm(3, init), head(3, 5, init, false) { head.weight = embed.weight; }
    void visit(nn::Visitor& v) override { v("embed", embed), v("norm", norm), v("head", head); }
    nn::Embedding embed;
    nn::RMSNorm norm;
    nn::Linear head;
  };
  nn::Init init(1);
  Model model(init), other(init);
  std::vector<std::string> names;
  for (const auto& [name, value] : nn::state(model)) names.push_back(name);
  CHECK(names == std::vector<std::string>{"embed.weight", "norm.weight"});
  REQUIRE(nn::further_names(model).size() == 1);
  CHECK(nn::further_names(model)[0].first == "head.weight");
  CHECK(nn::parameters(model).size() == 3);

  const std::vector<double> values = model.embed.weight.values();
  const Tensor norm = ones({3});
  for (const nn::Named& saved : {nn::state(model), nn::parameters(model), nn::Named{{"head.weight", model.head.weight}, {"norm.weight", norm}}}) {
    fill(other.embed.weight, 0);
    nn::assign(other, saved);
    CHECK(other.embed.weight.values() == values);
    CHECK(other.head.weight.impl() == other.embed.weight.impl());
  }
  CHECK(error_of([&] { nn::assign(other, {{"norm.weight", norm}}); }) == "model: the values do not fit: missing: embed.weight");
  CHECK(error_of([&] { nn::assign(other, {{"norm.weight", norm}, {"head.weight", ones({3, 5})}}); }) ==
        "model: the values do not fit: wrong shape: head.weight [3, 5] instead of [5, 3]");

  const Tensor nan = full({5, 3}, std::nan("")), before = clone(other.embed.weight.detach());
  const auto both = [&](const Tensor& embed, const Tensor& head) { return nn::Named{{"norm.weight", norm}, {"head.weight", head}, {"embed.weight", embed}}; };
  const char* differ = "model: the values do not fit: one tensor in the model, but different values (nn::assign() can ignore one by name): embed.weight and head.weight";
  CHECK(error_of([&] { nn::assign(other, both(ones({5, 3}), nan)); }) == differ);
  CHECK(error_of([&] { nn::assign(other, both(nan, zeros({5, 3}))); }) == differ);
  CHECK(error_of([&] { nn::assign(other, both(ones({3, 5}), nan)); }) == "model: the values do not fit: wrong shape: embed.weight [3, 5] instead of [5, 3]");
  CHECK(all(equal(other.embed.weight, before)).item() == 1);
  nn::assign(other, both(nan, clone(nan)));
  CHECK(std::isnan(max(other.head.weight).item()));
  nn::assign(other, both(ones({5, 3}), ones({5, 3}, {DType::f64})));
  nn::assign(other, both(full({5, 3}, 2), nan), {"head.*"});
  CHECK(all(equal(other.head.weight, 2)).item() == 1);
}

TEST_CASE("an error ends with the path of the module in which it happened", "[modules]") {
  struct Block : nn::Module {
    explicit Block(nn::Init& init) : proj(3, 3, init) {}
    void visit(nn::Visitor& v) override {
      if (v_fails) fail("visit: no");
      v("proj", proj);
    }
    Tensor operator()(const Tensor& x) const {
      const nn::Inside here(*this);
      if (x.rank() == 1) fail("block: rank 1");
      return proj(x);
    }
    nn::Linear proj;
    bool v_fails = false;
  };
  struct Model : nn::Module {
    void visit(nn::Visitor& v) override { v("blocks", blocks); }
    Tensor operator()(const Tensor& x, std::size_t block) const {
      const nn::Inside here(*this);
      if (!x) fail("model: no x");
      return blocks.at(block)(x);
    }
    std::vector<Block> blocks;
  } model;
  nn::Init init(1);
  for (int i = 0; i < 2; ++i) model.blocks.emplace_back(init);
  const std::string text = "linear: weight [3, 3] does not fit x [2, 4]; expected [n, 4]";
  CHECK(error_of([&] { return linear(ones({2, 4}), model.blocks[0].proj.weight); }) == text);
  CHECK(error_of([&] { return model(ones({2, 4}), 1); }) == text + " (in blocks.1.proj)");
  CHECK(error_of([&] { return model(ones({4}), 0); }) == "block: rank 1 (in blocks.0)");
  CHECK(error_of([&] { return model(Tensor(), 0); }) == "model: no x");
  CHECK(error_of([&] { return model.blocks[1](ones({2, 4})); }) == text + " (in proj)");
  CHECK(error_of([&] { return model.blocks[1].proj(ones({2, 4})); }) == text);
  const Block apart(init);  // that the model does not hold: its own names
  CHECK(error_of([&] {
          const nn::Inside around(model);
          return apart(ones({2, 4}));
        }) == text + " (in proj)");
  model.blocks[1].v_fails = true;
  CHECK(error_of([&] { return model.blocks[1](ones({2, 4})); }) == text);
  CHECK(error_of([] { fail("outside"); return 0; }) == "outside");
}

TEST_CASE("values beyond the model's are passed over where that is asked for", "[modules]") {
  nn::Init init(1);
  nn::Linear layer(2, 3, init);
  const nn::Named saved = {{"weight", ones({3, 2})}, {"bias", ones({3})}, {"a.attn_mask", ones({1})}, {"b.attn_mask", ones({1})}, {"index", ones({1})}};
  CHECK(error_of([&] { nn::assign(layer, saved, {"*.attn_mask"}); }) == "model: the values do not fit: unexpected: index");
  CHECK(layer.bias.values() == std::vector<double>{0, 0, 0});
  nn::assign(layer, saved, {"*.attn_mask", "{index,none}"});
  CHECK(layer.bias.values() == std::vector<double>{1, 1, 1});
}

TEST_CASE("parameters stay as they are where their names are to be passed over", "[modules]") {
  struct Model : nn::Module {
    explicit Model(nn::Init& init) : body(2, 3, init), head(3, 2, init) {}
    void visit(nn::Visitor& v) override { v("body", body), v("head", head); }
    nn::Linear body, head;
  };
  nn::Init init(1);
  Model model(init);
  const std::vector<double> before = model.head.weight.values();
  const nn::Named body = {{"body.weight", ones({3, 2})}, {"body.bias", ones({3})}};
  nn::Named trained = body;  // for ten classes
  trained.emplace_back("head.weight", ones({10, 3})), trained.emplace_back("head.bias", ones({10}));
  CHECK(error_of([&] { nn::assign(model, trained); }) ==
        "model: the values do not fit: wrong shape: head.weight [10, 3] instead of [2, 3], head.bias [10] instead of [2]");
  CHECK(error_of([&] { nn::assign(model, body); }) == "model: the values do not fit: missing: head.weight, head.bias");
  CHECK(error_of([&] { nn::assign(model, trained, {"head.weight"}); }) ==
        "model: the values do not fit: wrong shape: head.bias [10] instead of [2]");
  for (const nn::Named& values : {trained, body}) {
    fill(model.body.weight, 0);
    nn::assign(model, values, {"head.*"});
    CHECK(model.body.weight.values() == std::vector<double>(6, 1));
    CHECK(model.head.weight.values() == before);
  }
  nn::assign(model, {{"head.weight", ones({2, 3})}, {"head.bias", ones({2})}}, {"*"});
  CHECK(model.head.weight.values() == before);
  CHECK(error_of([&] { nn::assign(model, {{"head.weight", ones({10, 3})}}, {"head.*"}); }) ==
        "model: the values do not fit: missing: body.weight, body.bias");

  model.head.weight = model.body.weight;  // tied: passed over by one name, loaded by the other
  nn::assign(model, {{"body.weight", zeros({3, 2})}, {"body.bias", ones({3})}}, {"head.*"});
  CHECK(model.head.weight.values() == std::vector<double>(6, 0));
  CHECK(error_of([&] { nn::assign(model, {{"head.weight", ones({3, 2})}, {"body.bias", ones({3})}}, {"head.*"}); }) ==
        "model: the values do not fit: missing: body.weight");
}

TEST_CASE("a buffer that is tracked is refused", "[modules]") {
  struct Norm : nn::Module {
    void visit(nn::Visitor& v) override { v("weight", weight), v.buffer("mean", mean); }
    Tensor weight = ones({2}).track(), mean = zeros({2});
  } norm;
  const std::string tracked =
      "module: buffer mean is tracked; make it by zeros(shape, init.place()) or init.fixed(), and write it with copy_into() under NoGrad";
  CHECK(error_of([&] { return nn::state(norm); }) == "no error");
  norm.mean = norm.mean * 0.9 + norm.weight * 0.1;  // keeps the graphs of all steps
  CHECK(error_of([&] { nn::zero_grad(norm); }) == tracked);
  norm.mean = nn::Init(1).zeros({2});
  for (const auto& use : std::vector<std::function<void()>>{[&] { nn::zero_grad(norm); }, [&] { nn::track(norm, false); }, [&] { nn::parameters(norm); },
                                                            [&] { nn::state(norm); }, [&] { nn::to(norm, DType::f64); }})
    CHECK(error_of(use) == tracked);
  norm.mean = nn::Init(1).fixed({2}, [] { return std::vector<double>{0, 0}; });
  CHECK(nn::state(norm).size() == 2);
  const nn::ShapesOnly counted;
  norm.mean = nn::Init(1).fixed({2}, nullptr);
  CHECK(nn::parameter_count(norm) == 2);
}

TEST_CASE("taps of one name are refused; one tap may stand at two places", "[modules]") {
  struct Two : nn::Module {
    void visit(nn::Visitor& v) override { v("s", first), v("s", second); }
    nn::StatsTap first, second;
  } two;
  const auto count = [](nn::Module& m) {
    std::vector<std::string> names;
    std::set<nn::Tap*> taps;
    nn::for_each_tap(m, [&](const std::string& name, nn::Tap& tap) { names.push_back(name), taps.insert(&tap); });
    return std::pair(names, taps.size());
  };
  CHECK(error_of([&] { return count(two); }) == "module: two taps are named s; visit() must give each a name of its own");
  struct Shared : nn::Module {
    void visit(nn::Visitor& v) override { v("down", block), v("up", block); }
    nn::MLP block;
  } shared;
  CHECK(count(shared) == std::pair(std::vector<std::string>{"down.hidden", "up.hidden"}, std::size_t{1}));
}

TEST_CASE("the derivatives of a module are checked by a copy that has the arguments as its parameters", "[modules]") {
  nn::Init init(1, {DType::f64});
  const nn::Linear l(2, 3, init, true, 0.5);
  const Tensor x = init.normal({4, 2}, 1).detach();
  const Tensors in{l.weight, l.bias};
  const Function moved = [&](std::span<const Tensor> p) {
    nn::Linear m = l;
    m.weight = p[0], m.bias = p[1];
    return square(m(x));
  };
  CHECK(gradcheck(moved, in).ok);
  CHECK(gradgradcheck(moved, in).ok);
  const Function held = [&](std::span<const Tensor>) { return square(l(x)); };
  for (const GradcheckReport& report : {gradcheck(held, in), gradgradcheck(held, in)}) {
    CHECK_FALSE(report.ok);
    CHECK_THAT(report.where, Catch::EndsWith("; f does not seem to use its argument"));
  }
  const Function half = [&](std::span<const Tensor> p) { return square(p[0]).detach() * p[0]; };  // used, and wrong
  CHECK_FALSE(gradcheck(half, in).ok);
  CHECK_THAT(gradcheck(half, in).where, !Catch::EndsWith("argument"));
}

TEST_CASE("two modules cannot begin with the same values by a copy of Init", "[modules]") {
  STATIC_REQUIRE_FALSE(std::is_copy_constructible_v<nn::Init>);
  STATIC_REQUIRE_FALSE(std::is_move_constructible_v<nn::Init>);
}

TEST_CASE("uniform initial values", "[modules]") {
  nn::Init init(3, {DType::f64});
  const Tensor x = init.uniform({4, 25, 10}, 0.5).detach();
  CHECK(max(abs(x)).item() < 0.5);
  CHECK(std::abs(mean(x).item()) < 0.03);
  CHECK(stddev(x).item() == Approx(1 / std::sqrt(12.0)).margin(0.02));
  CHECK(init.uniform({2}, 0).values() == std::vector<double>{0, 0});
  CHECK(error_of([&] { return init.uniform({2}, -1); }) == "uniform: bound is -1, must be finite and not negative");
  CHECK(nn::Init(4).uniform({3, 5}, std::sqrt(6.0 / 8)).values() == nn::Init(4).xavier_uniform({3, 5}).values());
}

TEST_CASE("a convolution as a layer", "[modules]") {
  nn::Init init(1, {DType::f64});
  const Window window{.kernel_h = 3, .kernel_w = 2, .stride_h = 2, .pad_h = 1};
  nn::Conv2d layer(4, 6, window, init, 2);
  CHECK(layer.weight.shape() == Shape{6, 2, 3, 2});
  CHECK(layer.bias.shape() == Shape{6});
  const double bound = 1 / std::sqrt(12.0);
  CHECK(max(abs(layer.weight)).item() <= bound);
  CHECK(max(abs(layer.weight)).item() > 0.9 * bound);
  CHECK(max(abs(layer.bias)).item() <= bound);
  CHECK(max(abs(layer.bias)).item() > 0.3 * bound);  // of six
  const Tensor x = nn::Init(2, {DType::f64}).normal({2, 4, 5, 4}, 1).detach();
  CHECK(layer(x).shape() == Shape{2, 6, 3, 3});
  CHECK(layer(x).values() == conv2d(x, layer.weight, layer.bias, window, 2).values());
  CHECK(nn::parameters(layer).size() == 2);
  CHECK(nn::parameter_count(layer) == 6 * 12 + 6);
  CHECK_FALSE(nn::Conv2d(4, 6, window, init, 2, false).bias);
  CHECK(error_of([&] { nn::Conv2d(4, 6, window, init, 4); }) == "conv2d: 4 input and 6 output channels do not divide into 4 groups");
  CHECK(error_of([&] { nn::Conv2d(-4, 6, window, init); }) == "conv2d: -4 input and 6 output channels do not divide into 1 groups");
  CHECK(error_of([&] { nn::Conv2d(4, 6, {.kernel_h = 0}, init); }) == "conv2d: kernel 0x1 must be at least 1");
}
