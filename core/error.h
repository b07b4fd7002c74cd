// The one exception of the library. Library code throws it, never prints, never aborts.
// A text says the op, the values, the place and what to do:
//   matmul: inner sizes differ, [8, 64] x [32, 10]; transpose the second?
#pragma once

#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

namespace norma {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What fail() appends on this thread, where something can tell where it is: nn::Inside (nn/module.h).
inline constinit thread_local std::add_pointer_t<std::string() noexcept> where_failed = nullptr;

/// Throws Error with a formatted text: `fail("sum: axis {} out of range for {}", axis, shape)`.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> text, Args&&... args) {
  std::string told = fmt::format(text, std::forward<Args>(args)...);
  if (where_failed) told += where_failed();
  throw Error(told);
}

}  // namespace norma
