// CRC-32C (Castagnoli; RFC 3720 appendix B): finds every single flipped bit and every burst of up to 32 bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace norma {

/// Of `bytes`, continuing from the checksum of what came before (0 at the start).
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t before = 0);

}  // namespace norma
