// What nn::SelfAttention refuses: shapes, counts of tokens, settings out of their range.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "nn/layers.h"
#include "tests/errors.h"

using namespace norma;
using norma::test::error_of;

TEST_CASE("attention says what shape it reads", "[attention_settings]") {
  nn::Init init(1);
  nn::AttentionConfig config;
  config.width = 4, config.heads = 2;
  const nn::SelfAttention attention(config, init);
  CHECK_THROWS_WITH(attention(ones({2, 4})), "attention: x must be [B, T, 4], got [2, 4]");
  CHECK_THROWS_WITH(nn::SelfAttention()(ones({2, 3, 4})), "attention: the layer has no weights; make it as SelfAttention(config, init)");
  CHECK_THROWS_WITH(attention(Tensor()), "attention: x must be [B, T, 4], got an empty Tensor handle");
  const Tensor x = ones({2, 3, 4});
  CHECK_THROWS_WITH(attention(x, {}, {}, -1), "attention: out_tokens is -1, must be 0 or more");
  CHECK(attention(x, {}, {}, 0).shape() == Shape{2, 0, 4});
  CHECK(attention(x, {}, {}, 9).shape() == Shape{2, 3, 4});
}

TEST_CASE("attention's settings are checked", "[attention_settings]") {
  const auto wrong = [](auto change) {
    nn::AttentionConfig config{.width = 4, .heads = 2};
    change(config);
    nn::Init init(1);
    return error_of([&] { nn::SelfAttention(config, init); });
  };
  const auto polynomial = [](std::size_t p, double c) {
    return [=](nn::AttentionConfig& config) {
      config.scoring = nn::parse_scoring("x^2/sum(x^2)");
      config.scoring.coefficient[p] = c;
    };
  };
  CHECK(wrong([](auto&) {}) == "no error");
  CHECK(wrong([](auto& c) { c.heads = 3; }) == "attention: width 4 is not a multiple of 3 heads");
  CHECK(wrong([](auto& c) { c.dropout = 2; }) == "attention: dropout is 2, must be in [0, 1)");
  CHECK(wrong([](auto& c) { c.std = -1; }) == "attention: std is -1, must be finite and not negative");
  CHECK(wrong([](auto& c) { c.std = std::numeric_limits<double>::quiet_NaN(); }) == "attention: std is nan, must be finite and not negative");
  CHECK(wrong([](auto& c) { c.dropout = -0.1; }) == "attention: dropout is -0.1, must be in [0, 1)");
  CHECK(wrong([](auto& c) { c.clamp_fro = -1; }) == "attention: clamp_fro = -1 must be 0 (off) or a positive bound of ||A||_F");
  CHECK(wrong([](auto& c) { c.clamp_fro = std::nan(""); }) == "attention: clamp_fro = nan must be 0 (off) or a positive bound of ||A||_F");
  CHECK(wrong([](auto& c) { c.width = -4; }) == "attention: width is -4, must not be negative");
  CHECK(wrong([](auto& c) { c.width = Index{1} << 62; }) ==
        "shape: the number of elements of [3, 4611686018427387904, 4611686018427387904] overflows the 63-bit size limit");
  CHECK(wrong([](auto& c) { c.form = AttentionForm::linear; }) == "attention: only polynomials have a linear form; use the form auto or quadratic");
  CHECK(wrong([](auto& c) { c.form = AttentionForm::linear, c.scoring = nn::parse_scoring("x^3"), c.dropout = 0.1; }) ==
        "attention: dropout 0.1 acts on single weights, which the linear form does not have; use the form auto or quadratic");
  CHECK(wrong(polynomial(4, 2)) == "no error");
  CHECK(wrong(polynomial(4, -2)) ==
        "attention: a normalised polynomial must not be negative, its row sums could vanish, but the coefficient of s^4 is -2");
  CHECK(wrong(polynomial(3, 1)) == "attention: rows can be normalised for even powers only, but the coefficient of s^3 is 1");
}
