// What ThreadSanitizer is told of a block's threads, so that it sees two of them touch the same memory without an order: in a kernel's own
// accesses, to shared memory and to the device's. An order is made by barriers of the block and of a warp alone; a shuffle or a product makes
// none, as on a device. Blocks are told to follow one another. Without ThreadSanitizer all of it is nothing.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>

extern "C" {  // of its runtime, beside that header
void __tsan_ignore_thread_begin();
void __tsan_ignore_thread_end();
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
}
#endif

namespace norma::cuda::emulator {

/// A thread of the host as ThreadSanitizer has it: the scheduler's, or a fiber's, which runs one thread of a block. Never given back: what
/// runs on an abandoned fiber does not end.
struct Strand;

#if defined(__SANITIZE_THREAD__)

constexpr bool strands = true;
inline Strand* new_strand() { return static_cast<Strand*>(__tsan_create_fiber(0)); }
inline Strand* current_strand() { return static_cast<Strand*>(__tsan_get_current_fiber()); }
inline void enter_strand(Strand* s) { __tsan_switch_to_fiber(s, __tsan_switch_to_fiber_no_sync); }
/// What follows until show() is the emulator's, not the kernel's.
inline void hide() { __tsan_ignore_thread_begin(); }
inline void show() { __tsan_ignore_thread_end(); }
/// All that was done before any release comes before what follows an acquire.
inline void release(char& mark) { __tsan_release(&mark); }
inline void acquire(char& mark) { __tsan_acquire(&mark); }
/// Accesses that the emulator makes for the thread.
inline void reads(const void* at, std::size_t bytes) { __tsan_read_range(const_cast<void*>(at), bytes); }
inline void writes(void* at, std::size_t bytes) { __tsan_write_range(at, bytes); }

#else

constexpr bool strands = false;
inline Strand* new_strand() { return nullptr; }
inline Strand* current_strand() { return nullptr; }
inline void enter_strand(Strand*) {}
inline void hide() {}
inline void show() {}
inline void release(char&) {}
inline void acquire(char&) {}
inline void reads(const void*, std::size_t) {}
inline void writes(void*, std::size_t) {}

#endif

/// hide() to the end of the scope.
struct Hidden {
  Hidden() { hide(); }
  ~Hidden() { show(); }
  Hidden(const Hidden&) = delete;
};
/// The kernel's accesses within what is hidden.
struct Shown {
  Shown() { show(); }
  ~Shown() { hide(); }
  Shown(const Shown&) = delete;
};

/// Where all threads that meet order what they did before it before what they do after it. A mark serves every second meeting, so that who
/// is already at the next one orders nothing for who has yet to leave this one.
class Rendezvous {
 public:
  void arrive(unsigned turn) { release(marks_[turn % 2]); }
  void leave(unsigned turn) { acquire(marks_[turn % 2]); }

 private:
  char marks_[2] = {};
};

}  // namespace norma::cuda::emulator
