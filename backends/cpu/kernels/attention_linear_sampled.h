// Statistics of some rows of the matrix that the linear form does not have. Sampled rows are columns here: the products
// K Q^T and V dO^T read keys and values where they lie, and a register holds one key's scores with as many rows.
#pragma once

#include "backends/cpu/kernels/attention_linear.h"
#include "core/scoring.h"

namespace norma::cpu::NORMA_ISA {
namespace {

template <class T>
class Sampler : public RowsOfHead<T> {
  using V = Vec<T>;
  static constexpr int L = lanes<T>, W = panel_width<T>;
  static constexpr Int most = SampledRows::most, block = 96;  // keys at a time: sums of so many are widened to double
  static constexpr Int ld = round_up(most, W);
  static constexpr T infinity = static_cast<T>(__builtin_inf());
  using RowsOfHead<T>::head, RowsOfHead<T>::hidden;

 public:
  Sampler(const LinearHead<T>& h, const SampledRows& rows, void* memory) : RowsOfHead<T>{h}, rows_(rows), polynomial_(h), space_(memory) {
    const Int width = larger(h.d, h.e);
    gathered_ = space_.take<T>(most * round_up(width, L));
    zeros_ = space_.take<T>(round_up(width, L));
    q_panels_ = space_.take<T>(ld * h.d), g_panels_ = space_.take<T>(ld * h.e);
    scores_ = space_.take<T>((block + tile_rows) * ld), gradients_ = space_.take<T>((block + tile_rows) * ld);
    if (!memory) return;
    for (Int j = 0; j < round_up(width, L); ++j) zeros_[j] = 0;
    for (Int i = 0; i < ld; ++i) {
      const bool there = i < rows.count;
      length_[i] = static_cast<Bits<T>>(there ? this->length(rows.row[i]) : 0);
      factor_[i] = there ? this->factor_of(rows.row[i]) : 0;
      longest_ = larger(longest_, static_cast<Int>(length_[i]));
    }
  }
  Int bytes() const { return space_.used(); }

  void weights(SampledSums& to) {
    const auto even = [&](Int i) { return static_cast<double>(this->visible(i)) * this->factor_of(i) * this->factor_of(i); };
    for (Int i = 0; i < rows_.count; ++i) to.visible[i] = static_cast<double>(this->visible(rows_.row[i])), to.even[i] = even(rows_.row[i]);
    to.even_of_all = 0;
    for (Int i = 0; i < head.rows; ++i) to.even_of_all += even(i);
    gather(head.q, head.q_row, head.d, static_cast<T>(head.scale), q_panels_);
    each_block(false, [&](Int j, Int keys, Int v) {
      V fro2{}, jac2{}, sum{}, sum2{}, least = splat(infinity), most_a = splat(-infinity), most_s = splat(-infinity);
      Mask<T> negative{}, small_count{};
      const V small = splat(static_cast<T>(small_weight));
      each_key(j, keys, v, [&](Int at, auto visible) __attribute__((always_inline)) {
        const V s = load(scores_ + at), c = load(factor_ + v);
        const V a = visible.keep(polynomial_.value(s) * c), slope = visible.keep(polynomial_.slope(s) * c), seen = visible.keep(s);
        fro2 = fma(a, a, fro2), jac2 = fma(slope, slope, jac2);
        sum += seen, sum2 = fma(seen, seen, sum2);
        negative += visible.both(a < V{}), small_count += visible.both(abs(a) < small);
        least = vmin(visible.select(a, least), least), most_a = vmax(visible.select(a, most_a), most_a);
        most_s = vmax(visible.select(s, most_s), most_s);
      });
      add(fro2, v, to.fro2), add(jac2, v, to.jac2), add(sum, v, to.score_sum), add(sum2, v, to.score_sum2);
      add(-__builtin_convertvector(negative, V), v, to.negative), add(-__builtin_convertvector(small_count, V), v, to.small);
      update(least, v, to.min, [](double x, double y) { return x < y ? x : y; });
      update(most_a, v, to.max, [](double x, double y) { return x > y ? x : y; });
      update(most_s, v, to.score_max, [](double x, double y) { return x > y ? x : y; });
    });
  }

