// The verbs over all parameters of a model, on every device that is tested: AdamW against its formula, the sum of squares against
// plain loops, moving averages against the ops that they are; many tensors at once as one by one.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>

#include "autograd/ops.h"
#include "core/backend.h"
#include "tests/tested_device.h"
#include "tests/worst.h"
#include "train/optimizer.h"

using namespace norma;

namespace {

using Values = std::vector<double>;

Values draw(Index count, std::uint64_t seed) {
  Values x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 4.0 * uniform_from(RandomStream{seed, 3}.word(i)) - 2;
  return x;
}

/// Parameters of these sizes and their states, and the same in double.
struct Set {
  struct One {
    Tensor value, gradient, m, v;
    double decay;
    Values x, mean, square;
  };
  Place place;
  std::vector<One> all;
  Tensor rates, scale;

  Set(const std::vector<Index>& sizes, DType dtype, Device device) : place{dtype, device} {
    rates = zeros({3}, {DType::f64, device}), scale = zeros({}, {DType::f64, device});
    for (const Index n : sizes) {
      const std::size_t i = all.size();
      const Tensor value = from_values(draw(n, i), {n}, place);
      all.push_back({value, {}, zeros({n}, place), zeros({n}, place), i % 2 ? 0.05 : 0, value.values(),
                     Values(static_cast<std::size_t>(n)), Values(static_cast<std::size_t>(n))});
    }
  }
  std::vector<AdamW::Parameter> parameters(std::uint64_t step) {
    std::vector<AdamW::Parameter> views;
    for (std::size_t i = 0; i < all.size(); ++i) {
      One& o = all[i];
      o.gradient = from_values(draw(o.value.numel(), 100 * step + i), o.value.shape(), place);
      views.push_back({o.value.view(), o.gradient.view(), o.m.view(), o.v.view(), o.decay});
    }
    return views;
  }
  void set(double lr, double step, double gradient_scale) {
    copy_into(rates, from_values({lr, 1 - std::pow(0.9, step), 1 - std::pow(0.999, step)}, {3}, {DType::f64}));
    fill(scale, gradient_scale);
  }
  void update(std::span<const AdamW::Parameter> some) {
    backend(place.device).adamw({some, 0.9, 0.999, 1e-8, rates.view(), scale.view()});
  }
  std::vector<Values> bits() const {
    std::vector<Values> out;
    for (const One& o : all)
      for (const Tensor& t : {o.value, o.m, o.v}) out.push_back(t.values());
    return out;
  }
};

// More tensors than one launch takes, pieces of every kind: empty, odd, whole, many.
std::vector<Index> sizes_of() {
  std::vector<Index> sizes = {40001, 0, 1, 4096, 16384, 33};
  for (Index i = 0; i < 150; ++i) sizes.push_back(i % 7 + 1);
  return sizes;
}

std::vector<Device> devices() { return {tested_device(), Device{Device::Kind::reference}}; }

}  // namespace

TEST_CASE("AdamW follows its formula for several steps, all parameters at once", "[device][parameters]") {
  for (const Device device : devices())
    for (const DType dtype : {DType::f32, DType::f64}) {
      CAPTURE(name(device), name(dtype));
      Set set(sizes_of(), dtype, device);
      for (std::uint64_t step = 1; step <= 4; ++step) {
        const auto views = set.parameters(step);
        const auto t = static_cast<double>(step);
        set.set(1e-2, t, 0.5);
        set.update(views);
        for (Set::One& o : set.all) {
          const Values g = o.gradient.values();
          for (std::size_t i = 0; i < g.size(); ++i) {
            const double d = 0.5 * g[i];
            o.mean[i] = 0.9 * o.mean[i] + 0.1 * d;
            o.square[i] = 0.999 * o.square[i] + 0.001 * d * d;
            const double denominator = std::sqrt(o.square[i]) / std::sqrt(1 - std::pow(0.999, t)) + 1e-8;
            o.x[i] = o.x[i] * (1 - 1e-2 * o.decay) - 1e-2 / (1 - std::pow(0.9, t)) * o.mean[i] / denominator;
          }
        }
      }
      const double tolerance = dtype == DType::f32 ? 1e-6 : 1e-14;
      double worst = 0;
      for (const Set::One& o : set.all)
        for (const auto& [found, expected] : {std::pair(o.value, o.x), std::pair(o.m, o.mean), std::pair(o.v, o.square)}) {
          const Values v = found.values();
          for (std::size_t i = 0; i < v.size(); ++i) worst = test::worse(worst, std::fabs(v[i] - expected[i]) / std::max(1.0, std::fabs(expected[i])));
        }
      CHECK(worst <= tolerance);
    }
}

