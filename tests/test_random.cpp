// Philox and what is drawn from it: published vectors, moments, and the same bits on both host backends.
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "autograd/ops.h"
#include "backends/common/draws.h"
#include "backends/cpu/parallel.h"
#include "core/backend.h"
#include "tests/cpu_settings.h"

using namespace norma;

namespace {

std::vector<double> draw(Device device, RandomKind kind, RandomStream stream, double p, Index n,
                         DType dtype = DType::f32) {
  const Tensor t = empty({n}, {dtype, device});
  backend(device).random(kind, stream, p, t.view());
  return t.values();
}
const Device cpu_device{Device::Kind::cpu}, reference_device{Device::Kind::reference};

}  // namespace

TEST_CASE("philox gives Random123's known answers", "[random]") {  // kat_vectors, philox4x32 10
  CHECK(philox({0, 0, 0, 0}, {0, 0}) == Philox{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const std::uint32_t f = 0xffffffff;
  CHECK(philox({f, f, f, f}, {f, f}) == Philox{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Philox{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a stream's counter holds the block and the stream id, its key the seed", "[random]") {
  const RandomStream stream{0x299f31d0a4093822, 0x0370734413198a2e};
  CHECK(stream.block(0x85a308d3243f6a88) == Philox{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  CHECK(stream.word(4 * 7 + 2) == stream.block(7)[2]);
}

TEST_CASE("uniform draws are 24-bit fractions of the words", "[random]") {
  const RandomStream stream{3, 9};
  const auto x = draw(cpu_device, RandomKind::uniform, stream, 0, 1003);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    REQUIRE(x[i] == (stream.word(i) >> 8) / 16777216.0);
    sum += x[i];
  }
  CHECK(std::abs(sum / 1003 - 0.5) < 4 * std::sqrt(1.0 / 12 / 1003));
}

TEST_CASE("normal draws have the moments of N(0, 1)", "[random]") {
  const Index n = 200000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (double x : draw(cpu_device, RandomKind::normal, {1, 2}, 0, n, DType::f64)) {
    m1 += x / n, m2 += x * x / n, m3 += x * x * x / n, m4 += x * x * x * x / n;
  }
  const double s = 4 / std::sqrt(n);  // four standard errors; variances of x, x^2, x^3, x^4: 1, 2, 15, 96
  CHECK(std::abs(m1) < s);
  CHECK(std::abs(m2 - 1) < s * std::sqrt(2));
  CHECK(std::abs(m3) < s * std::sqrt(15));
  CHECK(std::abs(m4 - 3) < s * std::sqrt(96));
}

TEST_CASE("rand and randn give a stream's numbers, and name what they cannot", "[random]") {
  CHECK(rand({4, 5}, {3, 9}, {DType::f64}).values() == draw(cpu_device, RandomKind::uniform, {3, 9}, 0, 20, DType::f64));
  CHECK(randn({3}, {3, 9}).values() == draw(cpu_device, RandomKind::normal, {3, 9}, 0, 3));
  CHECK(randn({2, 0}, {3}).shape() == Shape{2, 0});
  CHECK_THROWS_WITH(rand({2}, {1}, {DType::i64}), "rand: i64 is no floating dtype");
}

TEST_CASE("randint gives every integer of its range the same chance, from 64 bits of a stream", "[random]") {
  const RandomStream stream{3, 9};
  const Index n = 60000;
  std::vector<Index> counts(6);
  const Tensor drawn = randint(-2, 4, {n / 4, 4}, stream);
  CHECK(place_of(drawn) == Place{DType::i64});
  CHECK(drawn.shape() == Shape{n / 4, 4});
  for (const double x : drawn.values()) ++counts.at(static_cast<std::size_t>(x + 2));
  double chi_squared = 0;  // of 5 degrees of freedom: 20.5 with a chance of 0.1 %
  for (const Index count : counts) chi_squared += std::pow(static_cast<double>(count) - n / 6.0, 2) / (n / 6.0);
  CHECK(chi_squared < 20.5);
  CHECK(randint(-2, 4, {9}, stream).values() == slice(flatten(drawn), 0, 0, 9).values());
  CHECK(randint(-2, 4, {9}, {3, 10}).values() != randint(-2, 4, {9}, stream).values());

  constexpr Index wide = Index{1} << 40;  // more than the 24 bits of a uniform number reach
  const std::vector<double> far = randint(0, wide, {1000}, stream).values();
  for (const std::size_t i : {0, 1, 2, 999}) {
    const std::uint64_t bits = std::uint64_t{stream.word(2 * i)} << 32 | stream.word(2 * i + 1);
    CHECK(far[i] == static_cast<double>(bits >> 24));
  }
  std::set<double> tails;
  for (const double x : far) tails.insert(std::fmod(x, 65536));
  CHECK(tails.size() > 950);
  constexpr Index least = std::numeric_limits<Index>::min(), most = std::numeric_limits<Index>::max();
  const Tensor all = randint(least, most, {1000}, stream);
  CHECK(std::abs(mean(cast(less(all, 0), DType::f64)).item() - 0.5) < 4 * std::sqrt(0.25 / 1000));
}

TEST_CASE("randint is the same on every backend and in every dtype, and names what it cannot", "[random]") {
  const std::vector<double> expected = randint(5, 250, {3, 7}, {1, 2}).values();
  for (const Device device : {cpu_device, reference_device})
    for (const DType dtype : {DType::i64, DType::i32, DType::u8}) CHECK(randint(5, 250, {3, 7}, {1, 2}, {dtype, device}).values() == expected);
  CHECK(randint(0, 2, {2, 0}, {1}).shape() == Shape{2, 0});
  CHECK(all(equal(randint(7, 8, {5}, {1}), 7)).item() == 1);
  CHECK_THROWS_WITH(randint(4, 4, {2}, {1}), "randint: no integer lies in [4, 4)");
  CHECK_THROWS_WITH(randint(0, 4, {2}, {1}, {DType::f32}), "randint: f32 is no integer dtype");
  CHECK_THROWS_WITH(randint(0, 2, {2}, {1}, {DType::boolean}), "randint: bool is no integer dtype");
  CHECK_THROWS_WITH(randint(0, 257, {2}, {1}, {DType::u8}), "randint: 256 does not fit into u8, which goes from 0 to 255");
  CHECK_THROWS_WITH(randint(-1, 2, {2}, {1}, {DType::u8}), "randint: -1 does not fit into u8, which goes from 0 to 255");
  const std::uint64_t number = 3;
  CHECK_THROWS_WITH(randint(0, 2, {2}, {1, 2, &number}), Catch::Contains("a captured step cannot"));
}

TEST_CASE("keep drops the share p and scales the rest", "[random]") {
  const Index n = 100000;
  const double p = 0.3;
  Index dropped = 0;
  for (double x : draw(cpu_device, RandomKind::keep, {5, 6}, p, n, DType::f64)) {
    if (x == 0)
      ++dropped;
    else
      REQUIRE(x == 1 / (1 - p));
  }
  CHECK(std::abs(static_cast<double>(dropped) / n - p) < 4 * std::sqrt(p * (1 - p) / n));
  for (double x : draw(cpu_device, RandomKind::keep, {5, 6}, 0, 1000)) REQUIRE(x == 1);
  for (double x : draw(cpu_device, RandomKind::keep, {5, 6}, 1, 1000)) REQUIRE(x == 0);
}

TEST_CASE("a word just below the share is dropped, by every op alike", "[random]") {
  const RandomStream stream{11, 4};
  const double p = (static_cast<double>(stream.word(0)) + 0.5) * 0x1p-32;  // no multiple of 2^-32
  REQUIRE((p > 0.01 && p < 0.99));
  for (const Device device : {cpu_device, reference_device}) CHECK(draw(device, RandomKind::keep, stream, p, 1)[0] == 0);
  const Tensor x = ones({1, 1, 1, 1});
  AttentionOptions options;
  options.dropout = p;
  options.stream = stream;
  CHECK(attention(x, x, x, options).item() == 0);
}

TEST_CASE("the CPU draws the reference's numbers with any number of threads", "[random]") {
  const test::RestoreSettings restore;
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
    for (const RandomKind kind : {RandomKind::uniform, RandomKind::normal, RandomKind::keep})
      for (const Index n : {0, 1, 3, 4, 40001}) {
        const auto expected = draw(reference_device, kind, {7, 8}, 0.1, n, dtype);
        for (const int threads : {1, 3}) {
          cpu::set_threads(threads);
          REQUIRE(draw(cpu_device, kind, {7, 8}, 0.1, n, dtype) == expected);
        }
      }
}

TEST_CASE("streams, seeds and stream ids are told apart", "[random]") {
  const auto a = draw(cpu_device, RandomKind::uniform, {1, 1}, 0, 64);
  CHECK(a != draw(cpu_device, RandomKind::uniform, {1, 2}, 0, 64));
  CHECK(a != draw(cpu_device, RandomKind::uniform, {2, 1}, 0, 64));
  CHECK(stream_id(1, 2, 3) != stream_id(1, 3, 2));
  CHECK(stream_id(1) != stream_id(2));
}
