// A machine without memory, for what must not ask for any.
#pragma once

namespace norma::test {

/// While alive, operator new throws std::bad_alloc on this thread.
class RefusedMemory {
 public:
  RefusedMemory();
  ~RefusedMemory();
  RefusedMemory(const RefusedMemory&) = delete;
};

}  // namespace norma::test
