// The loops that measure the peak of products of bf16: what registers can do that nothing is loaded into; and that of slices of f32, whose
// operands are loaded.
#include "backends/cpu/kernels/bf16/registers.h"
#include "backends/cpu/kernels/bf16/sliced_tile.h"
#include "backends/cpu/peak_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(__AVX512BF16__)
/// Operands of products: bf16 of both signs and of order one, whose bits differ from one to the next, or zeros.
constexpr int words = 4 * 256;
struct alignas(64) Operands {
  std::uint16_t bits[2 * words];
  explicit Operands(bool zeros) {
    std::uint32_t state = 1;
    for (std::uint16_t& b : bits) {
      state = state * 1664525u + 1013904223u;
      b = zeros ? std::uint16_t{0} : static_cast<std::uint16_t>((state >> 16 & 0x80ffu) | 0x3f00u);
    }
  }
};
#endif

#if defined(NORMA_AMX)

/// As a product of 32 by 32: four tiles of sums, two of each operand.
float run(std::int64_t rounds, bool zeros) {
  const Operands x(zeros);
  enter_tiles();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_loadd(4, x.bits, 64);
  _tile_loadd(5, x.bits + 512, 64);
  _tile_loadd(6, x.bits + 1024, 64);
  _tile_loadd(7, x.bits + 1536, 64);
  for (; rounds > 0; --rounds) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  alignas(64) float sums[4 * tile_side * tile_side];
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
  leave_tiles();
  float sum = 0;
  for (const float s : sums) sum += s;
  return sum;
}
constexpr std::int64_t flops = 4 * 2 * 16 * 16 * 32;

/// A tile of 32 by 32 sums again and again, as many steps of k at a time as products take.
constexpr std::int64_t sliced_steps = 3;
float run_slices(std::int64_t rounds) {
  constexpr std::int64_t count = sliced_steps * 3 * slice_words;
  alignas(64) Word operands[2 * count];
  const Operands x(false);
  for (std::int64_t i = 0; i < 2 * count; ++i) std::memcpy(operands + i, x.bits + 2 * (i % (words / 2)), sizeof(Word));
  alignas(64) float sums[side * side];
  NothingAside nothing;
  enter_tiles();
  for (; rounds > 0; --rounds)
    tile<3, false, false>(sliced_steps, operands, operands + count, Sums<const float>{nullptr, side}, Sums<float>{sums, side}, nothing);
  leave_tiles();
  float sum = 0;
  for (const float s : sums) sum += s;
  return sum;
}
constexpr std::int64_t slices_flops = 2 * side * side * sliced_steps * step_k;

#elif defined(__AVX512BF16__)

constexpr int chains = 24;

float run(std::int64_t rounds, bool zeros) {
  const Operands x(zeros);
  F sum[chains];  // which differ: equal ones would be computed once
  for (int i = 0; i < chains; ++i) sum[i] = splat(static_cast<float>(i));
  U a, b;
  std::memcpy(&a, x.bits, sizeof a);
  std::memcpy(&b, x.bits + 32, sizeof b);
  for (; rounds > 0; --rounds)
#pragma GCC unroll 32
    for (int i = 0; i < chains; ++i) sum[i] = dot_pairs(sum[i], a, b);
  for (int i = 1; i < chains; ++i) sum[0] += sum[i];
  return sum_lanes(sum[0]);
}
constexpr std::int64_t flops = 2 * 2 * chains * lanes<float>;

#else

constexpr float (*run)(std::int64_t, bool) = nullptr;
constexpr std::int64_t flops = 0;

#endif

#if !defined(NORMA_AMX)
constexpr float (*run_slices)(std::int64_t) = nullptr;
constexpr std::int64_t slices_flops = 0;
#endif

}  // namespace

const Bf16PeakKernels bf16_peak_kernels = {run, flops, run_slices, slices_flops};

}  // namespace norma::cpu::NORMA_ISA
