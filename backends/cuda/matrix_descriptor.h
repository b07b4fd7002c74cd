// Matrices of 16-bit elements in shared memory as wgmma reads them: the 64-bit descriptor, the address at which it
// finds an element, and where the elements of fragments in registers lie. Index arithmetic only, shared by kernels and
// emulator; tested on the host. Source: PTX ISA 9.0, chapter "Asynchronous Warpgroup Level Matrix Multiply-Accumulate
// Instructions": "Register Fragments" (A and D of m64nNk16), "Shared Memory Matrix Layout", "Strides", "Canonical
// Layouts", "Matrix Descriptor Format".
#pragma once

#include <cstdint>

#include "backends/common/functors.h"

namespace norma::cuda {

/// How 16-byte pieces change places within a pattern of 8 rows of 128, 64 or 32 bytes: piece p of row r lies at p xor
/// r, r / 2 or r / 4. A pattern starts at a multiple of its size: 1024, 512 or 256 bytes. The values are those of bits
/// 62 and 63.
enum class Swizzle : std::uint32_t { none, bytes_128, bytes_64, bytes_32 };
/// Bytes of a row of the pattern; 16, one piece, without swizzling.
NORMA_HD constexpr std::uint32_t pattern_row(Swizzle s) {
  return s == Swizzle::none ? 16 : 256u >> static_cast<std::uint32_t>(s);
}
/// The address at which the piece that belongs at `address` lies: bits 4 to 6 xor bits 7 to 9, as many of them as the
/// pattern has.
NORMA_HD constexpr std::uint32_t swizzled(std::uint32_t address, Swizzle s) {
  return address ^ (address >> 3 & (pattern_row(s) - 16));
}

/// The direction in which neighbouring elements lie: along k, or along m (of A) or n (of B), for which wgmma has the
/// bits imm-trans.
enum class Major { k, mn };

/// All in bytes, multiples of 16. What `leading` and `stride` are the distances of:
///   no swizzling, k:   8 columns (k) to the next 8;                8 rows (m or n) to the next 8
///   no swizzling, mn:  8 columns (k) to the next 8;                8 rows to the next 8
///   swizzled, k:       unused, since 16 columns lie in one pattern; 8 rows to the next 8
///   swizzled, mn:      the rows of a pattern to those of the next;  8 columns (k) to the next 8
struct MatrixDescriptor {
  std::uint32_t start = 0;  // address in the window of shared memory, below 2^18
  std::uint32_t leading = 0, stride = 0;
  Swizzle swizzle = Swizzle::none;

  /// Bits 0-13 start, 16-29 leading, 32-45 stride, each over 16; 49-51 base offset, 0 for patterns that start at a
  /// multiple of their size; 62-63 swizzling.
  NORMA_HD constexpr std::uint64_t bits() const {
    const auto field = [](std::uint32_t bytes) { return static_cast<std::uint64_t>((bytes & 0x3ffffu) >> 4); };
    return field(start) | field(leading) << 16 | field(stride) << 32 | static_cast<std::uint64_t>(swizzle) << 62;
  }
  constexpr static MatrixDescriptor of(std::uint64_t bits) {
    const auto field = [bits](int at) { return static_cast<std::uint32_t>(bits >> at & 0x3fffu) << 4; };
    return {field(0), field(16), field(32), static_cast<Swizzle>(bits >> 62)};
  }
  /// The address of element (row, column) of a matrix [m or n, k].
  constexpr std::uint32_t address(Major major, std::uint32_t row, std::uint32_t column) const {
    const std::uint32_t line = pattern_row(swizzle), wide = line / 2;  // elements of a line
    std::uint32_t offset;
    if (swizzle == Swizzle::none && major == Major::k)
      offset = row / 8 * stride + row % 8 * 16 + column / 8 * leading + column % 8 * 2;
    else if (swizzle == Swizzle::none)
      offset = row / 8 * stride + row % 8 * 2 + column / 8 * leading + column % 8 * 16;
    else if (major == Major::k)
      offset = row / 8 * stride + row % 8 * line + column * 2;
    else
      offset = row / wide * leading + row % wide * 2 + column / 8 * stride + column % 8 * line;
    return swizzled(start + offset, swizzle);
  }
};
/// The bits of a descriptor whose start is `bytes` further, within the window.
NORMA_HD constexpr std::uint64_t advanced(std::uint64_t descriptor, std::uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

/// Row and column of element i of the fragment of `thread` < 128: of D [64, N] i < N / 2; of A [64, 16] i < 8, half i %
/// 2 of register i / 2, the lower bits first. So a thread's elements of D in columns 16 j to 16 j + 15 are, rounded to
/// pairs, its fragment of an A.
struct FragmentElement {
  std::uint32_t row, column;
};
NORMA_HD constexpr FragmentElement fragment_element(std::uint32_t thread, std::uint32_t i) {
  const std::uint32_t lane = thread % 32;
  return {thread / 32 * 16 + lane / 4 + i / 2 % 2 * 8, i / 4 * 8 + lane % 4 * 2 + i % 2};
}

}  // namespace norma::cuda
