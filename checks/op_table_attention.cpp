// Attention: every scoring, every mask, separate and packed, small (full Jacobians) and across the kernels' tile sizes.
#include <cmath>

#include "checks/op_case.h"
#include "checks/scorings.h"

namespace norma::checks {

namespace {

using Kind = Scoring::Kind;
using Scale = Scoring::Scale;

struct Sizes4 {
  Index batch = 1, heads = 2, rows = 3, keys = 3, width = 2, value_width = 2;
};

AttentionOptions with(const Scoring& scoring, bool causal = false, double dropout = 0) {
  AttentionOptions o;
  o.scoring = scoring, o.causal = causal, o.dropout = dropout, o.stream = {11, 4};
  return o;
}

void add_separate(OpCases& cases, const std::string& variant, const Sizes4& s, AttentionOptions options, bool masked,
                  double low = -1) {
  const Index tokens = std::max(s.rows, s.keys);
  const auto input = [&](const Shape& shape) {
    Input in = real(shape, low, 1);
    if (options.scoring.kind == Kind::relu) in.away = 0.3;  // with width 1 no score lies near the kink
    return in;
  };
  OpCase c{.op = "attention", .variant = variant};
  c.inputs = {input({s.batch, s.heads, s.rows, s.width}), input({s.batch, s.heads, s.keys, s.width}),
              real({s.batch, s.heads, s.keys, s.value_width})};
  if (masked) c.inputs.push_back(flags({s.batch, s.keys}));
  c.run = [options](In x) {
    AttentionOptions o = options;
    if (x.size() > 3) o.key_mask = x[3];
    return attention(x[0], x[1], x[2], o);
  };
  c.fused = options.clamp_fro == 0 && s.batch * s.heads * s.rows * s.keys * s.width > 0;
  c.large = tokens > 8;
  c.condition = c.large ? 512 : 64;
  c.bf16 = 8;
  cases.push_back(std::move(c));
}

void add_small(OpCases& cases) {
  for (const auto& [name, scoring] : scorings()) {
    Sizes4 s;
    if (scoring.kind == Kind::relu) s.width = 1;
    add_separate(cases, name, s, with(scoring), false);
    add_separate(cases, name + ", causal", s, with(scoring, true), false);
    add_separate(cases, name + ", key mask", {2, 1, 2, 4, s.width, 3}, with(scoring), true);
    add_separate(cases, name + ", causal, key mask, dropout", {2, 1, 2, 3, s.width, 2}, with(scoring, true, 0.4), true);
  }
  add_separate(cases, "more rows than keys, causal", {1, 1, 4, 2, 2, 2}, with(softmax_scoring(), true), false);
  add_separate(cases, "x^3, more rows than keys, causal", {1, 1, 4, 2, 2, 2},
               with(power(3, 1, Scale::inverse_sqrt_valid_keys), true), false);
  AttentionOptions scaled = with(softmax_scoring());
  scaled.scale = 1.7;
  add_separate(cases, "own scale", {}, scaled, false);
  for (const auto& [name, scoring] : {std::pair{"softmax", softmax_scoring()}, {"x^3/sqrt(N)", power(3, 1, Scale::inverse_sqrt_keys)}}) {
    for (const auto& [bound, c] : {std::pair{"bound", 0.02}, {"slack", 50.0}}) {  // by the clamp, or not reached by it
      AttentionOptions clamped = with(scoring);
      clamped.clamp_fro = c;
      add_separate(cases, fmt::format("{}, clamp {}", name, bound), {}, clamped, false);
    }
  }
  add_separate(cases, "no row", {1, 2, 0, 3, 2, 2}, with(softmax_scoring()), false);
  add_separate(cases, "no key", {1, 2, 3, 0, 2, 2}, with(softmax_scoring()), false);
  add_separate(cases, "no batch", {0, 2, 3, 3, 2, 2}, with(power(3, 1, Scale::inverse_sqrt_keys)), false);
}

void add_large(OpCases& cases) {
  for (const auto& [name, scoring] : scorings()) {
    const bool relu = scoring.kind == Kind::relu;
    add_separate(cases, name + ", 67 of 24", {2, 2, 67, 67, relu ? 1 : 24, 24}, with(scoring), false);
    add_separate(cases, name + ", causal, key mask, dropout, 70x83 of 33", {2, 1, 70, 83, relu ? 1 : 33, 17},
                 with(scoring, true, 0.2), true);
  }
  add_separate(cases, "softmax, causal, 150 of 64", {1, 2, 150, 150, 64, 64}, with(softmax_scoring(), true), false);
  add_separate(cases, "x^3, causal, 150 of 64", {1, 2, 150, 150, 64, 64},
               with(power(3, 1, Scale::inverse_sqrt_valid_keys), true), false);
  add_separate(
      cases, "softmax, large scores", {1, 1, 40, 40, 16, 16},
      [] {
        AttentionOptions o = with(softmax_scoring());
        o.scale = 60;
        return o;
      }(),
      false);
}

/// The form that never makes the matrix; second derivatives go through the composition like those of any fused op.
void add_linear(OpCases& cases) {
  const auto linear = [](const Scoring& scoring, bool causal) {
    AttentionOptions o = with(scoring, causal);
    o.form = AttentionForm::linear;
    return o;
  };
  for (const auto& [name, scoring] : scorings()) {
    if (linear_features(scoring, 2) == 0) continue;
    add_separate(cases, name + ", linear form", {}, linear(scoring, false), false);
    add_separate(cases, name + ", linear form, causal, key mask", {2, 1, 3, 4, 2, 3}, linear(scoring, true), true);
    if (scoring.degree() > 3) continue;
    add_separate(cases, name + ", linear form, 167x150 of 6", {1, 2, 167, 150, 6, 5}, linear(scoring, false), true);
    add_separate(cases, name + ", linear form, causal, 150x167 of 6", {1, 2, 150, 167, 6, 7}, linear(scoring, true), true);
  }
}

void add_packed(OpCases& cases) {
  const auto add = [&](const std::string& variant, const Shape& shape, AttentionOptions options, bool masked,
                       bool large) {
    OpCase c{.op = "attention_packed", .variant = variant, .inputs = {real(shape)}};
    if (masked) c.inputs.push_back(flags({shape[0], shape[1]}));
    c.run = [options](In x) {
      AttentionOptions o = options;
      if (x.size() > 1) o.key_mask = x[1];
      return attention_packed(x[0], o);
    };
    c.fused = shape.numel() > 0, c.large = large, c.condition = large ? 512 : 64, c.bf16 = 8;
    cases.push_back(std::move(c));
  };
  const Scoring cubic = power(3, 1, Scale::inverse_sqrt_keys);
  add("softmax", {1, 3, 3, 2, 2}, with(softmax_scoring()), false, false);
  add("softmax, causal, key mask, dropout", {1, 3, 3, 1, 2}, with(softmax_scoring(), true, 0.3), true, false);
  add("x^3/sqrt(N)", {1, 3, 3, 2, 2}, with(cubic), false, false);
  add("x^3/sqrt(N), causal, key mask, dropout", {2, 2, 3, 1, 2}, with(cubic, true, 0.3), true, false);
  add("no token", {2, 0, 3, 2, 2}, with(softmax_scoring()), false, false);
  add("softmax, 65 of 32", {2, 65, 3, 3, 32}, with(softmax_scoring()), false, true);
  add("softmax, 65 of 32, key mask, dropout", {2, 65, 3, 3, 32}, with(softmax_scoring(), false, 0.1), true, true);
  add("x^3/sqrt(N), 65 of 64", {2, 65, 3, 2, 64}, with(cubic), false, true);
}

void add_weights(OpCases& cases) {
  for (const auto& [name, scoring] : scorings()) {
    OpCase c{.op = "attention_weights", .variant = name, .inputs = {nonzero({1, 2, 2, 3})}};
    c.run = [o = with(scoring)](In x) { return attention_weights(x[0], o); };
    c.condition = 64;
    cases.push_back(c);
    c.variant = name + ", causal, key mask";
    c.inputs.push_back(flags({1, 3}));
    c.run = [o = with(scoring, true)](In x) {
      AttentionOptions options = o;
      options.key_mask = x[1];
      return attention_weights(x[0], options);
    };
    cases.push_back(c);
  }
}

void add_messages(ErrorCases& errors) {
  const auto add = [&](const char* op, std::function<void()> run, const std::string& text) {
    errors.push_back({op, std::move(run), text});
  };
  const auto call = [](const Shape& q, const Shape& k, const Shape& v, AttentionOptions o = {}) {
    (void)attention(ones(q), ones(k), ones(v), o);
  };
  const Shape four{1, 2, 3, 4};
  add(
      "attention",
      [=] {
        call({2, 3, 4}, four, four);
      },
      "attention: q must be [B, H, tokens, width], got [2, 3, 4]");
  add(
      "attention",
      [=] {
        call(four, {1, 2, 3, 5}, four);
      },
      "attention: q [1, 2, 3, 4] and k [1, 2, 3, 5] differ in batch, heads or width; expected [B, H, N, d] and [B, H, "
      "M, d]");
  add(
      "attention",
      [=] {
        call({1, 6, 3, 4}, four, four);
      },
      "attention: q [1, 6, 3, 4] and k [1, 2, 3, 4] differ in batch, heads or width; expected [B, H, N, d] and [B, H, "
      "M, d]; repeat the heads of k, and so of v: reshape(expand(unsqueeze(k, 2), {1, 2, 3, 3, 4}), {1, 6, 3, 4}); without copies: docs/language-model.md");
  add(
      "attention",
      [=] {
        call({1, 3, 3, 4}, four, four);
      },
      "attention: q [1, 3, 3, 4] and k [1, 2, 3, 4] differ in batch, heads or width; expected [B, H, N, d] and [B, H, "
      "M, d]");
  add(
      "attention",
      [=] {
        call(four, four, {1, 2, 5, 4});
      },
      "attention: k [1, 2, 3, 4] and v [1, 2, 5, 4] differ in batch, heads or keys; expected [B, H, M, d] and [B, H, "
      "M, e]");
  add(
      "attention", [=] { return attention(ones(four), ones(four, {DType::f64}), ones(four)); },
      "attention: dtypes f32 and f64 differ; convert with cast()");
  const auto bad = [&](const std::string& text, std::function<void(AttentionOptions&)> change) {
    add(
        "attention",
        [=] {
          AttentionOptions o;
          change(o);
          call(four, four, four, o);
        },
        text);
  };
  bad("attention: degree 0 of the polynomial must be 1..8; set a coefficient of s^1 or higher",
      [](AttentionOptions& o) { o.scoring.kind = Kind::polynomial; });
  bad("attention: rows can be normalised for even powers only, but the coefficient of s^3 is 1",
      [](AttentionOptions& o) {
        o.scoring = power(3, 1, Scale::one);
        o.scoring.normalize = true;
      });
  bad("attention: normalize is for polynomials; softmax rows sum to one by themselves",
      [](AttentionOptions& o) { o.scoring.normalize = true; });
  bad("attention: the coefficient of s^3 is nan; it must be finite",
      [](AttentionOptions& o) { o.scoring = power(3, std::nan(""), Scale::one); });
  add("attention", [] { return attention(ones({1, 2, 3, 4}), ones({1, 2, 3, 4}), Tensor()); }, "attention: v is an empty Tensor handle");
  bad("attention: the sigmoid's bias is inf; it must be finite",
      [](AttentionOptions& o) { o.scoring.kind = Kind::sigmoid, o.scoring.bias = HUGE_VAL; });
  bad("attention: dropout = 1.5 must be in [0, 1]", [](AttentionOptions& o) { o.dropout = 1.5; });
  const char* advice = "dropout = 0.1 has no stream to draw from; set options.stream = RandomScope::next(), anew for each call";
  bad(fmt::format("attention: {}", advice), [](AttentionOptions& o) { o.dropout = 0.1; });
  add(
      "attention_packed",
      [] {
        AttentionOptions o;
        o.dropout = 0.1;
        return attention_packed(ones({1, 3, 3, 2, 4}), o);
      },
      fmt::format("attention_packed: {}", advice));
  const auto no_linear = [&](const char* text, std::function<void(AttentionOptions&)> change) {
    bad(text, [change](AttentionOptions& o) {
      o.form = AttentionForm::linear, o.scoring = power(3, 1, Scale::one);
      change(o);
    });
  };
  no_linear("attention: only polynomials have a linear form; use the form auto or quadratic",
            [](AttentionOptions& o) { o.scoring = softmax_scoring(); });
  no_linear("attention: there is no linear form with rows divided by their sum; use the form auto or quadratic",
            [](AttentionOptions& o) { o.scoring = power(2, 1, Scale::one), o.scoring.normalize = true; });
  no_linear("attention: dropout 0.1 acts on single weights, which the linear form does not have; use the form auto or quadratic",
            [](AttentionOptions& o) { o.dropout = 0.1; });
  no_linear("attention: clamp_fro 2 needs the whole matrix, which the linear form does not have; use the form auto or quadratic",
            [](AttentionOptions& o) { o.clamp_fro = 2; });
  add(
      "attention",
      [=] {
        AttentionOptions o = with(power(4, 1, Scale::one));
        o.form = AttentionForm::linear;
        call({1, 1, 3, 32}, {1, 1, 3, 32}, {1, 1, 3, 32}, o);
      },
      "attention: the linear form of degree 4 needs more than 16384 monomials for heads of width 32; use the form auto or quadratic");
  bad("attention: scale = inf must be finite", [](AttentionOptions& o) { o.scale = HUGE_VAL; });
  bad("attention: key_mask is f32 [1, 3], expected bool [1, 3]", [](AttentionOptions& o) {
    o.key_mask = ones({1, 3});
  });
  bad("attention: key_mask is bool [1, 4], expected bool [1, 3]", [](AttentionOptions& o) {
    o.key_mask = ones({1, 4}, {DType::boolean});
  });
  bad(fmt::format("attention: stats is f32 [1, 2, {0}], expected f64 [1, 2, {0}]", attention_stats), [](AttentionOptions& o) {
    o.stats = ones({1, 2, attention_stats});
  });
  add(
      "attention_packed",
      [] {
        return attention_packed(ones({2, 3, 4, 5}));
      },
      "attention_packed: qkv must be [B, N, 3, H, d], got [2, 3, 4, 5]");
  add(
      "attention_packed",
      [] {
        return attention_packed(ones({2, 3, 4, 5, 6}));
      },
      "attention_packed: qkv must be [B, N, 3, H, d], got [2, 3, 4, 5, 6]");
  add(
      "attention_weights",
      [] {
        return attention_weights(ones({2, 3, 4}), {});
      },
      "attention_weights: scores must be [B, H, N, M], got [2, 3, 4]");
}

}  // namespace

void add_attention(OpCases& cases, ErrorCases& errors) {
  add_small(cases);
  add_large(cases);
  add_linear(cases);
  add_packed(cases);
  add_weights(cases);
  add_messages(errors);
}

}  // namespace norma::checks
