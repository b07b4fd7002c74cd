// Attention backward for one head: scores and dA = dO V^T are computed again, block by block, and turned in place into A and
// dS; five small products make dQ, dK and dV. Element-wise kinds need nothing from the forward pass and nothing along a row;
// normalised ones the log-sum-exp (softmax) and delta = rowsum(dO o O) = rowsum(A o dA), which holds with dropout too.
#include "backends/cpu/kernels/attention_dropout.h"
#include "backends/cpu/kernels/attention_sums.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// A tile of rows of scores and of dA, columns [column, column + columns), turned into A and scale * dS in place.
template <class T>
struct Tile {
  T *p, *g;
  Int ld;
  Int first;  // global number of the first row
  int rows;
  Int column, columns;
  Int clear_to;
};

/// The statistics of one head.
template <class T>
struct Gradients {
  WideSum<T> a2, s2;
};

/// Per row: the log-sum-exp (softmax) or unused, and delta.
template <class T, Phi phi, bool normalize, bool measure>
void differentiate(const Sight<T>& sight, const Tile<T>& tile, const T* lse, const T* delta, T* keep, std::uint32_t* words,
                   Gradients<T>* sums) {
  using V = Vec<T>;
  const AttentionHead<T>& h = sight.head;
  const Weight<T, phi> weight(h);
  const T scale = static_cast<T>(h.scale);
  V a2{}, s2{};
  for (int m = 0; m < tile.rows; ++m) {
    T *p = tile.p + m * tile.ld, *g = tile.g + m * tile.ld;
    const Row<T> row = sight.row(tile.first + m, tile.column, tile.columns);
    if (h.drop) {
      const Int first = (tile.first + m) * h.keys + tile.column;
      draw_keep(h, h.first_index + static_cast<std::uint64_t>(first), row.length, keep, words);
      multiply_by(keep, row.length, g);
    }
    auto finish = [&](Int j, auto visible, V a, V da, V ds) __attribute__((always_inline)) {
      ds = visible.keep(ds);
      store(p + j, visible.keep(a));
      store(g + j, ds * scale);
      if constexpr (measure) {
        const V seen = visible.keep(da);
        a2 = fma(seen, seen, a2);
        s2 = fma(ds, ds, s2);
      }
    };
    if constexpr (phi == Phi::softmax) {
      const T shift = lse[m], d = delta[m];
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
        const V a = exp_fast(load(p + j) - shift), da = load(g + j);
        finish(j, visible, a, da, a * (da - d));
      });
    } else if constexpr (normalize) {
      V sum{};
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
        sum += visible.keep(weight.value(load(p + j), T{1}));
      });
      const T total = sum_lanes(sum), inverse = total != 0 ? 1 / total : 1, d = delta[m];
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
        const V s = load(p + j), da = load(g + j), f = weight.value(s, T{1});
        finish(j, visible, f * inverse, da, weight.derivative(s, f, T{1}) * inverse * (da - d));
      });
    } else {
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
        const V s = load(p + j), da = load(g + j), a = weight.value(s, row.factor);
        finish(j, visible, a, da, da * weight.derivative(s, a, row.factor));
      });
    }
    if (h.drop) multiply_by(keep, row.length, p);
    clear(p, round_up(row.length, lanes<T>), tile.clear_to);
    clear(g, round_up(row.length, lanes<T>), tile.clear_to);
    if constexpr (measure) {
      if (m + 1 == tile.rows || row.length > columns_between_widenings) {
        sums->a2.add(a2), sums->s2.add(s2);
        a2 = s2 = V{};
      }
    }
  }
}

/// delta[m] = sum over the row of out * dout.
template <class T>
void row_products(const AttentionHeadBackward<T>& h, Int first, int rows, T* delta) {
  constexpr int L = lanes<T>;
  Vec<T> lane[row_slots] = {};
  for (int m = 0; m < rows; ++m) {
    const T *x = h.out + (first + m) * h.out_row, *y = h.dout + (first + m) * h.dout_row;
    Vec<T> sum{};
    Int c = 0;
    for (; c + L <= h.e; c += L) sum = fma(load(x + c), load(y + c), sum);
    if (c < h.e) sum = fma(load_n(x + c, static_cast<int>(h.e - c)), load_n(y + c, static_cast<int>(h.e - c)), sum);
    lane[m] = sum;
  }
  combine_each(lane, delta, Plus{});
}

