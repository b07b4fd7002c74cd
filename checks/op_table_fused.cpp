// Fused ops other than attention.
#include <algorithm>
#include <limits>

#include "checks/op_case.h"

namespace norma::checks {

namespace {

void add_rows(OpCases& cases) {
  for (const bool log : {false, true}) {
    const char* op = log ? "log_softmax" : "softmax";
    const auto f = [log](const Tensor& x, int axis) { return log ? log_softmax(x, axis) : softmax(x, axis); };
    const auto add = [&](const char* variant, const Input& in, int axis, bool large = false) {
      cases.push_back({.op = op,
                       .variant = variant,
                       .inputs = {in},
                       .run = [f, axis](In x) { return f(x[0], axis); },
                       .fused = axis == -1 && in.shape.numel() > 0,
                       .large = large,
                       .condition = large ? std::max(64.0, static_cast<double>(in.shape[in.shape.rank() - 1]) / 4) : 16.0});  // sums along a row
    };
    add("", real({2, 3}, -2, 2), -1);
    add("axis 0", real({3, 2}, -2, 2), 0);
    add("middle axis", real({2, 3, 2}, -2, 2), 1);
    add("one column", real({3, 1}), -1);
    add("no row", real({0, 3}), -1);
    add("no column", real({3, 0}), -1);
    add("spread of 1000", real({4, 9}, -500, 500), -1, true);
    add("37x101", real({37, 101}, -4, 4), -1, true);
    add("3x1500", real({3, 1500}, -4, 4), -1, true);
  }
  const auto norm = [&](const char* op, const char* variant, std::vector<Input> in, std::function<Tensor(In)> f,
                        bool large = false) {
    cases.push_back({.op = op,
                     .variant = variant,
                     .inputs = std::move(in),
                     .run = std::move(f),
                     .fused = true,
                     .large = large,
                     .condition = large ? 256.0 : 64.0,
                     .bf16 = 8,
                     .parameters = ~1u});  // all but x
  };
  const auto full_norm = [](In x) { return layer_norm(x[0], x[1], x[2]); };
  norm("layer_norm", "", {real({2, 4}), real({4}), real({4})}, full_norm);
  norm("layer_norm", "no bias", {real({3, 3}), real({3})}, [](In x) { return layer_norm(x[0], x[1], {}, 1e-3); });
  norm("layer_norm", "plain", {real({2, 2, 3})}, [](In x) { return layer_norm(x[0], {}, {}); });
  norm("layer_norm", "1-d", {real({5}), real({5}), real({5})}, full_norm);
  norm("layer_norm", "19x67", {real({19, 67}), real({67}), real({67})}, full_norm, true);
  norm("layer_norm", "3x1500", {real({3, 1500}), real({1500}), real({1500})}, full_norm, true);
  norm("layer_norm", "130x64", {real({130, 64}, 0, 3), real({64}), real({64})}, full_norm, true);
  cases.push_back(
      {.op = "layer_norm", .variant = "no row", .inputs = {real({0, 3}), real({3}), real({3})}, .run = full_norm});
  cases.push_back({.op = "layer_norm",
                   .variant = "mean 3000",
                   .inputs = {constant(real({4, 96}, 2998, 3002)), real({96}), real({96})},
                   .run = full_norm,
                   .fused = true,
                   .large = true,
                   .condition = 2e3,
                   .bf16 = 0});
  const auto full_rms = [](In x) { return rms_norm(x[0], x[1]); };
  norm("rms_norm", "", {real({2, 4}), real({4})}, full_rms);
  norm("rms_norm", "no weight", {real({2, 3})}, [](In x) { return rms_norm(x[0], {}); });
  norm("rms_norm", "19x67", {real({19, 67}), real({67})}, full_rms, true);
  norm("rms_norm", "3x1500", {real({3, 1500}), real({1500})}, full_rms, true);
}

void add_linears(OpCases& cases) {
  const auto add = [&](const char* op, const char* variant, std::vector<Input> in, std::function<Tensor(In)> f,
                       bool large = false) {
    const bool any = in[0].shape.numel() > 0;
    // Weights and biases; a last input with the rows of x is a residual, an activation like x.
    const Shape &x = in[0].shape, &last = in.back().shape;
    const bool residual = in.size() > 2 && x.rank() > 1 && last.rank() == x.rank() && last.without(-1) == x.without(-1);
    const unsigned parameters = ~(1u | (residual ? 1u << (in.size() - 1) : 0u));
    cases.push_back({.op = op,
                     .variant = variant,
                     .inputs = std::move(in),
                     .run = std::move(f),
                     .fused = any,
                     .large = large,
                     .condition = large ? 256.0 : 32.0,
                     .bf16 = 8,
                     .parameters = parameters});
  };
  const auto plain = [](In x) { return linear(x[0], x[1]); };
  const auto biased = [](In x) { return linear(x[0], x[1], x[2]); };
  const auto full = [](In x) { return linear(x[0], x[1], x[2], x[3]); };
  add("linear", "", {real({2, 3}), real({2, 3}), real({2})}, biased);
  add("linear", "no bias", {real({2, 2, 3}), real({2, 3})}, plain);
  add("linear", "1-d", {real({3}), real({2, 3}), real({2})}, biased);
  add("linear", "residual", {real({2, 3}), real({2, 3}), real({2}), real({2, 2})}, full);
  add("linear", "residual without bias", {real({2, 3}), real({2, 3}), real({2, 2})},
      [](In x) { return linear(x[0], x[1], {}, x[2]); });
  add("linear", "residual is x", {real({2, 3}), real({3, 3})}, [](In x) { return linear(x[0], x[1], {}, x[0]); });
  add("linear", "some rows of each of two", {real({2, 4, 3}), real({2, 3})}, [](In x) { return linear(slice(x[0], 1, 0, 3), x[1]); });
  add("linear", "no row", {real({0, 3}), real({2, 3}), real({2})}, biased);
  add("linear", "no inner size", {real({2, 0}), real({3, 0}), real({3})}, biased);
  add("linear", "37x65x19", {real({37, 65}), real({19, 65}), real({19}), real({37, 19})}, full, true);
  add("linear", "2x70x48x96", {real({2, 70, 48}), real({96, 48}), real({96})}, biased, true);
  add("linear", "5x300x130", {real({5, 300}), real({130, 300}), real({130})}, biased, true);

  const auto perceptron = [](In x) { return mlp(x[0], x[1], x[2], x[3], x[4]); };
  const auto residual = [](In x) { return mlp(x[0], x[1], x[2], x[3], x[4], x[5]); };
  add("mlp", "", {real({2, 2}), real({3, 2}), real({3}), real({2, 3}), real({2})}, perceptron);
  add("mlp", "residual", {real({2, 2}), real({3, 2}), real({3}), real({2, 3}), real({2}), real({2, 2})}, residual);
  add("mlp", "no bias, residual is x", {real({1, 2, 2}), real({3, 2}), real({2, 3})},
      [](In x) { return mlp(x[0], x[1], {}, x[2], {}, x[0]); });
  add("mlp", "33x24x96", {real({33, 24}), real({96, 24}), real({96}), real({24, 96}), real({24}), real({33, 24})},
      residual, true);
  add("mlp", "2x150x40x72", {real({2, 150, 40}), real({72, 40}), real({72}), real({33, 72}), real({33}), real({2, 150, 33})},
      residual, true);
}

void add_losses(OpCases& cases) {
  const auto add = [&](const char* variant, const Input& logits, const Input& targets, double smoothing,
                       bool large = false) {
    cases.push_back({.op = "cross_entropy",
                     .variant = variant,
                     .inputs = {logits, targets},
                     .run = [smoothing](In x) { return cross_entropy(x[0], x[1], smoothing); },
                     .fused = true,
                     .large = large,
                     .condition = large ? 64.0 : 16.0});
  };
  add("", real({3, 4}, -3, 3), index({3}, 4), 0);
  add("smoothing", real({3, 4}, -3, 3), index({3}, 4), 0.1);
  add("all of it smoothing", real({3, 4}, -3, 3), index({3}, 4), 1);
  add("positions", real({2, 2, 3}), index({2, 2}, 3), 0.2);
  add("one row", real({4}), index({}, 4), 0);
  add("soft", real({2, 3}, -3, 3), constant(real({2, 3}, 0, 1)), 0);
  add("soft, smoothing", real({2, 3}, -3, 3), constant(real({2, 3}, 0, 1)), 0.1);
  add("soft, differentiated", real({2, 3}), real({2, 3}, 0, 1), 0.1);
  add("spread of 1000", real({4, 10}, -500, 500), index({4}, 10), 0, true);
  add("70x33", real({70, 33}, -5, 5), index({70}, 33), 0.1, true);
  add("3x1500", real({3, 1500}, -5, 5), index({3}, 1500), 0.1, true);
  add("soft 70x33", real({70, 33}, -5, 5), constant(real({70, 33}, 0, 1)), 0.1, true);
  cases.push_back(
      {.op = "mse_loss", .inputs = {real({2, 3}), real({2, 3})}, .run = [](In x) { return mse_loss(x[0], x[1]); }});
  for (double p : {0.0, 0.3, 1.0}) {
    cases.push_back({.op = "dropout",
                     .variant = fmt::format("p = {}", p),
                     .inputs = {real({3, 5})},
                     .run =
                         [p](In x) {
                           return dropout(x[0], p, {3, 5});
                         },
                     .order = 1,
                     .any_shape = true});
  }
}

void add_messages(ErrorCases& errors) {
  const auto add = [&](const char* op, std::function<void()> run, const char* text) {
    errors.push_back({op, std::move(run), text});
  };
  add(
      "softmax", [] { return softmax(arange(3)); }, "softmax: needs a floating dtype, got i64; convert with cast()");
  add(
      "softmax",
      [] {
        return softmax(ones({2, 3}), 2);
      },
      "softmax: axis 2 out of range [-2, 1] for shape [2, 3]");
  add(
      "log_softmax", [] { return log_softmax(ones({})); }, "log_softmax: axis -1 out of range, [] has no axes");
  add(
      "layer_norm",
      [] {
        return layer_norm(ones({2, 4}), ones({3}), {});
      },
      "layer_norm: weight [3] does not fit x [2, 4]; expected [4]");
  add(
      "layer_norm",
      [] {
        return layer_norm(ones({2, 4}), {}, ones({1, 4}));
      },
      "layer_norm: bias [1, 4] does not fit x [2, 4]; expected [4]");
  add(
      "layer_norm", [] { return layer_norm(ones({}), {}, {}); }, "layer_norm: x is 0-d; it needs a last axis to normalise");
  add(
      "layer_norm", [] { return layer_norm(ones({2}), {}, {}, -1); }, "layer_norm: eps = -1 must be >= 0");
  add(
      "rms_norm",
      [] {
        return rms_norm(ones({2, 4}), ones({4}, {DType::f64}));
      },
      "rms_norm: dtypes f32 and f64 differ; convert with cast()");
  add(
      "linear",
      [] {
        return linear(ones({2, 3}), ones({4, 5}));
      },
      "linear: weight [4, 5] does not fit x [2, 3]; expected [n, 3]");
  add(
      "linear",
      [] {
        return linear(ones({2, 3}), ones({4, 3}), ones({3}));
      },
      "linear: bias [3] does not fit weight [4, 3]; expected [4]");
  add(
      "linear",
      [] {
        return linear(ones({2, 3}), ones({4, 3}), {}, ones({2, 3}));
      },
      "linear: residual [2, 3] does not fit the output [2, 4]");
  add(
      "linear",
      [] {
        return linear(ones({2, 3}), ones({4, 3}, {DType::f64}));
      },
      "linear: dtypes f32 and f64 differ; convert with cast()");
  const Place bf16{DType::bf16}, f64{DType::f64};
  add("linear", [=] { return linear(ones({2, 3}, bf16), ones({4, 3}, f64)); },
      "linear: weight is f64, but x is bf16; expected f32 or bf16, convert with cast()");
  add("linear", [=] { return linear(ones({2, 3}), ones({4, 3}, bf16)); }, "linear: dtypes f32 and bf16 differ; convert with cast()");
  add("linear", [=] { return linear(ones({2, 3}, bf16), ones({4, 3}), ones({4}, bf16)); },
      "linear: dtypes f32 and bf16 differ; convert with cast()");
  add("linear", [=] { return linear(ones({2, 3}, bf16), ones({4, 3}), {}, ones({2, 4})); },
      "linear: dtypes bf16 and f32 differ; convert with cast()");
  add("mlp", [=] { return mlp(ones({2, 3}, bf16), ones({4, 3}), {}, ones({3, 4}, bf16), {}); },
      "mlp: dtypes f32 and bf16 differ; convert with cast()");
  add("layer_norm", [=] { return layer_norm(ones({2, 4}, bf16), ones({4}, f64), {}); },
      "layer_norm: weight is f64, but x is bf16; expected f32 or bf16, convert with cast()");
  add(
      "mlp",
      [] {
        return mlp(ones({2, 3}), ones({4, 2}), {}, ones({3, 4}), {});
      },
      "mlp: first layer: weight [4, 2] does not fit x [2, 3]; expected [n, 3]");
  add(
      "mlp",
      [] {
        return mlp(ones({2, 3}), ones({4, 3}), {}, ones({3, 5}), {});
      },
      "mlp: second weight [3, 5] does not fit the first [4, 3]; expected [n, 4]");
  add(
      "mlp",
      [] {
        return mlp(ones({2, 3}), ones({4, 3}), {}, ones({3, 4}), ones({4}));
      },
      "mlp: second bias [4] does not fit weight [3, 4]; expected [3]");
  add(
      "mlp",
      [] {
        return mlp(ones({2, 3}), ones({4, 3}), {}, ones({3, 4}), {}, ones({3}));
      },
      "mlp: residual [3] does not fit the output [2, 3]");
  add(
      "cross_entropy",
      [] {
        return cross_entropy(ones({2, 3}), from_values({0, 5}, {2}, {DType::i64}));
      },
      "cross_entropy: target 5 at row 1 is outside 0..2");
  add(
      "cross_entropy",
      [] {
        return cross_entropy(ones({2, 3}), from_values({-1, 0}, {2}, {DType::i64}));
      },
      "cross_entropy: target -1 at row 0 is outside 0..2; to leave rows out, give them target 0, and 0 in a mask [..., 1]: "
      "sum(mask * gather(log_softmax(logits), -1, unsqueeze(targets, -1))) / -sum(mask)");
  add(
      "cross_entropy", [] { return cross_entropy(ones({2, 3}), from_values(std::vector<Index>{0, std::numeric_limits<Index>::max()}, {2})); },
      "cross_entropy: target 9223372036854775807 at row 1 is outside 0..2");
  add(
      "cross_entropy",
      [] {
        return cross_entropy(ones({2, 3}), arange(3));
      },
      "cross_entropy: targets i64 [3] do not fit logits [2, 3]; expected i64 [2] or floating [2, 3]");
  add(
      "cross_entropy",
      [] {
        return cross_entropy(ones({2, 3}), zeros({2}, {DType::u8}));
      },
      "cross_entropy: targets are u8; give i64 indices or floating probabilities");
  add(
      "cross_entropy",
      [] {
        return cross_entropy(ones({2, 3}), arange(2), 1.5);
      },
      "cross_entropy: label_smoothing = 1.5 must be in [0, 1]");
  add(
      "cross_entropy",
      [] {
        return cross_entropy(ones({0, 3}), zeros({0}, {DType::i64}));
      },
      "cross_entropy: logits [0, 3] hold no row; expected [..., classes]");
  add(
      "mse_loss",
      [] {
        return mse_loss(ones({2}), ones({2, 1}));
      },
      "mse_loss: shapes [2] and [2, 1] differ; reshape or expand one");
  add(
      "dropout", [] { return dropout(ones({2}), 1.5, {}); }, "dropout: p = 1.5 must be in [0, 1]");
  add(
      "dropout", [] { return dropout(ones({2}), std::nan(""), {}); }, "dropout: p = nan must be in [0, 1]");
}

}  // namespace

void add_fused(OpCases& cases, ErrorCases& errors) {
  add_rows(cases);
  add_linears(cases);
  add_losses(cases);
  add_messages(errors);
}

}  // namespace norma::checks
