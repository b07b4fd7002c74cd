#include "datasets/rand_augment.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "core/error.h"
#include "datasets/draws.h"

namespace norma::datasets {
namespace {

enum Operation : Index {
  identity,
  shear_x,
  shear_y,
  translate_x,
  translate_y,
  rotate,
  brightness,
  color,
  contrast,
  sharpness,
  posterize,
  solarize,
  autocontrast,
  equalize,
  operations
};

std::int32_t fixed(double x) { return static_cast<std::int32_t>(std::lround(x * ImageEdit::unit)); }

ImageEdit warp(double xx, double xy, double x, double yx, double yy, double y) {
  return {ImageEdit::warp, {fixed(xx), fixed(xy), fixed(x), fixed(yx), fixed(yy), fixed(y)}};
}

ImageEdit edit_of(Index operation, double m, double sign, Index height, Index width) {
  const double shear = sign * 0.3 * m, shift = sign * 150.0 / 331.0 * m, angle = sign * m * std::numbers::pi / 6;
  const double across = static_cast<double>(width) / 2,
               down = static_cast<double>(height) / 2;  // from corner to middle
  const std::int32_t factor = fixed(1 + sign * 0.9 * m);
  switch (operation) {
    case shear_x: return warp(1, shear, shear * down, 0, 1, 0);
    case shear_y: return warp(1, 0, 0, shear, 1, shear * across);
    case translate_x: return warp(1, 0, std::trunc(shift * static_cast<double>(width)), 0, 1, 0);
    case translate_y: return warp(1, 0, 0, 0, 1, std::trunc(shift * static_cast<double>(height)));
    case rotate: return warp(std::cos(angle), std::sin(angle), 0, -std::sin(angle), std::cos(angle), 0);
    case brightness: return {ImageEdit::brightness, {factor}};
    case color: return {ImageEdit::color, {factor}};
    case contrast: return {ImageEdit::contrast, {factor}};
    case sharpness: return {ImageEdit::sharpness, {factor}};
    case posterize: return {ImageEdit::posterize, {0xff & ~((1 << std::lround(4 * m)) - 1)}};
    case solarize: return {ImageEdit::solarize, {static_cast<std::int32_t>(std::lround(256 * (1 - m)))}};
    case autocontrast: return {ImageEdit::autocontrast, {}};
    case equalize: return {ImageEdit::equalize, {}};
    default: return {};
  }
}

}  // namespace

void check(const RandAugment& settings) {
  const auto within = [](const char* what, Index value, Index most) {
    if (value < 0 || value > most) fail("RandAugment: {} {} must be in 0..{}", what, value, most);
  };
  within("number of edits", settings.operations, RandAugment::most_operations);
  within("magnitude", settings.magnitude, RandAugment::most_magnitude);
}

void check_size(Index channels, Index height, Index width) {
  constexpr Index longest = 65536, most_bytes = std::numeric_limits<std::int32_t>::max();
  if (height > longest || width > longest || channels > most_bytes / std::max<Index>(height * width, 1))
    fail("RandAugment: images of {} x {} x {} are too large, sides go up to {} and an image has at most {} bytes",
         channels, height, width, longest, most_bytes);
}

ImageEdit draw_edit(const RandAugment& settings, std::uint64_t seed, std::uint64_t epoch, Index example, Index k,
                    Index height, Index width) {
  const Philox words = RandomStream{seed, stream_id(epoch, edit_draws, static_cast<std::uint64_t>(k))}.block(
      static_cast<std::uint64_t>(example));
  const double m = static_cast<double>(settings.magnitude) / static_cast<double>(RandAugment::most_magnitude),
               sign = words[2] >> 31 != 0 ? -1 : 1;
  return edit_of(below(words[0], words[1], operations), m, sign, height, width);
}

void apply(const ImageEdit& edit, Index channels, Index height, Index width, std::uint8_t* image,
           std::uint8_t* scratch) {
  const auto c = static_cast<std::int32_t>(channels), h = static_cast<std::int32_t>(height),
             w = static_cast<std::int32_t>(width), pixels = h * w;
  std::array<std::uint32_t, 256> counts{};
  if (edit.kind == ImageEdit::color || edit.kind == ImageEdit::contrast)
    for (std::int32_t i = 0; i < pixels; ++i) ++counts[scratch[i] = grey_of(image, c, pixels, i)];
  else if (!by_table(edit))
    std::copy_n(image, c * pixels, scratch);
  for (std::uint8_t *plane = image, *before = scratch; plane < image + c * pixels; plane += pixels, before += pixels) {
    const auto each = [&](auto&& byte_at) {
      for (std::int32_t y = 0; y < h; ++y)
        for (std::int32_t x = 0; x < w; ++x) plane[y * w + x] = byte_at(y, x);
    };
    if (edit.kind == ImageEdit::warp) {
      each([&](std::int32_t y, std::int32_t x) {
        const std::int32_t from = shown_at(edit, h, w, y, x);
        return from < 0 ? std::uint8_t{0} : before[from];
      });
    } else if (edit.kind == ImageEdit::sharpness) {
      each([&](std::int32_t y, std::int32_t x) {
        return blended(before[y * w + x], smoothed(before, h, w, y, x), edit.n[0]);
      });
    } else if (edit.kind == ImageEdit::color) {
      for (std::int32_t i = 0; i < pixels; ++i) plane[i] = blended(plane[i], scratch[i], edit.n[0]);
    } else if (by_table(edit)) {
      if (edit.kind != ImageEdit::contrast) {
        counts.fill(0);
        for (std::int32_t i = 0; i < pixels; ++i) ++counts[plane[i]];
      }
      std::array<std::uint8_t, 256> table;
      fill_table(edit, counts.data(), static_cast<std::uint32_t>(pixels), 0, 256, table.data());
      for (std::int32_t i = 0; i < pixels; ++i) plane[i] = table[plane[i]];
    }
  }
}

}  // namespace norma::datasets
