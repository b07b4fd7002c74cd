// Listeners of a tap: when they come and go, and what is none.
#include "nn/tap.h"

#include <catch2/catch.hpp>

#include "autograd/ops.h"
#include "tests/errors.h"

using namespace norma;
using norma::test::error_of;

TEST_CASE("a listener may take itself off", "[tap]") {
  nn::Tap tap;
  int once = 0, always = 0, id = 0;
  id = tap.on_value([&](const Tensor&) {
    tap.remove(id);
    ++once;
  });
  tap.on_value([&](const Tensor&) { ++always; });
  for (int i = 0; i < 3; ++i) (void)tap(ones({2}));
  CHECK(once == 1);
  CHECK(always == 3);
}

TEST_CASE("a listener may add others, which hear the next value", "[tap]") {
  nn::Tap tap;
  std::vector<int> heard(40, 0);
  tap.on_value([&](const Tensor& x) {
    if (x.numel() == 1)
      for (int& count : heard) tap.on_value([&count](const Tensor&) { ++count; });
  });
  (void)tap(ones({1}));
  CHECK(heard == std::vector<int>(40, 0));
  (void)tap(ones({2}));
  CHECK(heard == std::vector<int>(40, 1));
}

TEST_CASE("a listener that another takes off does not hear the value any more", "[tap]") {
  nn::Tap tap;
  int second = 0, id = 0;
  tap.on_value([&](const Tensor&) { tap.remove(id); });
  id = tap.on_value([&](const Tensor&) { ++second; });
  (void)tap(ones({1}));
  CHECK(second == 0);
}

TEST_CASE("a gradient listener is silent once it is removed, in backward passes of earlier values too", "[tap]") {
  const Tensor x = ones({2}).track();
  int removed = 0, kept = 0;
  nn::Tap tap;
  const int id = tap.on_gradient([&](const Tensor&) { ++removed; });
  tap.on_gradient([&](const Tensor&) { ++kept; });
  const Tensor y = sum(square(tap(x * 2.0)));
  tap.remove(id);
  backward(y);
  CHECK(removed == 0);
  CHECK(kept == 1);
}

TEST_CASE("a tap's end is that of its listeners", "[tap]") {
  const Tensor x = ones({2}).track();
  int heard = 0;
  Tensor y;
  {
    nn::Tap tap;
    tap.on_gradient([&](const Tensor&) { ++heard; });
    y = sum(tap(x * 2.0));
  }
  backward(y);
  CHECK(heard == 0);
}

TEST_CASE("a gradient listener hears of a leaf once for each call", "[tap]") {
  const Tensor x = ones({2}).track();
  std::vector<std::vector<double>> heard;
  nn::Tap tap;
  tap.on_gradient([&](const Tensor& g) { heard.push_back(g.values()); });
  for (const double factor : {2.0, 3.0, 4.0}) backward(sum(tap(x) * factor + x));
  CHECK(heard == std::vector<std::vector<double>>{{2, 2}, {3, 3}, {4, 4}});
  CHECK(x.grad().values() == std::vector<double>{12, 12});
}

TEST_CASE("a gradient has the part of a penalty that a value listener made", "[tap]") {
  const Tensor x = full({2}, 3).track();
  nn::Tap tap;
  Tensor penalty;
  std::vector<double> heard;
  tap.on_value([&](const Tensor& value) { penalty = sum(square(value)); });
  tap.on_gradient([&](const Tensor& g) { heard = g.values(); });
  for (const Tensor& value : {x, x * 1.0}) {
    heard.clear(), x.set_grad({});
    backward(sum(tap(value)) + penalty);
    CHECK(heard == std::vector<double>{7, 7});
    CHECK(x.grad().values() == std::vector<double>{7, 7});
  }
}

TEST_CASE("a listener that is no function is refused", "[tap]") {
  nn::Tap tap;
  CHECK(error_of([&] { return tap.on_value(nullptr); }) == "tap: on_value was given an empty function");
  CHECK(error_of([&] { return tap.on_gradient(nullptr); }) == "tap: on_gradient was given an empty function");
  CHECK_FALSE(tap.watched());
}

TEST_CASE("a statistics tap takes what an attention op filled, and nothing else while it is watched", "[tap]") {
  const nn::StatsTap unwatched;
  unwatched(Tensor(), 3);
  nn::StatsTap tap;
  int heard = 0;
  tap.on_value([&](const Tensor&) { ++heard; });
  const Tensor q = ones({1, 2, 4, 8});
  AttentionOptions options;
  options.stats = zeros({1, 2, attention_stats}, {DType::f64});
  CHECK(error_of([&] { return tap(options.stats, 4), 0; }) ==
        "stats tap: nothing has been written into the statistics yet; hand them over after the op that they are for");
  (void)attention(q, q, q, options);
  const std::string expected = fmt::format(", expected f64 [B, H, {}], the options.stats of an attention op", Index{attention_stats});
  for (const auto& [other, what] : {std::pair{Tensor(), std::string("an empty Tensor handle")}, {reshape(options.stats, {1, 2 * attention_stats}), fmt::format("f64 [1, {}]", 2 * attention_stats)},
                                    {cast(options.stats, DType::f32), fmt::format("f32 [1, 2, {}]", Index{attention_stats})}, {slice(options.stats, 2, 0, 5), "f64 [1, 2, 5]"}})
    CHECK(error_of([&] { return tap(other, 4), 0; }) == "stats tap: it was given " + what + expected);
  CHECK(heard == 0);
  tap(options.stats, 4);
  CHECK(heard == 1);
  CHECK(tap.rows() == 4);
}
