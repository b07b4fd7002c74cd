// Batches that the device cuts from a set in its memory: the bits of those that the host prepares.
#include <catch2/catch.hpp>

#include <array>

#include "core/backend.h"
#include "datasets/loader.h"

using namespace norma;
using namespace norma::datasets;

namespace {

ImageSet noise(Index count, Index channels, Index height, Index width) {
  ImageSet set;
  set.name = "noise", set.count = count, set.channels = channels, set.height = height, set.width = width, set.classes = 10;
  const RandomStream stream{5, 1};
  for (Index i = 0; i < count * channels * height * width; ++i) set.pixels.push_back(static_cast<std::uint8_t>(stream.word(static_cast<std::uint64_t>(i)) >> 24));
  for (Index i = 0; i < count; ++i) set.labels.push_back(static_cast<std::uint8_t>(i % 10));
  for (Index c = 0; c < channels; ++c) set.mean.push_back(0.3f + 0.1f * static_cast<float>(c)), set.std.push_back(0.21f + 0.05f * static_cast<float>(c));
  return set;
}

}  // namespace

TEST_CASE("batches cut on the device have the host's bits, order and labels", "[cuda_images]") {
  const Device device{Device::Kind::cuda, 0};
  for (const ImageSet& set : {noise(23, 3, 8, 8), noise(23, 1, 5, 9), noise(23, 2, 19, 17)})
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
      for (const Index image : {Index{0}, Index{21}})
        for (const Augment& augment : {Augment{}, Augment{2, true}, Augment{11, false}, Augment{2, true, {3, 9}}, Augment{0, false, {1, 30}}}) {
          CAPTURE(set.channels, name(dtype), image, augment.pad, augment.rand.operations);
          LoaderConfig config{.batch = 5, .seed = 3, .drop_last = false, .image = image, .augment = augment, .place = {dtype, {}}};
          Loader host(set, config);
          config.place.device = device;
          Loader there(set, config);
          config.resident_bytes = 100;
          Loader streamed(set, config);
          CHECK(there.resident());
          CHECK_FALSE(streamed.resident());
          CHECK(streamed.sent_ahead());
          CHECK_FALSE(there.sent_ahead());
          CHECK_FALSE(host.sent_ahead());
          CHECK_FALSE(host.resident());
          for (Index i = 0; i < host.batches_per_epoch() + 2; ++i) {  // the last of an epoch is shorter
            const Batch expected = host.next(), found = there.next(), sent = streamed.next();
            CHECK(found.images.device() == device);
            CHECK(found.images.dtype() == dtype);
            CHECK(found.images.shape() == expected.images.shape());
            CHECK((found.images.values() == expected.images.values()));
            CHECK((sent.images.values() == expected.images.values()));
            CHECK((found.labels.values() == expected.labels.values()));
            CHECK(found.examples == expected.examples);
          }
        }
}

TEST_CASE("batches sent ahead follow a seek, and stay what they were", "[cuda_images][sanitized]") {
  const ImageSet set = noise(23, 3, 8, 8);
  LoaderConfig config{.batch = 4, .seed = 3, .augment = {2, true, {2, 9}}};
  Loader host(set, config);
  config.place.device = {Device::Kind::cuda, 0}, config.resident_bytes = 0;
  Loader sent(set, config), other(set, config);  // two feeds at once
  REQUIRE(sent.sent_ahead());
  std::vector<Batch> expected, found;
  for (const auto& [epoch, index, count] : std::vector<std::array<Index, 3>>{{0, 3, 4}, {2, 1, 1}, {2, 1, 9}, {0, 0, 0}, {1, 4, 2}}) {
    for (Loader* loader : {&host, &sent}) loader->seek(static_cast<std::uint64_t>(epoch), index);
    for (Index i = 0; i < count; ++i) {
      expected.push_back(host.next()), found.push_back(sent.next());
      other.next();
    }
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {  // only now: later batches went through the same slots
    CHECK((found[i].images.values() == expected[i].images.values()));
    CHECK((found[i].labels.values() == expected[i].labels.values()));
    CHECK(found[i].examples == expected[i].examples);
  }
}

TEST_CASE("a feed carries what was filled, more often than it has slots, and gives its memory back", "[cuda_images]") {
  Backend& there = backend({Device::Kind::cuda, 0});
  const Tensor out = empty({3}, {DType::i64, {Device::Kind::cuda, 0}});
  const std::size_t before = there.memory().in_use;
  {
    const auto feed = there.feed(2, 3 * sizeof(std::int64_t));
    for (std::int64_t round = 0; round < 7; ++round) {
      const int slot = static_cast<int>(round % 2);
      auto* to = static_cast<std::int64_t*>(feed->fill(slot));
      for (std::int64_t i = 0; i < 3; ++i) to[i] = 10 * round + i;
      feed->send(slot);
      if (round == 3) continue;  // sent and not taken: filled again
      there.copy({feed->take(slot), Layout({3}), DType::i64}, out.view());
      feed->give_back(slot);
      for (std::size_t i = 0; i < 3; ++i) CHECK(out.values()[i] == static_cast<double>(10 * round) + static_cast<double>(i));
    }
    feed->fill(0), feed->send(0);  // on its way when the feed ends
  }
  CHECK(there.memory().in_use == before);
  CHECK_THROWS_WITH(there.capture([&] { there.feed(2, 8); }), Catch::Matchers::Contains("feed waits for the device"));
}
