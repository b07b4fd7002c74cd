#include "tests/refused_memory.h"

#include <cstdlib>
#include <new>

namespace {
thread_local bool refusing = false;
thread_local std::int64_t asked_for = 0;
}  // namespace

void* operator new(std::size_t bytes) {
  ++asked_for;
  void* block = refusing ? nullptr : std::malloc(bytes ? bytes : 1);
  if (!block) throw std::bad_alloc();
  return block;
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return refusing ? nullptr : std::malloc(bytes ? bytes : 1); }  // the same free() ends it
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }

namespace norma::test {

RefusedMemory::RefusedMemory() { refusing = true; }
RefusedMemory::~RefusedMemory() { refusing = false; }

std::int64_t blocks_asked_for() { return asked_for; }

}  // namespace norma::test
