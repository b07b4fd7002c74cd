// Products of f32 by AMX, of operands cut in slices (slices.h).
#include "backends/cpu/kernels/bf16/sliced_tile.h"

namespace norma::cpu::NORMA_ISA {
namespace {

#if defined(__AMX_BF16__)
constexpr int64_t step_words = 3 * slice_words;

Word* words(float* p) { return reinterpret_cast<Word*>(p); }
const Word* words(const float* p) { return reinterpret_cast<const Word*>(p); }

void pack_b(int64_t k, int64_t n, Matrix<const float> b, bool through_gelu, float* panels) {
  const Source<float> x{b.data, b.col, b.row};
  const int64_t panel = steps_of(k) * step_words;
  if (through_gelu)
    pack<3, true>(n, k, x, ThroughGelu{}, words(panels), panel);
  else
    pack<3, true>(n, k, x, AsTheyAre{}, words(panels), panel);
}

void pack_a(int64_t m, int64_t k, Matrix<const float> a, float* tiles, float* row_sums) {
  const Source<float> x{a.data, a.row, a.col};
  Word* out = words(tiles);
  for (int64_t i = 0; i < m; i += side, out += steps_of(k) * step_words) {
    pack_lines<3, false>(least(side, m - i), k, x.at(i, 0), AsTheyAre{}, out);
    if (row_sums) add_lines(least(side, m - i), k, x.at(i, 0), row_sums + i);
  }
}

constexpr int64_t strip_rows = 96;

void finish(int64_t m, int64_t n, const float* sum, int64_t ld_sum, float* c, int64_t ldc, bool accumulate, const Epilogue<float>* e) {
  avx512::gemm_kernels.f32.finish(m, n, sum, ld_sum, c, ldc, accumulate, e);
}
void combine(int64_t count, int64_t size, const float* parts, int64_t step, float* out) {
  avx512::gemm_kernels.f32.combine(count, size, parts, step, out);
}

void block(int64_t m, int64_t n, int64_t k, Tiles<float> a, const float* panels, float* c, int64_t ldc, bool accumulate,
           const Epilogue<float>* e, const Upcoming&) {
  const int64_t steps = steps_of(k), most = piece_steps<3, 3>(steps);
  alignas(64) float sums[strip_rows * side];
  enter_tiles();
  for (int64_t j = 0; j < n; j += side) {
    const Word* panel = words(panels) + j / side * (steps * step_words);
    for (int64_t i0 = 0; i0 < m; i0 += strip_rows) {
      const int64_t height = least(strip_rows, m - i0), width = least(side, n - j);
      const bool direct = !e && width == side && height % side == 0;  // else the sums wait for what is done with them
      float* to = c + i0 * ldc + j;
      const float* other = e && e->gelu_pre ? e->gelu_pre : e ? e->residual : nullptr;
      if (other) other += i0 * e->ld + j;
      int64_t from = 0;
      do {
        const int64_t count = least(most, steps - from);
        const bool last = from + count >= steps;
        for (int64_t i = 0; i < height; i += side) {
          const Word* rows = words(a.data) + (i0 + i) / side * (steps * step_words) + from * step_words;
          const Sums<float> strip{sums + i * side, side}, result{to + i * ldc, ldc};
          const Sums<const float> before = from > 0 ? Sums<const float>{strip.data, side} : Sums<const float>{direct && accumulate ? result.data : nullptr, ldc};
          const bool low = height - i <= tile_side;
          if (last) {
            Asking<float> asking({to + i * ldc, other ? other + i * e->ld : nullptr, ldc, e ? e->ld : 0, true}, least(side, height - i), count);
            (low ? tile<3, 3, true, false, Asking<float>> : tile<3, 3, false, false, Asking<float>>)(count, rows, panel + from * step_words, before,
                                                                                               direct ? result : strip, asking);
          } else {
            NothingAside nothing;
            (low ? tile<3, 3, true, false, NothingAside> : tile<3, 3, false, false, NothingAside>)(count, rows, panel + from * step_words, before,
                                                                                               strip, nothing);
          }
        }
        from += count;
      } while (from < steps);
      if (direct) continue;
      Epilogue<float> here;
      if (e) here = at(*e, i0, j);
      finish(height, width, sums, side, to, ldc, accumulate, e ? &here : nullptr);
    }
  }
  leave_tiles();
  if (e && e->pre) end_stream();
}

constexpr GemmTable<float> table = {side, side, step_k, true, pack_b, pack_a, block, finish, combine};
constexpr const GemmTable<float>* table_or_null = &table;
#else
constexpr const GemmTable<float>* table_or_null = nullptr;
#endif

}  // namespace

const SlicedGemm sliced_gemm = {table_or_null};

}  // namespace norma::cpu::NORMA_ISA
