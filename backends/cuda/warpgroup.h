// Products of a warpgroup, 4 consecutive warps from a multiple of 4 on: words beside those of device.h, for kernels of
// compute capability 9.0 (wgmma; compiled for sm_90a) and, under the emulator, for the host. A product is asynchronous:
//
// - fence_products(d, a): what the threads did with the registers is done. Before the first product, and after each
//   other access to them.
// - multiply_...(d, ...): any number of them; one behind the other into the same d needs no fence between.
// - commit_products() closes a group.
// - wait_products<n>(d): until at most n groups are under way. Then d holds the sums, and registers of A and shared
//   memory are free again.
//
// Shared memory that threads or copy_async wrote is read only behind this: each writer waits for its copies, then
// fence_async_proxy(), then a barrier. All threads of the warpgroup reach each word, with the same descriptors. Source:
// PTX ISA 9.0, wgmma.mma_async, wgmma.fence, wgmma.commit_group, wgmma.wait_group; fence.proxy.async.
#pragma once

#include "backends/cuda/device.h"
#include "backends/cuda/matrix_descriptor.h"

#if !defined(__CUDACC__)
#include "backends/cuda/emulator/warpgroup.h"
#endif

namespace norma::cuda {

#if defined(__CUDACC__)

/// Where a descriptor finds it.
NORMA_DEVICE std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// This thread's writes to shared memory come before reads by products that begin after the next barrier.
NORMA_DEVICE void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

/// The compiler keeps accesses to x on their side of this place.
template <int n>
NORMA_DEVICE void pin(float (&x)[n][4]) {
  NORMA_UNROLL
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(x[i][0]), "+f"(x[i][1]), "+f"(x[i][2]), "+f"(x[i][3])::"memory");
}
template <int n>
NORMA_DEVICE void pin(std::uint32_t (&x)[n][4]) {
  NORMA_UNROLL
  for (int i = 0; i < n; ++i) asm volatile("" : "+r"(x[i][0]), "+r"(x[i][1]), "+r"(x[i][2]), "+r"(x[i][3])::"memory");
}

template <int m, int n>
NORMA_DEVICE void pin(float (&x)[m][n][4]) {
  NORMA_UNROLL
  for (int i = 0; i < m; ++i) pin(x[i]);
}

template <class... Registers>
NORMA_DEVICE void fence_products(Registers&... registers) {
  (pin(registers), ...);
  asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}
NORMA_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int pending, class... Registers>
NORMA_DEVICE void wait_products(Registers&... registers) {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(pending) : "memory");
  (pin(registers), ...);
}

#define NORMA_FRAGMENT(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])

/// D = A B, with `accumulate` D += A B, of bf16, D [64, 8 fragments]: A [64, 16] and B^T [8 fragments, 16], both with
/// neighbours along k.
NORMA_DEVICE void multiply_shared(float (&d)[8][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
      "%32, %33, accumulate, 1, 1, 0, 0;\n"
      "}\n"
      : NORMA_FRAGMENT(d, 0), NORMA_FRAGMENT(d, 1), NORMA_FRAGMENT(d, 2), NORMA_FRAGMENT(d, 3), NORMA_FRAGMENT(d, 4),
        NORMA_FRAGMENT(d, 5), NORMA_FRAGMENT(d, 6), NORMA_FRAGMENT(d, 7)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

NORMA_DEVICE void multiply_shared(float (&d)[4][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, %16, %17, accumulate, 1, 1, 0, 0;\n"
      "}\n"
      : NORMA_FRAGMENT(d, 0), NORMA_FRAGMENT(d, 1), NORMA_FRAGMENT(d, 2), NORMA_FRAGMENT(d, 3)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}

/// D += A B of bf16, D [64, 8 fragments]: A [64, 16] from registers, B [16, 8 fragments] with neighbours along n.
NORMA_DEVICE void multiply_registers(float (&d)[8][4], const std::uint32_t (&a)[4], std::uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
      "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
      "{%32,%33,%34,%35}, %36, accumulate, 1, 1, 1;\n"
      "}\n"
      : NORMA_FRAGMENT(d, 0), NORMA_FRAGMENT(d, 1), NORMA_FRAGMENT(d, 2), NORMA_FRAGMENT(d, 3), NORMA_FRAGMENT(d, 4),
        NORMA_FRAGMENT(d, 5), NORMA_FRAGMENT(d, 6), NORMA_FRAGMENT(d, 7)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}
NORMA_DEVICE void multiply_registers(float (&d)[4][4], const std::uint32_t (&a)[4], std::uint64_t b) {
  asm volatile(
      "{\n"
      ".reg .pred accumulate;\n"
      "setp.ne.b32 accumulate, %21, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, accumulate, 1, 1, 1;\n"
      "}\n"
      : NORMA_FRAGMENT(d, 0), NORMA_FRAGMENT(d, 1), NORMA_FRAGMENT(d, 2), NORMA_FRAGMENT(d, 3)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1));
}

#undef NORMA_FRAGMENT

#else

inline std::uint32_t shared_address(const void* shared) { return emulator::shared_address(shared); }
inline void fence_async_proxy() { emulator::fence_async_proxy(); }
template <class... Registers>
void fence_products(Registers&...) {
  emulator::fence_products();
}
inline void commit_products() { emulator::commit_products(); }
template <int pending, class... Registers>
void wait_products(Registers&...) {
  emulator::wait_products(pending);
}
template <int fragments>
void multiply_shared(float (&d)[fragments][4], std::uint64_t a, std::uint64_t b, bool accumulate) {
  emulator::multiply_shared(&d[0][0], 8 * fragments, a, b, accumulate);
}
template <int fragments>
void multiply_registers(float (&d)[fragments][4], const std::uint32_t (&a)[4], std::uint64_t b) {
  emulator::multiply_registers(&d[0][0], 8 * fragments, a, b);
}

#endif

}  // namespace norma::cuda
