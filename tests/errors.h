// What a test asks of errors.
#pragma once

#include <string>

#include "core/error.h"

namespace norma::test {

/// The text of the Error that f() throws.
template <class F>
std::string error_of(F&& f) {
  try {
    static_cast<void>(f());
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace norma::test
