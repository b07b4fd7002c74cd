// Attention backward for one head: scores and dA = dO V^T are computed again, block by block, and turned in place into A and
// dS; five small products make dQ, dK and dV. Element-wise kinds need nothing from the forward pass and nothing along a row;
// normalised ones the log-sum-exp (softmax) and delta = rowsum(dO o O) = rowsum(A o dA), which holds with dropout too. Of an O that was
// rounded to bf16 delta has an error of its size, which matters where values are far from 0: whole rows take A and dA.
#include "backends/cpu/kernels/attention_backward_tiles.h"
#include "backends/cpu/kernels/attention_differentiate.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// How the keys and rows are cut, and the scratch memory of one call.
template <class T>
struct Plan {
  static constexpr Int W = panel_width<T>;
  Int columns, rows, ld;                          // of a block of scores
  Int kt_step, vt_step, k_step, q_step, o_step;  // of the panels
  T *kt_panels, *vt_panels, *k_panels, *q_panels, *o_panels;
  T *p_block, *g_block;
  T *zeros, *keep, *delta;
  Bits<T>* mask;
  std::int32_t* before;
  std::uint32_t* words;

  Plan(const AttentionHeadBackward<T>& h, ScratchCutter& scratch) {
    // Two blocks of scores and the panels share the second-level cache. Rows that are divided by their sum stay whole.
    const Int keys = h.key_end - h.key_begin;
    const bool whole = keys <= whole_row_keys || (h.normalize && h.phi != Phi::softmax);
    columns = whole ? keys : 256;
    ld = round_up(columns, lanes<T>) + lanes<T>;  // an odd number of registers apart: rows do not share cache sets
    const Int fitting = 131072 / (ld * static_cast<Int>(sizeof(T)));
    rows = smaller(h.rows, larger(tile_rows, smaller(96, fitting / tile_rows * tile_rows)));
    kt_step = h.d * W;
    vt_step = h.e * W;
    k_step = columns * W;
    q_step = o_step = rows * W;
    kt_panels = scratch.take<T>(round_up(columns, W) * h.d);
    vt_panels = scratch.take<T>(round_up(columns, W) * h.e);
    k_panels = scratch.take<T>(round_up(h.d, W) * columns);
    q_panels = scratch.take<T>(round_up(h.d, W) * rows);
    o_panels = scratch.take<T>(round_up(h.e, W) * rows);
    p_block = scratch.take<T>((rows + tile_rows) * ld);
    g_block = scratch.take<T>((rows + tile_rows) * ld);
    zeros = scratch.take<T>(zero_count(h));
    const Int drawn = h.drop ? round_up(columns, 16) + 128 : 0;
    keep = scratch.take<T>(drawn);
    delta = scratch.take<T>(round_up(h.rows, 16) + 2 * row_slots);
    mask = scratch.take<Bits<T>>(h.key_mask ? round_up(h.keys, 16) + 16 : 0);
    before = scratch.take<std::int32_t>(h.key_mask ? round_up(h.keys + 1, 16) : 0);
    words = scratch.take<std::uint32_t>(drawn);
  }
  static Int zero_count(const AttentionHeadBackward<T>& h) { return round_up(larger(h.d, h.e), 16); }
};

