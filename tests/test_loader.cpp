// The loader's promises, and what is made of a set of images in memory.
#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <memory>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "datasets/draws.h"
#include "datasets/loader.h"
#include "tests/errors.h"
#include "tests/refused_memory.h"
#include "tests/refused_threads.h"

using namespace norma;
using norma::test::error_of;
using namespace norma::datasets;

namespace {

/// A set of `count` images h x w whose pixel values say which image and where; mean 0, std 1/255: normalised = the byte.
ImageSet counting_set(Index count, Index channels, Index h, Index w) {
  ImageSet set{"counting", count, channels, h, w, 10, {}, {}, {}, {}, {}};
  for (Index n = 0; n < count; ++n) {
    for (Index i = 0; i < channels * h * w; ++i)
      set.pixels.push_back(static_cast<std::uint8_t>(1 + (n * 37 + i) % 250));
    set.labels.push_back(static_cast<std::uint8_t>(n % 10));
  }
  set.mean.assign(static_cast<std::size_t>(channels), 0.0f);
  set.std.assign(static_cast<std::size_t>(channels), 1.0f / 255);
  return set;
}

}  // namespace

TEST_CASE("the order of an epoch is a permutation and a function of (seed, epoch)", "[loader]") {
  const std::vector<Index> a = epoch_order(1000, 1, 0, true);
  CHECK(a == epoch_order(1000, 1, 0, true));
  CHECK(a != epoch_order(1000, 1, 1, true));
  CHECK(a != epoch_order(1000, 2, 0, true));
  std::vector<Index> sorted = a, straight(1000);
  std::sort(sorted.begin(), sorted.end());
  std::iota(straight.begin(), straight.end(), Index{0});
  CHECK(sorted == straight);
  CHECK(epoch_order(1000, 1, 5, false) == straight);
  CHECK(epoch_order(0, 1, 0, true).empty());
  CHECK(error_of([] { epoch_order(-1, 1, 0, true); }) == "epoch_order: count -1 is negative");
  CHECK(epoch_order(1, 1, 0, true) == std::vector<Index>{0});
  // Uniform: all 24 orders of 4 about equally often (chi-square, 23 degrees of freedom; 99.9 % lie below 49.7).
  std::map<std::vector<Index>, int> seen;
  for (std::uint64_t e = 0; e < 24'000; ++e) ++seen[epoch_order(4, 7, e, true)];
  CHECK(seen.size() == 24);
  double chi2 = 0;
  for (const auto& [order, n] : seen) chi2 += (n - 1000.0) * (n - 1000.0) / 1000.0;
  CHECK(chi2 < 49.7);
}

TEST_CASE("a loader that gets no thread prepares the same batches itself", "[loader]") {
  if (!test::can_refuse_threads) return;
  const ImageSet set = counting_set(23, 1, 6, 6);
  LoaderConfig config{.batch = 4, .seed = 3, .augment = {1, true, {2, 10}}};
  Loader ahead(set, config);
  std::unique_ptr<Loader> alone;
  {
    const test::RefusedThreads none;
    alone = std::make_unique<Loader>(set, config);
  }
  const auto compare = [&](int batches) {
    for (int i = 0; i < batches; ++i) {
      const Batch a = ahead.next(), b = alone->next();
      CHECK(a.examples == b.examples);
      CHECK(a.images.values() == b.images.values());
      CHECK(a.labels.values() == b.labels.values());
    }
  };
  compare(12);  // into the third epoch
  ahead.seek(7, 2), alone->seek(7, 2);
  compare(6);
  alone->seek(0, 0);
  {
    const test::RefusedMemory none;
    CHECK_THROWS_AS(alone->next(), std::bad_alloc);
  }
  alone->seek(0, 0), ahead.seek(0, 0);
  compare(2);
}

TEST_CASE("the loader hands out the epoch's order, whole or with a shorter last batch", "[loader]") {
  const ImageSet set = counting_set(10, 1, 2, 2);
  for (const bool drop : {true, false}) {
    LoaderConfig config;
    config.batch = 4;
    config.seed = 3;
    config.drop_last = drop;
    Loader loader(set, config);
    CHECK(loader.batches_per_epoch() == (drop ? 2 : 3));
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      const std::vector<Index> order = epoch_order(10, 3, epoch, true);
      for (Index i = 0; i < loader.batches_per_epoch(); ++i) {
        CHECK(loader.epoch() == epoch);
        CHECK(loader.index() == i);
        const Batch batch = loader.next();
        const Index size = i == 2 ? 2 : 4;
        CHECK(batch.images.shape() == Shape{size, 1, 2, 2});
        CHECK(batch.labels.dtype() == DType::i64);
        CHECK(batch.examples == std::vector<Index>(order.begin() + 4 * i, order.begin() + 4 * i + size));
        const std::vector<double> pixels = batch.images.values(), labels = batch.labels.values();
        for (Index n = 0; n < size; ++n) {
          const Index example = batch.examples[static_cast<std::size_t>(n)];
          CHECK(labels[static_cast<std::size_t>(n)] == set.labels[static_cast<std::size_t>(example)]);
          for (Index p = 0; p < 4; ++p) {
            CHECK(pixels[static_cast<std::size_t>(4 * n + p)] ==
                  Approx(set.pixels[static_cast<std::size_t>(4 * example + p)]));
          }
        }
      }
    }
  }
}

