// Bytes of files in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace norma::datasets {

/// Leaves new elements as the memory is. What a file will overwrite need not be cleared, and a file that promises more than it
/// holds costs no memory for the promise.
template <class T>
struct Uninitialized : std::allocator<T> {
  template <class U>
  struct rebind {
    using other = Uninitialized<U>;
  };
  template <class U, class... Args>
  void construct(U* p, Args&&... args) {
    if constexpr (sizeof...(Args) == 0)
      ::new (static_cast<void*>(p)) U;
    else
      ::new (static_cast<void*>(p)) U(std::forward<Args>(args)...);
  }
};

using Bytes = std::vector<std::uint8_t, Uninitialized<std::uint8_t>>;

}  // namespace norma::datasets
