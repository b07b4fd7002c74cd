// Attention forward for one head. K is packed once, transposed and scaled, V once by rows, both in panels; then every few rows:
// scores into a block that stays in cache, the attention function over it in place, and the product with V into the output. Where rows
// are long, several tiles of them share each panel of K and each piece of V while it is in cache.
// Softmax needs no online rescaling, since a whole row is at hand. Statistics come from the same registers as the weights.
#include "backends/cpu/kernels/attention_dropout.h"
#include "backends/cpu/kernels/attention_sums.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// A tile of rows of scores, turned into weights in place.
template <class T>
struct Tile {
  T* p;
  Int ld;
  Int first;  // global number of the first row
  int rows;
  Int clear_to;  // columns beyond the visible ones that must be zero
};

/// Element-wise kinds without row normalisation: nothing is carried along a row, so the statistics are summed per tile.
template <class T, Phi phi, bool measure>
void weigh(const Sight<T>& sight, const Tile<T>& tile, T*, T*, Statistics<T>* stats) {
  using V = Vec<T>;
  const Weight<T, phi> weight(sight.head);
  const T small = static_cast<T>(sight.head.small);
  V row_sums[row_slots] = {};
  V squares{}, slopes{}, score{}, score2{};
  Mask<T> negative{}, small_count{};
  V score_max, least, most;
  if constexpr (measure) score_max = stats->score_max, least = stats->least, most = stats->most;
  for (int m = 0; m < tile.rows; ++m) {
    T* p = tile.p + m * tile.ld;
    const Row<T> row = sight.row(tile.first + m, 0, sight.head.keys);
    V row_sum{};
    for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
      const V s = load(p + j);
      const V full = weight.value(s, row.factor);
      const V a = visible.keep(full);
      store(p + j, a);
      if constexpr (measure) {
        const V seen = visible.keep(s), slope = visible.keep(weight.derivative(s, full, row.factor));
        squares = fma(a, a, squares);
        slopes = fma(slope, slope, slopes);
        score += seen;
        score2 = fma(seen, seen, score2);
        score_max = vmax(visible.select(s, score_max), score_max);
        least = vmin(visible.select(a, least), least);
        most = vmax(visible.select(a, most), most);
        negative += a < V{};
        small_count += visible.both(abs(a) < small);
        row_sum += a;
      }
    });
    clear(p, round_up(row.length, lanes<T>), tile.clear_to);
    if constexpr (measure) {
      row_sums[m] = row_sum;
      stats->entries += static_cast<double>(sight.visible(tile.first + m));
      if (m + 1 == tile.rows || row.length > columns_between_widenings) {
        stats->squares.add(squares), stats->slopes.add(slopes), stats->score.add(score), stats->score2.add(score2);
        stats->negative.add_count(negative), stats->small.add_count(small_count);
        squares = slopes = score = score2 = V{};
        negative = small_count = Mask<T>{};
      }
    }
  }
  if constexpr (measure) {
    stats->score_max = score_max, stats->least = least, stats->most = most;
    T sum[row_slots];
    combine_each(row_sums, sum, Plus{});
    for (int m = 0; m < tile.rows; ++m) {
      stats->row_sum += sum[m];
      stats->row_sum2 += static_cast<double>(sum[m]) * sum[m];
    }
  }
}

