// What a kernel may use: its place in the grid, shared memory, barriers, exchanges within a warp, matrix instructions, and
// `launch`. Compiled by nvcc these are the device's own; compiled by a C++ compiler (NORMA_CUDA_EMULATED) they are the
// emulator's, which runs the same kernel sources on the host. Kernels are function templates or functions marked
// NORMA_KERNEL; blocks are one-dimensional, a multiple of 32 threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "backends/common/convert.h"
#include "backends/common/functors.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define NORMA_KERNEL static __global__
#define NORMA_DEVICE __device__ __forceinline__
/// At most `threads` threads in a block, at least `blocks` blocks at a time on a multiprocessor.
#define NORMA_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define NORMA_UNROLL _Pragma("unroll")
#define NORMA_ROLLED _Pragma("unroll 1")  // long or rare bodies: one copy compiles faster
#else
#include "backends/cuda/emulator/emulator.h"
#define NORMA_KERNEL static
#define NORMA_DEVICE inline
#define NORMA_BOUNDS(threads, blocks)
#define NORMA_UNROLL
#define NORMA_ROLLED
#endif

namespace norma::cuda {

using Stream = void*;  // cudaStream_t
struct Extent {
  unsigned x = 1, y = 1, z = 1;
};

constexpr unsigned warp_size = 32;

#if defined(__CUDACC__)

/// Throws Error when `code` is not cudaSuccess; runtime_cuda.cpp.
void check_cuda(int code, const char* what);
/// The same, naming the kernel.
void check_launch(int code, const void* kernel);
/// Raises what `kernel` may be launched with on the current device to `bytes` of shared memory. Never lowers it: a graph may
/// hold a launch with more.
void allow_shared(const void* kernel, std::size_t bytes);

NORMA_DEVICE unsigned thread_id() { return threadIdx.x; }
NORMA_DEVICE unsigned block_threads() { return blockDim.x; }
NORMA_DEVICE Extent block_id() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
NORMA_DEVICE Extent grid_size() { return {gridDim.x, gridDim.y, gridDim.z}; }

/// The block's dynamic shared memory, 16-byte aligned; `launch` says how much.
NORMA_DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char norma_shared[];
  return norma_shared;
}
NORMA_DEVICE void block_barrier() { __syncthreads(); }
NORMA_DEVICE void warp_barrier() { __syncwarp(); }

/// The value of lane `lane` xor `mask`.
template <class T>
NORMA_DEVICE T exchange_xor(T x, unsigned mask) {
  return __shfl_xor_sync(0xffffffffu, x, mask);
}
/// The value of lane `lane`.
template <class T>
NORMA_DEVICE T exchange_from(T x, unsigned lane) {
  return __shfl_sync(0xffffffffu, x, static_cast<int>(lane));
}
NORMA_DEVICE unsigned ballot(bool x) { return __ballot_sync(0xffffffffu, x); }
NORMA_DEVICE unsigned count_bits(unsigned x) { return __popc(x); }

/// `op` over each group of `width` neighbouring lanes, by the same tree everywhere; all lanes receive it. op(a, b) is
/// commutative.
template <unsigned width, class T, class Op>
NORMA_DEVICE T reduce_lanes(T x, Op op) {
  NORMA_UNROLL
  for (unsigned mask = width / 2; mask > 0; mask /= 2) x = op(x, exchange_xor(x, mask));
  return x;
}

NORMA_DEVICE std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) { return __umulhi(a, b); }
NORMA_DEVICE void atomic_min(unsigned long long* at, unsigned long long x) { atomicMin(at, x); }
NORMA_DEVICE void atomic_add(std::uint32_t* at, std::uint32_t x) { atomicAdd(at, x); }  // of whole numbers: the sum has no order
/// 2^x by the one instruction that exp is made around: two units of the last place; 0 below the smallest normal number.
NORMA_DEVICE float quick_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// 1 / x by one instruction: one unit of the last place; 0 below the smallest normal number, and for infinities.
NORMA_DEVICE float quick_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// D += A B for 16x16 A and 16x8 B of bf16, 16x8 D of float, spread over the warp as PTX's mma.m16n8k16 says: with
/// g = lane / 4, t = lane % 4: a[0] = A[g][2t, 2t + 1], a[1] = A[g + 8][..], a[2] = A[g][2t + 8, ..], a[3] = A[g + 8][2t + 8, ..];
/// b[0] = B[2t, 2t + 1][g], b[1] = B[2t + 8, ..][g]; d[0], d[1] = D[g][2t, 2t + 1], d[2], d[3] = D[g + 8][..].
NORMA_DEVICE void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8x8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix l / 8 (16 bytes,
/// aligned); r[i] receives elements (l / 4, 2 (l % 4) + {0, 1}) of matrix i, or of its transpose.
NORMA_DEVICE void load_matrices(std::uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
NORMA_DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// Starts a copy of 16 bytes to shared memory, zeros where `present` is false; both addresses 16-byte aligned.
NORMA_DEVICE void copy_async(void* shared, const void* global, bool present) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = present ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(global), "r"(bytes) : "memory");
}
/// Closes a group of copies; waits until at most `pending` groups of this thread are under way.
NORMA_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int pending>
NORMA_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

