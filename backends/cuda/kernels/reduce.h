// Reductions as the host calls them.
#pragma once

#include "backends/cuda/geometry.h"
#include "core/element.h"

namespace norma::cuda {

enum class Reducer : std::int32_t { sum, max, min, argmax, argmin };

/// out[o] = reduction of x over `reduced`, for every o of `kept` (operands x, out). Cut into `parts` pieces, whose results meet
/// in one order: by the sizes alone, so that the bits are the same on every card.
struct Reduction {
  Loop<2> kept;
  Loop<1> reduced;
  const void* x = nullptr;
  void* out = nullptr;
  DType dtype = DType::f32, out_dtype = DType::f32;
  Reducer op = Reducer::sum;
  bool by_thread = false;  // a thread, not a block, reduces one piece
  std::uint32_t parts = 1;
  void* partial = nullptr;  // parts > 1: kept.size * parts * partial_bytes
};
constexpr std::size_t partial_bytes = 16;
void reduce_elements(void* stream, const Reduction& r);

/// Sums along lines of n elements with steps x_step and out_step; `lines` has operands x and out.
struct Scan {
  Loop<2> lines;
  const void* x = nullptr;
  void* out = nullptr;
  DType dtype = DType::f32;
  std::int64_t n = 0, x_step = 0, out_step = 0;
};
void scan_lines(void* stream, const Scan& s);

}  // namespace norma::cuda
