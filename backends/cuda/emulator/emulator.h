// Runs kernels on the host: the threads of a block as fibers that switch at barriers and at exchanges within a warp. It holds
// the kernels to the rules of the device: every thread of a block reaches the same barriers, every lane of a warp the same
// exchanges; shared memory holds NaN when a block starts; asynchronous copies arrive only when waited for; threads run in rising
// or falling order from block to block, so that a missing barrier shows; under ThreadSanitizer (order.h) any does. A broken rule throws Error.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>

#include "backends/cuda/emulator/order.h"

namespace norma::cuda::emulator {

/// Where the running fiber is.
struct Here {
  unsigned thread = 0, threads = 0;
  std::array<unsigned, 3> block{}, grid{};
  char* shared = nullptr;
};
Here& here();

void block_barrier();
void warp_barrier();

/// The card that the emulator plays, for kernels and runtimes alike.
struct Card {
  std::size_t block_shared = std::size_t{227} << 10;  // bytes that a block may ask for at most
  unsigned grid_y = 65535;                            // blocks along a grid's second axis
  int compute_capability = 90;                        // 10 major + minor
  enum class Capture { works, fails_to_begin, fails_to_end } capture = Capture::works;
};
Card& card();

constexpr std::size_t slot_bytes = 64;
/// What the 32 lanes of a warp bring to an exchange: lane l's bytes at [l]. Valid until the lane's next exchange.
struct alignas(64) Slots {
  char bytes[32][slot_bytes];
};
/// All lanes of the warp meet, which orders no accesses to memory; `what` must be the same for all of them.
const Slots& exchange(const char* what, const void* mine, std::size_t bytes);

template <class T>
T slot(const Slots& slots, std::size_t lane) {
  T x;
  std::memcpy(&x, slots.bytes[lane], sizeof(T));
  return x;
}
/// What lane `lane` brings.
template <class T>
T exchange_with(const char* what, const T& mine, std::size_t lane) {
  static_assert(sizeof(T) <= slot_bytes);
  const Hidden hidden;
  return slot<T>(exchange(what, &mine, sizeof(T)), lane);
}
/// What all of them bring.
template <class T>
std::array<T, 32> exchange_as(const char* what, const T& mine) {
  static_assert(sizeof(T) <= slot_bytes);
  const Hidden hidden;
  const Slots& slots = exchange(what, &mine, sizeof(T));
  std::array<T, 32> all;
  for (std::size_t lane = 0; lane < 32; ++lane) all[lane] = slot<T>(slots, lane);
  return all;
}

[[noreturn]] void refuse_misaligned(const void* p, std::size_t bytes);
/// Throws where one access of `bytes` at p is not aligned, which the host forgives and a device does not.
inline void check_aligned(const void* p, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes) refuse_misaligned(p, bytes);
}

void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
void load_matrices(std::uint32_t (&r)[4], const void* row, bool transposed);
void copy_async(void* shared, const void* global, bool present);
void commit_copies();
void wait_copies(int pending);

/// Throws where the card takes no such launch; of one that was taken.
void check_launch(std::array<unsigned, 3> grid, unsigned threads, std::size_t shared, std::size_t argument_bytes);
/// Runs `kernel` for every thread of every block.
void run_grid(std::array<unsigned, 3> grid, unsigned threads, std::size_t shared, const std::function<void()>& kernel);

/// A stream in order: `work` runs when it is waited for, or, while the stream is captured, is kept for the graph. A library's product, or a kernel.
void enqueue(void* stream, std::function<void()> work);
void enqueue_kernel(void* stream, const void* kernel, std::function<void()> work);
/// The linker's name for a function of this program; "?" where its file does not tell.
std::string symbol_of(const void* function);

/// Threads run in falling order in blocks of odd number, or, turned, in those of even number.
void turn_order(bool turned);

}  // namespace norma::cuda::emulator