/// The only place where a kernel starts. `shared` is the dynamic shared memory in bytes; an empty grid does nothing.
template <class... Params, class... Args>
void launch(Stream stream, Extent grid, unsigned threads, std::size_t shared, void (*kernel)(Params...), Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 48 * 1024) allow_shared(reinterpret_cast<const void*>(kernel), shared);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.x, grid.y, grid.z);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  check_launch(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), reinterpret_cast<const void*>(kernel));
}

#else

__attribute__((no_sanitize("thread"))) inline unsigned thread_id() { return emulator::here().thread; }  // no access of the kernel's
inline unsigned block_threads() { return emulator::here().threads; }
inline Extent block_id() { return {emulator::here().block[0], emulator::here().block[1], emulator::here().block[2]}; }
inline Extent grid_size() { return {emulator::here().grid[0], emulator::here().grid[1], emulator::here().grid[2]}; }
inline char* shared_memory() { return emulator::here().shared; }
inline void block_barrier() { emulator::block_barrier(); }
inline void warp_barrier() { emulator::warp_barrier(); }

template <class T>
T exchange_xor(T x, unsigned mask) {
  return emulator::exchange_with("exchange_xor", x, thread_id() % warp_size ^ mask);
}
template <class T>
T exchange_from(T x, unsigned lane) {
  return emulator::exchange_with("exchange_from", x, lane);
}
inline unsigned ballot(bool x) {
  const std::array<bool, warp_size> all = emulator::exchange_as<bool>("ballot", x);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < warp_size; ++lane) bits |= all[lane] ? 1u << lane : 0u;
  return bits;
}
inline unsigned count_bits(unsigned x) { return static_cast<unsigned>(__builtin_popcount(x)); }

template <unsigned width, class T, class Op>
T reduce_lanes(T x, Op op) {  // the tree of exchange_xor from one exchange
  const auto& all = emulator::exchange_as<T>("reduce_lanes", x);
  const unsigned lane = thread_id() % warp_size, first = lane / width * width;
  T tree[width];
  for (unsigned i = 0; i < width; ++i) tree[i] = all[first + i];
  for (unsigned half = width / 2; half > 0; half /= 2)
    for (unsigned i = 0; i < half; ++i) tree[i] = op(tree[i], tree[i + half]);
  return tree[0];
}

inline std::uint32_t multiply_high(std::uint32_t a, std::uint32_t b) {
  return static_cast<std::uint32_t>(std::uint64_t{a} * b >> 32);
}
inline void atomic_min(unsigned long long* at, unsigned long long x) {  // nothing comes between its two accesses
  const unsigned long long before = __atomic_load_n(at, __ATOMIC_RELAXED);
  if (x < before) __atomic_store_n(at, x, __ATOMIC_RELAXED);
}
inline void atomic_add(std::uint32_t* at, std::uint32_t x) { __atomic_fetch_add(at, x, __ATOMIC_RELAXED); }
inline float quick_exp2(float x) { return std::exp2(x); }
inline float quick_reciprocal(float x) { return 1 / x; }

inline void mma_16x8x16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  emulator::mma_16x8x16(d, a, b0, b1);
}
inline void load_matrices(std::uint32_t (&r)[4], const void* row) { emulator::load_matrices(r, row, false); }
inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) { emulator::load_matrices(r, row, true); }
inline void copy_async(void* shared, const void* global, bool present) { emulator::copy_async(shared, global, present); }
inline void commit_copies() { emulator::commit_copies(); }
template <int pending>
void wait_copies() {
  emulator::wait_copies(pending);
}

template <class... Params, class... Args>
void launch(Stream stream, Extent grid, unsigned threads, std::size_t shared, void (*kernel)(Params...), Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  emulator::check_launch({grid.x, grid.y, grid.z}, threads, shared, (sizeof(Params) + ... + 0));
  emulator::enqueue_kernel(stream, reinterpret_cast<const void*>(kernel), [=] {
    emulator::run_grid({grid.x, grid.y, grid.z}, threads, shared, [&] { kernel(static_cast<Params>(args)...); });
  });
}

#endif

struct Plus {
  template <class T>
  NORMA_HD T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  NORMA_HD T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Smaller {
  template <class T>
  NORMA_HD T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

/// n elements moved by one access; the address is a multiple of their size.
template <class T, int n>
struct alignas(sizeof(T) * n) Pack {
  T v[n];
};
template <int n, class T>
NORMA_DEVICE Pack<T, n> load_pack(const T* p) {
#if !defined(__CUDACC__)
  emulator::check_aligned(p, sizeof(Pack<T, n>));
#endif
  return *reinterpret_cast<const Pack<T, n>*>(p);
}
template <int n, class T>
NORMA_DEVICE void store_pack(T* p, const Pack<T, n>& x) {
#if !defined(__CUDACC__)
  emulator::check_aligned(p, sizeof x);
#endif
  *reinterpret_cast<Pack<T, n>*>(p) = x;
}

}  // namespace norma::cuda