TEST_CASE("seeking anywhere gives the same batches as reading up to there", "[loader]") {
  const ImageSet set = counting_set(50, 3, 6, 6);
  LoaderConfig config;
  config.batch = 8;
  config.seed = 11;
  config.augment = {2, true};
  std::vector<std::vector<double>> pixels;
  Loader straight(set, config);
  for (int i = 0; i < 18; ++i) pixels.push_back(straight.next().images.values());
  CHECK(pixels[0] != pixels[6]);
  Loader jumping(set, config);
  for (const int i : {17, 0, 5, 6, 6, 12, 1, 16}) {
    jumping.seek(static_cast<std::uint64_t>(i / 6), i % 6);
    CHECK(jumping.next().images.values() == pixels[static_cast<std::size_t>(i)]);
    if (i < 17) CHECK(jumping.next().images.values() == pixels[static_cast<std::size_t>(i + 1)]);
  }
  jumping.seek(0, 6);
  CHECK(jumping.epoch() == 1);
  CHECK(jumping.index() == 0);
  CHECK(jumping.next().images.values() == pixels[6]);
  CHECK(error_of([&] { jumping.seek(0, 7); }) == "loader: batch 7 is outside 0..6 of an epoch");
  CHECK(error_of([&] { jumping.seek(0, -1); }) == "loader: batch -1 is outside 0..6 of an epoch");
}

TEST_CASE("an augmented image is the original moved by at most the padding, perhaps mirrored", "[loader]") {
  constexpr Index h = 5, w = 6, pad = 2;
  const ImageSet set = counting_set(40, 2, h, w);
  LoaderConfig config;
  config.batch = 1;
  config.shuffle = false;
  config.augment = {pad, true};
  Loader loader(set, config);
  std::set<std::tuple<Index, Index, bool>> seen;
  static_assert(augment_draws != order_draws && augment_draws != edit_draws && order_draws != edit_draws);
  for (int i = 0; i < 400; ++i) {
    const std::uint64_t epoch = loader.epoch();
    const Batch batch = loader.next();
    const Philox words = RandomStream{config.seed, stream_id(epoch, augment_draws)}.block(static_cast<std::uint64_t>(batch.examples[0]));
    const std::tuple drawn(below(words[0], 0, 2 * pad + 1) - pad, below(words[1], 0, 2 * pad + 1) - pad, words[2] >> 31 != 0);
    const std::vector<double> got = batch.images.values();
    int matches = 0;
    for (Index down = -pad; down <= pad; ++down) {
      for (Index right = -pad; right <= pad; ++right) {
        for (const bool mirror : {false, true}) {
          bool same = true;
          for (Index c = 0; c < 2; ++c) {
            for (Index y = 0; y < h; ++y) {
              for (Index x = 0; x < w; ++x) {
                const Index sy = y + down, sx = (mirror ? w - 1 - x : x) + right;
                const bool inside = sy >= 0 && sy < h && sx >= 0 && sx < w;
                const double want =
                    inside ? set.pixels[static_cast<std::size_t>(((batch.examples[0] * 2 + c) * h + sy) * w + sx)] : 0;
                same = same && got[static_cast<std::size_t>((c * h + y) * w + x)] == Approx(want).margin(1e-6);
              }
            }
          }
          if (same) {
            ++matches;
            seen.insert({down, right, mirror});
            CHECK((std::tuple(down, right, mirror) == drawn));
          }
        }
      }
    }
    CHECK(matches == 1);
  }
  CHECK(seen.size() == 50);  // all of them occur
}

