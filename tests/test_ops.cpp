// Every check that follows from the table of op cases. A failure names the case.
#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "autograd/graph.h"
#include "checks/layouts.h"
#include "checks/op_case.h"
#include "checks/scorings.h"
#include "tests/tested_device.h"

using namespace norma;
using namespace norma::checks;

namespace {

const Device tested = tested_device(), reference{Device::Kind::reference, 0};

/// Empty where got equals wanted to within `tolerance` times the largest value (at least 1), else what is wrong.
std::string difference(const Tensor& got, const Tensor& wanted, double tolerance) {
  if (got.shape() != wanted.shape()) return fmt::format("shape {} instead of {}", got.shape(), wanted.shape());
  const std::vector<double> a = got.values(), b = wanted.values();
  double size = 1;
  for (double v : b) size = std::isfinite(v) ? std::max(size, std::abs(v)) : size;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
    if (!(std::abs(a[i] - b[i]) <= tolerance * size)) {
      return fmt::format("element {}: {:.17g} instead of {:.17g}, off by {:.3g} of {:.3g} allowed", i, a[i], b[i],
                         std::abs(a[i] - b[i]), tolerance * size);
    }
  }
  return {};
}

struct Result {
  Tensor y;
  Tensors gradients;  // of the differentiated inputs, against a fixed cotangent; none where order is 0
};

Tensors make_all(const OpCase& c, Place place) {
  Tensors inputs;
  for (std::size_t i = 0; i < c.inputs.size(); ++i) inputs.push_back(make(c.inputs[i], c, i, place));
  return inputs;
}

/// Tracks the differentiated inputs; returns them.
Tensors track(const OpCase& c, Tensors& inputs) {
  Tensors tracked;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!c.inputs[i].constant && c.order > 0) tracked.push_back(inputs[i].track());
  }
  return tracked;
}

Result run(const OpCase& c, Tensors inputs, const std::function<Tensor(const Tensor&)>& seed = cotangent) {
  Result r;
  const Tensors xs = track(c, inputs);
  r.y = c.run(inputs);
  if (!xs.empty() && r.y.tracked()) r.gradients = grad(r.y, xs, seed(r.y));
  return r;
}

std::string difference(const Result& got, const Result& wanted, double tolerance) {
  if (const std::string text = difference(got.y, wanted.y, tolerance); !text.empty()) return "value: " + text;
  if (got.gradients.size() != wanted.gradients.size()) return "one of the two has no gradient";
  for (std::size_t i = 0; i < got.gradients.size(); ++i) {
    const std::string text = difference(got.gradients[i], wanted.gradients[i], tolerance);
    if (!text.empty()) return fmt::format("gradient {}: {}", i, text);
  }
  return {};
}

/// Runs f on every case that passes; f returns what is wrong.
template <class F>
void for_each_case(F f) {
  int checked = 0;
  for (const OpCase& c : op_table()) {
    std::string wrong;
    try {
      wrong = f(c);
    } catch (const std::exception& e) {
      wrong = std::string("threw ") + e.what();
    }
    ++checked;
    if (!wrong.empty()) FAIL_CHECK(c.title() << ": " << wrong);
  }
  CHECK(checked > 100);
}

Tensors mapped(const Tensors& xs, const std::function<Tensor(const Tensor&)>& f) {
  Tensors out;
  for (const Tensor& x : xs) out.push_back(f(x));
  return out;
}

}  // namespace

TEST_CASE("values and gradients equal the reference's", "[ops][device]") {
  for_each_case([](const OpCase& c) -> std::string {
    const Result wanted = run(c, make_all(c, {DType::f64, reference}));
    for (DType dtype : {DType::f64, DType::f32}) {
      const Result got = run(c, make_all(c, {dtype, tested}));
      const std::string text = difference(got, wanted, c.condition * eps_of(dtype));
      if (!text.empty()) return fmt::format("{} {}", dtype, text);
      if (got.y.device() != tested) return "the result is on another device";
    }
    return {};
  });
}