TEST_CASE("all parameters at once have the bits of one after the other", "[device][parameters]") {
  Set together(sizes_of(), DType::f32, tested_device()), apart(sizes_of(), DType::f32, tested_device());
  for (std::uint64_t step = 1; step <= 2; ++step) {
    together.set(1e-2, static_cast<double>(step), 0.5), apart.set(1e-2, static_cast<double>(step), 0.5);
    together.update(together.parameters(step));
    for (const AdamW::Parameter& one : apart.parameters(step)) apart.update({&one, 1});
  }
  CHECK(together.bits() == apart.bits());
}

TEST_CASE("memory that is not aligned to vectors gives the same bits", "[device][parameters]") {
  const Index n = 5003;
  std::vector<Values> found;
  for (const Index shift : {0, 1}) {
    Set set({}, DType::f32, tested_device());
    set.set(1e-2, 1, 1);
    const auto placed = [&](std::uint64_t seed) {
      const Tensor room = zeros({n + 1}, set.place), inside = room.with_layout(slice(room.layout(), 0, shift, n, 1));
      if (seed) copy_into(inside, from_values(draw(n, seed), {n}, set.place));
      return inside;
    };
    const Tensor x = placed(1), g = placed(2), m = placed(0), v = placed(0);
    const AdamW::Parameter one{x.view(), g.view(), m.view(), v.view(), 0.1};
    set.update({&one, 1});
    found.push_back(x.values());
  }
  CHECK(found[0] == found[1]);
}

TEST_CASE("a gradient scale that is not finite changes nothing", "[device][parameters]") {
  for (const Device device : devices())
    for (const double scale : {std::nan(""), std::numeric_limits<double>::infinity()}) {
      Set set({5, 4099}, DType::f32, device);
      const auto before = set.bits();
      set.set(1e-2, 1, scale);
      set.update(set.parameters(1));
      CHECK(set.bits() == before);
      fill(set.scale, 1);
      set.update(set.parameters(1));
      CHECK(set.bits() != before);
    }
}

TEST_CASE("the sum of squares of many tensors", "[device][parameters]") {
  for (const Device device : devices())
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i64}) {
      CAPTURE(name(device), name(dtype));
      const auto made = [&](const Shape& shape, std::uint64_t seed) {
        Values v = draw(shape.numel(), seed);
        if (!is_floating(dtype))
          for (double& x : v) x = std::trunc(8 * x);
        return from_values(v, shape, {dtype, device});
      };
      Tensors all;
      double expected = 0;
      for (const Index n : sizes_of()) {
        const Tensor x = made({n}, static_cast<std::uint64_t>(all.size()) + 1);
        for (const double v : x.values()) expected += v * v;
        all.push_back(x);
      }
      const Tensor wide = made({20, 30}, 999), turned = wide.with_layout(transpose(wide.layout(), 0, 1));
      const Tensor every_second = wide.with_layout(slice(wide.layout(), 1, 0, 15, 2));
      for (const Tensor& strided : {turned, every_second}) {
        for (const double v : strided.values()) expected += v * v;
        all.push_back(strided);
      }
      std::vector<View> views;
      for (const Tensor& x : all) views.push_back(x.view());
      const Tensor sum = full({}, -1, {DType::f64, device});
      backend(device).sum_of_squares(views, sum.view());
      CHECK(sum.item() == Approx(expected).epsilon(1e-12));
      backend(device).sum_of_squares({}, sum.view());
      CHECK(sum.item() == 0);
      if (!is_floating(dtype)) continue;
      for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
        fill(all[3], bad);
        backend(device).sum_of_squares(views, sum.view());
        CHECK_FALSE(std::isfinite(sum.item()));
      }
    }
}

