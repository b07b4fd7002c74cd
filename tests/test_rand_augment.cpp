// RandAugment: each edit beside values worked out by hand, what is drawn, and what the loader makes of it.
#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "core/random.h"
#include "datasets/loader.h"
#include "datasets/rand_augment.h"

using namespace norma;
using namespace norma::datasets;

namespace {

using Pixels = std::vector<std::uint8_t>;
constexpr std::int32_t unit = ImageEdit::unit;

Pixels edited(const ImageEdit& edit, Index channels, Index height, Index width, Pixels image) {
  Pixels scratch(image.size());
  apply(edit, channels, height, width, image.data(), scratch.data());
  return image;
}
Pixels noise(std::size_t size) {
  Pixels image(size);
  for (std::size_t i = 0; i < size; ++i) image[i] = static_cast<std::uint8_t>(RandomStream{7, 1}.word(i) >> 24);
  return image;
}
Pixels counting(std::size_t size) {
  Pixels image(size);
  std::iota(image.begin(), image.end(), std::uint8_t{1});
  return image;
}

}  // namespace

TEST_CASE("an edit that blends goes from the other image through this one and beyond", "[rand_augment]") {
  CHECK(blended(100, 50, unit) == 100);
  CHECK(blended(100, 50, 0) == 50);
  CHECK(blended(100, 50, unit * 3 / 2) == 125);
  CHECK(blended(101, 50, unit / 2) == 76);  // 75.5, rounded up
  CHECK(blended(200, 50, unit * 19 / 10) == 255);
  CHECK(blended(20, 200, unit * 19 / 10) == 0);
  const Pixels colors = {10, 200, 30, 60, 90, 250};  // 3 channels of 1 x 2 pixels
  const double luma[2] = {0.299 * 10 + 0.587 * 30 + 0.114 * 90, 0.299 * 200 + 0.587 * 60 + 0.114 * 250};
  const Pixels grey = edited({ImageEdit::color, {0}}, 3, 1, 2, colors);
  for (std::size_t i = 0; i < 6; ++i) CHECK(grey[i] == std::lround(luma[i % 2]));
  CHECK(edited({ImageEdit::color, {0}}, 1, 1, 6, colors) == colors);
  CHECK(edited({ImageEdit::color, {0}}, 2, 1, 3, colors) == Pixels{35, 145, 140, 35, 145, 140});
  CHECK(edited({ImageEdit::brightness, {unit / 2}}, 3, 1, 2, colors) == Pixels{5, 100, 15, 30, 45, 125});
  const auto mean = static_cast<std::uint8_t>(std::lround((std::lround(luma[0]) + std::lround(luma[1])) / 2.0));
  CHECK(edited({ImageEdit::contrast, {0}}, 3, 1, 2, colors) == Pixels(6, mean));
  CHECK(edited({ImageEdit::contrast, {0}}, 1, 1, 6, colors) == Pixels(6, 107));  // 640 / 6
}

TEST_CASE("a warp shows the nearest pixel, and black beyond the image", "[rand_augment]") {
  const Pixels image = counting(2 * 3 * 4);
  const auto moved = [&](std::int32_t x, std::int32_t y) { return edited({ImageEdit::warp, {unit, 0, x, 0, unit, y}}, 2, 3, 4, image); };
  CHECK(moved(0, 0) == image);
  CHECK(moved(unit * 4 / 10, -unit * 4 / 10) == image);
  CHECK(moved(unit * 6 / 10, 0) == Pixels{2, 3, 4, 0, 6, 7, 8, 0, 10, 11, 12, 0, 14, 15, 16, 0, 18, 19, 20, 0, 22, 23, 24, 0});
  CHECK(moved(0, -unit) == Pixels{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 13, 14, 15, 16, 17, 18, 19, 20});
  CHECK(moved(5 * unit, 0) == Pixels(24, 0));
  // Shear along x by 1/2: the rows of four are shifted by -3/4, -1/4, 1/4, 3/4.
  CHECK(edited({ImageEdit::warp, {unit, unit / 2, 0, 0, unit, 0}}, 1, 4, 4, counting(16)) == Pixels{0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 14, 15, 16, 0});
  const ImageEdit quarter{ImageEdit::warp, {0, unit, 0, -unit, 0, 0}};
  for (const Index side : {3, 4}) {
    const Pixels square = counting(static_cast<std::size_t>(side * side));
    Pixels turned = edited(quarter, 1, side, side, square);
    for (Index y = 0; y < side; ++y)
      for (Index x = 0; x < side; ++x) CHECK(turned[static_cast<std::size_t>(y * side + x)] == square[static_cast<std::size_t>((side - 1 - x) * side + y)]);
    for (int i = 0; i < 3; ++i) turned = edited(quarter, 1, side, side, turned);
    CHECK(turned == square);
  }
}