TEST_CASE("bf16 inputs give the f64 result of the same numbers, to bf16", "[ops][device]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (c.bf16 == 0) return {};
    const Tensors rounded = make_all(c, {DType::bf16, tested});
    Tensors wide;
    for (const Tensor& x : rounded)
      wide.push_back(is_floating(x.dtype()) ? from_values(x.values(), x.shape(), {DType::f64, tested}) : x);
    return difference(run(c, rounded), run(c, wide), c.bf16 * eps_of(DType::bf16));
  });
}

/// The case's inputs as mixed precision has them: bf16, but parameters f32.
Tensors make_mixed(const OpCase& c) {
  Tensors inputs;
  for (std::size_t i = 0; i < c.inputs.size(); ++i)
    inputs.push_back(make(c.inputs[i], c, i, {c.parameters >> i & 1u ? DType::f32 : DType::bf16, tested}));
  return inputs;
}

TEST_CASE("mixed precision gives the f64 result of the same numbers, to bf16; gradients have their inputs' dtypes", "[ops][device]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (c.bf16 == 0 || !c.parameters) return {};
    Tensors mixed = make_mixed(c), wide;
    for (const Tensor& x : mixed)
      wide.push_back(is_floating(x.dtype()) ? from_values(x.values(), x.shape(), {DType::f64, tested}) : x);
    const Result got = run(c, mixed);
    if (got.y.dtype() != DType::bf16) return fmt::format("the result is {}", got.y.dtype());
    for (std::size_t i = 0; i < got.gradients.size(); ++i)
      if (got.gradients[i].dtype() != mixed[i].dtype()) return fmt::format("gradient {} is {}", i, got.gradients[i].dtype());
    if (const std::string text = difference(got, run(c, wide), c.bf16 * eps_of(DType::bf16)); !text.empty()) return text;
    const NoFusion plain;
    const Result composed = run(c, mixed);
    const std::string text = difference(got, composed, c.bf16 * eps_of(DType::bf16));
    return text.empty() ? "" : "against the composition: " + text;
  });
}

TEST_CASE("the mixed-precision kernels of fused ops do not decline", "[ops][device]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (!c.fused || c.bf16 == 0 || c.op == "cross_entropy") return {};  // losses take f32: the model casts
    Tensors inputs = make_mixed(c);
    track(c, inputs);
    const Tensor y = c.run(inputs);
    return node_of(y)->name == c.op ? "" : fmt::format("the result comes from {}", node_of(y)->name);
  });
}

TEST_CASE("first derivatives: full Jacobians", "[ops][formulas]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (c.order < 1 || c.large) return {};
    Tensors inputs = make_all(c, {DType::f64, tested});
    track(c, inputs);
    const GradcheckReport report = gradcheck(c.run, inputs);
    return report.ok ? "" : report.where;
  });
}

TEST_CASE("second derivatives: full Jacobians of the vector-Jacobian product", "[ops][formulas]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (c.order < 2 || c.large) return {};
    Tensors inputs = make_all(c, {DType::f64, tested});
    track(c, inputs);
    const GradcheckReport report = gradgradcheck(c.run, inputs);
    return report.ok ? "" : report.where;
  });
}

TEST_CASE("memory layouts of inputs and cotangents change nothing", "[ops][device]") {
  using Change = std::pair<const char*, Tensor (*)(const Tensor&)>;
  for_each_case([](const OpCase& c) -> std::string {
    for (DType dtype : {DType::f64, DType::f32}) {
      const Tensors inputs = make_all(c, {dtype, tested});
      const Result plain = run(c, mapped(inputs, copied));
      for (const Change& change :
           {Change{"stepped", stepped}, Change{"reversed", reversed}, Change{"transposed", transposed}}) {
        const Result got =
            run(c, mapped(inputs, change.second), [&](const Tensor& y) { return change.second(cotangent(y)); });
        const std::string text = difference(got, plain, c.condition * eps_of(dtype));
        if (!text.empty()) return fmt::format("{} {} {}", dtype, change.first, text);
      }
      const auto constant_seed = [](const Tensor& y) {
        return full({}, 0.7, place_of(y)).with_layout(expand(Layout(Shape{}), y.shape()));
      };
      const Result rows =
          run(c, mapped(mapped(inputs, expanded), copied), [&](const Tensor& y) { return copied(constant_seed(y)); });
      const Result got = run(c, mapped(inputs, expanded), constant_seed);
      const std::string text = difference(got, rows, c.condition * eps_of(dtype));
      if (!text.empty()) return fmt::format("{} expanded {}", dtype, text);
    }
    return {};
  });
}