TEST_CASE("moving averages have the bits of the ops that they are made of, all tensors at once", "[device][parameters]") {
  constexpr double decay = 0.9995;
  for (const Device device : devices())
    for (const std::vector<DType>& dtypes : std::vector<std::vector<DType>>{{DType::f32}, {DType::f64}, {DType::bf16}, {DType::f32, DType::f32, DType::bf16, DType::f64}}) {
      Tensors averages, values, wanted;
      std::vector<MovingAverage> all;
      const auto placed = [&](Values numbers, DType dtype, bool shifted) {  // shifted: not where a vector may be read
        if (numbers.size() > 4) numbers[0] = 1e-40, numbers[1] = 1e30, numbers[2] = -0.0;
        const auto n = static_cast<Index>(numbers.size());
        const Tensor room = zeros({n + 1}, {dtype, device}), inside = room.with_layout(slice(room.layout(), 0, shifted ? 1 : 0, n, 1));
        copy_into(inside, from_values(numbers, {n}, {dtype, device}));
        return inside;
      };
      for (const Index n : sizes_of()) {
        const std::size_t i = all.size();
        const DType dtype = dtypes[i % dtypes.size()];
        averages.push_back(placed(draw(n, i + 1), dtype, i % 5 == 3)), wanted.push_back(clone(averages[i]));
        values.push_back(placed(draw(n, i + 1000), dtype, i % 7 == 4));
        all.push_back({averages[i].view(), values[i].view()});
      }
      const std::vector<Values> start{averages[0].values(), averages[5].values()};
      for (int step = 0; step < 3; ++step) {
        backend(device).moving_averages(all, decay);
        for (std::size_t i = 0; i < all.size(); ++i) copy_into(wanted[i], wanted[i] + (values[i] - wanted[i]) * (1 - decay));
      }
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < all.size(); ++i) wrong += averages[i].values() != wanted[i].values();
      CAPTURE(name(device), dtypes.size(), name(dtypes[0]));
      CHECK(wrong == 0);
      CHECK(averages[0].values() != start[0]);
      backend(device).moving_averages({}, decay);
      backend(device).moving_averages({&all[1], 1}, decay);  // an empty tensor alone
    }
}

TEST_CASE("what gradients are multiplied by, on every device", "[device][parameters]") {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  for (const Device device : devices())
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
      CAPTURE(name(device), name(dtype));
      const auto scale = [&](double squares, double loss, double clip) {
        return train::gradient_scale(full({}, squares, {DType::f64, device}), full({}, loss, {dtype, device}), clip).item();
      };
      CHECK(scale(9, 1, 0.3) == 0.3 / 3);
      CHECK(scale(7, -2, 0.1) == 0.1 / std::sqrt(7.0));
      CHECK(scale(9, 1, 3) == 1);
      CHECK(scale(9, 1, 4) == 1);
      CHECK(scale(9, 1, 0) == 1);
      CHECK(scale(0, 0, 1) == 1);
      for (const double clip : {0.0, 1.0})
        for (const double bad : {nan, infinity, -infinity}) {
          if (bad != -infinity) CHECK(std::isnan(scale(bad, 1, clip)));
          CHECK(std::isnan(scale(4, bad, clip)));
        }
    }
}