TEST_CASE("sharpness blends with the mean of the neighbours", "[rand_augment]") {
  const Pixels image = noise(2 * 5 * 6);
  const Pixels smooth = edited({ImageEdit::sharpness, {0}}, 2, 5, 6, image), sharp = edited({ImageEdit::sharpness, {unit * 3 / 2}}, 2, 5, 6, image);
  for (int c = 0; c < 2; ++c)
    for (int y = 0; y < 5; ++y)
      for (int x = 0; x < 6; ++x) {
        const auto at = [&](int down, int right) { return static_cast<double>(image[static_cast<std::size_t>((c * 5 + y + down) * 6 + x + right)]); };
        double mean = at(0, 0);
        if (y > 0 && y < 4 && x > 0 && x < 5) {
          mean = 4 * at(0, 0);
          for (int down = -1; down <= 1; ++down)
            for (int right = -1; right <= 1; ++right) mean += at(down, right);
          mean /= 13;
        }
        const auto i = static_cast<std::size_t>((c * 5 + y) * 6 + x);
        CHECK(smooth[i] == std::floor(mean + 0.5));
        CHECK(sharp[i] == std::clamp(std::floor(smooth[i] + 1.5 * (image[i] - smooth[i]) + 0.5), 0.0, 255.0));
      }
}

TEST_CASE("edits by table", "[rand_augment]") {
  CHECK(edited({ImageEdit::posterize, {0xf0}}, 1, 1, 3, {15, 16, 255}) == Pixels{0, 16, 240});
  CHECK(edited({ImageEdit::solarize, {128}}, 1, 1, 4, {0, 127, 128, 255}) == Pixels{0, 127, 127, 0});
  CHECK(edited({ImageEdit::autocontrast, {}}, 2, 1, 3, {50, 100, 151, 9, 9, 9}) == Pixels{0, 126, 255, 9, 9, 9});
  Pixels steps(1024);  // 4 levels equally often, spread evenly
  for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = static_cast<std::uint8_t>(100 + i % 4);
  const Pixels spread = edited({ImageEdit::equalize, {}}, 1, 32, 32, steps);
  CHECK(Pixels(spread.begin(), spread.begin() + 4) == Pixels{0, 85, 171, 255});
  Pixels all(256);
  std::iota(all.begin(), all.end(), std::uint8_t{0});
  CHECK(edited({ImageEdit::equalize, {}}, 1, 16, 16, all) == all);
  CHECK(edited({ImageEdit::equalize, {}}, 1, 2, 2, {3, 5, 7, 9}) == Pixels{3, 5, 7, 9});  // fewer pixels than levels
}

TEST_CASE("all edits of RandAugment are drawn equally often, in both directions, and grow with the magnitude", "[rand_augment]") {
  std::map<std::vector<std::int32_t>, int> drawn;
  const auto draw = [](Index magnitude, Index example, Index k = 0, std::uint64_t epoch = 0) {
    return draw_edit({2, magnitude}, 5, epoch, example, k, 32, 24);
  };
  const auto key = [](const ImageEdit& e) {
    std::vector<std::int32_t> all(e.n.begin(), e.n.end());
    all.push_back(e.kind);
    return all;
  };
  constexpr int draws = 28000;
  for (Index i = 0; i < draws; ++i) ++drawn[key(draw(9, i))];
  CHECK(drawn.size() == 5 + 2 * 9);  // nine have a direction
  for (const auto& [edit, count] : drawn) {
    const bool directed = edit.back() >= ImageEdit::warp && edit.back() <= ImageEdit::contrast;
    CHECK(count == Approx(draws / (directed ? 28.0 : 14.0)).epsilon(0.12));
  }
  CHECK(drawn.count(key({ImageEdit::brightness, {std::int32_t(std::lround(0.73 * unit))}})));
  CHECK(drawn.count(key({ImageEdit::warp, {unit, std::int32_t(std::lround(0.09 * unit)), std::int32_t(std::lround(0.09 * 16 * unit)), 0, unit, 0}})));
  CHECK(drawn.count(key({ImageEdit::warp, {unit, 0, 0, std::int32_t(std::lround(0.09 * unit)), unit, std::int32_t(std::lround(0.09 * 12 * unit))}})));
  CHECK(drawn.count(key({ImageEdit::warp, {unit, 0, 0, 0, unit, 4 * unit}})));  // 0.3 * 150 / 331 of 32 are 4.35
  CHECK(drawn.count(key({ImageEdit::warp, {unit, 0, -3 * unit, 0, unit, 0}})));
  const auto cosine = std::int32_t(std::lround(std::cos(std::acos(-1) / 20) * unit)), sine = std::int32_t(std::lround(std::sin(std::acos(-1) / 20) * unit));
  for (const std::int32_t s : {sine, -sine}) CHECK(drawn.count(key({ImageEdit::warp, {cosine, s, 0, -s, cosine, 0}})));  // by 9 of 30 degrees
  CHECK(drawn.count(key({ImageEdit::posterize, {0xfe}})));
  for (Index i = 0; i < 300; ++i)
    if (const ImageEdit e = draw(14, i); e.kind == ImageEdit::posterize) CHECK(e.n[0] == 0xfc);  // 14 of 30 of four bits: 1.87, two
  CHECK(drawn.count(key({ImageEdit::solarize, {179}})));
  Pixels image = noise(3 * 32 * 24);
  for (std::size_t c = 0; c < 3; ++c) image[c * 768] = 0, image[c * 768 + 1] = 255;  // nothing to do for autocontrast
  std::map<std::int32_t, int> unchanged, different;
  for (Index i = 0; i < 400; ++i) {
    const ImageEdit none = draw(0, i), most = draw(30, i);
    CHECK(none.kind == most.kind);
    ++(edited(none, 3, 32, 24, image) == image ? unchanged : different)[none.kind];
    if (most.kind != ImageEdit::keep && most.kind != ImageEdit::autocontrast) CHECK(edited(most, 3, 32, 24, image) != image);
  }
  CHECK(different.size() == 1);  // equalize has no strength
  CHECK(different.count(ImageEdit::equalize) == 1);
  CHECK(unchanged.size() == 9);
  int same = 0;
  for (Index i = 0; i < 1000; ++i) same += (key(draw(9, i)) == key(draw(9, i, 1))) + (key(draw(9, i)) == key(draw(9, i, 0, 1)));
  CHECK(same == Approx(2000 * (5.0 / 196 + 18.0 / 784)).epsilon(0.3));  // the k-th edit and the next epoch's are draws of their own
  CHECK(key(draw(9, 3)) == key(draw(9, 3)));
}

