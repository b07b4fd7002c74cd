// RandAugment (Cubuk et al., arXiv 1909.13719): an image goes through a few edits, drawn evenly from fourteen, all of one strength.
#pragma once

#include <cstdint>

#include "core/element.h"
#include "core/image_edit.h"

namespace norma::datasets {

struct RandAugment {
  static constexpr Index most_operations = 8, most_magnitude = 30;
  Index operations = 0;  // edits an image; 0: off
  Index magnitude = 9;   // their strength: 30 is all of it, as in torchvision. timm counts to 10: its m9 is 27 here
};

/// Throws where a number is out of its range.
void check(const RandAugment& settings);
/// Throws where images are larger than edits can count: sides up to 65536, 2^31 - 1 bytes.
void check_size(Index channels, Index height, Index width);

/// Edit `k` of `example`, for images of height x width, as a function of (seed, epoch, example, k). With m = magnitude / 30, each as likely:
/// nothing; shear along x or y by 0.3 m from the upper left corner; shift along x or y by 150/331 m of the side, in whole pixels; rotation about
/// the middle by 30 m degrees; brightness, color, contrast, sharpness by the factor 1 + 0.9 m; posterize to 8 - 4 m bits; solarize from
/// 256 (1 - m) on; autocontrast; equalize. What has a direction (all up to sharpness) goes either way, as likely.
ImageEdit draw_edit(const RandAugment& settings, std::uint64_t seed, std::uint64_t epoch, Index example, Index k, Index height, Index width);

/// Carries out an edit on an image u8 [channels, height, width]; `scratch` holds as much. The size has been checked.
void apply(const ImageEdit& edit, Index channels, Index height, Index width, std::uint8_t* image, std::uint8_t* scratch);

}  // namespace norma::datasets