TEST_CASE("reductions of bf16 are rounded once, at their end", "[ops][device]") {
  const Place place{DType::bf16, tested};
  CHECK(mean(ones({257}, place)).item() == 1);
  CHECK(var(ones({257}, place)).item() == 0);
  const Tensor x = from_values({51, 50.5, 50, 50.5}, {4}, place);
  CHECK(mean(x).item() == 50.5);
  CHECK(var(x, {}, false, 0).item() == 0.125);
  CHECK(norm(x).item() == 101);
  CHECK(logsumexp(from_values({3, 3}, {2}, place), 0).item() == 3.6875);  // 3.6931
}

TEST_CASE("integers are summed in i64", "[ops][device]") {
  for (const auto& [dtype, value] : {std::pair(DType::u8, 255.0), {DType::i32, -0x1p31}, {DType::i64, 0x1p40}, {DType::boolean, 1.0}}) {
    const Tensor x = full({300, 5, 40}, value, {dtype, tested});
    for (const int axis : {0, 1, 2}) {
      const Tensor y = sum(x, axis);
      CHECK(y.dtype() == DType::i64);
      CHECK(y.values() == std::vector<double>(static_cast<std::size_t>(y.numel()), value * static_cast<double>(x.size(axis))));
    }
    CHECK(sum(x).item() == value * 60000);
    CHECK(any(x).item() == 1);
    CHECK(all(slice(x, 2, 0, 39, 2)).item() == 1);
  }
}

TEST_CASE("a norm of rows far from zero has the same digits wherever they lie", "[ops][device]") {
  std::vector<double> values;
  for (int i = 0; i < 24; ++i) values.push_back(100 + 0.01 * std::cos(i));
  const Tensor rows = from_values(values, {3, 8}, {DType::f32, tested}), columns = contiguous(transpose(rows));
  const Tensor ones_of_row = ones({8}, place_of(rows));
  const Tensor wanted = layer_norm(cast(rows, DType::f64), ones({8}, {DType::f64, tested}), {});
  CHECK(difference(layer_norm(rows, ones_of_row, {}), wanted, 1e-6) == "");
  CHECK(difference(layer_norm(transpose(columns), ones_of_row, {}), wanted, 1e-6) == "");
  const NoFusion compositions;
  CHECK(difference(layer_norm(rows, ones_of_row, {}), wanted, 1e-5) == "");
}

TEST_CASE("element-wise cases run on 0-d and on empty tensors", "[ops][device]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (!c.any_shape) return {};
    for (const Shape& shape : {Shape{}, Shape{0, 3}, Shape{2, 0}}) {
      OpCase changed = c;
      for (Input& in : changed.inputs) in.shape = shape;
      const Result wanted = run(changed, make_all(changed, {DType::f64, reference}));
      const Result got = run(changed, make_all(changed, {DType::f64, tested}));
      if (got.y.shape() != shape) return fmt::format("{} gave {}", shape, got.y.shape());
      if (const std::string text = difference(got, wanted, c.condition * eps_of(DType::f64)); !text.empty())
        return text;
    }
    return {};
  });
}

TEST_CASE("fused ops equal their compositions", "[ops][device]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (!c.fused) return {};
    for (DType dtype : {DType::f64, DType::f32}) {
      const Result got = run(c, make_all(c, {dtype, tested}));
      const NoFusion plain;
      const Result wanted = run(c, make_all(c, {dtype, tested}));
      const std::string text = difference(got, wanted, 2 * c.condition * eps_of(dtype));
      if (!text.empty()) return fmt::format("{} {}", dtype, text);
    }
    return {};
  });
}

