#include "checks/random_case.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "checks/layouts.h"
#include "checks/scorings.h"

namespace norma::checks {

namespace {

using Memory = RandomCase::Memory;

/// The draws of one case, one after the other.
class Draw {
 public:
  Draw(std::uint64_t seed, std::uint64_t number) : random_{seed, stream_id(number)} {}
  double unit() { return uniform_from(random_.word(at_++)); }
  bool chance(double p) { return unit() < p; }
  Index below(Index n) { return static_cast<Index>(unit() * static_cast<double>(n)); }
  template <class T>
  T of(std::initializer_list<T> choices) {
    return choices.begin()[below(static_cast<Index>(choices.size()))];
  }
  /// In [least, most], small ones as often as large ones, half of them on a border of blocks or one beside it.
  Index size(Index least, Index most) {
    if (most <= least) return least;
    auto n = static_cast<Index>(static_cast<double>(least) * std::pow(static_cast<double>(most) / static_cast<double>(least), unit()) + 0.5);
    if (chance(0.5)) {
      const Index block = of<Index>({8, 16, 32, 48, 64, 96});
      n = (n + block / 2) / block * block + below(3) - 1;
    }
    return std::clamp(n, least, most);
  }
  /// As many as `work` leaves beside the other factors of it.
  Index size(Index least, Index most, double work) { return size(least, std::min(most, std::max(least, static_cast<Index>(work)))); }

