// What this thread asks of operator new: refused, for what must not ask for any; counted, for what must ask for little.
#pragma once

#include <cstdint>

namespace norma::test {

/// While alive, operator new throws std::bad_alloc on this thread.
class RefusedMemory {
 public:
  RefusedMemory();
  ~RefusedMemory();
  RefusedMemory(const RefusedMemory&) = delete;
};

/// How many blocks this thread has asked for since it began.
std::int64_t blocks_asked_for();

}  // namespace norma::test
