// What AddressSanitizer is told of blocks that are cut from larger ones: without it, it would see neither a read behind a tensor's end nor one of a
// block that was released. Without that sanitizer all of this is nothing.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define NORMA_RED_ZONES
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NORMA_RED_ZONES
#endif
#endif

#ifdef NORMA_RED_ZONES
#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cstring>

namespace norma {

constexpr std::size_t red_zone = 64;  // bytes behind each block that nobody may touch

/// The first `bytes` of the `size` at `block` are in use from now on; what was there before is gone: bytes of ones, which as floats are NaN.
inline void open_block(void* block, std::size_t bytes, std::size_t size) {
  constexpr std::size_t most = std::size_t{64} << 20;  // more is not worth the time
  ASAN_UNPOISON_MEMORY_REGION(block, bytes);
  std::memset(block, 0xff, std::min(bytes, most));
  ASAN_POISON_MEMORY_REGION(static_cast<std::byte*>(block) + bytes, size - bytes);
}
/// Nobody uses it until it is opened again.
inline void close_block(void* block, std::size_t size) { ASAN_POISON_MEMORY_REGION(block, size); }
/// It goes back to the system, which may give it to others.
inline void forget_block(void* block, std::size_t size) { ASAN_UNPOISON_MEMORY_REGION(block, size); }

}  // namespace norma

#else

namespace norma {

constexpr std::size_t red_zone = 0;
inline void open_block(void*, std::size_t, std::size_t) {}
inline void close_block(void*, std::size_t) {}
inline void forget_block(void*, std::size_t) {}

}  // namespace norma

#endif
