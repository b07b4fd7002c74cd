// One HTML page, readable offline, that shows what every head of a model does with one image: its attention matrix, and where each
// token looks.
#pragma once

#include <string>
#include <vector>

#include "inspect/probe.h"

namespace norma::inspect {

struct HeadsLayer {
  std::string place;  // "blocks.0.attn"
  HeadStats stats;
  Tensor weights;  // A, [heads, tokens, tokens]; row i: where token i looks
};

struct HeadsPage {
  std::string title, summary;        // shown as text, whatever they hold
  Index side = 0, channels = 0;      // of the image
  std::vector<std::uint8_t> pixels;  // [channels, side, side]
  Index patch = 0;
  bool class_token = false;  // token 0 is no patch
  std::vector<HeadsLayer> layers;
};

std::string make_heads_page(const HeadsPage& page);  // throws where pixels do not fit the image's sizes

}  // namespace norma::inspect
