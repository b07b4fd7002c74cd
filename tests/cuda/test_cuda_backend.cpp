// The CUDA backend as a whole: training steps beside the CPU's, memory, copies, graphs.
#include <array>
#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <thread>

#include "autograd/graph.h"
#include "autograd/rounded_weights.h"
#include "checks/draws.h"
#include "models/vit.h"
#include "nn/scoring.h"
#include "train/optimizer.h"

using namespace norma;

namespace {

const Device device{Device::Kind::cuda, 0};
Backend& cuda() { return backend(device); }

/// A linear layer and an MLP, values and gradients, against f64 of the same numbers; `tolerance` is that of f32.
void check_linear_layers(const std::vector<std::array<Index, 4>>& sizes, double tolerance) {
  for (const auto& [rows, in, hidden, out] : sizes)
    for (const DType activations : {DType::f32, DType::bf16})
      for (const bool with_bias : {true, false}) {
        CAPTURE(rows, in, hidden, out, name(activations), with_bias);
        const auto run = [&, rows = rows, in = in, hidden = hidden, out = out](bool wide) {
          const auto draw = [&](const Shape& shape, std::uint64_t id, DType dtype) {
            Tensor x = empty(shape, {DType::f32, device});
            cuda().random(RandomKind::normal, {11, id}, 0, x.view());
            x = cast(x, dtype);
            return (wide ? cast(x, DType::f64) : x).detach().track();
          };
          const auto parameter = [&](const Shape& shape, std::uint64_t id) {  // weights are rounded on the way in
            const Tensor x = draw(shape, id, activations);
            return wide ? x : cast(x, DType::f32).detach().track();
          };
          Tensors inputs{draw({rows, in}, 1, activations), parameter({hidden, in}, 2), parameter({hidden}, 3), parameter({out, hidden}, 4), parameter({out}, 5),
                         draw({rows, out}, 6, activations), draw({rows, hidden}, 7, activations)};
          const Tensor b1 = with_bias ? inputs[2] : Tensor(), b2 = with_bias ? inputs[4] : Tensor();
          const Tensor one = linear(inputs[0], inputs[1], b1, inputs[6]), two = mlp(inputs[0], inputs[1], b1, inputs[3], b2, inputs[5]);
          Tensors wanted{inputs[0], inputs[1], inputs[3], inputs[5], inputs[6]};
          if (with_bias) wanted.push_back(inputs[2]), wanted.push_back(inputs[4]);
          Tensors found{one, two};
          const Tensor loss = sum(cast(one, DType::f64) * cast(draw(one.shape(), 8, activations), DType::f64)) +
                              sum(cast(two, DType::f64) * cast(draw(two.shape(), 9, activations), DType::f64));
          for (const Tensor& g : grad(loss, wanted)) found.push_back(g);
          std::vector<std::vector<double>> values;
          for (const Tensor& t : found) values.push_back(t.values());
          return values;
        };
        const auto found = run(false), exact = run(true);
        CHECK((run(false) == found));  // to the bit: also where a library adds parts of a sum
        for (std::size_t i = 0; i < found.size(); ++i) {
          double difference = 0, length = 1e-300;
          for (std::size_t j = 0; j < found[i].size(); ++j)
            difference += std::pow(found[i][j] - exact[i][j], 2), length += exact[i][j] * exact[i][j];
          CAPTURE(i);
          CHECK(std::sqrt(difference / length) < (activations == DType::f32 ? tolerance : 6e-3));
        }
      }
}

struct Trainee {
  models::ViT model;
  std::unique_ptr<train::Optimizer> optimizer;
  Tensor images, labels;

