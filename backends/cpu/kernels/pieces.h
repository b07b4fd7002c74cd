// Scratch memory in pieces.
#pragma once

#include <cstdint>

namespace norma::cpu::NORMA_ISA {
namespace {

/// Hands out pieces of scratch memory, each on a cache line of its own; counts them where there is no memory.
class Pieces {
 public:
  explicit Pieces(void* memory) : memory_(static_cast<char*>(memory)) {}
  template <class P>
  P* take(std::int64_t count) {
    P* p = memory_ ? reinterpret_cast<P*>(memory_ + used_) : nullptr;
    used_ += (count * static_cast<std::int64_t>(sizeof(P)) + 63) / 64 * 64;
    return p;
  }
  std::int64_t used() const { return used_; }

 private:
  char* memory_;
  std::int64_t used_ = 0;
};

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