 private:
  RandomStream random_;
  std::uint64_t at_ = 0;
};

/// "a, b" of what is not empty.
std::string joined(std::initializer_list<std::string> words) {
  std::string all;
  for (const std::string& word : words)
    if (!word.empty()) all += (all.empty() ? "" : ", ") + word;
  return all;
}

double number(Index n) { return static_cast<double>(n); }

// ---- attention --------------------------------------------------------------------------------------------------------

struct Drawing {  // what both of attention's ops draw
  AttentionOptions options;
  bool masked = false;
  std::string text;
};

Drawing attention_options(Draw& d, Index width) {
  const auto all = scorings();
  const auto& [name, scoring] = all[static_cast<std::size_t>(d.below(static_cast<Index>(all.size())))];
  Drawing a;
  a.options.scoring = scoring;
  a.options.causal = d.chance(0.4);
  a.masked = d.chance(0.3);
  if (d.chance(0.25)) a.options.dropout = d.of({0.1, 0.5}), a.options.stream = {d.of<std::uint64_t>({1, 5}), 99};
  if (d.chance(0.2)) a.options.scale = d.of({0.05, 0.3, 1.0});
  const std::int64_t features = linear_features(scoring, width);
  a.options.form = AttentionForm::quadratic;
  if (d.chance(0.3)) a.options.form = features > 0 && features <= 600 && a.options.dropout == 0 ? AttentionForm::linear : AttentionForm::automatic;
  a.text = joined({name, a.options.causal ? "causal" : "", a.masked ? "key mask" : "",
                   a.options.dropout > 0 ? fmt::format("dropout {}", a.options.dropout) : "",
                   a.options.scale > 0 ? fmt::format("scale {}", a.options.scale) : "",
                   a.options.form == AttentionForm::linear ? "linear form" : a.options.form == AttentionForm::automatic ? "form auto" : ""});
  return a;
}

Index head_width(Draw& d) {
  return d.chance(0.6) ? d.of<Index>({16, 32, 64, 128}) : d.size(1, 140);
}

/// Derivatives jump at 0, and rounding decides on which side a score is.
bool at_kink(const Scoring& scoring) { return scoring.kind == Scoring::Kind::relu; }

/// Away from zero a score stays where there is one product in it; rows divided by their sum do not depend on the query where there is one.
Index bearable(Index width, const Scoring& scoring) { return at_kink(scoring) ? 1 : scoring.normalize ? std::max<Index>(8, width) : width; }

template <class F>
void call_attention(RandomCase& c, const Drawing& a, std::size_t mask_at, F f) {
  const auto options = [a, mask_at](In x) {
    AttentionOptions o = a.options;
    if (a.masked) o.key_mask = x[mask_at];
    return o;
  };
  c.call.variant = a.text;
  c.call.run = [f, options](In x) { return f(x, options(x)); };
  if (a.options.form == AttentionForm::quadratic) {
    c.measured = [f, options](In x, const Tensor& stats) {
      AttentionOptions o = options(x);
      o.stats = stats;
      return f(x, o);
    };
  }
}

RandomCase separate_attention(Draw& d, double work) {
  Index width = head_width(d);
  const Index value_width = d.chance(0.8) ? width : head_width(d);
  const Drawing a = attention_options(d, width);
  const bool kink = at_kink(a.options.scoring);
  width = bearable(width, a.options.scoring);
  const double pairs = work / number(width + value_width);
  const bool square = d.chance(0.6);
  const Index rows = d.size(1, 1200, square ? std::sqrt(pairs) : pairs / 4), keys = square ? rows : d.size(1, 1200, pairs / number(rows));
  const Index heads = d.size(1, 3, pairs / number(rows * keys)), batch = d.size(1, 3, pairs / number(rows * keys * heads));
  RandomCase c{{.op = "attention"}};
  const auto in = [&](Index tokens, Index w) { return kink ? nonzero({batch, heads, tokens, w}) : real({batch, heads, tokens, w}); };
  c.call.inputs = {in(rows, width), in(keys, width), real({batch, heads, keys, value_width})};
  if (a.masked) c.call.inputs.push_back(flags({batch, keys}));
  call_attention(c, a, 3, [](In x, const AttentionOptions& o) { return attention(x[0], x[1], x[2], o); });
  c.stats = {batch, heads, attention_stats};
  return c;
}

RandomCase packed_attention(Draw& d, double work) {
  Index width = head_width(d);
  const Drawing a = attention_options(d, width);
  const bool kink = at_kink(a.options.scoring);
  width = bearable(width, a.options.scoring);
  const double pairs = work / number(2 * width);
  const Index tokens = d.size(1, 1200, std::sqrt(pairs)), heads = d.size(1, 4, pairs / number(tokens * tokens)),
              batch = d.size(1, 3, pairs / number(tokens * tokens * heads));
  RandomCase c{{.op = "attention_packed"}};
  const Shape shape{batch, tokens, 3, heads, width};
  c.call.inputs = {kink ? nonzero(shape) : real(shape)};
  if (a.masked) c.call.inputs.push_back(flags({batch, tokens}));
  call_attention(c, a, 1, [](In x, const AttentionOptions& o) { return attention_packed(x[0], o); });
  c.stats = {batch, heads, attention_stats};
  return c;
}

// ---- layers -------------------------------------------------------------------------------------------------------------

/// [count], or two axes before the last whose product it is about.
Shape rows_of(Draw& d, Index count, Index columns) {
  if (d.chance(0.5)) return {count, columns};
  const Index outer = d.size(1, 4);
  return {outer, std::max<Index>(1, count / outer), columns};
}

RandomCase random_linear(Draw& d, double work) {
  const Index in = d.size(1, 1600), out = d.size(1, 1600, work / number(in)), rows = d.size(1, 1600, work / number(in * out));
  const bool bias = d.chance(0.7), residual = d.chance(0.4);
  RandomCase c{{.op = "linear", .variant = joined({bias ? "bias" : "", residual ? "residual" : ""}), .parameters = bias ? 6u : 2u}};
  const Shape x = rows_of(d, rows, in);
  c.call.inputs = {real(x), real({out, in}, -0.3, 0.3)};
  if (bias) c.call.inputs.push_back(real({out}));
  if (residual) c.call.inputs.push_back(real(x.with(-1, out)));
  c.call.run = [bias, residual](In t) { return linear(t[0], t[1], bias ? t[2] : Tensor(), residual ? t[bias ? 3 : 2] : Tensor()); };
  return c;
}

RandomCase random_mlp(Draw& d, double work) {
  const Index in = d.size(1, 400), hidden = d.chance(0.6) ? 4 * in : d.size(1, 1200), out = d.chance(0.8) ? in : d.size(1, 400);
  const Index rows = d.size(1, 1200, work / number(in * hidden));
  const bool residual = d.chance(0.6);
  RandomCase c{{.op = "mlp", .variant = residual ? "residual" : "", .parameters = 0b11110}};
  const Shape x = rows_of(d, rows, in);
  c.call.inputs = {real(x), real({hidden, in}, -0.3, 0.3), real({hidden}), real({out, hidden}, -0.3, 0.3), real({out})};
  if (residual) c.call.inputs.push_back(real(x.with(-1, out)));
  c.call.run = [residual](In t) { return mlp(t[0], t[1], t[2], t[3], t[4], residual ? t[5] : Tensor()); };
  return c;
}

RandomCase random_norm(Draw& d, double work) {
  const Index columns = d.size(3, 2000), rows = d.size(1, 1000, work / 20 / number(columns));
  const bool rms = d.chance(0.3), weight = d.chance(0.8), bias = !rms && weight && d.chance(0.8);
  RandomCase c{{.op = rms ? "rms_norm" : "layer_norm", .variant = joined({weight ? "weight" : "", bias ? "bias" : ""}), .parameters = ~1u}};
  c.call.inputs = {real(rows_of(d, rows, columns), -1, 2)};
  if (weight) c.call.inputs.push_back(real({columns}));
  if (bias) c.call.inputs.push_back(real({columns}));
  c.call.run = [=](In t) {
    return rms ? rms_norm(t[0], weight ? t[1] : Tensor()) : layer_norm(t[0], weight ? t[1] : Tensor(), bias ? t[2] : Tensor());
  };
  return c;
}

RandomCase random_loss(Draw& d, double work) {
  const Index classes = d.size(2, 1500), rows = d.size(1, 1000, work / 20 / number(classes));
  const Shape shape = rows_of(d, rows, classes);
  if (d.chance(0.5)) {
    const bool log = d.chance(0.5);
    const int axis = d.chance(0.7) ? -1 : 0;
    RandomCase c{{.op = log ? "log_softmax" : "softmax", .variant = axis == 0 ? "axis 0" : "", .inputs = {real(shape, -4, 4)}}};
    c.call.run = [log, axis](In t) { return log ? log_softmax(t[0], axis) : softmax(t[0], axis); };
    return c;
  }
  const bool soft = d.chance(0.3);
  const double smoothing = d.chance(0.4) ? 0.1 : 0.0;
  RandomCase c{{.op = "cross_entropy", .variant = joined({soft ? "soft targets" : "", smoothing > 0 ? "smoothing" : ""})}};
  c.call.inputs = {real(shape, -4, 4), soft ? constant(real(shape, 0, 1)) : index(shape.without(shape.rank() - 1), classes)};
  c.call.bf16 = 0;  // losses take f32
  c.call.run = [smoothing](In t) { return cross_entropy(t[0], t[1], smoothing); };
  return c;
}

// ---- plain ops ------------------------------------------------------------------------------------------------------------

RandomCase random_matmul(Draw& d, double work) {
  const Index m = d.size(1, 400), k = d.size(1, 700), n = d.size(1, 400, work / number(m * k));
  const Index batch = d.size(1, 6, work / number(m * k * n));
  const bool turned_a = d.chance(0.3), turned_b = d.chance(0.3), broad = d.chance(0.3);
  RandomCase c{{.op = "matmul", .variant = joined({turned_a ? "A'" : "", turned_b ? "B'" : "", broad ? "one B" : ""})}};
  const Shape a = turned_a ? Shape{batch, k, m} : Shape{batch, m, k}, b = turned_b ? Shape{broad ? 1 : batch, n, k} : Shape{broad ? 1 : batch, k, n};
  c.call.inputs = {real(a), real(b)};
  c.call.run = [turned_a, turned_b](In t) { return matmul(turned_a ? transpose(t[0]) : t[0], turned_b ? transpose(t[1]) : t[1]); };
  return c;
}

RandomCase random_convolution(Draw& d, double work) {
  const bool own = d.chance(0.3);  // a kernel a channel
  const Index groups = own ? d.size(1, 30) : d.of<Index>({1, 1, 2, 3}), in = own ? groups : groups * d.size(1, 12), out = own ? groups : groups * d.size(1, 24);
  const Index kernel = d.of<Index>({1, 2, 3, 4, 7}), stride = d.of<Index>({1, 1, 2, 4});
  const Index pad = d.below(d.chance(0.7) ? kernel : 2 * kernel + 1),
              padded = static_cast<Index>(std::sqrt(work / number(in * out / groups * kernel * kernel)));
  const Index side = d.size(std::max<Index>(1, kernel - 2 * pad), 40, number(padded - 2 * pad));
  const bool bias = d.chance(0.6);
  RandomCase c{{.op = "conv2d", .variant = fmt::format("{} groups, stride {}, pad {}", groups, stride, pad)}};
  c.call.inputs = {real({d.size(1, 3), in, side, side + d.below(3)}), real({out, in / groups, kernel, kernel})};
  if (bias) c.call.inputs.push_back(real({out}));
  const Window window{.stride_h = stride, .stride_w = stride, .pad_h = pad, .pad_w = pad};
  c.call.run = [=](In t) { return conv2d(t[0], t[1], bias ? t[2] : Tensor(), window, groups); };
  return c;
}

Shape any_shape(Draw& d, double elements) {
  Shape s;
  const Index rank = 1 + d.below(4);
  for (Index i = 0; i < rank; ++i) s.append(d.size(1, 300, std::min(std::pow(elements, 1.0 / number(rank)) * 3, elements / number(s.numel()))));
  return s;
}

RandomCase random_reduction(Draw& d, double work) {
  using Reduce = Tensor (*)(const Tensor&, int axis);
  struct Named {
    const char* name;
    Reduce f;
  };
  const Named chosen = d.of<Named>({{"sum", [](const Tensor& x, int a) { return sum(x, a); }},
                                    {"mean", [](const Tensor& x, int a) { return mean(x, a); }},
                                    {"max", [](const Tensor& x, int a) { return max(x, a, true); }},
                                    {"min", [](const Tensor& x, int a) { return min(x, a); }},
                                    {"norm", [](const Tensor& x, int a) { return norm(x, a); }},
                                    {"logsumexp", [](const Tensor& x, int a) { return logsumexp(x, a); }},
                                    {"cumsum", [](const Tensor& x, int a) { return cumsum(x, a); }}});
  const Shape shape = any_shape(d, work / 20);
  const auto axis = static_cast<int>(d.below(shape.rank()));
  RandomCase c{{.op = chosen.name, .variant = fmt::format("axis {}", axis), .inputs = {real(shape)}}};
  c.call.run = [chosen, axis](In t) { return chosen.f(t[0], axis); };
  return c;
}

/// One axis of `shape` made 1, or the leading one left out: what broadcasts to it.
Shape narrower(Draw& d, const Shape& shape) {
  if (d.chance(0.4)) return shape;
  return d.chance(0.3) ? shape.without(0) : shape.with(static_cast<int>(d.below(shape.rank())), 1);
}

RandomCase random_elements(Draw& d, double work) {
  using Unary = Tensor (*)(const Tensor&);
  struct Named {
    const char* name;
    Unary f;
    double low;
  };
  const Named chosen = d.of<Named>({{"exp", exp, -4}, {"log", log, 0.1}, {"log1p", log1p, -0.5}, {"sqrt", sqrt, 0.1}, {"rsqrt", rsqrt, 0.1}, {"sin", sin, -4},
                                    {"cos", cos, -4}, {"tanh", tanh, -4}, {"erf", erf, -4}, {"sigmoid", sigmoid, -4}, {"gelu", gelu, -4},
                                    {"gelu_tanh", gelu_tanh, -4}, {"silu", silu, -4}, {"softplus", softplus, -4}, {"square", square, -4},
                                    {"reciprocal", reciprocal, 0.2}});
  const Shape shape = any_shape(d, work / 20);
  const Index what = d.below(4);
  RandomCase c{{.op = chosen.name, .variant = std::array{"+ b", "* b", "/ b", "by where"}[static_cast<std::size_t>(what)]}};
  const Shape beside = narrower(d, shape);
  c.call.inputs = {real(shape, chosen.low, 4), what == 2 ? real(beside, 0.5, 2) : real(beside)};
  if (what == 3) c.call.inputs.push_back(flags(narrower(d, shape)));
  c.call.run = [chosen, what](In t) {
    const Tensor y = chosen.f(t[0]);
    return what == 0 ? y + t[1] : what == 1 ? y * t[1] : what == 2 ? y / t[1] : where(t[2], y, t[1]);
  };
  return c;
}

RandomCase random_indexing(Draw& d, double work) {
  const Shape shape = any_shape(d, work / 20);
  const auto axis = static_cast<int>(d.below(shape.rank()));
  const Index many = d.size(1, 60);
  const Index kind = d.below(3);
  RandomCase c;
  if (kind == 0) {
    c.call = {.op = "index_select", .variant = fmt::format("axis {}", axis), .inputs = {real(shape), index({many}, shape[axis])}};
    c.call.run = [axis](In t) { return index_select(t[0], axis, t[1]); };
  } else if (kind == 1) {
    c.call = {.op = "gather", .variant = fmt::format("axis {}", axis), .inputs = {real(shape), index(shape.with(axis, many), shape[axis])}};
    c.call.run = [axis](In t) { return gather(t[0], axis, t[1]); };
  } else {
    const Shape from = shape.with(axis, many);
    c.call = {.op = "scatter_add", .variant = fmt::format("axis {}", axis), .inputs = {real(shape), index(from, shape[axis]), real(from)}};
    c.call.run = [axis](In t) { return scatter_add(t[0], axis, t[1], t[2]); };
  }
  return c;
}

Memory random_memory(Draw& d, const Input& in) {
  if (in.shape.rank() == 0 || !d.chance(0.3)) return Memory::dense;
  return d.of({Memory::stepped, Memory::reversed, Memory::transposed});
}

constexpr std::string_view memory_names[] = {"", " stepped", " reversed", " transposed"};

}  // namespace

Tensor placed(const Tensor& x, Memory memory) {
  switch (memory) {
    case Memory::stepped: return stepped(x);
    case Memory::reversed: return reversed(x);
    case Memory::transposed: return transposed(x);
    default: return copied(x);
  }
}

Place RandomCase::place(std::size_t input, Device device) const {
  const bool parameter = dtype == DType::bf16 && call.parameters >> input & 1u;
  return {parameter ? DType::f32 : dtype, device};
}

std::string RandomCase::text() const {
  std::string all = call.title() + ';';
  for (std::size_t i = 0; i < call.inputs.size(); ++i) {
    const Input& in = call.inputs[i];
    const bool real = in.kind == Input::Kind::real;
    all += fmt::format("{} {}{}{}{}", i ? "," : "", real ? fmt::format("{} ", place(i, {}).dtype) : "", in.shape,
                       memory_names[static_cast<std::size_t>(memory[i])], real && in.constant ? " untracked" : "");
  }
  return all + (memory.back() == Memory::dense ? "" : fmt::format("; cotangent{}", memory_names[static_cast<std::size_t>(memory.back())]));
}

RandomCase random_case(std::uint64_t seed, std::uint64_t number, double work) {
  using Drawer = RandomCase (*)(Draw&, double);
  static constexpr Drawer drawers[] = {separate_attention, separate_attention, packed_attention, packed_attention, random_linear, random_linear,
                                       random_mlp, random_mlp, random_norm, random_loss, random_matmul, random_convolution, random_reduction,
                                       random_elements, random_indexing};
  Draw d(seed, number);
  work *= std::pow(32.0, d.unit() - 1);
  RandomCase c = drawers[d.below(static_cast<Index>(std::size(drawers)))](d, work);  // but for number, dtype and memory
  c.call.variant = fmt::format("case {}{}{}", number, c.call.variant.empty() ? "" : ", ", c.call.variant);
  const double kind = d.unit();
  c.dtype = kind < 0.15 ? DType::f64 : kind < 0.6 || c.call.bf16 == 0 ? DType::f32 : DType::bf16;
  bool any = false;
  for (Input& in : c.call.inputs) {
    c.memory.push_back(random_memory(d, in));
    if (in.kind != Input::Kind::real || in.constant) continue;
    in.constant = d.chance(0.2);
    any |= !in.constant;
  }
  if (!any) c.call.inputs[0].constant = false;
  c.memory.push_back(d.chance(0.75) ? Memory::dense : d.of({Memory::stepped, Memory::reversed, Memory::transposed}));
  return c;
}

}  // namespace norma::checks
