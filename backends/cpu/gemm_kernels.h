// The raw-pointer kernels under gemm.cpp, one table per instruction set. A product runs as blocks: B packed in panels,
// A packed in tiles or read where it lies, C written by micro-tiles of mr x nr elements held in registers.
#pragma once

#include "backends/cpu/gemm.h"
#include "backends/cpu/isa.h"

namespace norma::cpu {

/// Rows that lie `row` elements apart.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t row = 0;
};

/// A in blocks of mr rows: element (i, k) of tile t lies at data[t * tile + i * row + k * col], and row or col is 1. Where the table packs
/// all operands, only data and tile count.
template <class T>
struct Tiles {
  const T* data;
  std::int64_t tile, row, col;
};

/// B in panels of nr columns: element (k, j) of panel p lies at data[p * panel + k * row + j]. Where the table is sliced, only data counts.
template <class T>
struct Panels {
  const T* data;
  std::int64_t panel, row;
  bool far = false;  // not in a near cache: a panel is asked for while the one before it is multiplied
};

/// The rows of A that come next, m by k of them. While a block computes, it asks for them, or, where there is room for their tiles, packs them as
/// pack_a does.
template <class T>
struct Upcoming {
  Matrix<const T> a{};
  std::int64_t m = 0, k = 0;
  T* tiles = nullptr;
  T* row_sums = nullptr;
};

template <class T>
struct GemmTable {
  std::int64_t mr, nr;
  /// k is cut at multiples of this.
  std::int64_t k_unit;
  /// How k elements of a column of B, or of a row of A, are packed: as k, or as three halves of each (kernels/bf16/slices.h), padded with
  /// zeros to whole units. Then A is packed always.
  bool sliced;
  std::int64_t packed(std::int64_t k) const { return sliced ? (k + k_unit - 1) / k_unit * k_unit * 3 / 2 : k; }

  /// Whether rows of B are better read as panels where they lie, `row` apart, than packed: not where they meet in few sets of the caches,
  /// nor where panels are so narrow that packed ones stay in the first-level cache.
  bool reads_in_place(std::int64_t row) const {
    constexpr std::int64_t size = sizeof(T);
    return !sliced && nr * size >= 192 && row * size % 4096 != 0;
  }
  Panels<T> packed_panels(const T* data, std::int64_t k) const { return {data, packed(k) * nr, nr}; }

  /// B[k, n] -> panels of nr columns, each packed(k) * nr elements, [k][nr] unless sliced, the last one padded with zeros; through gelu
  /// when asked.
  void (*pack_b)(std::int64_t k, std::int64_t n, Matrix<const T> b, bool gelu, T* panels);
  /// A[m, k] -> tiles of mr rows, each packed(k) * mr elements, [k][mr] unless sliced; adds the sums of the rows to row_sums[m] unless null.
  void (*pack_a)(std::int64_t m, std::int64_t k, Matrix<const T> a, T* tiles, T* row_sums);
  /// C[m, n] = A B (+ C when accumulate), then the epilogue (null: none), whose pointers stand at element (0, 0) of C. All columns of
  /// the last panel are read, those beyond n too.
  void (*block)(std::int64_t m, std::int64_t n, std::int64_t k, Tiles<T> a, Panels<T> b, T* c, std::int64_t ldc,
                bool accumulate, const Epilogue<T>* epilogue, const Upcoming<T>& upcoming);
  /// block() of at most thin_rows rows of A, dense ones, by B where it lies, whose rows or columns are dense; none (0, null) where operands are
  /// packed always. The sums are those of block().
  std::int64_t thin_rows;
  void (*thin)(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const T> a, Matrix<const T> b, T* c, std::int64_t ldc, bool accumulate,
               const Epilogue<T>* epilogue);
  /// The epilogue alone: c = epilogue(sum (+ c when accumulate)); `sum` may be c itself.
  void (*finish)(std::int64_t m, std::int64_t n, const T* sum, std::int64_t ld_sum, T* c, std::int64_t ldc,
                 bool accumulate, const Epilogue<T>* epilogue);
  /// out[i] = parts[0][i] + parts[1][i] + ..., in this order; part p starts at parts + p * step; `out` may be parts.
  void (*combine)(std::int64_t count, std::int64_t size, const T* parts, std::int64_t step, T* out);
  /// sums[j] += the sum of x[., j] over m rows that lie `row` apart, one after the other.
  void (*add_rows)(std::int64_t m, std::int64_t n, const T* x, std::int64_t row, T* sums);
};

struct GemmKernels {
  GemmTable<float> f32;
  GemmTable<double> f64;
};
NORMA_DECLARE_KERNELS(GemmKernels, gemm_kernels)

/// gemm_batched() of products so small that packing them costs more than multiplying: from where they lie, with the sums of a block over one
/// piece of k.
struct SmallProducts {
  template <class T>
  using Batch = void (*)(std::int64_t count, const std::int64_t* a_offset, const std::int64_t* b_offset, const std::int64_t* c_offset,
                         std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const T> a, Matrix<const T> b, T* c, std::int64_t ldc);
  Batch<float> f32;
  Batch<double> f64;
  template <class T>
  Batch<T> of() const {
    if constexpr (sizeof(T) == 4)
      return f32;
    else
      return f64;
  }
};
NORMA_DECLARE_KERNELS(SmallProducts, small_products)

/// Products of f32 whose operands are cut in three bf16 each (kernels/bf16/slices.h); null without AMX.
struct SlicedGemm {
  const GemmTable<float>* f32;
};
NORMA_DECLARE_BF16_KERNELS(SlicedGemm, sliced_gemm)

}  // namespace norma::cpu