  Trainee(const char* attention, Device where) : model(config(attention), 1, {DType::f32, where}) {
    optimizer = train::Optimizer::make({}, model);
    images = empty({3, 3, 12, 12}, {DType::f32, where});
    labels = from_values({0, 1, 4}, {3}, {DType::i64, where});
  }
  static models::ViTConfig config(const char* attention) {
    models::ViTConfig c;
    c.image = 12, c.patch = 4, c.classes = 5, c.width = 24, c.depth = 1, c.heads = 3, c.dropout = 0.1;
    c.attention = nn::parse_scoring(attention);
    return c;
  }
  double step(std::uint64_t i) {
    backend(images.device()).random(RandomKind::normal, {7, i}, 0, images.view());
    Tensor loss;
    {
      const nn::Training training;
      const RandomScope random(1, i);
      loss = cross_entropy(model(images), labels);
      backward(loss);
    }
    const double norm = train::gradient_norm(model);
    optimizer->step(1e-3, norm > 1 ? 1 / norm : 1);
    return loss.item();
  }
};

}  // namespace

TEST_CASE("training goes as on the CPU, with the same dropout, and asks the system for no memory", "[cuda_backend]") {
  for (const char* attention : {"softmax", "x^3/sqrt(N)"}) {
    CAPTURE(attention);
    Trainee host(attention, {}), there(attention, device);
    MemoryUse before;
    for (std::uint64_t i = 0; i < 5; ++i) {
      CHECK(there.step(i) == Approx(host.step(i)).epsilon(2e-5));
      if (i == 1) before = cuda().memory();
    }
#if !defined(__SANITIZE_ADDRESS__)  // for which the emulator asks for every block by itself
    CHECK(cuda().memory().system_requests == before.system_requests);
#endif
    CHECK(cuda().memory().reserved == before.reserved);
    CHECK(cuda().memory().in_use == before.in_use);
  }
}

TEST_CASE("the same step twice gives the same bits", "[cuda_backend]") {
  Trainee a("softmax", device), b("softmax", device);
  for (std::uint64_t i = 0; i < 2; ++i) CHECK(a.step(i) == b.step(i));
  const nn::Named left = nn::parameters(a.model), right = nn::parameters(b.model);
  for (std::size_t i = 0; i < left.size(); ++i) CHECK((left[i].second.values() == right[i].second.values()));
}

TEST_CASE("copies larger than a pinned buffer arrive whole", "[cuda_backend]") {
  const Index n = (Index{9} << 20) / 4 + 13;
  std::vector<float> values(static_cast<std::size_t>(n)), back(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 65521);
  const Tensor x = from_host(values.data(), {n}, {DType::f32, device});
  cuda().download(back.data(), x.view().data, back.size() * sizeof(float));
  CHECK((back == values));
}

TEST_CASE("what there is no memory for is an error, and counts as nothing", "[cuda_backend]") {
  const MemoryUse before = cuda().memory();
  CHECK_THROWS_WITH(empty({Index{1} << 43}, {DType::f32, device}), Catch::Contains("out of memory: need 32 TiB"));
  CHECK(cuda().memory().in_use == before.in_use);
  CHECK(cuda().memory().peak == before.peak);
  CHECK(sum(ones({3}, {DType::f32, device})).item() == 3);
}

TEST_CASE("more products in a batch than a grid has places along its third axis", "[cuda_backend]") {
  constexpr Index batch = 70000;
  std::vector<double> numbers(2 * batch);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<double>(i % 251);
  const Tensor rows = from_values(numbers, {batch, 1, 2}, {DType::f32, device});
  const std::vector<double> squares = matmul(rows, transpose(rows)).values();
  Index wrong = 0;
  for (std::size_t i = 0; i < squares.size(); ++i) wrong += squares[i] != numbers[2 * i] * numbers[2 * i] + numbers[2 * i + 1] * numbers[2 * i + 1];
  CHECK(wrong == 0);
}

TEST_CASE("linear layers equal the f64 result of the same numbers, whoever adds bias and residual and sums the bias's gradient", "[cuda_backend][sanitized]") {
  // Within the product where sizes and addresses are multiples of 16 bytes, else by kernels of our own.
  check_linear_layers({{40, 32, 64, 24}, {7, 13, 21, 5}, {1, 16, 8, 32}, {33, 64, 40, 7}}, 2e-6);
}