TEST_CASE("RandAugment shears from the upper left corner", "[rand_augment]") {
  constexpr Index side = 20;
  const Pixels image = counting(side * side);
  int sheared = 0;
  for (Index i = 0; i < 200; ++i) {
    const ImageEdit e = draw_edit({1, 30}, 5, 0, i, 0, side, side);
    if (e.kind != ImageEdit::warp || e.n[0] != unit || e.n[1] <= 0 || e.n[3] != 0) continue;  // along x, to the left
    ++sheared;
    const Pixels out = edited(e, 1, side, side, image);
    for (Index y = 0; y < side; ++y) {
      const Index by = std::lround(0.3 * (static_cast<double>(y) + 0.5));  // of a row's middle
      CHECK(out[static_cast<std::size_t>(y * side)] == image[static_cast<std::size_t>(y * side + by)]);
      CHECK(out[static_cast<std::size_t>(y * side + side - 1)] == (by == 0 ? image[static_cast<std::size_t>(y * side + side - 1)] : 0));
    }
  }
  CHECK(sheared > 0);
}

TEST_CASE("the loader edits what it has cut and mirrored", "[rand_augment]") {
  ImageSet set;
  set.name = "noise", set.count = 12, set.channels = 3, set.height = 6, set.width = 5, set.classes = 2;
  const Pixels pixels = noise(12 * 3 * 6 * 5);
  set.pixels.assign(pixels.begin(), pixels.end()), set.labels.assign(12, 1), set.mean = {0, 0, 0}, set.std = {1, 1, 1};
  const auto bytes = [](const Batch& batch) {
    Pixels all;
    for (const double x : batch.images.values()) all.push_back(static_cast<std::uint8_t>(std::lround(255 * x)));
    return all;
  };
  LoaderConfig config{.batch = 4, .seed = 3, .augment = {2, true}};
  Loader plain(set, config);
  config.augment.rand = {3, 15};
  Loader loader(set, config), jumping(set, config);
  int changed = 0;
  for (int i = 0; i < 6; ++i) {
    const Batch before = plain.next(), after = loader.next();
    jumping.seek(static_cast<std::uint64_t>(i / 3), i % 3);
    CHECK(bytes(jumping.next()) == bytes(after));
    const Pixels from = bytes(before), to = bytes(after);
    for (std::size_t n = 0; n < 4; ++n) {
      Pixels image(from.begin() + static_cast<std::ptrdiff_t>(90 * n), from.begin() + static_cast<std::ptrdiff_t>(90 * (n + 1)));
      const Pixels whole = image;
      for (Index k = 0; k < 3; ++k)
        image = edited(draw_edit(config.augment.rand, 3, static_cast<std::uint64_t>(i / 3), before.examples[n], k, 6, 5), 3, 6, 5, image);
      CHECK(std::equal(image.begin(), image.end(), to.begin() + static_cast<std::ptrdiff_t>(90 * n)));
      changed += image != whole;
    }
  }
  CHECK(changed > 18);
  const auto refuse = [&](Index operations, Index magnitude) {
    config.augment.rand = {operations, magnitude};
    Loader never(set, config);
  };
  CHECK_THROWS_WITH(refuse(9, 9), "RandAugment: number of edits 9 must be in 0..8");
  CHECK_THROWS_WITH(refuse(2, 31), "RandAugment: magnitude 31 must be in 0..30");
}
