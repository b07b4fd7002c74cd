// What the ops of sliding windows share: their checks.
#pragma once

#include "autograd/dispatch.h"

namespace norma {

void check_window(std::string_view op, const Window& w, Index height, Index width);
/// x is [B, C, h, w], floating.
void check_image(std::string_view op, const Tensor& x);

}  // namespace norma
