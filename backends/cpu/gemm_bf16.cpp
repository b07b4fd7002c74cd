// Blocking of bf16 products: which part of C a task computes and in which pieces it walks through k; both follow from the sizes
// alone. Sums stay in f32 until they are whole: those of one panel of C in the first cache, those of a weight's gradient in
// scratch memory. The arithmetic is in kernels/bf16/gemm.cpp.
#include "backends/cpu/gemm_bf16.h"

#include <algorithm>
#include <atomic>
#include <bit>

#include "backends/cpu/cut_product.h"
#include "backends/cpu/few_rows.h"
#include "backends/cpu/gemm_bf16_kernels.h"
#include "backends/cpu/gemm_kernels.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {
namespace {

using std::int64_t;

constexpr int64_t row_block = 96;    // rows of A that one packing serves
constexpr int64_t k_unit = 32;       // k is cut at multiples of this: whole units of words
constexpr int64_t small = 1 << 17;   // multiply-adds that are not worth a second task

std::atomic<int> forced{-1};

const GemmBf16Table& table() {
  const GemmBf16Kernels& kernels = NORMA_BF16_KERNELS(gemm_bf16_kernels);
  switch (bf16_form()) {
    case Bf16Form::tiles: return *kernels.tiles;
    case Bf16Form::pairs: return kernels.pairs;
    default: return kernels.widened;
  }
}
/// In a task, from the first multiply to the last.
struct Entered {
  const GemmBf16Table& table;
  explicit Entered(const GemmBf16Table& t) : table(t) { t.enter(); }
  ~Entered() { table.leave(); }
  Entered(const Entered&) = delete;
};

int64_t words_of(const GemmBf16Table& t, int64_t k) { return round_up(ceil_div(k, t.depth), t.unit); }
/// Words of k that a panel of B may hold and stay in the first cache.
int64_t piece_words(const GemmBf16Table& t) { return std::clamp<int64_t>(24 * 1024 / (t.nr * 4), 192, 384); }
Word* words(Slot slot, int64_t count) { return scratch<Word>(slot, count + pack_slack); }

Bf16Epilogue shifted(const Bf16Epilogue& e, int64_t i, int64_t j) {
  const int64_t offset = i * e.ld + j;
  const auto move = [](auto* p, int64_t by) { return p ? p + by : p; };
  return {move(e.bias, j), move(e.pre, offset), e.gelu, move(e.gelu_pre, offset), move(e.residual, offset), e.ld};
}

/// Rows of A as words: where they lie, if whole units of pairs can be read there, else packed.
Bf16Tiles tiles_of(const GemmBf16Table& t, Matrix<const Bf16Bits> a, int64_t m, int64_t k) {
  if (t.depth == 2 && k % (2 * t.unit) == 0 && (t.unit == 1 || m % t.mr == 0) && a.row % 2 == 0 &&
      reinterpret_cast<std::uintptr_t>(a.data) % sizeof(Word) == 0)
    return {reinterpret_cast<const Word*>(a.data), t.mr * a.row / 2, a.row / 2, t.unit};
  const int64_t n = words_of(t, k);
  Word* rows = words(Slot::product_a, round_up(m, t.mr) * n);
  t.pack_rows(m, k, a, rows);
  return {rows, t.mr * n, n, t.unit};
}

/// Rows [from, to) of A are called into the caches.
void fetch(Matrix<const Bf16Bits> a, int64_t from, int64_t to, int64_t k) {
  for (int64_t i = from; i < to; ++i)
    for (int64_t p = 0; p < k; p += 32) __builtin_prefetch(a.data + i * a.row + p);
}

/// All of B in panels `step` words apart, packed in parallel by pack(j0, j1, to).
template <class Pack>
const Word* packed_b(const GemmBf16Table& t, int64_t n, int64_t step, Pack&& pack) {
  const int64_t panels = ceil_div(n, t.nr);
  Word* all = words(Slot::product_shared_b, panels * step);
  const int64_t group = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, step));
  parallel_for(panels, group, [&](int64_t from, int64_t to) {
    pack(from * t.nr, std::min(n, to * t.nr), all + from * step);
  });
  return all;
}

}  // namespace