TEST_CASE("fused ops: the gradient of one input alone is that of all together", "[ops]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (!c.fused) return {};
    const Result all = run(c, make_all(c, {DType::f32, tested}));
    for (std::size_t i = 0, at = 0; i < c.inputs.size(); ++i) {
      if (c.inputs[i].constant || c.order == 0) continue;
      Tensors inputs = make_all(c, {DType::f32, tested});
      inputs[i].track();
      const Tensor y = c.run(inputs);
      const std::string text = difference(grad(y, Tensors{inputs[i]}, cotangent(y))[0], all.gradients[at++], 2 * c.condition * eps_of(DType::f32));
      if (!text.empty()) return fmt::format("input {}: {}", i, text);
    }
    return {};
  });
}

TEST_CASE("the f32 kernels of fused ops do not decline", "[ops][device]") {
  for_each_case([](const OpCase& c) -> std::string {
    if (!c.fused) return {};
    Tensors inputs = make_all(c, {DType::f32, tested});
    track(c, inputs);
    const Tensor y = c.run(inputs);
    return node_of(y)->name == c.op ? "" : fmt::format("the result comes from {}", node_of(y)->name);
  });
}

TEST_CASE("without tracking the values are the same to the bit, and nothing is recorded", "[ops][device]") {
  const std::int64_t before = live_nodes();
  for_each_case([before](const OpCase& c) -> std::string {
    const Result tracked = run(c, make_all(c, {DType::f32, tested}));
    const NoGrad off;
    const Tensor y = c.run(make_all(c, {DType::f32, tested}));
    if (y.tracked()) return "the result takes part in a graph";
    const std::string text = difference(y, tracked.y, 0);
    static_cast<void>(before);
    return text;
  });
  CHECK(live_nodes() == before);
}

TEST_CASE("attention: a row divided by its sum that sees one key has no gradient of its score, to the bit", "[ops][device]") {
  for (const auto& [name, scoring] : scorings()) {
    if (!scoring.normalize) continue;
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const Index tokens : {3, 70, 300}) {
        const Shape shape{2, 2, tokens, 32};
        const auto draw = [&](std::uint64_t stream, double size) { return (size * randn(shape, {3, stream}, {dtype, tested})).detach(); };
        Tensor q = draw(1, 0.03), k = draw(2, 0.03);  // small scores, which a rest of rounding would be divided by
        q.track(), k.track();
        AttentionOptions o;
        o.scoring = scoring, o.dropout = 0.3, o.stream = {5, 6}, o.form = AttentionForm::quadratic;
        INFO(name << ' ' << tokens << (dtype == DType::f32 ? " f32" : " bf16"));
        o.causal = true;
        const auto is_zero = [](const Tensor& x) { return max(abs(cast(x, DType::f32))).item() == 0; };
        const Tensors by_place = grad(sum(attention(q, k, draw(3, 1), o)), Tensors{q, k});
        CHECK(is_zero(select(by_place[0], 2, 0)));
        CHECK(!is_zero(select(by_place[0], 2, 1)));
        std::vector<double> seen(static_cast<std::size_t>(2 * tokens));
        seen[1] = seen[static_cast<std::size_t>(2 * tokens - 1)] = 1;
        o.key_mask = from_values(seen, {2, tokens}, {DType::boolean, tested});
        for (const Tensor& g : grad(sum(attention(q, k, draw(3, 1), o)), Tensors{q, k})) CHECK(is_zero(g));
      }
  }
}

TEST_CASE("gelu's derivative is one number at the ends of the range, wherever x lies", "[ops]") {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::vector<double> ends{infinity, 1e38, -1e38}, slopes{1, 1, 0};
  const Tensor dense = from_values(ends, {3}).track(), apart = clone(expand(from_values(ends, {3, 1}), {3, 2})).track();
  CHECK(grad(sum(gelu(dense)), dense).values() == slopes);
  CHECK(select(grad(sum(gelu(select(apart, 1, 0))), apart), 1, 0).values() == slopes);
}

