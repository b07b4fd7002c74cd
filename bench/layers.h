// The linear layers whose products are measured, and the four products of each.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "bench/peak.h"
#include "bench/pooled.h"
#include "core/element.h"

namespace norma::bench {

/// A layer y[rows, out] = x[rows, in] w[out, in]^T + bias.
struct Layer {
  std::int64_t rows, out, in;
  /// Multiplications and additions of each of its products, in units of 1e9.
  double gigaflops() const { return 2e-9 * static_cast<double>(rows) * static_cast<double>(out) * static_cast<double>(in); }
};

/// Layers of ViT-T (65 tokens of 64 images), of a decoder 384 wide, of one 768 wide, and of the narrow stages of hierarchical models.
inline constexpr Layer transformer_layers[] = {{4160, 576, 192},  {4160, 192, 192},  {4160, 768, 192}, {4160, 192, 768}, {8192, 384, 1536},
                                               {8192, 1536, 384}, {4096, 768, 768},  {4096, 288, 96},  {4096, 96, 96},   {4096, 384, 96},
                                               {4096, 96, 384},   {3136, 64, 64},    {3136, 192, 64},  {3136, 256, 64},  {3136, 64, 256}};

/// Layers written as "rows,out,in", with semicolons between them; blanks count as commas. Throws Error naming the part that is no layer.
std::vector<Layer> read_layers(std::string_view text);

enum class Product { forward, gelu, dx, dw };  // gelu keeps its pre-activation, dw comes with the gradient of the bias
inline constexpr Product products[] = {Product::forward, Product::gelu, Product::dx, Product::dw};
constexpr const char* name(Product product) {
  constexpr const char* names[] = {"Y=XW'", "Y=gelu", "dX=dYW", "dW=dY'X"};
  return names[static_cast<int>(product)];
}

/// `count` numbers spread over [-1, 1): of f32, or as the bits of bf16.
template <class T>
Pooled<T> filled(std::int64_t count) {
  Pooled<T> v(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (T& x : v) {
    const float f = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-23f - 1;
    if constexpr (sizeof(T) == sizeof(bf16))
      x = bf16(f).bits;
    else
      x = f;
  }
  return v;
}

/// Best time of at least four runs of `work`, over some `duration` seconds.
template <class Work>
double best_time(Work&& work, double duration) {
  work();
  double best = 1e30, total = 0;
  for (int i = 0; i < 4 || (total < duration && i < 400); ++i) {
    const double start = seconds();
    work();
    const double time = seconds() - start;
    best = time < best ? time : best;
    total += time;
  }
  return best;
}

}  // namespace norma::bench