TEST_CASE("a layer's weight is rounded going forward, and read so going back", "[cuda_backend]") {
  constexpr Index rows = 6, in = 64, out = 48;
  const auto draw = [](const Shape& shape, std::uint64_t id) {
    const Tensor x = empty(shape, {DType::f32, device});
    cuda().random(RandomKind::normal, {12, id}, 0, x.view());
    return x;
  };
  const Tensor x = cast(draw({rows, in}, 1), DType::bf16), w = draw({out, in}, 2), bias = draw({out}, 3), dy = cast(draw({rows, out}, 4), DType::bf16);
  const Tensor y = empty(dy.shape(), place_of(dy)), dx = empty(x.shape(), place_of(x)), kept = empty(w.shape(), place_of(x));
  for (const View& with : {View(), bias.view()}) {
    LinearForward forward{x.view(), w.view(), y.view(), with};
    REQUIRE(cuda().linear(forward));
    const std::vector<double> plain = y.values();
    cuda().fill(0, kept.view());
    forward.rounded_weight_out = kept.view();
    REQUIRE(cuda().linear(forward));
    CHECK(y.values() == plain);
    CHECK(kept.values() == cast(w, DType::bf16).values());
  }
  LinearBackward back{dy.view()};
  back.weight = w.view(), back.dx = dx.view();
  REQUIRE(cuda().linear_backward(back));
  const std::vector<double> plain = dx.values();
  back.rounded_weight = kept.view();
  cuda().fill(std::numeric_limits<double>::quiet_NaN(), w.view());
  REQUIRE(cuda().linear_backward(back));
  CHECK(dx.values() == plain);

  // A layer keeps it where its input has a gradient, and only there.
  const Tensor parameter = draw({out, in}, 2).track();
  const auto kept_by = [&](const Tensor& input) {
    const std::size_t before = cuda().memory().in_use;
    const Tensor result = linear(input, parameter);
    return cuda().memory().in_use - before;
  };
  CHECK(kept_by(x.detach().track()) >= kept_by(x) + out * in * sizeof(bf16));
}

TEST_CASE("many weights are rounded at once, more than a launch's table holds, of any size and at any address", "[cuda_backend][sanitized]") {
  Tensors from, to;
  std::vector<View> sources, targets;
  for (Index i = 0; i < 150; ++i) {
    const Index n = i % 7 == 0 ? 9000 + i : 1 + i, skip = i % 3;  // several pieces; not at multiples of 16 bytes
    const Tensor x = empty({n + skip}, {DType::f32, device}), y = full({n + skip}, 7, {DType::bf16, device});
    cuda().random(RandomKind::normal, {3, static_cast<std::uint64_t>(i)}, 0, x.view());
    from.push_back(slice(x, 0, skip, n + skip)), to.push_back(slice(y, 0, skip, n + skip));
    sources.push_back(from.back().view()), targets.push_back(to.back().view());
  }
  cuda().round_weights(sources, targets);
  Index wrong = 0;
  for (std::size_t i = 0; i < from.size(); ++i) wrong += to[i].values() != cast(from[i], DType::bf16).values();
  CHECK(wrong == 0);
}

TEST_CASE("a moving average goes a quarter of the way, in vectors and behind them", "[cuda_backend][sanitized]") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64}) {
    const Tensor average = full({5003}, 8, {dtype, device}), value = full({5003}, 4, {dtype, device}), one = zeros({1}, {dtype, device});
    const std::array all{MovingAverage{average.view(), value.view()}, MovingAverage{one.view(), slice(value, 0, 1, 2).view()}};
    cuda().moving_averages(all, 0.75);
    CHECK(average.values() == std::vector<double>(5003, 7));
    CHECK(one.item() == 1);
  }
}

