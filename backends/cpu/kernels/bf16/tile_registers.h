// The tile registers of AMX: eight of 16 rows by 16 words.
#pragma once

#include "backends/cpu/simd.h"

namespace norma::cpu::NORMA_ISA {

constexpr int tile_side = 16;

/// What a product does beside its tiles, a step of k at a time: nothing.
struct NothingAside {
  NORMA_INLINE void step() {}
};

#if defined(NORMA_AMX)

/// What ldtilecfg reads: all eight tiles are whole. Constant, since the compiler knows only of its first eight bytes that they
/// are read.
struct alignas(64) TileShapes {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileShapes tile_shapes;
inline void enter_tiles() { _tile_loadconfig(&tile_shapes); }
inline void leave_tiles() { _tile_release(); }
#endif

}  // namespace norma::cpu::NORMA_ISA
