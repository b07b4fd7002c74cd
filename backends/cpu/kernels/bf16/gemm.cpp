// Micro-tiles of vector registers, and the tables of all forms. Both forms of a word run through one source: what differs is how
// it is made of elements (join) and how two of them are multiplied (add).
#include <utility>

#include "backends/cpu/kernels/bf16/epilogue.h"
#include "backends/cpu/kernels/bf16/packing.h"
#include "backends/cpu/kernels/bf16/tiles.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// MR rows by one panel.
template <class Form, int MR>
void tile(int64_t words, const Word* a, int64_t row, int64_t col, const Word* b, float* c, int64_t ldc, bool accumulate) {
  constexpr int V = Form::vectors;
  F sum[MR][V];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[i][v] = F{};
#pragma GCC unroll 4
  for (; words > 0; --words) {
    U x[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) x[v] = load_words(b + v * width);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const U y = U{} + a[i * row];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[i][v] = Form::add(sum[i][v], y, x[v]);
    }
    a += col;
    b += columns<Form>;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      float* p = c + i * ldc + v * width;
      store(p, accumulate ? sum[i][v] + load(p) : sum[i][v]);
    }
}

using TileFunction = void (*)(int64_t, const Word*, int64_t, int64_t, const Word*, float*, int64_t, bool);
template <class Form, int... row_counts>
TileFunction tile_of(int rows, std::integer_sequence<int, row_counts...>) {
  constexpr TileFunction functions[] = {tile<Form, row_counts + 1>...};
  return functions[rows - 1];
}

template <class Form>
void multiply(int64_t m, int64_t words, const Bf16Tiles& a, const Word* panel, float* sums, int64_t ld_sums, bool accumulate,
              const Bf16Strip* before) {
  constexpr int rows = Form::rows;
  if (before) finish<Form::vectors>(*before);
  int64_t i = 0;
  const Word* from = a.data;
  for (; i + rows <= m; i += rows, from += a.tile)
    tile<Form, rows>(words, from, a.row, a.col, panel, sums + i * ld_sums, ld_sums, accumulate);
  if (i < m)
    tile_of<Form>(static_cast<int>(m - i), std::make_integer_sequence<int, rows>{})(
        words, from, a.row, a.col, panel, sums + i * ld_sums, ld_sums, accumulate);
}

void nothing() {}
#if defined(NORMA_AMX)
void leave_tiles_and_stream() { leave_tiles(), end_stream(); }
#endif

template <class Form>
constexpr GemmBf16Table table = {
    Form::rows, columns<Form>, Form::depth, Form::unit, nothing, end_stream, pack_weight<Form>, pack_activation<Form>,
    pack_rows<Form>, pack_columns<Form>, multiply<Form>, finish<Form::vectors>};
#if defined(NORMA_AMX)
constexpr GemmBf16Table tiles = {
    Tiles::rows, columns<Tiles>, Tiles::depth, Tiles::unit, enter_tiles, leave_tiles_and_stream, pack_weight<Tiles>, pack_activation<Tiles>,
    pack_rows<Tiles>, pack_columns_as_tiles, multiply_tiles, finish<Tiles::vectors>};
constexpr const GemmBf16Table* tiles_or_null = &tiles;
#else
constexpr const GemmBf16Table* tiles_or_null = nullptr;
#endif

}  // namespace

const GemmBf16Kernels gemm_bf16_kernels = {table<Widened>, table<Pairs>, tiles_or_null};

}  // namespace norma::cpu::NORMA_ISA