TEST_CASE("layers read weights that were rounded for all of them, unless they have been written since", "[cuda_backend]") {
  constexpr Index rows = 6, in = 64, hidden = 96;
  const auto draw = [](const Shape& shape, std::uint64_t id) { return (0.3 * randn(shape, {12, id}, {DType::f32, device})).detach(); };
  const Tensor x = cast(draw({rows, in}, 1), DType::bf16).detach().track();
  const Tensors p{draw({in, in}, 2).track(), draw({in}, 3).track(), draw({hidden, in}, 4).track(), draw({hidden}, 5).track(), draw({in, hidden}, 6).track(), draw({in}, 7).track()};
  const auto results = [&] {
    const Tensor y = mlp(linear(linear(x, p[0], p[1]), p[0]), p[2], p[3], p[4], p[5], x);  // one weight twice, once without bias
    Tensors all = grad(sum(cast(y, DType::f32)), Tensors{x, p[0], p[1], p[2], p[3], p[4], p[5]});
    all.push_back(y);
    std::vector<std::vector<double>> values;
    for (const Tensor& t : all) values.push_back(t.values());
    return values;
  };
  const auto plain = results();
  {
    const RoundedWeights rounded(p, DType::bf16);
    CHECK(results() == plain);
    const Tensor matrix = RoundedWeights::of(flatten(reshape(p[2], {hidden, 4, 4, 4}), 1), DType::bf16), kernel = RoundedWeights::of(reshape(p[2], {hidden, 4, 4, 4}), DType::bf16);
    REQUIRE((matrix && kernel));  // the same elements in other shapes
    CHECK(matrix.shape() == Shape{hidden, in});
    CHECK(kernel.shape() == Shape{hidden, 4, 4, 4});
    CHECK(matrix.values() == cast(p[2], DType::bf16).values());
    for (const Tensor& other : {transpose(p[0]), slice(p[2], 0, 0, hidden / 2), slice(p[2], 1, 0, in / 2)}) CHECK_FALSE(RoundedWeights::of(other, DType::bf16));
    std::vector<std::vector<double>> before;
    for (const Tensor& t : p) before.push_back(t.values()), cuda().fill(std::numeric_limits<double>::quiet_NaN(), t.view());  // behind the tensors' back
    CHECK(results() == plain);
    {
      const RoundedWeights of_nothing({}, DType::bf16);
      CHECK(results() != plain);
    }
    for (std::size_t i = 0; i < p.size(); ++i) copy_into(p[i], from_values(before[i], p[i].shape(), place_of(p[i])));
    CHECK(results() == plain);
    fill(p[0], 0);
    CHECK(results() != plain);
  }
  CHECK_FALSE(RoundedWeights::of(p[2], DType::bf16));
}

TEST_CASE("linear layers at sizes for which the libraries have other algorithms", "[cuda_large]") {  // on a device only
  check_linear_layers({{4160, 192, 768, 192}, {12608, 768, 3072, 768}}, 2e-5);  // sums over 12,608 rows
}

TEST_CASE("sums over many rows leave none out", "[cuda_large]") {  // on a device only; blaslt_cuda.cpp says what some libraries do
  for (const Index rows : {Index{11528}, Index{11585}, Index{16456}, Index{65544}})
    for (const DType activations : {DType::f32, DType::bf16})
      for (const Index in : {Index{8}, Index{32}, Index{64}, Index{128}})
        for (const Index out : {Index{8}, Index{32}, Index{64}, Index{128}}) {
          CAPTURE(rows, in, out, name(activations));
          const Place f32{DType::f32, device};
          const Tensor x = ones({rows, in}, {activations, device}).track(), w = zeros({out, in}, f32).track(), b = zeros({out}, f32).track();
          for (const Tensor& g : grad(sum(cast(linear(x, w, b), DType::f32)), Tensors{w, b})) CHECK((g.values() == std::vector<double>(static_cast<std::size_t>(g.numel()), static_cast<double>(rows))));
        }
}

TEST_CASE("long sums that are stored in bf16 have their last terms", "[cuda_backend]") {
  for (const Index k : {Index{4097}, Index{11585}, Index{16456}})
    for (const Index n : {Index{8}, Index{33}})
      for (const Index batch : {Index{1}, Index{2}}) {
        CAPTURE(k, n, batch);
        const Place bf16{DType::bf16, device};
        const Tensor ends = cat({zeros({batch, n, k - k % 64}, bf16), ones({batch, n, k % 64}, bf16)}, 2);  // only they are not zero
        CHECK(matmul(ends, ones({batch, k, n}, bf16)).values() == std::vector<double>(static_cast<std::size_t>(batch * n * n), static_cast<double>(k % 64)));
      }
}