template <class T>
void backward(const AttentionHeadBackward<T>& h) {
  if constexpr (has_packed<T>)
    if (h.packed) return backward_on_tiles(h);
  constexpr Int W = panel_width<T>;
  constexpr int L = lanes<T>;
  ScratchCutter scratch(h.work);
  const Plan<T> plan(h, scratch);
  for (Int i = 0; i < plan.zero_count(h); ++i) plan.zeros[i] = 0;
  Visibility<T> visibility{h};
  visibility.set_masks(plan.mask, plan.before);
  const Differentiate<T> differentiate_tile = h.stats ? differentiate_of<T, true>(h) : differentiate_of<T, false>(h);
  Gradients<T> sums;
  const bool own_delta = h.rounded_out && plan.columns == h.keys;
  if (h.normalize && !own_delta) row_products(h, plan.delta);
  T* const dq = h.dq_part ? h.dq_part : h.dq;
  const Int dq_row = h.dq_part ? h.d : h.dq_row;
  for (Int j0 = h.key_begin; j0 < h.key_end; j0 += plan.columns) {
    const Int columns = smaller(plan.columns, h.key_end - j0);
    prefetch_rows(h.v + j0 * h.v_row, h.v_row, smaller(columns, 128), h.e);
    prefetch_rows(h.q, h.q_row, plan.rows, h.d);
    prefetch_rows(h.dout, h.dout_row, plan.rows, h.e);
    const Int in_panels = columns - few_of<T>(columns);
    const T *k_left = h.k + (j0 + in_panels) * h.k_row, *v_left = h.v + (j0 + in_panels) * h.v_row;
    pack_transposed(h.k + j0 * h.k_row, h.k_row, in_panels, h.d, static_cast<T>(h.scale), plan.zeros, plan.kt_panels, plan.kt_step);
    pack_transposed(h.v + j0 * h.v_row, h.v_row, in_panels, h.e, T{1}, plan.zeros, plan.vt_panels, plan.vt_step);
    pack_rows(h.k + j0 * h.k_row, h.k_row, columns, h.d, plan.k_panels, plan.k_step);
    const Tiling key_tiles(columns);
    bool started = false;  // dk and dv of these keys hold the sum over earlier rows
    for (Int i0 = 0; i0 < h.rows; i0 += plan.rows) {
      const Int rows = smaller(plan.rows, h.rows - i0);
      const Int seen_by_block = smaller(columns, visibility.length(i0 + rows - 1) - j0);
      if (seen_by_block <= 0 && j0 > h.key_begin) continue;  // the last row sees every key, so dk and dv get started
      pack_rows(h.q + i0 * h.q_row, h.q_row, rows, h.d, plan.q_panels, plan.q_step);
      pack_rows(h.dout + i0 * h.dout_row, h.dout_row, rows, h.e, plan.o_panels, plan.o_step);
      const Tiling row_tiles(rows);
      for (Int t = 0; t < row_tiles.count; ++t) {
        const Int r = row_tiles.begin(t), i = i0 + r;
        const int mr = row_tiles.rows(t);
        const Int seen = larger(0, smaller(columns, visibility.length(i + mr - 1) - j0));
        T *p = plan.p_block + r * plan.ld, *g = plan.g_block + r * plan.ld;
        const T *q = h.q + i * h.q_row, *dout = h.dout + i * h.dout_row;
        const Int by_panels = smaller(seen, in_panels);
        multiply_rows<T, false>(mr, by_panels, h.d, q, h.q_row, {plan.kt_panels, plan.kt_step}, p, plan.ld, true, false, nullptr);
        multiply_rows<T, false>(mr, by_panels, h.e, dout, h.dout_row, {plan.vt_panels, plan.vt_step}, g, plan.ld, true, false, nullptr);
        if (seen > in_panels) {
          few_columns(mr, seen - in_panels, h.d, q, h.q_row, k_left, h.k_row, static_cast<T>(h.scale), p + in_panels, plan.ld);
          few_columns(mr, seen - in_panels, h.e, dout, h.dout_row, v_left, h.v_row, T{1}, g + in_panels, plan.ld);
        }
        T lse[row_slots] = {};
        if (h.phi == Phi::softmax)
          for (int m = 0; m < mr; ++m) lse[m] = h.lse[(i + m) * h.lse_step];
        // A tile of keys that starts at the last visible column reaches past it, into the padding of the block.
        const GradientTile<T> both{p, g, plan.ld, i, mr, j0, columns, smaller(plan.ld, round_up(seen + tile_rows, L)), T{1}, own_delta};
        differentiate_tile(visibility, both, lse, plan.delta + i, plan.keep, plan.words, &sums);
        multiply_rows<T, false>(mr, h.d, seen, g, plan.ld, {plan.k_panels, plan.k_step}, dq + i * dq_row, dq_row, false, j0 > h.key_begin,
                                nullptr);
      }
      for (Int t = 0; t < key_tiles.count; ++t) {
        const Int j = key_tiles.begin(t);
        const int mr = key_tiles.rows(t);
        // The first row of the block that sees key j0 + j.
        const Int from = h.causal ? smaller(rows, larger(0, j0 + j - (h.keys - h.rows) - i0)) : 0;
        multiply_rows<T, true>(mr, h.e, rows - from, plan.p_block + from * plan.ld + j, plan.ld, {plan.o_panels + from * W, plan.o_step},
                               h.dv + (j0 + j) * h.dv_row, h.dv_row, false, started, nullptr);
        multiply_rows<T, true>(mr, h.d, rows - from, plan.g_block + from * plan.ld + j, plan.ld, {plan.q_panels + from * W, plan.q_step},
                               h.dk + (j0 + j) * h.dk_row, h.dk_row, false, started, nullptr);
      }
      started = true;
    }
  }
  if (h.stats) sums.write(h.stats);
}

template <class T>
Int work_bytes(const AttentionHeadBackward<T>& h) {
  if constexpr (has_packed<T>)
    if (h.packed) return backward_on_tiles_bytes(h);
  ScratchCutter count(nullptr);
  Plan<T>(h, count);
  return count.used();
}

#if defined(__AVX512F__)
constexpr auto bf16 = AttentionKernel<AttentionHeadBackward<float, Bf16Bits>>{backward_on_tiles_bytes<Bf16Bits>, backward_on_tiles<Bf16Bits>};
#else
constexpr auto bf16 = AttentionKernel<AttentionHeadBackward<float, Bf16Bits>>{nullptr, nullptr};
#endif

}  // namespace

extern const AttentionBackwardKernels attention_backward_kernels{{work_bytes<float>, backward<float>}, {work_bytes<double>, backward<double>}, bf16};

}  // namespace norma::cpu::NORMA_ISA
