// Casts of dense rows and transposes of element blocks.
#include "backends/cpu/kernels/strips.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

template <class To, class From>
void cast(std::int64_t n, const From* in, To* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<To>(in[i]);
}

/// Round to nearest even; a NaN keeps its upper bits and stays one.
void f32_to_bf16(std::int64_t rows, std::int64_t n, const float* in, std::uint16_t* out, std::int64_t out_row) {
  if (out_row == n) n *= rows, rows = 1;
  for (; rows > 0; --rows, in += n, out += out_row)
    strips<float>(n, [&](auto strip, std::int64_t i, int) __attribute__((always_inline)) { strip.put(out + i, strip.get(in + i)); });
}

void bf16_to_f32(std::int64_t rows, std::int64_t n, const std::uint16_t* in, std::int64_t in_row, float* out) {
  if (in_row == n) n *= rows, rows = 1;
  for (; rows > 0; --rows, in += in_row, out += n)
    strips<float>(n, [&](auto strip, std::int64_t i, int) __attribute__((always_inline)) { strip.put(out + i, strip.get(in + i)); });
}

/// Square blocks whose sides are whole lines of memory: those of both sides stay in the first cache.
template <class T>
void transpose(std::int64_t rows, std::int64_t columns, const T* in, std::int64_t in_row, T* out, std::int64_t out_row) {
  constexpr std::int64_t block = sizeof(T) < 4 ? 64 / sizeof(T) : 16;
  for (std::int64_t c = 0; c < columns; c += block) {
    const std::int64_t width = columns - c < block ? columns - c : block;
    for (std::int64_t r = 0; r < rows; r += block) {
      const std::int64_t height = rows - r < block ? rows - r : block;
      const T* from = in + r * in_row + c;
      T* to = out + c * out_row + r;
      if (width == block && height == block) {
        T tile[block][block];
        for (std::int64_t i = 0; i < block; ++i) std::memcpy(tile[i], from + i * in_row, sizeof tile[i]);
        for (std::int64_t j = 0; j < block; ++j)
          for (std::int64_t i = 0; i < block; ++i) to[j * out_row + i] = tile[i][j];
      } else {
        for (std::int64_t j = 0; j < width; ++j)
          for (std::int64_t i = 0; i < height; ++i) to[j * out_row + i] = from[i * in_row + j];
      }
    }
  }
}

}  // namespace

const CopyTable copy_kernels = {f32_to_bf16,           bf16_to_f32,          cast<float, std::uint8_t>,
                                cast<double, float>,   cast<float, double>,  transpose<std::uint32_t>,
                                transpose<std::uint64_t>, transpose<std::uint8_t>, transpose<std::uint16_t>};

}  // namespace norma::cpu::NORMA_ISA