TEST_CASE("a bias may lie anywhere", "[cuda_backend]") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Place place{dtype, device};
    const Tensor x = ones({8, 16}, place), w = ones({32, 16}, place), all = full({40}, 3, place);
    for (const Index skip : {0, 1, 4}) {
      CAPTURE(name(dtype), skip);
      CHECK(linear(x, w, slice(all, 0, skip, skip + 32)).values() == std::vector<double>(8 * 32, 19));
      const Tensor dy = linear(x, w), dw = zeros({32, 16}, place), there = slice(zeros({40}, place), 0, skip, skip + 32);
      LinearBackward back{dy.view()};
      back.x = x.view(), back.dweight = dw.view(), back.dbias = there.view();
      REQUIRE(cuda().linear_backward(back));
      CHECK(there.values() == std::vector<double>(32, 128));
    }
  }
}

TEST_CASE("rows are added at thousands of places, many times each or hardly ever", "[cuda_backend][sanitized]") {
  constexpr Index n = 3000;  // several rounds of a block's list
  struct Sizes {
    Index rows, width;
    bool crowded;  // most of them at one place
  };
  // Lists that overflow and lists that hold all; columns in blocks of their own, and of many rows all in one block, which lists once or again.
  for (const auto& [rows, width, crowded] : {Sizes{20, 5, false}, {5000, 5, false}, {20, 300, false}, {9000, 300, false}, {9000, 300, true}}) {
    INFO(rows << " rows of " << width << (crowded ? ", crowded" : ""));
    const std::vector<double> x = checks::drawn(n * width, {3, 1}, 0, 1);
    std::vector<double> places(static_cast<std::size_t>(n)), wanted(static_cast<std::size_t>(rows * width), 0.25);
    for (std::size_t i = 0; i < places.size(); ++i) {
      places[i] = static_cast<double>(RandomStream{3, 2}.word(i) % static_cast<std::uint32_t>(rows));
      if (crowded && i % 8 != 0) places[i] = 7;
      for (std::size_t j = 0, all = static_cast<std::size_t>(width); j < all; ++j) wanted[static_cast<std::size_t>(places[i]) * all + j] += x[i * all + j];
    }
    const Tensor out = full({rows, width}, 0.25, {DType::f32, device});
    cuda().index_add(from_values(x, {n, width}, {DType::f32, device}).view(), 0, from_values(places, {n}, {DType::i64, device}).view(), out.view());
    const std::vector<double> found = out.values();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < found.size(); ++i) wrong += found[i] != Approx(wanted[i]).epsilon(1e-6);
    CHECK(wrong == 0);
  }
}

TEST_CASE("gradients of a norm's weights are sums over many rows", "[cuda_backend]") {
  for (const Index rows : {Index{300}, Index{700}, Index{8300}}) {  // several partial sums a group, some groups with one more; larger blocks
    const Index width = rows > 1000 ? 3 : 40;
    const std::vector<double> v = checks::drawn(rows * width, {3, 1});
    const auto gradients = [&](DType dtype, Device where) {
      const Place place{dtype, where};
      const Tensor x = from_values(v, {rows, width}, place), w = full({width}, 1.5, place).track(), b = zeros({width}, place).track();
      return grad(sum(square(layer_norm(x, w, b, 1e-5))), Tensors{w, b});
    };
    const Tensors got = gradients(DType::f32, device), wanted = gradients(DType::f64, {});
    for (std::size_t i = 0; i < 2; ++i)
      for (Index j = 0; j < width; ++j) {
        INFO(rows << " rows, gradient " << i << ", column " << j);
        CHECK(got[i].values()[static_cast<std::size_t>(j)] ==
              Approx(wanted[i].values()[static_cast<std::size_t>(j)]).epsilon(1e-5).margin(1e-5 * static_cast<double>(rows)));
      }
  }
}