/// Softmax: leaves exp(s - max) and gives 1 / sum, and the log-sum-exp, per row.
template <class T, bool measure>
void weigh_softmax(const Sight<T>& sight, const Tile<T>& tile, T* inverse, T* lse, Statistics<T>* stats) {
  using V = Vec<T>;
  constexpr T infinity = Statistics<T>::infinity;
  V lane[row_slots];
  Row<T> row[row_slots];
  for (int m = 0; m < row_slots; ++m) lane[m] = splat(-infinity);
  for (int m = 0; m < tile.rows; ++m) {
    row[m] = sight.row(tile.first + m, 0, sight.head.keys);
    const T* p = tile.p + m * tile.ld;
    V most = splat(-infinity);
    for_columns(row[m], [&](Int j, auto visible) __attribute__((always_inline)) {
      most = vmax(most, visible.select(load(p + j), most));
    });
    lane[m] = most;
  }
  Slots<T> top, sum;
  combine_each(lane, top.value, Larger{});

  V sums[row_slots] = {}, squares[row_slots] = {}, cubes[row_slots] = {}, logs[row_slots] = {}, least[row_slots] = {};
  V score{}, score2{};
  for (int m = 0; m < tile.rows; ++m) {
    T* p = tile.p + m * tile.ld;
    const T shift = top.value[m];
    V row_sum{}, square{}, cube{}, log_sum{}, low = splat(infinity);
    for_columns(row[m], [&](Int j, auto visible) __attribute__((always_inline)) {
      const V s = load(p + j), y = s - shift;
      const V e = visible.keep(exp_fast(y));
      store(p + j, e);
      row_sum += e;
      if constexpr (measure) {
        const V seen = visible.keep(s), e2 = e * e;
        square += e2;
        cube = fma(e2, e, cube);
        log_sum = fma(e, visible.keep(y), log_sum);
        low = vmin(visible.select(e, low), low);
        score += seen;
        score2 = fma(seen, seen, score2);
      }
    });
    clear(p, round_up(row[m].length, lanes<T>), tile.clear_to);
    sums[m] = row_sum;
    if constexpr (measure) {
      squares[m] = square, cubes[m] = cube, logs[m] = log_sum, least[m] = low;
      if (m + 1 == tile.rows || row[m].length > columns_between_widenings) {
        stats->score.add(score), stats->score2.add(score2);
        score = score2 = V{};
      }
    }
  }
  combine_each(sums, sum.value, Plus{});
  for (int v = 0; v < slot_vectors<T>; ++v) {
    const V total = load(sum.value + v * lanes<T>);
    const V reciprocal = total > V{} ? T{1} / total : total;  // a row that sees nothing gives zeros; a NaN stays
    store(inverse + v * lanes<T>, reciprocal);
    store(lse + v * lanes<T>, load(top.value + v * lanes<T>) + log(total));
  }
  if constexpr (measure) {
    T square[row_slots], cube[row_slots], log_sum[row_slots], low[row_slots], log_total[slot_vectors<T> * lanes<T>];
    combine_each(squares, square, Plus{});
    combine_each(cubes, cube, Plus{});
    combine_each(logs, log_sum, Plus{});
    combine_each(least, low, Smaller{});
    for (int v = 0; v < slot_vectors<T>; ++v) store(log_total + v * lanes<T>, log(load(sum.value + v * lanes<T>)));
    Mask<T> small{};
    for (int m = 0; m < tile.rows; ++m) {
      const double count = static_cast<double>(sight.visible(tile.first + m));
      if (count == 0) continue;
      const double total = sum.value[m], inv = inverse[m];
      const double a2 = square[m] * inv * inv, a3 = cube[m] * inv * inv * inv, one = total * inv;
      stats->entries += count;
      stats->row_squares += a2;
      stats->row_slopes += a2 - 2 * a3 + a2 * a2;
      stats->row_sum += one;
      stats->row_sum2 += one * one;
      stats->entropy += log_total[m] - log_sum[m] * inv;
      stats->row_least = Smaller{}(stats->row_least, low[m] * inv);
      stats->row_most = Larger{}(stats->row_most, inv);
      stats->row_score_max = Larger{}(stats->row_score_max, static_cast<double>(top.value[m]));
      const T* p = tile.p + m * tile.ld;
      const T limit = static_cast<T>(sight.head.small * total);
      for_columns(row[m], [&](Int j, auto visible) __attribute__((always_inline)) {
        small += visible.both(load(p + j) < limit);
      });
      if (m + 1 == tile.rows || row[m].length > columns_between_widenings) {
        stats->small.add_count(small);
        small = Mask<T>{};
      }
    }
    stats->small.add_count(small);
  }
}

/// Element-wise kinds whose rows are divided by their sum: leaves f(s) and gives 1 / sum per row, 1 where the sum is 0.
template <class T, Phi phi, bool measure>
void weigh_normalized(const Sight<T>& sight, const Tile<T>& tile, T* inverse, T*, Statistics<T>* stats) {
  using V = Vec<T>;
  const Weight<T, phi> weight(sight.head);
  V lane[row_slots] = {};
  T sum[row_slots];
  for (int m = 0; m < tile.rows; ++m) {
    const Row<T> row = sight.row(tile.first + m, 0, sight.head.keys);
    T* p = tile.p + m * tile.ld;
    V row_sum{}, squares{}, slopes{}, slopes_f{};
    for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
      const V s = load(p + j), full = weight.value(s, T{1}), f = visible.keep(full);
      store(p + j, f);
      row_sum += f;
      if constexpr (measure) {
        const V seen = visible.keep(s), slope = visible.keep(weight.derivative(s, full, T{1}));
        squares = fma(f, f, squares);
        slopes = fma(slope, slope, slopes);
        slopes_f = fma(slope * slope, f, slopes_f);
        stats->score.add(seen);
        stats->score2.add(seen * seen);
        stats->score_max = vmax(stats->score_max, visible.select(s, stats->score_max));
      }
    });
    clear(p, round_up(row.length, lanes<T>), tile.clear_to);
    lane[m] = row_sum;
    if constexpr (measure) {
      const double total = sum_lanes(row_sum), inv = total != 0 ? 1 / total : 1;
      // d a_i / d s_k = f'_k / F (delta_ik - a_i): squared norm = sum_k (f'_k / F)^2 (1 - 2 a_k + sum a^2)
      const double a2 = sum_lanes(squares) * inv * inv, slope2 = sum_lanes(slopes) * inv * inv;
      stats->row_squares += a2;
      stats->row_slopes += slope2 * (1 + a2) - 2 * sum_lanes(slopes_f) * inv * inv * inv;
      stats->row_sum += total * inv;
      stats->row_sum2 += total * inv * total * inv;
      stats->entries += static_cast<double>(sight.visible(tile.first + m));
      const T factor = static_cast<T>(inv), small = static_cast<T>(sight.head.small);
      WideSum<T> entropy;
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
        const V a = load(p + j) * factor;
        stats->least = vmin(stats->least, visible.select(a, stats->least));
        stats->most = vmax(stats->most, visible.select(a, stats->most));
        stats->negative.add_count(a < V{});
        stats->small.add_count(visible.both(abs(a) < small));
        entropy.add(a == V{} ? V{} : a * log(a));
      });
      stats->entropy -= entropy.total();
    }
  }
  combine_each(lane, sum, Plus{});
  for (int m = 0; m < tile.rows; ++m) inverse[m] = sum[m] != 0 ? 1 / sum[m] : 1;
}

