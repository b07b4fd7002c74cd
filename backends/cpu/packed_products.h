// Small matrix products on packed operands, for attention: a block of scores or weights is packed once and multiplied
// where it is needed. By AMX's tiles operands are f32 cut in slices of bf16 (kernels/bf16/slices.h), or bf16; by dot
// products of pairs (AVX-512-BF16) they are bf16. Included by files that are compiled once per instruction set.
#pragma once

#include <cstdint>

#include "backends/cpu/gemm_bf16.h"
#include "backends/cpu/isa.h"

namespace norma::cpu {

/// Element (line, p) of an operand lies at data[line * across + p * along], one of which is 1. Lines are rows of a left
/// operand or columns of a right one; p counts what is summed over.
struct TileSource {
  const void* data;
  bool bf16;  // what it points at: bf16, or f32
  std::int64_t across, along;
  bool near;  // in a near cache already
  TileSource(const float* x, std::int64_t across_, std::int64_t along_, bool near_ = false)
      : data(x), bf16(false), across(across_), along(along_), near(near_) {}
  TileSource(const Bf16Bits* x, std::int64_t across_, std::int64_t along_, bool near_ = false)
      : data(x), bf16(true), across(across_), along(along_), near(near_) {}
};

/// Packed: 32 lines take `tile` words. Slices: 3 have all of an f32, 1 has all of a bf16.
struct TileOperand {
  std::uint32_t* words;
  std::int64_t tile;
  int slices;
};

/// What is done beside the tiles of a product, a part of it at each turn: tiles and vectors are different parts of a
/// core.
struct TileAside {
  void (*step)(void* context);
  void* context;
};

struct PackedProducts {
  /// Words of 32 lines with k elements each.
  static constexpr std::int64_t words_of_tile(std::int64_t k, int slices) { return (k + 31) / 32 * 512 * slices; }
  static constexpr std::int64_t square_words = 256;  // of 16 lines
  /// How often `aside` gets a turn for 32 by 32 results in 32 elements of k: with three slices after each of their six
  /// products.
  static constexpr std::int64_t turns_of_step(int slices) { return slices == 3 ? 6 : 1; }

  /// Whether these are AMX's: a part of the core beside which its vectors are free for something else, and which
  /// multiplies three slices too. Else operands have one slice, and there is nothing aside.
  bool amx;
  /// Around calls of multiply: sets the tile registers up, which takes as long as some tiles do, and gives them back.
  void (*enter)();
  void (*leave)();
  /// `lines` by k elements, times factor, padded with zeros to whole tiles. What was bf16 is multiplied by 1, or by a
  /// power of two where it comes as columns whose elements lie side by side.
  void (*pack_left)(std::int64_t lines, std::int64_t k, TileSource x, float factor, TileOperand to);
  void (*pack_right)(std::int64_t lines, std::int64_t k, TileSource x, float factor, TileOperand to);
  /// A square of a left operand: up to 16 rows of up to 32 floats in a near cache, `row` apart. For use beside a
  /// product: its arguments fit registers, since loading at once what was just stored piece by piece waits for all that
  /// is on its way, tiles too.
  void (*pack_square)(const float* x, std::int64_t row, std::int64_t rows, std::int64_t k, std::uint32_t* words,
                      int slices);
  /// c[m, n] = left right, summed over the first k elements (+ c where `add`). Written in whole squares of 16 by 16.
  /// Both have as many slices. `aside`: null for nothing.
  void (*multiply)(std::int64_t m, std::int64_t n, std::int64_t k, TileOperand left, TileOperand right, float* c,
                   std::int64_t ld, bool add, const TileAside* aside);
  /// to[n] = factor * from, rounded to nearest even; from has room for whole registers.
  void (*put_row)(const float* from, std::int64_t n, float factor, Bf16Bits* to);
};

/// Null without AVX-512-BF16.
NORMA_DECLARE_BF16_KERNELS(PackedProducts* const, packed_products)
/// Those for attention on tensors of bf16, or of f32. Null too where multiply-adds are quicker (gemm_bf16.h: bf16_form), and
/// where products are asked of another provider (--gemm).
const PackedProducts* own_products(bool bf16);

/// While one lives, attention multiplies packed operands at every size, also where it does not pay, or at none: for tests.
class ForcePacked {
 public:
  explicit ForcePacked(bool everywhere);
  ~ForcePacked();
  ForcePacked(const ForcePacked&) = delete;
};

}  // namespace norma::cpu
