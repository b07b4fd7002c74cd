// Random draws as the host calls them.
#pragma once

#include "core/element.h"
#include "core/random.h"

namespace norma::cuda {

enum class RandomDraw : std::int32_t { uniform, normal, keep };
void draw_random(void* stream, RandomDraw kind, RandomStream source, double p, void* out, DType dtype, std::int64_t count);

}  // namespace norma::cuda