/// How the scratch memory of one call is cut.
template <class T>
struct Plan {
  static constexpr Int W = panel_width<T>;
  Int k_step, v_step, ld, block_tiles;
  Int v_piece;  // keys whose rows of V, 128 KiB or less, are multiplied by all tiles of a block before the next ones
  Int k_size, v_size, p_size, inverse_size, zero_size, keep_size, mask_size, before_size, words_size;
  explicit Plan(const AttentionHeadForward<T>& h) {
    k_step = h.d * W;
    v_step = h.keys * W;
    ld = round_up(h.keys, lanes<T>) + lanes<T>;  // an odd number of registers apart: rows do not share cache sets
    const Int tiles = Tiling(h.row_end - h.row_begin).count;
    // A block of about 384 KiB; of very long rows six tiles, so that K and V are not read too often.
    const Int fitting = 393216 / (tile_rows * ld * static_cast<Int>(sizeof(T)));
    block_tiles = h.keys <= 256 ? 1 : larger(1, smaller(tiles, larger(6, fitting)));
    v_piece = larger(256, smaller(512, 131072 / (larger(1, h.e) * static_cast<Int>(sizeof(T)))));
    k_size = round_up(h.keys, W) / W * k_step;
    v_size = round_up(h.e, W) / W * v_step;
    p_size = block_tiles * tile_rows * ld;
    inverse_size = block_tiles * static_cast<Int>(sizeof(Slots<T>) / sizeof(T));
    zero_size = round_up(h.d, 16);
    keep_size = h.drop ? round_up(h.keys, 16) + 128 : 0;
    words_size = keep_size;
    mask_size = h.key_mask ? round_up(h.keys, 16) : 0;
    before_size = h.key_mask ? round_up(h.keys + 1, 16) : 0;
  }
  Int bytes() const {
    return (k_size + v_size + p_size + inverse_size + zero_size + keep_size + mask_size) * static_cast<Int>(sizeof(T)) +
           (before_size + words_size) * 4 + 9 * 64;
  }
};

/// Turns a tile of scores into weights; 1 / sum and the log-sum-exp per row where the kind has them.
template <class T>
using Weigh = void (*)(const Sight<T>&, const Tile<T>&, T* inverse, T* lse, Statistics<T>*);

template <class T, bool measure>
Weigh<T> weigh_of(const AttentionHead<T>& h) {
  if constexpr (sizeof(T) == 4) {  // f64 is for checking: its powers are polynomials like any other
    switch (h.phi) {
      case Phi::power1: return weigh<T, Phi::power1, measure>;
      case Phi::power2: return h.normalize ? weigh_normalized<T, Phi::power2, measure> : weigh<T, Phi::power2, measure>;
      case Phi::power3: return weigh<T, Phi::power3, measure>;
      case Phi::power4: return h.normalize ? weigh_normalized<T, Phi::power4, measure> : weigh<T, Phi::power4, measure>;
      default: break;
    }
  }
  switch (h.phi) {
    case Phi::softmax: return weigh_softmax<T, measure>;
    case Phi::sigmoid: return weigh<T, Phi::sigmoid, measure>;
    case Phi::relu: return weigh<T, Phi::relu, measure>;
    default: return h.normalize ? weigh_normalized<T, Phi::polynomial, measure> : weigh<T, Phi::polynomial, measure>;
  }
}

