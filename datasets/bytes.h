// Bytes of files in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace norma::datasets {

/// Leaves new elements as the memory is.
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

/// A vector of bytes: new ones are 0, or as the memory is where that is asked for.
class Bytes : public std::vector<std::uint8_t, Uninitialized<std::uint8_t>> {
 public:
  using vector::vector;
  explicit Bytes(std::size_t size) : vector(size, 0) {}
  void resize(std::size_t size) { vector::resize(size, 0); }
  /// What a file will overwrite need not be cleared, and a file that promises more than it holds costs no memory for the promise.
  /// From 4 MiB on it lies in huge pages where the system has them: a page at a time, it would wait for the system as long as for the disk.
  void resize_uninitialized(std::size_t size);
};

}  // namespace norma::datasets