TEST_CASE("a smaller image is centred on black, in every dtype", "[loader]") {
  ImageSet set = counting_set(3, 2, 3, 5);
  set.mean = {0.5f, 0.25f};
  set.std = {0.25f, 0.75f};
  for (const DType d : {DType::f32, DType::f64, DType::bf16}) {
    LoaderConfig config;
    config.batch = 1;
    config.shuffle = false;
    config.image = 6;
    config.place = {d};
    Loader loader(set, config);
    const Batch batch = loader.next();
    CHECK(batch.images.dtype() == d);
    CHECK(batch.images.shape() == Shape{1, 2, 6, 6});
    const std::vector<double> got = batch.images.values();
    const std::vector<std::uint8_t> whole = centred(set, 6);
    REQUIRE(whole.size() == 3 * 2 * 36);
    const double tolerance = d == DType::bf16 ? 1e-2 : 1e-6;
    for (int i = 0; i < 72; ++i) {
      const int c = i / 36, y = i / 6 % 6 - 1, x = i % 6;  // of an odd border less is before the image
      const bool inside = y >= 0 && y < 3 && x >= 0 && x < 5;
      const std::uint8_t byte = inside ? set.pixels[static_cast<std::size_t>((c * 3 + y) * 5 + x)] : std::uint8_t{0};
      CHECK(whole[static_cast<std::size_t>(i)] == byte);
      CHECK(got[static_cast<std::size_t>(i)] == Approx(c ? (byte / 255.0 - 0.25) / 0.75 : (byte / 255.0 - 0.5) / 0.25).margin(tolerance));
    }
  }
}

TEST_CASE("a loader refuses what it cannot do", "[loader]") {
  const ImageSet set = counting_set(3, 1, 4, 4);
  const auto make = [&](Index batch, Index image, Index pad, DType dtype) {
    LoaderConfig config;
    config.batch = batch;
    config.image = image;
    config.augment.pad = pad;
    config.place = {dtype};
    return error_of([&] { Loader loader(set, config); });
  };
  CHECK(make(2, 0, 0, DType::f32) == "no error");
  CHECK(make(0, 0, 0, DType::f32) == "loader: batch 0 must be at least 1");
  CHECK(make(2, 3, 0, DType::f32) ==
        "loader: image size 3 is smaller than the 4x4 images of counting; larger ones are centred, none is cut");
  const ImageSet broad = counting_set(3, 1, 4, 6);
  LoaderConfig between;
  between.batch = 1, between.image = 5;
  CHECK(error_of([&] { Loader loader(broad, between); }) ==
        "loader: image size 5 is smaller than the 4x6 images of counting; larger ones are centred, none is cut");
  CHECK(make(2, 0, -1, DType::f32) == "loader: padding -1 must be in 0..1073741824");
  CHECK(make(2, 0, Index{1} << 62, DType::f32) == "loader: padding 4611686018427387904 must be in 0..1073741824");
  CHECK(make(2, 0, 0, DType::i64) == "loader: images need a floating dtype, not i64");
  CHECK(make(4, 0, 0, DType::f32) ==
        "loader: 3 examples of counting do not fill a batch of 4; give a smaller --batch");
}

TEST_CASE("a loader edits no image that is too large for it", "[loader]") {
  const ImageSet set = counting_set(1, 1, 1, 65537);
  LoaderConfig config;
  config.batch = 1;
  CHECK(error_of([&] { Loader loader(set, config); }) == "no error");
  config.augment.rand.operations = 1;
  CHECK(error_of([&] { Loader loader(set, config); }) ==
        "RandAugment: images of 1 x 1 x 65537 are too large, sides go up to 65536 and an image has at most 2147483647 bytes");
  CHECK(error_of([&] { check_size(3, 65536, 65536); }) != "no error");
  CHECK(error_of([&] { check_size(1, 65536, 32767); }) == "no error");
}

TEST_CASE("a batch that found no memory is the next one still", "[loader]") {
  const ImageSet set = counting_set(40, 1, 2, 2);
  LoaderConfig config;
  config.batch = 4;
  Loader loader(set, config), calm(set, config);
  for (int i = 0; i < 12; ++i) {  // past an epoch, and more often than there are buffers
    bool refused = false;
    try {
      const test::RefusedMemory none;
      loader.next();
    } catch (const std::bad_alloc&) {
      refused = true;
    }
    CHECK(refused);
    CHECK(loader.index() == calm.index());
    const Batch found = loader.next(), expected = calm.next();
    CHECK(found.examples == expected.examples);
    CHECK(found.images.values() == expected.images.values());
  }
}

TEST_CASE("new bytes are zero, a class without a name is its number", "[loader]") {
  Bytes bytes(3, 7);
  bytes.resize(1), bytes.resize(3);
  CHECK(bytes == Bytes{7, 0, 0});
  CHECK(Bytes(2) == Bytes{0, 0});
  for (const std::size_t size : {std::size_t{5} << 20, std::size_t{11} << 20}) {  // beside huge pages, before and behind which there may be some bytes
    const std::size_t before = bytes.size();
    const std::uint8_t last = bytes[before - 1];
    bytes.resize_uninitialized(size);
    CHECK((bytes.size() == size && bytes[0] == 7 && bytes[before - 1] == last));
    bytes[size - 1] = 9;
  }
  ImageSet set = counting_set(3, 1, 2, 2);
  CHECK(class_name(set, 2) == "2");
  set.classes = 2, set.class_names = {"cat", "dog"};
  CHECK(class_name(set, 1) == "dog");
  CHECK(class_name(set, 2) == "2");
}

