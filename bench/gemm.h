// Matrix products at the shapes of a transformer's training step: own kernels beside OpenBLAS, and the peak of the processor.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "bench/layers.h"

namespace norma::bench {

/// One product of a layer; rates in GFLOP/s, each the best of several runs.
struct GemmRate {
  std::string_view product;  // its name
  std::int64_t rows, out, in;
  int threads;
  double own, fma, openblas;  // see cpu::GemmProvider
  double peak;                // of fused multiply-adds in registers, measured first
  double bf16_peak;           // of products of bf16, where the instruction set has them as tiles, of which f32's are made: six for each; else 0
};

/// Measures with `threads` threads; `row` sees every result as it comes. Only products whose line "Y=XW' 4160 576 192" contains `filter`, in
/// which any number of blanks and commas between words counts as one blank.
void bench_gemm(int threads, std::span<const Layer> layers, std::string_view filter, const std::function<void(const GemmRate&)>& row);

}  // namespace norma::bench
