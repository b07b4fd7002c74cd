// Names of tensors in checkpoints and bundles: "model/blocks.0...", "optimizer/m/...", "ema/...".
#pragma once

#include <string>

#include "nn/module.h"

namespace norma::train {

inline nn::Named with_prefix(const std::string& prefix, const nn::Named& tensors) {
  nn::Named out;
  for (auto& [name, t] : tensors) out.emplace_back(prefix + name, t);
  return out;
}

/// Those that have the prefix, without it.
inline nn::Named without_prefix(const std::string& prefix, const nn::Named& tensors) {
  nn::Named out;
  for (auto& [name, t] : tensors)
    if (name.starts_with(prefix)) out.emplace_back(name.substr(prefix.size()), t);
  return out;
}

}  // namespace norma::train