TEST_CASE("cross-entropy has the same bits wherever its rows begin", "[cuda_backend][sanitized]") {
  constexpr Index rows = 3;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Index classes : {Index{3000}, Index{1025}, Index{4099}}) {  // with and without a rest; some threads take one piece more
      INFO(static_cast<int>(dtype) << ", " << classes << " classes");
      const Tensor apart = from_values(checks::drawn(rows * (classes + 1), {3, 1}, 0, 4), {rows, classes + 1}, {dtype, device});
      const Tensor targets = from_values({0, static_cast<double>(classes - 1), 1024}, {rows}, {DType::i64, device});
      const auto results = [&](const Tensor& logits) {
        const Tensor loss = cross_entropy(logits, targets);
        return std::pair{loss.values(), grad(loss, logits).values()};
      };
      const Tensor odd = slice(apart, 1, 1, classes + 1).detach().track();
      CHECK(results(odd) == results(contiguous(slice(apart, 1, 1, classes + 1)).detach().track()));
    }
}

TEST_CASE("cross-entropy of many classes: logits in any order, at the ends of the range, without a class", "[cuda_backend]") {
  constexpr Index classes = 3000;  // a block a row
  const double infinity = std::numeric_limits<double>::infinity();
  const auto same = [](double a, double b) { return std::isnan(b) ? std::isnan(a) : a == b || a == Approx(b).epsilon(1e-5).margin(1e-6); };
  for (int kind = 0; kind < 6; ++kind)
    for (const double smoothing : {0.0, 0.1}) {
      std::vector<double> v(classes);
      for (std::size_t i = 0; i < v.size(); ++i) {
        const double noise = 20.0 * uniform_from(RandomStream{3, 1}.word(i)) - 10, place = static_cast<double>(i) / classes;
        const double logits[] = {noise, 80 * place, -80 * place, i % 2 ? -infinity : noise, 1.5e38 * (2 * place - 1), -infinity};
        v[i] = logits[kind];
      }
      const auto loss_and_gradient = [&](DType dtype, Device where) {
        const Tensor z = from_values(v, {1, classes}, {dtype, where}).track();
        const Tensor loss = cross_entropy(z, from_values({1500}, {1}, {DType::i64, where}), smoothing);
        std::vector<double> all = grad(loss, Tensors{z})[0].values();
        all.push_back(loss.item());
        return all;
      };
      const std::vector<double> got = loss_and_gradient(DType::f32, device), wanted = loss_and_gradient(DType::f64, {});
      INFO("logits " << kind << ", smoothing " << smoothing << ", loss " << got.back() << " and " << wanted.back());
      std::size_t different = 0;
      for (std::size_t i = 0; i < got.size(); ++i) different += !same(got[i], wanted[i]);
      CHECK(different == 0);
    }
}

TEST_CASE("random numbers have the CPU's bits", "[cuda_backend][sanitized]") {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i64, DType::i32, DType::u8, DType::boolean})
    for (RandomKind kind : {RandomKind::uniform, RandomKind::keep}) {
      const Tensor here = empty({37, 5}, {dtype}), there = empty({37, 5}, {dtype, device});
      backend({}).random(kind, {3, 1}, 0.3, here.view());
      cuda().random(kind, {3, 1}, 0.3, there.view());
      CHECK((here.values() == there.values()));
    }
  for (DType dtype : {DType::i64, DType::u8}) CHECK((randint(3, 200, {37, 5}, {3, 1}, {dtype, device}).values() == randint(3, 200, {37, 5}, {3, 1}).values()));
}

TEST_CASE("a captured step computes on the contents its inputs have when it is replayed", "[cuda_backend]") {
  const Tensor x = from_values({1, 2, 3, 4}, {2, 2}, {DType::f32, device}), total = zeros({}, {DType::f32, device});
  const auto step = [&] {
    const NoGrad off;
    const Tensor y = matmul(x, exp(x));  // a temporary of the graph's own
    copy_into(total, sum(y));
  };
  const auto expected = [](double a, double b, double c, double d) {
    return a * std::exp(a) + b * std::exp(c) + a * std::exp(b) + b * std::exp(d) + c * std::exp(a) + d * std::exp(c) +
           c * std::exp(b) + d * std::exp(d);
  };
  step();  // as captured_step.h has it: what is done at first calls is not recorded
  cuda().fill(0, total.view());
  std::unique_ptr<Backend::Graph> graph = cuda().capture(step);
  REQUIRE(graph);
  CHECK(total.item() == 0);  // recorded, not run
  graph->replay();
  CHECK(total.item() == Approx(expected(1, 2, 3, 4)));
  const Tensor other = full({1000}, 5, {DType::f32, device});  // must not lie where the graph writes
  copy_into(x, from_values({4, 3, 2, 1}, {2, 2}, {DType::f32, device}));
  graph->replay();
  graph->replay();
  CHECK(total.item() == Approx(expected(4, 3, 2, 1)));
  for (double v : other.values()) CHECK(v == 5);
  const std::size_t in_use = cuda().memory().in_use;
  graph.reset();
  CHECK(cuda().memory().in_use == in_use);
}

