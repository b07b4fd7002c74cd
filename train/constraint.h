// What a run may demand of ||A||_F, so that one can ask whether the norm is the cause: a penalty in the loss, a clamp inside
// attention (AttentionOptions::clamp_fro). Both form the matrices and are slow.
#pragma once

#include <memory>
#include <string>

#include "nn/module.h"

namespace norma::train {

/// "fro:0.01" gives 0.01, "" gives 0 (off). Throws UsageError that begins with `where` and names the text and what is nearest.
double parse_fro(const std::string& where, const std::string& text);

/// While alive, listens at the `weights` of every attention layer. The model must stay where it is.
class FroNorms {
 public:
  explicit FroNorms(nn::Module& model);
  ~FroNorms();
  FroNorms(const FroNorms&) = delete;
  /// The mean over layers, batch and heads of ||A||_F = sqrt(sum_ij a_ij^2), A as attention uses it (after masks and clamp, before
  /// dropout), over the calls since the last take(). 0-d, in the graph: the penalty is a weight times this. Throws where no layer ran.
  Tensor take();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace norma::train