/// How the keys and rows are cut, and with them the scratch memory of one call.
template <class T>
struct Plan {
  static constexpr Int W = panel_width<T>;
  Int columns, rows, ld;                          // of a block of scores
  Int kt_step, vt_step, k_step, q_step, o_step;  // of the panels
  Int kt_size, vt_size, k_size, q_size, o_size, block_size, zero_size, keep_size, mask_size, before_size, row_size;
  explicit Plan(const AttentionHeadBackward<T>& h) {
    // Two blocks of scores and the panels share the second-level cache. Rows that are divided by their sum stay whole.
    const bool whole = h.keys <= 320 || (h.normalize && h.phi != Phi::softmax);
    columns = whole ? h.keys : 256;
    ld = round_up(columns, lanes<T>) + lanes<T>;  // an odd number of registers apart: rows do not share cache sets
    const Int fitting = 131072 / (ld * static_cast<Int>(sizeof(T)));
    rows = smaller(h.rows, larger(tile_rows, smaller(96, fitting / tile_rows * tile_rows)));
    kt_step = h.d * W;
    vt_step = h.e * W;
    k_step = columns * W;
    q_step = o_step = rows * W;
    kt_size = round_up(columns, W) * h.d;
    vt_size = round_up(columns, W) * h.e;
    k_size = round_up(h.d, W) * columns;
    q_size = round_up(h.d, W) * rows;
    o_size = round_up(h.e, W) * rows;
    block_size = (rows + tile_rows) * ld;
    zero_size = round_up(larger(h.d, h.e), 16);
    keep_size = h.drop ? round_up(columns, 16) + 128 : 0;
    mask_size = h.key_mask ? round_up(h.keys, 16) + 16 : 0;
    before_size = h.key_mask ? round_up(h.keys + 1, 16) : 0;
    row_size = round_up(h.rows, 16) + 2 * row_slots;
  }
  Int bytes() const {
    return (kt_size + vt_size + k_size + q_size + o_size + 2 * block_size + zero_size + keep_size + mask_size + row_size) *
               static_cast<Int>(sizeof(T)) + (before_size + keep_size) * 4 + 16 * 64;
  }
};

template <class T>
using Differentiate = void (*)(const Sight<T>&, const Tile<T>&, const T* lse, const T* delta, T* keep, std::uint32_t* words,
                               Gradients<T>*);

template <class T, bool measure>
Differentiate<T> differentiate_of(const AttentionHead<T>& h) {
  const bool n = h.normalize;
  if constexpr (sizeof(T) == 4) {  // f64 is for checking: its powers are polynomials like any other
    switch (h.phi) {
      case Phi::power1: return differentiate<T, Phi::power1, false, measure>;
      case Phi::power2:
        return n ? differentiate<T, Phi::power2, true, measure> : differentiate<T, Phi::power2, false, measure>;
      case Phi::power3: return differentiate<T, Phi::power3, false, measure>;
      case Phi::power4:
        return n ? differentiate<T, Phi::power4, true, measure> : differentiate<T, Phi::power4, false, measure>;
      default: break;
    }
  }
  switch (h.phi) {
    case Phi::softmax: return differentiate<T, Phi::softmax, true, measure>;
    case Phi::sigmoid: return differentiate<T, Phi::sigmoid, false, measure>;
    case Phi::relu: return differentiate<T, Phi::relu, false, measure>;
    default:
      return n ? differentiate<T, Phi::polynomial, true, measure> : differentiate<T, Phi::polynomial, false, measure>;
  }
}