TEST_CASE("error messages", "[ops]") {
  for (const ErrorCase& e : error_table()) {
    std::string text = "no error";
    try {
      e.run();
    } catch (const Error& error) {
      text = error.what();
    }
    CHECK(text == e.text);
    CHECK(text.substr(0, e.op.size()) == e.op);
  }
  CHECK(error_table().size() > 40);
}

TEST_CASE("what error messages advise has the values that were wanted", "[ops]") {
  const Tensor logits = randn({2, 3, 5}, {1, 1}, {DType::f64, tested}).track(), given = from_values({3, -100, 0, -100, 4, 1}, {2, 3}, {DType::i64, tested});
  const Tensor kept = greater_equal(given, 0), targets = where(kept, given, zeros_like(given)), mask = unsqueeze(cast(kept, DType::f64), -1);
  const Tensor loss = sum(mask * gather(log_softmax(logits), -1, unsqueeze(targets, -1))) / -sum(mask);
  const Tensor rows = from_values({0, 2, 4, 5}, {4}, {DType::i64, tested});
  const Tensor expected = cross_entropy(index_select(reshape(logits, {6, 5}), 0, rows), from_values({3, 0, 4, 1}, {4}, {DType::i64, tested}));
  CHECK(loss.item() == Approx(expected.item()).epsilon(1e-14));
  CHECK(max(abs(grad(loss, logits) - grad(expected, logits))).item() < 1e-15);

  const Tensor q = randn({1, 6, 3, 4}, {2, 1}, {DType::f32, tested}), k = randn({1, 2, 3, 4}, {2, 2}, {DType::f32, tested});
  const Tensor repeated = reshape(expand(unsqueeze(k, 2), {1, 2, 3, 3, 4}), {1, 6, 3, 4}), all_heads = attention(q, repeated, repeated);
  for (Index head = 0; head < 6; ++head) {
    const auto of = [](const Tensor& x, Index h) { return slice(x, 1, h, h + 1); };
    CHECK(of(all_heads, head).values() == attention(of(q, head), of(k, head / 3), of(k, head / 3)).values());
  }
}

TEST_CASE("an empty handle is refused, with the op's name", "[ops]") {
  for_each_case([](const OpCase& c) -> std::string {
    Tensors inputs = make_all(c, {DType::f32, tested});
    inputs[0] = Tensor();
    try {
      (void)c.run(inputs);
    } catch (const Error& e) {
      return std::string(e.what()).find("is an empty Tensor handle") != std::string::npos ? "" : e.what();
    }
    return "no error";
  });
}

TEST_CASE("an empty handle alone has no view, a tensor without elements has one", "[ops]") {
  for (const Device device : {tested, reference}) {
    const Tensor x = zeros({2, 3}, {DType::f32, device});
    CHECK(view_of(zeros({0, 3}, place_of(x))));
    CHECK(view_of(slice(x, 0, 2, 2)));
  }
  CHECK_FALSE(view_of(Tensor()));
  CHECK(view_of(Tensor()).as<float>() == nullptr);
}

TEST_CASE("a scalar that a tensor of integers cannot hold is refused", "[ops]") {
  const auto text = [](DType dtype, double value) -> std::string {
    try {
      return fmt::format("{}", (zeros({1}, {dtype, tested}) + value).item());
    } catch (const Error& e) {
      return e.what();
    }
  };
  CHECK(text(DType::u8, 255) == "255");
  CHECK(text(DType::i32, -0x1p31) == "-2147483648");
  CHECK(text(DType::boolean, 1) == "1");
  CHECK(text(DType::u8, -1) == "add: -1 does not fit into u8, which goes from 0 to 255; convert x with cast()");
  CHECK(text(DType::i32, 0x1p31) == "add: 2147483648 does not fit into i32, which goes from -2147483648 to 2147483647; convert x with cast()");
  CHECK(text(DType::i64, INFINITY) ==
        "add: inf does not fit into i64, which goes from -9223372036854775808 to 9223372036854775807; convert x with cast()");
  CHECK(text(DType::boolean, 2) == "add: 2 is neither 0 nor 1, but the dtype is bool; convert x with cast()");
}