TEST_CASE("a slice holds its own images; the hash tells pixels and labels apart", "[loader]") {
  const ImageSet set = counting_set(7, 2, 3, 2);
  const ImageSet some = slice(set, 2, 4);
  CHECK((some.count == 4 && some.channels == 2 && some.height == 3 && some.width == 2));
  CHECK(some.labels == Bytes{2, 3, 4, 5});
  CHECK(some.pixels == Bytes(set.pixels.begin() + 2 * 12, set.pixels.begin() + 6 * 12));
  CHECK(error_of([&] { slice(set, 4, 4); }) == "slice: images 4 to 7 of counting; there are 7");
  CHECK(error_of([&] { slice(set, 8, 0); }) == "slice: images 8 to 7 of counting; there are 7");
  CHECK(slice(set, 7, 0).count == 0);

  ImageSet relabelled = set, touched = set;
  relabelled.labels[6] = 0, touched.pixels.back() ^= 1;
  CHECK(hash_of(set) == hash_of(slice(set, 0, 7)));
  CHECK(hash_of(relabelled) != hash_of(set));
  CHECK(hash_of(touched) != hash_of(set));
}

TEST_CASE("a set whose fields do not fit one another is refused wherever it is read", "[loader]") {
  LoaderConfig config;
  config.batch = 1;
  const auto wrong = [&](const std::function<void(ImageSet&)>& change) {
    ImageSet set = counting_set(3, 2, 4, 5);
    change(set);
    const std::string message = error_of([&] { check(set); });
    CHECK(error_of([&] { Loader(set, config); }) == message);
    CHECK(error_of([&] { slice(set, 0, 1); }) == message);
    CHECK(error_of([&] { centred(set, 8); }) == message);
    return message;
  };
  CHECK(wrong([](ImageSet&) {}) == "no error");
  CHECK(wrong([](ImageSet& s) { s.count = -1; }) == "data set \"counting\": count is -1, must be at least 0");
  CHECK(wrong([](ImageSet& s) { s.channels = 0; }) == "data set \"counting\": channels is 0, must be at least 1");
  CHECK(wrong([](ImageSet& s) { s.height = 0; }) == "data set \"counting\": height is 0, must be at least 1");
  CHECK(wrong([](ImageSet& s) { s.width = -2; }) == "data set \"counting\": width is -2, must be at least 1");
  CHECK(wrong([](ImageSet& s) { s.pixels.pop_back(); }) == "data set \"counting\": pixels holds 119, but images [3, 2, 4, 5] need 120");
  CHECK(wrong([](ImageSet& s) { s.count = 4; }) == "data set \"counting\": pixels holds 120, but images [4, 2, 4, 5] need 160");
  CHECK(wrong([](ImageSet& s) { s.labels.resize(2); }) == "data set \"counting\": labels holds 2, but 3 images need 3");
  CHECK(wrong([](ImageSet& s) { s.mean.clear(); }) == "data set \"counting\": mean holds 0, but 2 channels need 2");
  CHECK(wrong([](ImageSet& s) { s.std.push_back(1); }) == "data set \"counting\": std holds 3, but 2 channels need 2");
  CHECK(wrong([](ImageSet& s) { s.mean[1] = std::nanf(""); }) == "data set \"counting\": mean of channel 1 is nan, must be finite");
  CHECK(wrong([](ImageSet& s) { s.class_names = {"a", "b"}; }) == "data set \"counting\": class_names holds 2, but 10 classes need 10");
  CHECK(wrong([](ImageSet& s) { s.mean[0] = -1; }) == "no error");
  CHECK(wrong([](ImageSet& s) { s.std[0] = 0; }) == "data set \"counting\": std of channel 0 is 0, must be finite and above zero");
  CHECK(wrong([](ImageSet& s) { s.std[1] = INFINITY; }) == "data set \"counting\": std of channel 1 is inf, must be finite and above zero");
  CHECK(wrong([](ImageSet& s) { s.labels[2] = 10; }) == "data set \"counting\": label 2 is 10, but classes is 10");
  CHECK(wrong([](ImageSet& s) { s.count = s.height = s.width = Index{1} << 31; }) ==
        "shape: the number of elements of [2147483648, 2, 2147483648, 2147483648] overflows the 63-bit size limit");

  const ImageSet set = counting_set(3, 2, 4, 5);
  CHECK(centred(set, 5).size() == 3 * 2 * 25);
  for (const Index side : {4, 0, -1})
    CHECK(error_of([&] { centred(set, side); }) ==
          fmt::format("centred: side {} is smaller than the 4x5 images of counting; they are centred, none is cut", side));
}
