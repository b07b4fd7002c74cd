// Batches that the device cuts from a set in its memory: the bits of those that the host prepares.
#include <catch2/catch.hpp>

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
  for (const ImageSet& set : {noise(23, 3, 8, 8), noise(23, 1, 5, 9)})
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
      for (const Index image : {Index{0}, Index{13}})
        for (const Augment& augment : {Augment{}, Augment{2, true}, Augment{11, false}}) {
          CAPTURE(set.channels, name(dtype), image, augment.pad);
          LoaderConfig config{.batch = 5, .seed = 3, .drop_last = false, .image = image, .augment = augment, .place = {dtype, {}}};
          Loader host(set, config);
          config.place.device = device;
          Loader there(set, config);
          config.resident_bytes = 100;
          Loader streamed(set, config);
          CHECK(there.resident());
          CHECK_FALSE(streamed.resident());
          CHECK_FALSE(host.resident());
          for (Index i = 0; i < host.batches_per_epoch() + 2; ++i) {  // the last of an epoch is shorter
            const Batch expected = host.next(), found = there.next(), sent = streamed.next();
            CHECK(found.images.device() == device);
            CHECK(found.images.dtype() == dtype);
            CHECK(found.images.shape() == expected.images.shape());
            CHECK(found.images.values() == expected.images.values());
            CHECK(sent.images.values() == expected.images.values());
            CHECK(found.labels.values() == expected.labels.values());
            CHECK(found.examples == expected.examples);
          }
        }
}