void gemm_bf16(int64_t m, int64_t n, int64_t k, Matrix<const Bf16Bits> a, Matrix<const float> b, Bf16Bits* c, int64_t ldc,
               const Bf16Epilogue& epilogue) {
  if (m == 0 || n == 0) return;
  const GemmBf16Table& t = table();
  const int64_t all_words = words_of(t, k), step = all_words * t.nr;
  const auto pack = [&](int64_t j0, int64_t j1, Word* to) { t.pack_weight(k, j1 - j0, {b.data + j0 * b.col, b.row, b.col}, to, step); };
  // Tiles are quick to multiply: more rows than this want a larger weight packed once, by all threads.
  const bool few = few_rows(m, k, sizeof(Bf16Bits)) && (t.unit == 1 || m <= 2 * row_block || (m <= 4 * row_block && n * k <= 150'000));
  const Word* shared = few ? nullptr : packed_b(t, n, step, pack);

  int64_t rows = ceil_div(m, row_block), columns = 1;
  if (few) {
    const FewRows pieces_of_c(m, n, k, t.mr, t.nr);
    rows = pieces_of_c.rows, columns = pieces_of_c.columns;
  } else {
    if (rows > 8) rows = ceil_div(rows, 8) * 8;  // even shares for 2, 4 and 8 threads
    if (m * n * k > small)
      while (rows * columns < std::max<int64_t>(16, 2 * threads()) && n >= 2 * t.nr * columns) columns *= 2;
  }
  const int64_t pieces = std::max<int64_t>(1, ceil_div(all_words, piece_words(t)));
  // A block of A passes by all panels from the second cache.
  const int64_t most = std::clamp<int64_t>(48 * 1024 / std::max<int64_t>(1, all_words) / t.mr * t.mr, t.mr,
                                           row_block / t.mr * t.mr);
  parallel_tasks(rows * columns, [&](int64_t task) {
    const int64_t i0 = cut(m, t.mr, rows, task / columns), i1 = cut(m, t.mr, rows, task / columns + 1);
    const int64_t j0 = cut(n, t.nr, columns, task % columns), j1 = cut(n, t.nr, columns, task % columns + 1);
    if (i0 == i1 || j0 == j1) return;
    Word* mine = few ? words(Slot::product_b, ceil_div(j1 - j0, t.nr) * step) : nullptr;
    if (few) pack(j0, j1, mine);
    const Word* panels = few ? mine : shared + j0 / t.nr * step;
    float* sums = scratch<float>(Slot::product_panel, 2 * row_block * t.nr);
    Bf16Strip before;  // its sums are whole, and go to c beside the next product
    int current = 0;
    const Entered entered(t);
    for (int64_t i = i0; i < i1; i += most) {
      const int64_t height = std::min(most, i1 - i);
      const Bf16Tiles tiles = tiles_of(t, {a.data + i * a.row, a.row, a.col}, height, k);
      const int64_t next = std::min(most, i1 - i - height);  // rows of the next block: a part of them during each panel
      for (int64_t j = j0; j < j1; j += t.nr) {
        fetch(a, i + height + next * (j - j0) / (j1 - j0), i + height + next * std::min(j - j0 + t.nr, j1 - j0) / (j1 - j0), k);
        float* here = sums + current * row_block * t.nr;
        for (int64_t piece = 0; piece < pieces; ++piece) {
          const int64_t w0 = cut(all_words, t.unit, pieces, piece), w1 = cut(all_words, t.unit, pieces, piece + 1);
          t.multiply(height, w1 - w0, {tiles.data + w0 / t.unit * tiles.col, tiles.tile, tiles.row, tiles.col},
                     panels + (j - j0) / t.nr * step + w0 * t.nr, here, t.nr, piece > 0, piece == 0 && before.m ? &before : nullptr);
        }
        before = {height, std::min(t.nr, j1 - j), here, t.nr, c + i * ldc + j, ldc, shifted(epilogue, i, j)};
        current = 1 - current;
      }
    }
    t.finish(before);
  });
}

void gemm_bf16_long(int64_t m, int64_t n, int64_t k, Matrix<const Bf16Bits> a, Matrix<const Bf16Bits> b, bool gelu_b,
                    float* c, int64_t ldc, float* row_sums) {
  if (m == 0 || n == 0) return;
  const GemmBf16Table& t = table();
  // Few and large blocks of C, since each packs what it reads. k is cut too, to give every thread work, but not short: the sums of its slices go from
  // core to core. Into how many blocks of rows C is cut does not touch its bits, and is left to the number of threads.
  int64_t columns = ceil_div(n, 384);
  const int64_t tall = ceil_div(m, 768);
  const std::uint64_t most = std::max<int64_t>(1, std::min(8 / (tall * columns), k / 1024));
  const int64_t slices = static_cast<int64_t>(std::bit_floor(most));  // even shares for 2, 4 and 8 threads
  const int64_t tasks = m * n * k <= small ? 1 : std::clamp<int64_t>(2 * threads(), 1, 8);
  int64_t rows = std::max(tall, std::min(ceil_div(m, row_block), tasks / (slices * columns)));
  if (tasks > 1) cut_further(ceil_div(threads(), slices), m, n, t.mr, t.nr, rows, columns);
  const bool in_place = slices == 1 && (t.unit == 1 || m % t.mr == 0) && n % t.nr == 0;  // whole tiles, to whose sums nothing is added
  const int64_t ld = in_place ? ldc : round_up(n, t.nr), size = in_place ? 0 : round_up(m, t.mr) * ld, step = size + m;
  float* partial = scratch<float>(Slot::product_partial, slices * step);
  parallel_tasks(slices * rows * columns, [&](int64_t task) {
    const int64_t s = task / (rows * columns), i_part = task / columns % rows, j_part = task % columns;
    const int64_t i0 = cut(m, t.mr, rows, i_part), i1 = cut(m, t.mr, rows, i_part + 1);
    const int64_t j0 = cut(n, t.nr, columns, j_part), j1 = cut(n, t.nr, columns, j_part + 1);
    const int64_t k0 = cut(k, k_unit, slices, s), k1 = cut(k, k_unit, slices, s + 1);
    if (i0 == i1 || j0 == j1) return;
    float* mine = in_place ? c : partial + s * step;
    float* sums = row_sums && j_part == 0 ? partial + s * step + size : nullptr;
    const Entered entered(t);
    if (sums) std::fill(sums + i0, sums + i1, 0.0f);
    const int64_t pieces = std::max<int64_t>(1, ceil_div(k1 - k0, piece_words(t) * t.depth));
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t p0 = k0 + cut(k1 - k0, k_unit, pieces, piece), p1 = k0 + cut(k1 - k0, k_unit, pieces, piece + 1);
      const int64_t count = words_of(t, p1 - p0);
      Word* panels = words(Slot::product_b, count * round_up(j1 - j0, t.nr));
      t.pack_activation(p1 - p0, j1 - j0, {b.data + p0 * b.row + j0, b.row, 1}, gelu_b, panels, count * t.nr);
      for (int64_t i = i0; i < i1; i += row_block) {
        const int64_t height = std::min(row_block, i1 - i);
        const Bf16Tiles tiles = t.pack_columns(height, p1 - p0, {a.data + i + p0 * a.col, 1, a.col},
                                               words(Slot::product_a, count * round_up(height, t.mr)), sums ? sums + i : nullptr);
        for (int64_t j = j0; j < j1; j += t.nr)
          t.multiply(height, count, tiles, panels + (j - j0) * count, mine + i * ld + j, ld, piece > 0, nullptr);
      }
    }
  });
  const auto combine = NORMA_KERNELS(gemm_kernels).f32.combine;
  if (!in_place)
    parallel_for(m, std::max<int64_t>(1, task_elements / n), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) combine(slices, n, partial + i * ld, step, c + i * ldc);
    });
  if (row_sums) combine(slices, m, partial + size, step, row_sums);
}

std::string_view name(Bf16Form form) {
  return form == Bf16Form::tiles ? "tiles" : form == Bf16Form::pairs ? "pairs" : "widened";
}
bool has(Bf16Form form) { return form != Bf16Form::tiles || NORMA_BF16_KERNELS(gemm_bf16_kernels).tiles; }
Bf16Form bf16_form() {
  if (const int form = forced; form >= 0) return static_cast<Bf16Form>(form);
  if (has(Bf16Form::tiles)) return Bf16Form::tiles;
#if defined(__x86_64__)
  // vdpbf16ps does two multiply-adds a lane. Zen 4 starts as many of them as of f32's; a Xeon with AMX came to 225 GFLOP/s with
  // them and to 370 with f32's.
  if (isa() >= Isa::avx512bf16 && !__builtin_cpu_is("intel")) return Bf16Form::pairs;
#endif
  return Bf16Form::widened;
}
ForceBf16Form::ForceBf16Form(Bf16Form form) { forced = static_cast<int>(form); }
ForceBf16Form::~ForceBf16Form() { forced = -1; }

}  // namespace norma::cpu
