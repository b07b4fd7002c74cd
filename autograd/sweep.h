// What sweeps share that run inside one another: a rule that differentiates a composition sweeps inside the sweep that asked it. Internal
// to this room.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "core/tensor.h"

namespace norma {

/// A sweep of this thread, for as long as it lives; one inside another is a part of it.
class SweepScope {
 public:
  SweepScope();
  ~SweepScope();
  SweepScope(const SweepScope&) = delete;
  /// Of the outermost sweep: no two have the same; 0 outside of one.
  static std::uint64_t number();
  /// A place that the outermost sweep has for a tensor until it ends, empty at first. Only inside of one.
  static Tensor& kept(const void* owner, int which);

 private:
  std::uint64_t number_ = 0;
  std::map<std::pair<const void*, int>, Tensor> kept_;
};

}  // namespace norma