TEST_CASE("ties share the gradient", "[ops]") {
  Tensor x = from_values({1, 2, 2}, {3}, {DType::f64}), y = from_values({1, 3, 0}, {3}, {DType::f64});
  x.track(), y.track();
  const auto gradients = [&](const Tensor& z) {
    std::vector<double> both;
    for (const Tensor& g : grad(sum(z), Tensors{x, y})) {
      for (double v : g.values()) both.push_back(v);
    }
    return both;
  };
  CHECK(gradients(maximum(x, y)) == std::vector<double>{0.5, 0, 1, 0.5, 1, 0});
  CHECK(gradients(minimum(x, y)) == std::vector<double>{0.5, 1, 0, 0.5, 0, 1});
  CHECK(gradients(max(x) + min(x) + 0.0 * sum(y)) == std::vector<double>{1, 0.5, 0.5, 0, 0, 0});
}

TEST_CASE("every op has a line in the table", "[ops]") {
  std::set<std::string> lines;
  for (const OpCase& c : op_table()) lines.insert(c.op);

  std::ifstream file(source_folder() / "autograd" / "ops.h");
  REQUIRE(file);
  const std::regex declaration(R"(^Tensors? ([a-z_0-9]+)\(.*Tensor)");  // not what makes tensors of numbers
  std::set<std::string> declared;
  for (std::string line; std::getline(file, line);) {
    std::smatch match;
    if (std::regex_search(line, match, declaration)) declared.insert(match[1]);
  }
  CHECK(declared.size() > 70);
  for (const std::string& op : declared) {
    INFO(op << " of autograd/ops.h has no line in checks/op_table_*.cpp");
    CHECK(lines.count(op) == 1);
  }
  for (const std::string& op : lines) {
    INFO(op << " is in the table, but not in autograd/ops.h");
    CHECK(declared.count(op) == 1);
  }

  std::set<std::string> words;
  for (int i = 0; i < static_cast<int>(UnaryOp::count); ++i) words.emplace(name(static_cast<UnaryOp>(i)));
  for (int i = 0; i < static_cast<int>(BinaryOp::count); ++i) {
    const auto op = static_cast<BinaryOp>(i);
    words.insert(op == BinaryOp::max ? "maximum" : op == BinaryOp::min ? "minimum" : std::string(name(op)));
  }
  for (int i = 0; i < static_cast<int>(ReduceOp::count); ++i) words.emplace(name(static_cast<ReduceOp>(i)));
  words.erase("power");  // pow(x, exponent)
  words.insert("pow");
  for (const std::string& word : words) {
    INFO(word << " of core/op_list.h has no line in checks/op_table_*.cpp");
    CHECK(lines.count(word) == 1);
  }
}

TEST_CASE("numbers beside tensors", "[ops]") {
  const Tensor x = from_values({-1, 0, 2}, {3}).track();
  CHECK(maximum(x, 0.5).values() == std::vector<double>{0.5, 0.5, 2});
  CHECK(minimum(x, 0.5).values() == std::vector<double>{-1, 0, 0.5});
  CHECK(less(x, 0).values() == std::vector<double>{1, 0, 0});
  CHECK(less_equal(x, 0).values() == std::vector<double>{1, 1, 0});
  CHECK(greater(x, 0).values() == std::vector<double>{0, 0, 1});
  CHECK(greater_equal(x, 0).values() == std::vector<double>{0, 1, 1});
  CHECK(equal(x, 2).values() == std::vector<double>{0, 0, 1});
  CHECK(not_equal(x, 2).values() == std::vector<double>{1, 1, 0});
  CHECK(grad(sum(maximum(x, 0.5)), x).values() == std::vector<double>{0, 0, 1});
}
