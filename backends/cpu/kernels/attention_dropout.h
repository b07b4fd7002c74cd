// Dropout of attention weights: the words of the random stream (Philox 4x32-10, core/random.h) by registers, drawn again in the
// backward pass.
#pragma once

#include "backends/cpu/kernels/attention_rows.h"

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

/// keep[j] for j < count: keep_scale, or 0 where the draw of element `index` + j says so; keep has room for 16 more.
template <class T>
void draw_keep(const AttentionHead<T>& h, std::uint64_t index, Int count, T* keep, std::uint32_t* words) {
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
  std::uint64_t k0 = h.seed & 0xffffffffu, k1 = h.seed >> 32;
  for (int round = 0; round < 10; ++round) {
    key0[round] = UL{} + k0, key1[round] = UL{} + k1;
    k0 = (k0 + 0x9E3779B9u) & 0xffffffffu;
    k1 = (k1 + 0xBB67AE85u) & 0xffffffffu;
  }
  const UL stream_low = UL{} + (h.stream & 0xffffffffu), stream_high = UL{} + (h.stream >> 32);
  const Int skip = static_cast<Int>(index % 4);
  constexpr int chains = 2;  // a round waits for its multiplication: two registers of blocks take turns
  for (Int n = 0; n < count + skip; n += 4 * blocks * chains) {
    UL c0[chains], c1[chains], c2[chains], c3[chains];
#pragma GCC unroll 2
    for (int c = 0; c < chains; ++c) {
      c0[c] = lane + (index / 4 + static_cast<std::uint64_t>(n / 4 + c * blocks));
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
      store_blocks((c0[c] & 0xffffffffu) | (c1[c] << 32), (c2[c] & 0xffffffffu) | (c3[c] << 32), words + n + 4 * blocks * c);
  }
  const T scale = static_cast<T>(h.keep_scale);
  for (Int j = 0; j < count; ++j) keep[j] = words[skip + j] >= h.drop_below ? scale : T{0};
  for (Int j = count; j < round_up(count, lanes<T>); ++j) keep[j] = 0;
}

template <class T>
NORMA_INLINE void multiply_by(const T* keep, Int count, T* x) {
  for (Int j = 0; j < count; j += lanes<T>) store(x + j, load(x + j) * load(keep + j));
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
