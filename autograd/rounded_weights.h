// Parameters of mixed precision rounded all at once, where a device would otherwise round each layer's on its way into the product.
#pragma once

#include <span>
#include <unordered_map>

#include "core/tensor.h"

namespace norma {

/// While alive, linear and mlp on this thread find those of `parameters` that are f32 and dense rounded to `dtype`: by one call of
/// Backend::round_weights, on devices whose products want rounded weights in memory (Backend::rounds_weights), else nothing is done. No bit of
/// a result differs. A parameter that is written meanwhile is rounded by its layer again. Scopes nest; the innermost counts.
class RoundedWeights {
 public:
  RoundedWeights(std::span<const Tensor> parameters, DType dtype);
  ~RoundedWeights();
  RoundedWeights(const RoundedWeights&) = delete;

  /// The rounded values of `parameter` in `dtype`, if the innermost scope holds them and they are still its values; else an empty handle.
  static Tensor of(const Tensor& parameter, DType dtype);

 private:
  struct Copy {
    Tensor source, rounded;  // the source stays alive, so that its address is no other's
    std::uint32_t version = 0;
  };
  std::unordered_map<const void*, Copy> copies_;  // by the address of the first element
  DType dtype_;
  RoundedWeights* outer_;
};

}  // namespace norma
