// Arrays that lie where a tensor's elements do: in the CPU backend's pool, in huge pages. Elsewhere products that walk across rows would
// pay for address translation what they do not pay in training.
#pragma once

#include <vector>

#include "backends/cpu/cpu_backend.h"

namespace norma::bench {

inline cpu::CpuBackend& pool() {
  static cpu::CpuBackend backend;
  return backend;
}

template <class T>
struct PoolAllocator {
  using value_type = T;
  T* allocate(std::size_t count) { return static_cast<T*>(pool().allocate(count * sizeof(T))); }
  void deallocate(T* block, std::size_t count) { pool().release(block, count * sizeof(T)); }
  bool operator==(const PoolAllocator&) const = default;
};

template <class T>
using Pooled = std::vector<T, PoolAllocator<T>>;

}  // namespace norma::bench