template <class T>
void backward(const AttentionHeadBackward<T>& h) {
  constexpr Int W = panel_width<T>;
  constexpr int L = lanes<T>;
  const Plan<T> plan(h);
  Pieces pieces{static_cast<char*>(h.work)};
  T* kt_panels = pieces.take<T>(plan.kt_size);
  T* vt_panels = pieces.take<T>(plan.vt_size);
  T* k_panels = pieces.take<T>(plan.k_size);
  T* q_panels = pieces.take<T>(plan.q_size);
  T* o_panels = pieces.take<T>(plan.o_size);
  T* p_block = pieces.take<T>(plan.block_size);
  T* g_block = pieces.take<T>(plan.block_size);
  T* zeros = pieces.take<T>(plan.zero_size);
  T* keep = pieces.take<T>(plan.keep_size);
  T* delta = pieces.take<T>(plan.row_size);
  Bits<T>* mask = pieces.take<Bits<T>>(plan.mask_size);
  std::int32_t* before = pieces.take<std::int32_t>(plan.before_size);
  std::uint32_t* words = pieces.take<std::uint32_t>(plan.keep_size);

  for (Int i = 0; i < plan.zero_size; ++i) zeros[i] = 0;
  Sight<T> sight{h};
  sight.set_masks(mask, before);
  const Differentiate<T> differentiate_tile = h.stats ? differentiate_of<T, true>(h) : differentiate_of<T, false>(h);
  Gradients<T> sums;
  if (h.normalize) {
    for (Int i = 0; i < h.rows; i += row_slots) row_products(h, i, static_cast<int>(smaller(row_slots, h.rows - i)), delta + i);
  }
  for (Int j0 = 0; j0 < h.keys; j0 += plan.columns) {
    const Int columns = smaller(plan.columns, h.keys - j0);
    prefetch_rows(h.v + j0 * h.v_row, h.v_row, smaller(columns, 128), h.e);
    prefetch_rows(h.q, h.q_row, plan.rows, h.d);
    prefetch_rows(h.dout, h.dout_row, plan.rows, h.e);
    pack_transposed(h.k + j0 * h.k_row, h.k_row, columns, h.d, static_cast<T>(h.scale), zeros, kt_panels, plan.kt_step);
    pack_transposed(h.v + j0 * h.v_row, h.v_row, columns, h.e, T{1}, zeros, vt_panels, plan.vt_step);
    pack_rows(h.k + j0 * h.k_row, h.k_row, columns, h.d, k_panels, plan.k_step);
    const Tiling key_tiles(columns);
    bool started = false;  // dk and dv of these keys hold the sum over earlier rows
    for (Int i0 = 0; i0 < h.rows; i0 += plan.rows) {
      const Int rows = smaller(plan.rows, h.rows - i0);
      const Int seen_by_block = smaller(columns, sight.length(i0 + rows - 1) - j0);
      if (seen_by_block <= 0 && j0 > 0) continue;  // the last row sees every key, so dk and dv get started
      pack_rows(h.q + i0 * h.q_row, h.q_row, rows, h.d, q_panels, plan.q_step);
      pack_rows(h.dout + i0 * h.dout_row, h.dout_row, rows, h.e, o_panels, plan.o_step);
      const Tiling row_tiles(rows);
      for (Int t = 0; t < row_tiles.count; ++t) {
        const Int r = row_tiles.begin(t), i = i0 + r;
        const int mr = row_tiles.rows(t);
        const Int seen = larger(0, smaller(columns, sight.length(i + mr - 1) - j0));
        T *p = p_block + r * plan.ld, *g = g_block + r * plan.ld;
        multiply_rows<T, false>(mr, seen, h.d, h.q + i * h.q_row, h.q_row, {kt_panels, plan.kt_step}, p, plan.ld, true, false,
                                nullptr);
        multiply_rows<T, false>(mr, seen, h.e, h.dout + i * h.dout_row, h.dout_row, {vt_panels, plan.vt_step}, g, plan.ld, true,
                                false, nullptr);
        T lse[row_slots] = {};
        if (h.phi == Phi::softmax)
          for (int m = 0; m < mr; ++m) lse[m] = h.lse[(i + m) * h.lse_step];
        // A tile of keys that starts at the last visible column reaches past it, into the padding of the block.
        const Tile<T> both{p, g, plan.ld, i, mr, j0, columns, smaller(plan.ld, round_up(seen + tile_rows, L))};
        differentiate_tile(sight, both, lse, delta + i, keep, words, &sums);
        multiply_rows<T, false>(mr, h.d, seen, g, plan.ld, {k_panels, plan.k_step}, h.dq + i * h.dq_row, h.dq_row, false, j0 > 0,
                                nullptr);
      }
      for (Int t = 0; t < key_tiles.count; ++t) {
        const Int j = key_tiles.begin(t);
        const int mr = key_tiles.rows(t);
        // The first row of the block that sees key j0 + j.
        const Int from = h.causal ? smaller(rows, larger(0, j0 + j - (h.keys - h.rows) - i0)) : 0;
        multiply_rows<T, true>(mr, h.e, rows - from, p_block + from * plan.ld + j, plan.ld, {o_panels + from * W, plan.o_step},
                               h.dv + (j0 + j) * h.dv_row, h.dv_row, false, started, nullptr);
        multiply_rows<T, true>(mr, h.d, rows - from, g_block + from * plan.ld + j, plan.ld, {q_panels + from * W, plan.q_step},
                               h.dk + (j0 + j) * h.dk_row, h.dk_row, false, started, nullptr);
      }
      started = true;
    }
  }
  if (h.stats) {
    h.stats[static_cast<int>(AttentionStat::grad_a2)] = sums.a2.total();
    h.stats[static_cast<int>(AttentionStat::grad_s2)] = sums.s2.total();
  }
}

template <class T>
Int work_bytes(const AttentionHeadBackward<T>& h) {
  return Plan<T>(h).bytes();
}

}  // namespace

extern const AttentionBackwardKernels attention_backward_kernels{work_bytes<float>, work_bytes<double>, backward<float>,
                                                                 backward<double>};

}  // namespace norma::cpu::NORMA_ISA
