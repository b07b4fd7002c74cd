// The words of a random stream (Philox 4x32-10, core/random.h), a register of blocks at a time.
#pragma once

#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// Lane b of x and of y, 16 bytes together, is block b of the stream.
template <class UL>
NORMA_INLINE void store_blocks(UL x, UL y, std::uint32_t* to) {
#if defined(__AVX512F__)
  const UL low = __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11), high = __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15);
#elif defined(__AVX2__)
  const UL low = __builtin_shufflevector(x, y, 0, 4, 1, 5), high = __builtin_shufflevector(x, y, 2, 6, 3, 7);
#else
  const UL low = __builtin_shufflevector(x, y, 0, 2), high = __builtin_shufflevector(x, y, 1, 3);
#endif
  std::memcpy(to, &low, sizeof low);
  std::memcpy(to + sizeof low / sizeof *to, &high, sizeof high);
}

/// The four words of each of `count` blocks from `first` on; words has room for 64 more.
NORMA_INLINE void philox_words(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::int64_t count, std::uint32_t* words) {
  typedef std::uint64_t UL __attribute__((vector_size(register_bytes)));
  constexpr int blocks = register_bytes / 8;
  auto times = [](UL a, std::uint64_t b) __attribute__((always_inline)) -> UL {  // of the low 32 bits
#if defined(__AVX512F__)
    return (UL)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(static_cast<long long>(b)));
#elif defined(__AVX2__)
    return (UL)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(static_cast<long long>(b)));
#else
    return (a & 0xffffffffu) * b;
#endif
  };
  UL lane, key0[10], key1[10];
  for (int i = 0; i < blocks; ++i) lane[i] = static_cast<std::uint64_t>(i);
  std::uint64_t k0 = seed & 0xffffffffu, k1 = seed >> 32;
  for (int round = 0; round < 10; ++round) {
    key0[round] = UL{} + k0, key1[round] = UL{} + k1;
    k0 = (k0 + 0x9E3779B9u) & 0xffffffffu;
    k1 = (k1 + 0xBB67AE85u) & 0xffffffffu;
  }
  const UL stream_low = UL{} + (stream & 0xffffffffu), stream_high = UL{} + (stream >> 32);
  constexpr int chains = 2;  // a round waits for its multiplication: two registers of blocks take turns
  for (std::int64_t n = 0; n < count; n += blocks * chains) {
    UL c0[chains], c1[chains], c2[chains], c3[chains];
#pragma GCC unroll 2
    for (int c = 0; c < chains; ++c) {
      c0[c] = lane + (first + static_cast<std::uint64_t>(n + c * blocks));
      c1[c] = c0[c] >> 32, c2[c] = stream_low, c3[c] = stream_high;
    }
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {  // the upper halves of c1 and c3 hold rubbish that no multiplication reads
#pragma GCC unroll 2
      for (int c = 0; c < chains; ++c) {
        const UL p0 = times(c0[c], 0xD2511F53u), p1 = times(c2[c], 0xCD9E8D57u);
        c0[c] = (p1 >> 32) ^ (c1[c] ^ key0[round]);
        c1[c] = p1;
        c2[c] = (p0 >> 32) ^ (c3[c] ^ key1[round]);
        c3[c] = p0;
      }
    }
#pragma GCC unroll 2
    for (int c = 0; c < chains; ++c)
      store_blocks((c0[c] & 0xffffffffu) | (c1[c] << 32), (c2[c] & 0xffffffffu) | (c3[c] << 32), words + 4 * (n + blocks * c));
  }
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