TEST_CASE("what a captured step cannot hold is refused, and leaves the backend usable", "[cuda_backend]") {
  const Tensor x = ones({3}, {DType::f32, device});
  const auto text = [&](const std::function<void()>& step) -> std::string {
    try {
      cuda().capture(step);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  CHECK(text([&] { return sum(x + x).item(); }) ==
        "capture: download waits for the device, which a captured step cannot; leave it out of the step");
  CHECK(text([&] { return from_values({1}, {1}, {DType::f32, device}); }) ==
        "capture: upload waits for the device, which a captured step cannot; leave it out of the step");
  CHECK(sum(x + x).item() == 6);
}

TEST_CASE("threads that share the device get their own numbers back", "[cuda_backend]") {
  std::atomic<int> wrong{0}, failed{0};
  const Place place{DType::f32, device};
  const auto work = [&](Index mine) {
    try {
      const NoGrad off;
      for (Index i = 1; i <= 100; ++i) {
        const Index k = 8 * (1 + i % 50) + 256 * mine;  // kinds of product that no other thread has
        const std::vector<double> row(static_cast<std::size_t>(k), static_cast<double>(mine));
        const Tensor x = from_values(row, {1, k}, place), w = ones({3, k}, place);
        for (int again = 0; again < 20; ++again) wrong += (x * 1.0).values() != row || from_values(row, {k}, place).values() != row;
        for (const Tensor& y : Tensors{matmul(x, permute(w, {1, 0})), linear(x, w, full({3}, -1, place))})
          for (const double v : y.values()) wrong += v != static_cast<double>(mine * k) && v != static_cast<double>(mine * k - 1);
      }
    } catch (const Error&) {
      ++failed;
    }
  };
  std::thread one(work, 1), two(work, 2);
  one.join(), two.join();
  CHECK(wrong == 0);
  CHECK(failed == 0);
}

TEST_CASE("while a thread captures a step no other one may use the device", "[cuda_backend]") {
  const Tensor x = from_values({1, 2, 3}, {3}, {DType::f32, device}), total = zeros({}, {DType::f32, device});
  const auto step = [&] { copy_into(total, sum(x)); };
  step();
  std::unique_ptr<Backend::Graph> other_graph = cuda().capture(step);
  std::vector<std::string> errors;
  const auto elsewhere = [&](const std::function<void()>& work) {
    std::thread([&] {
      try {
        work();
        errors.push_back("none");
      } catch (const Error& e) {
        errors.push_back(e.what());
      }
    }).join();
  };
  std::unique_ptr<Backend::Graph> graph = cuda().capture([&] {
    elsewhere([&] { cuda().fill(7, total.view()); });
    elsewhere([&] { x.values(); });
    elsewhere([&] { return empty({3}, {DType::f32, device}); });
    elsewhere([&] { cuda().capture(step); });
    elsewhere([&] { other_graph->replay(); });
    step();
  });
  REQUIRE(errors.size() == 5);
  for (const std::string& e : errors) CHECK_THAT(e, Catch::Contains("another thread captures a step") && Catch::Contains("no other one may use the device"));
  cuda().fill(0, total.view());
  graph->replay();
  elsewhere([&] { errors.push_back(fmt::format("{}", total.item())); });
  CHECK(errors[5] == "6");
  CHECK(errors[6] == "none");
}