template <class T>
void forward(const AttentionHeadForward<T>& h) {
  constexpr Int W = panel_width<T>;
  const Plan<T> plan(h);
  Pieces pieces{static_cast<char*>(h.work)};
  T* k_panels = pieces.take<T>(plan.k_size);
  T* v_panels = pieces.take<T>(plan.v_size);
  T* block = pieces.take<T>(plan.p_size);
  T* inverse = pieces.take<T>(plan.inverse_size);  // 1 / sum of each row of the block, for kinds that have it
  T* zeros = pieces.take<T>(plan.zero_size);
  T* keep = pieces.take<T>(plan.keep_size);
  Bits<T>* mask = pieces.take<Bits<T>>(plan.mask_size);
  std::int32_t* before = pieces.take<std::int32_t>(plan.before_size);
  std::uint32_t* words = pieces.take<std::uint32_t>(plan.words_size);

  for (Int i = 0; i < plan.zero_size; ++i) zeros[i] = 0;
  prefetch_rows(h.v, h.v_row, smaller(h.keys, 128), h.e);
  prefetch_rows(h.q + h.row_begin * h.q_row, h.q_row, smaller(h.row_end - h.row_begin, 128), h.d);
  pack_transposed(h.k, h.k_row, h.keys, h.d, static_cast<T>(h.scale), zeros, k_panels, plan.k_step);
  pack_rows(h.v, h.v_row, h.keys, h.e, v_panels, plan.v_step);
  Sight<T> sight{h};
  sight.set_masks(mask, before);
  const Weigh<T> weigh_tile = h.stats ? weigh_of<T, true>(h) : weigh_of<T, false>(h);
  Statistics<T> stats;

  const Tiling tiling(h.row_end - h.row_begin);
  for (Int t0 = 0; t0 < tiling.count; t0 += plan.block_tiles) {
    const Int t1 = smaller(tiling.count, t0 + plan.block_tiles);
    const auto scores_of = [&](Int t) { return block + (t - t0) * tile_rows * plan.ld; };
    const auto inverse_of = [&](Int t) { return inverse + (t - t0) * static_cast<Int>(sizeof(Slots<T>) / sizeof(T)); };
    for (Int n = 0, panel = 0; n < h.keys; n += W, ++panel) {
      for (Int t = t0; t < t1; ++t) {
        const Int i = h.row_begin + tiling.begin(t);
        const int mr = tiling.rows(t);
        const Int seen = sight.length(i + mr - 1);
        if (seen <= n) continue;
        const Int vectors = (smaller(W, seen - n) + lanes<T> - 1) / lanes<T>;
        tile<T, false>(mr, static_cast<int>(vectors), h.d, h.q + i * h.q_row, h.q_row, k_panels + panel * plan.k_step,
                       {scores_of(t) + n, plan.ld, false, nullptr, 0});
      }
    }
    for (Int t = t0; t < t1; ++t) {
      const Int i = h.row_begin + tiling.begin(t);
      const int mr = tiling.rows(t);
      const Tile<T> scores{scores_of(t), plan.ld, i, mr, round_up(sight.length(i + mr - 1), lanes<T>)};
      Slots<T> lse;
      weigh_tile(sight, scores, inverse_of(t), lse.value, &stats);
      if (h.lse)
        for (int m = 0; m < mr; ++m) h.lse[(i + m) * h.lse_step] = lse.value[m];
      if (h.drop) {
        for (int m = 0; m < mr; ++m) {
          const Int length = sight.length(i + m);
          draw_keep(h, h.first_index + static_cast<std::uint64_t>((i + m) * h.keys), length, keep, words);
          multiply_by(keep, length, scores.p + m * scores.ld);
        }
      }
    }
    for (Int j = 0; j == 0 || j < h.keys; j += plan.v_piece) {
      for (Int t = t0; t < t1; ++t) {
        const Int i = h.row_begin + tiling.begin(t);
        const int mr = tiling.rows(t);
        const Int seen = smaller(plan.v_piece, sight.length(i + mr - 1) - j);
        if (seen <= 0 && j > 0) continue;
        multiply_rows<T, false>(mr, h.e, seen, scores_of(t) + j, plan.ld, {v_panels + j * W, plan.v_step}, h.out + i * h.out_row,
                                h.out_row, false, j > 0, h.normalize ? inverse_of(t) : nullptr);
      }
    }
  }
  if (h.stats) stats.write(h.stats, h.normalize);
}

template <class T>
Int work_bytes(const AttentionHeadForward<T>& h) {
  return Plan<T>(h).bytes();
}

}  // namespace

extern const AttentionForwardKernels attention_forward_kernels{work_bytes<float>, work_bytes<double>, forward<float>,
                                                               forward<double>};

}  // namespace norma::cpu::NORMA_ISA
