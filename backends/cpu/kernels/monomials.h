// F(x): all products of p numbers of x, each multiset once, for the degrees p that a polynomial has. Those of degree p are, for
// i = 0, 1, ..., x_i times the ones of degree p - 1 in x_i, x_{i+1}, ...: in this order (lexicographic) always a suffix, so
// that both F and the product with its Jacobian run over dense memory.
#pragma once

#include "backends/cpu/attention_linear_kernels.h"
#include "backends/cpu/kernels/attention_rows.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// Rows of x and of monomials are followed by at least this many numbers that may be read and overwritten.
template <class T> constexpr Int slack = lanes<T>;

template <class T>
class Monomials {
  using V = Vec<T>;
  static constexpr int L = lanes<T>;

 public:
  Monomials(const LinearHead<T>& h, ScratchCutter& space) : d_(h.d), degree_(h.degree) {
    Int offset = 0;
    for (int p = 0; p <= degree_; ++p) {
      count_[p] = p == 0 ? 1 : count_[p - 1] * (d_ + p - 1) / p;
      start_[p] = h.coefficient[p] != 0 ? offset : -1;
      if (h.coefficient[p] != 0) offset += count_[p];
      if (p == degree_) break;
      const Int room = round_up(count_[p], L) + slack<T>;
      value_[p] = space.take<T>(room);
      gradient_[p] = space.take<T>(room);
      suffix_[p] = space.take<std::int32_t>(d_);
      if (space.counts_only()) continue;
      for (Int j = 0; j < room; ++j) value_[p][j] = gradient_[p][j] = 0;
      Int size = p == 0 ? 1 : count_[p];  // C(n + p - 1, p) for n = d, d - 1, ...: each from the last
      for (Int i = 0; i < d_; ++i) {
        suffix_[p][i] = static_cast<std::int32_t>(size);
        const Int n = d_ - i;
        if (p > 0 && n > 1) size = size * (n - 1) / (n + p - 1);
        if (p > 0 && n == 1) size = 0;
      }
    }
  }

  /// to[features] = F(x).
  void values(const T* x, T* to) const {
    const T* last = nullptr;
    for (int p = 0; p <= degree_; ++p) {
      T* at = start_[p] >= 0 ? to + start_[p] : value_[p];
      raise(p, x, last, at);
      last = at;
    }
  }

  /// dx[d] (+)= the Jacobian of F at x, transposed, times g[features].
  void jacobian(const T* x, const T* g, T* dx, bool add) const {
    if (degree_ == 1) return put(g + start_[1], dx, add);
    for (int p = 1; p < degree_; ++p) {
      raise(p, x, value_[p - 1], value_[p]);
      for (Int j = count_[p]; j < round_up(count_[p], L) + slack<T>; ++j) value_[p][j] = 0;
    }
    const T* upper = g + start_[degree_];
    for (int p = degree_; p >= 2; --p) {
      T* lower = gradient_[p - 1];
      const Int n = count_[p - 1];
      const bool own = start_[p - 1] >= 0;  // this degree has a gradient of its own
      for (Int j = 0; j < n; ++j) lower[j] = own ? g[start_[p - 1] + j] : 0;
      for (Int j = n; j < round_up(n, L) + slack<T>; ++j) lower[j] = 0;
      fall(p, x, upper, lower, p == degree_ && !add, dx);
      upper = lower;
    }
    put(upper, dx, true);
  }

 private:
  void raise(int p, const T* x, const T* from, T* to) const {
    if (p == 0) {
      to[0] = 1;
    } else if (p == 1) {
      for (Int j = 0; j < d_; j += L) store(to + j, load(x + j));
    } else {
      for (Int i = 0; i < d_; ++i) {
        const Int n = suffix_[p - 1][i];
        const T* tail = from + (count_[p - 1] - n);
        const V factor = splat(x[i]);
        for (Int j = 0; j < n; j += L) store(to + j, factor * load(tail + j));
        to += n;
      }
    }
  }
  /// One degree down: lower += d/d(monomial of degree p - 1), dx (+)= d/dx_i of the leading factor.
  void fall(int p, const T* x, const T* upper, T* lower, bool set, T* dx) const {
    for (Int i0 = 0; i0 < d_; i0 += row_slots) {
      V lane[row_slots] = {};
      const Int i1 = smaller(d_, i0 + row_slots);
      for (Int i = i0; i < i1; ++i) {
        const Int n = suffix_[p - 1][i], skip = count_[p - 1] - n;
        const T* value = value_[p - 1] + skip;
        T* to = lower + skip;
        const V factor = splat(x[i]);
        V sum{};
        for (Int j = 0; j < n; j += L) {
          const V g = load(upper + j);
          sum = fma(g, load(value + j), sum);
          store(to + j, fma(factor, g, load(to + j)));
        }
        lane[i - i0] = sum;
        upper += n;
      }
      T total[row_slots];
      combine_each(lane, total, Plus{});
      for (Int i = i0; i < i1; ++i) dx[i] = set ? total[i - i0] : dx[i] + total[i - i0];
    }
  }
  void put(const T* g, T* dx, bool add) const {
    for (Int j = 0; j < d_; ++j) dx[j] = add ? dx[j] + g[j] : g[j];
  }

  Int d_;
  int degree_;
  Int count_[polynomial_terms], start_[polynomial_terms];  // start: where degree p begins in F, -1 where it is not part of it
  T *value_[polynomial_terms], *gradient_[polynomial_terms];
  std::int32_t* suffix_[polynomial_terms];  // [p][i]: monomials of degree p in x_i, x_{i+1}, ...
};

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
