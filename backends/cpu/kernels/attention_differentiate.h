// From scores and dA to weights and dS: the derivative of the attention function over a few rows in place.
#pragma once

#include "backends/cpu/kernels/attention_dropout.h"
#include "backends/cpu/kernels/attention_sums.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// A tile of rows of scores and of dA, columns [column, column + columns), turned into A and scale * dS in place.
template <class T>
struct GradientTile {
  T *p, *g;
  Int ld;
  Int first;  // global number of the first row
  int rows;
  Int column, columns;
  Int clear_to;
  T scale = 1;  // softmax: of the scores, before anything else
  bool own_delta = false;  // delta is the sum of A o dA over these columns, which are all
};

/// The statistics of one head.
template <class T>
struct Gradients {
  WideSum<T> a2, s2;
  void write(double* to) const {
    to[static_cast<int>(AttentionStat::grad_a2)] = a2.total();
    to[static_cast<int>(AttentionStat::grad_s2)] = s2.total();
  }
};

/// Per row: the log-sum-exp (softmax) or unused, and delta, which tiles with `own_delta` do not read.
template <class T, Phi phi, bool normalize, bool measure>
void differentiate(const Visibility<T>& visibility, const GradientTile<T>& tile, const T* lse, const T* delta, T* keep, std::uint32_t* words,
                   Gradients<T>* sums) {
  using V = Vec<T>;
  const AttentionHead<T>& h = visibility.head;
  const Weight<T, phi> weight(h);
  const T scale = static_cast<T>(h.scale);
  V a2{}, s2{};
  for (int m = 0; m < tile.rows; ++m) {
    T *p = tile.p + m * tile.ld, *g = tile.g + m * tile.ld;
    const Row<T> row = visibility.row(tile.first + m, tile.column, tile.columns);
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
    // An only weight is 1 whatever its score; of da - d rounding would be left.
    const bool lone = normalize && visibility.visible(tile.first + m) == 1;
    if constexpr (phi == Phi::softmax) {
      const V scale_first = splat(tile.scale), shift = splat(-lse[m]), unit = splat(lone ? T{0} : T{1});
      const auto weight_at = [&](Int j) __attribute__((always_inline)) { return exp_fast(fma(load(p + j), scale_first, shift)); };
      const auto finish_row = [&](T d, auto weight_of) __attribute__((always_inline)) {
        const V minus_d = splat(lone ? T{0} : -d);
        for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
          const V a = weight_of(j), da = load(g + j);
          finish(j, visible, a, da, a * fma(da, unit, minus_d));
        });
      };
      if (tile.own_delta) {
        V sum{};
        for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
          const V a = weight_at(j);
          store(p + j, a);
          sum += visible.keep(a * load(g + j));
        });
        finish_row(sum_lanes(sum), [&](Int j) __attribute__((always_inline)) { return load(p + j); });
      } else {
        finish_row(delta[m], weight_at);
      }
    } else if constexpr (normalize) {
      V sum{}, product{};
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
        const V f = visible.keep(weight.value(load(p + j), T{1}));
        sum += f;
        if (tile.own_delta) product += visible.keep(f * load(g + j));
      });
      const T inverse = inverse_of_sum(sum_lanes(sum)), d = tile.own_delta ? sum_lanes(product) * inverse : delta[m];
      const T slope = lone ? 0 : inverse;
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
        const V s = load(p + j), da = load(g + j), f = weight.value(s, T{1});
        finish(j, visible, f * inverse, da, weight.derivative(s, T{1}) * slope * (da - d));
      });
    } else {
      for_columns(row, [&](Int j, auto visible) __attribute__((always_inline)) {
        const V s = load(p + j), da = load(g + j), a = weight.value(s, row.factor);
        finish(j, visible, a, da, da * weight.derivative(s, row.factor));
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

/// delta[i] = sum over row i of out * dout, for all rows; delta has room for row_slots more.
template <class T, class Stored>
void row_products(const AttentionHeadBackward<T, Stored>& h, T* delta) {
  constexpr int L = lanes<T>;
  for (Int first = 0; first < h.rows; first += row_slots) {
    Vec<T> lane[row_slots] = {};
    for (Int m = 0; m < smaller(row_slots, h.rows - first); ++m) {
      const Stored *x = h.out + (first + m) * h.out_row, *y = h.dout + (first + m) * h.dout_row;
      Vec<T> sum{};
      Int c = 0;
      for (; c + L <= h.e; c += L) sum = fma(load(x + c), load(y + c), sum);
      if (c < h.e) sum = fma(load_n(x + c, static_cast<int>(h.e - c)), load_n(y + c, static_cast<int>(h.e - c)), sum);
      lane[m] = sum;
    }
    combine_each(lane, delta + first, Plus{});
  }
}

template <class T>
using Differentiate = void (*)(const Visibility<T>&, const GradientTile<T>&, const T* lse, const T* delta, T* keep, std::uint32_t* words,
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
    case Phi::power1: case Phi::power2: case Phi::power3: case Phi::power4: case Phi::polynomial: break;
  }
  return n ? differentiate<T, Phi::polynomial, true, measure> : differentiate<T, Phi::polynomial, false, measure>;
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
