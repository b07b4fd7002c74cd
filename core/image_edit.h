// Edits of images of bytes, one number at a time and in integers, so that the host and a device make the same bytes of an image. Planes of
// channels lie one after the other, [C, h, w]. What RandAugment draws is datasets/rand_augment.h. Includes nothing heavy, so that files
// compiled for CUDA can use it.
#pragma once

#include <array>
#include <cstdint>

namespace norma {

struct ImageEdit {
  enum Kind : std::int32_t {
    keep,
    warp,          // pixel (x, y), measured from the middle, shows what lies at (n0 x + n1 y + n2, n3 x + n4 y + n5); nearest, beyond it zeros
    sharpness,     // blended by n0 with the image smoothed
    color,         // blended by n0 with its grey
    brightness,    // blended by n0 with black; from here on each channel goes through a table of its bytes
    contrast,      // blended by n0 with the mean of its grey
    posterize,     // the bits of n0 are kept
    solarize,      // bytes from n0 on are inverted
    autocontrast,  // a channel's smallest byte becomes 0, its largest 255
    equalize       // a channel's bytes become equally frequent
  };
  std::int32_t kind = keep;
  std::array<std::int32_t, 7> n{};  // factors and lengths (pixels) in units of 1 / unit
  static constexpr std::int32_t unit = 1 << 16, words = 8;
};
static_assert(sizeof(ImageEdit) == ImageEdit::words * sizeof(std::int32_t));

constexpr std::uint8_t to_byte(std::int64_t x) { return static_cast<std::uint8_t>(x < 0 ? 0 : x > 255 ? 255 : x); }

/// other + factor (x - other), rounded, cut at the ends of a byte. Factor 1 keeps x, 0 gives the other, above 1 goes beyond x.
constexpr std::uint8_t blended(std::int32_t x, std::int32_t other, std::int32_t factor) {
  return to_byte((std::int64_t{other} * ImageEdit::unit + std::int64_t{factor} * (x - other) + ImageEdit::unit / 2) >> 16);
}

/// Of pixel i: luma of red, green and blue (ITU-R BT.601), for any other number of channels their mean.
constexpr std::uint8_t grey_of(const std::uint8_t* image, std::int32_t channels, std::int32_t pixels, std::int32_t i) {
  if (channels == 3) return to_byte((19595 * image[i] + 38470 * image[pixels + i] + 7471 * image[2 * pixels + i] + ImageEdit::unit / 2) >> 16);
  std::int32_t sum = channels / 2;
  for (std::int32_t c = 0; c < channels; ++c) sum += image[c * pixels + i];
  return to_byte(sum / channels);
}

/// The mean of 3 x 3 pixels of a plane, the middle one counted five times; at the border the pixel itself.
constexpr std::uint8_t smoothed(const std::uint8_t* plane, std::int32_t h, std::int32_t w, std::int32_t y, std::int32_t x) {
  const std::uint8_t* at = plane + y * w + x;
  if (y == 0 || x == 0 || y == h - 1 || x == w - 1) return *at;
  std::int32_t sum = 4 * *at;
  for (std::int32_t down = -w; down <= w; down += w) sum += at[down - 1] + at[down] + at[down + 1];
  return to_byte((2 * sum + 13) / 26);
}

/// Which pixel of a plane a warp shows at (y, x); -1: none.
constexpr std::int32_t shown_at(const ImageEdit& e, std::int32_t h, std::int32_t w, std::int32_t y, std::int32_t x) {
  const std::int64_t u = 2 * x + 1 - w, v = 2 * y + 1 - h;  // twice the distance of the pixel's middle from the image's
  const std::int64_t column = (e.n[0] * u + e.n[1] * v + 2 * std::int64_t{e.n[2]} + std::int64_t{w} * ImageEdit::unit) >> 17;
  const std::int64_t row = (e.n[3] * u + e.n[4] * v + 2 * std::int64_t{e.n[5]} + std::int64_t{h} * ImageEdit::unit) >> 17;
  return row < 0 || row >= h || column < 0 || column >= w ? -1 : static_cast<std::int32_t>(row * w + column);
}

constexpr bool by_table(const ImageEdit& e) { return e.kind >= ImageEdit::brightness; }

/// table[byte] for first <= byte < last: what becomes of a byte under an edit by table. `counts` [256] tells how often each byte occurs among
/// the `pixels` of the channel; for contrast among those of the grey.
constexpr void fill_table(const ImageEdit& e, const std::uint32_t* counts, std::uint32_t pixels, std::int32_t first, std::int32_t last, std::uint8_t* table) {
  std::int32_t low = 0, high = 255;  // of the bytes that occur
  while (low < 255 && counts[low] == 0) ++low;
  while (high > low && counts[high] == 0) --high;
  std::uint64_t sum = pixels / 2;
  for (std::int32_t i = low; i <= high; ++i) sum += static_cast<std::uint64_t>(i) * counts[i];
  const std::uint32_t step = (pixels - counts[high]) / 255;  // equalize: so many pixels a level
  std::uint32_t before = step / 2;
  for (std::int32_t i = 0; i < first; ++i) before += counts[i];
  for (std::int32_t byte = first; byte < last; before += counts[byte++]) {
    std::int64_t x = byte;
    if (e.kind == ImageEdit::brightness) x = blended(byte, 0, e.n[0]);
    if (e.kind == ImageEdit::contrast) x = blended(byte, static_cast<std::int32_t>(sum / pixels), e.n[0]);
    if (e.kind == ImageEdit::posterize) x = byte & e.n[0];
    if (e.kind == ImageEdit::solarize && byte >= e.n[0]) x = 255 - byte;
    if (e.kind == ImageEdit::autocontrast && high > low) x = std::int64_t{byte - low} * 255 / (high - low);
    if (e.kind == ImageEdit::equalize && step > 0) x = before / step;
    table[byte] = to_byte(x);
  }
}

}  // namespace norma
