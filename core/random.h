// Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011). A draw is a function of (seed, stream, index),
// so that the CPU and the GPU, a resumed run and any number of threads draw the same.
#pragma once

#include <array>
#include <cstdint>

namespace norma {

using Philox = std::array<std::uint32_t, 4>;

/// Ten rounds over a 128-bit counter with a 64-bit key.
constexpr Philox philox(Philox c, std::array<std::uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0], p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<std::uint32_t>(p0)};
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  return c;
}

/// One family of draws: `stream` separates layers, steps and purposes under the same seed.
struct RandomStream {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
  /// In the device's memory, for a step that is captured: what stands there when a kernel runs takes the place of `stream`.
  const std::uint64_t* replayed = nullptr;
  bool operator==(const RandomStream&) const = default;

  /// The family that is meant now; where `replayed` is set, in the device's kernels only.
  constexpr RandomStream now() const { return replayed ? RandomStream{seed, *replayed} : *this; }

  /// The four words of block `index`: element i of a tensor takes word i % 4 of block i / 4.
  constexpr Philox block(std::uint64_t index) const {
    return philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                   static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                  {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  }
  constexpr std::uint32_t word(std::uint64_t index) const { return block(index / 4)[index % 4]; }
};

/// 24 bits to [0, 1).
constexpr float uniform_from(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

/// 64 bits to [0, n); no number's chance differs from 1/n by more than 2^-64.
constexpr std::uint64_t below(std::uint32_t high, std::uint32_t low, std::uint64_t n) {
  const std::uint64_t bits = std::uint64_t{high} << 32 | low;
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(bits) * n) >> 64);
}

/// Mixes several numbers into one stream id (SplitMix64's finaliser), e.g. stream_id(step, layer, purpose).
constexpr std::uint64_t stream_id(std::uint64_t a, std::uint64_t b = 0, std::uint64_t c = 0) {
  auto mix = [](std::uint64_t z) {
    z += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  };
  return mix(mix(mix(a) + b) + c);
}

}  // namespace norma
