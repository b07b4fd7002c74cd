// Scratch memory, cut up.
#pragma once

#include <cstdint>

namespace norma::cpu::NORMA_ISA {
namespace {

/// Gives out parts of scratch memory, each on a cache line of its own; where there is no memory it only counts what is needed.
class ScratchCutter {
 public:
  explicit ScratchCutter(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class P>
  P* take(std::int64_t count) {
    P* p = memory_ ? reinterpret_cast<P*>(memory_ + used_) : nullptr;
    used_ += (count * static_cast<std::int64_t>(sizeof(P)) + 63) / 64 * 64;
    return p;
  }
  bool counts_only() const { return !memory_; }
  std::int64_t used() const { return used_; }

 private:
  char* memory_;
  std::int64_t used_ = 0;
};

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