  void gradients(SampledSums& to) {
    gather(head.q, head.q_row, head.d, static_cast<T>(head.scale), q_panels_);
    gather(head.dout, head.dout_row, head.e, T{1}, g_panels_);
    each_block(true, [&](Int j, Int keys, Int v) {
      V a2{}, s2{};
      each_key(j, keys, v, [&](Int at, auto visible) __attribute__((always_inline)) {
        const V da = visible.keep(load(gradients_ + at)), slope = polynomial_.slope(load(scores_ + at)) * load(factor_ + v);
        const V ds = da * visible.keep(slope);
        a2 = fma(da, da, a2), s2 = fma(ds, ds, s2);
      });
      add(a2, v, to.grad_a2), add(s2, v, to.grad_s2);
    });
  }

 private:
  /// Panels of the sampled rows of x, transposed and times factor.
  void gather(const T* x, Int row, Int width, T factor, T* panels) {
    const Int to = round_up(width, L);
    for (Int i = 0; i < rows_.count; ++i) __builtin_memcpy(gathered_ + i * to, x + rows_.row[i] * row, static_cast<std::size_t>(width) * sizeof(T));
    pack_transposed(gathered_, to, rows_.count, width, factor, zeros_, panels, width * W);
  }
  /// to[keys, sampled rows] = x panels.
  void multiply(const T* x, Int row, Int keys, Int width, const T* panels, T* to) const {
    const Tiling tiling(keys);
    for (Int t = 0; t < tiling.count; ++t) {
      const Int r = tiling.begin(t);
      multiply_rows<T, false>(tiling.rows(t), rows_.count, width, x + r * row, row, {panels, width * W}, to + r * ld, ld, true, false, nullptr);
    }
  }
  /// body(first key, keys, first row of a register), the scores of the block computed, and the gradients of its weights.
  template <class Body>
  void each_block(bool with_gradients, Body body) {
    for (Int j = 0; j < longest_; j += block) {
      const Int keys = smaller(block, longest_ - j);
      multiply(head.k + j * head.k_row, head.k_row, keys, head.d, q_panels_, scores_);
      if (with_gradients) multiply(head.v + j * head.v_row, head.v_row, keys, head.e, g_panels_, gradients_);
      for (Int v = 0; v < rows_.count; v += L) body(j, keys, v);
    }
  }
  /// body(where a register lies, visibility) for the keys that one of its rows sees.
  template <class Body>
  NORMA_INLINE void each_key(Int j, Int keys, Int v, Body body) const {
    Mask<T> length;
    __builtin_memcpy(&length, length_ + v, sizeof length);
    Bits<T> all = length[0], any = length[0];  // keys that all of them see, and that any does
    for (int i = 1; i < L; ++i) all = length[i] < all ? length[i] : all, any = length[i] > any ? length[i] : any;
    for (Int i = 0; i < smaller(keys, any - j); ++i) {
      if (hidden(j + i)) continue;
      if (j + i < all)
        body(i * ld + v, AllVisible{});
      else
        body(i * ld + v, SomeVisible<Mask<T>>{length > static_cast<Bits<T>>(j + i)});
    }
  }
  void add(V x, Int v, double* to) const { update(x, v, to, [](double sum, double y) { return sum + y; }); }
  /// to[row] = op(to[row], x) for the rows of a register.
  template <class Op>
  void update(V x, Int v, double* to, Op op) const {
    for (int i = 0; i < smaller(L, rows_.count - v); ++i) to[v + i] = op(to[v + i], static_cast<double>(x[i]));
  }

  const SampledRows& rows_;
  const Polynomial<T> polynomial_;
  ScratchCutter space_;
  T *gathered_, *zeros_, *q_panels_, *g_panels_, *scores_, *gradients_;
  Int longest_ = 0;
  alignas(64) Bits<T> length_[ld];
  alignas(64) T factor_[ld];
};

template <class T>
void sample(const LinearHead<T>& h, const SampledRows& rows, SampledSums& to) {
  for (auto* x : {&to.fro2, &to.jac2, &to.score_sum, &to.score_sum2, &to.negative, &to.small})
    for (double& y : *x) y = 0;
  for (double& y : to.min) y = __builtin_inf();
  for (auto* x : {&to.max, &to.score_max})
    for (double& y : *x) y = -__builtin_inf();
  Sampler<T>(h, rows, h.work).weights(to);
}
template <class T>
void sample_gradients(const LinearHead<T>& h, const SampledRows& rows, SampledSums& to) {
  for (auto* x : {&to.grad_a2, &to.grad_s2})
    for (double& y : *x) y = 0;
  Sampler<T>(h, rows, h.work).gradients(to);
}
template <class T>
Int sample_bytes(const LinearHead<T>& h) {
  return Sampler<T>(h, {}, nullptr).bytes();
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
