// Attention on plain memory for tests of the CPU kernels: q, k, v and gradients inside larger memory, as models lay them out.
#pragma once

#include <catch2/catch.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include "backends/cpu/cpu_backend.h"
#include "tests/worst.h"

namespace norma::test {

struct ProblemSizes {
  Index batch, heads, rows, keys, d, e;
  bool causal = false, masked = false;
  double dropout = 0;
  double given_scale = 0;  // 0: 1 / sqrt(d)
  double scale() const { return given_scale != 0 ? given_scale : 1 / std::sqrt(static_cast<double>(d)); }
};

/// x[batch, heads, tokens, width] somewhere in larger memory.
template <class T>
struct Placed {
  std::vector<T> memory;
  View view;
  T& at(Index b, Index h, Index i, Index c) {
    const Strides& s = view.layout.strides;
    return view.as<T>()[b * s[0] + h * s[1] + i * s[2] + c * s[3]];
  }
  T at(Index b, Index h, Index i, Index c) const { return const_cast<Placed*>(this)->at(b, h, i, c); }
};

/// Memory [batch, tokens, gap, heads, width] of which one slice of `gap` is used: what a packed projection leaves.
template <class T>
Placed<T> place(Index batch, Index heads, Index tokens, Index width, Index gap, Index which) {
  Placed<T> x;
  x.memory.assign(static_cast<std::size_t>(batch * tokens * gap * heads * width), static_cast<T>(-7.0f));
  const Index row = gap * heads * width;
  x.view.layout = Layout({batch, heads, tokens, width}, {tokens * row, width, row, 1}, 0);
  x.view.data = x.memory.data() + which * heads * width;
  x.view.dtype = dtype_of<T>();
  return x;
}

template <class T>
void draw(Placed<T>& x, std::uint64_t stream, double size) {
  const Shape& s = x.view.shape();
  std::uint64_t n = 0;
  for (Index b = 0; b < s[0]; ++b)
    for (Index h = 0; h < s[1]; ++h)
      for (Index i = 0; i < s[2]; ++i)
        for (Index c = 0; c < s[3]; ++c)
          x.at(b, h, i, c) = static_cast<T>(static_cast<float>(size * (2 * uniform_from(RandomStream{11, stream}.word(n++)) - 1)));
}

template <class T>
View contiguous_view(std::vector<T>& memory, const Shape& shape) {
  memory.assign(static_cast<std::size_t>(shape.numel()), static_cast<T>(55));
  return {memory.data(), Layout(shape), dtype_of<T>()};
}

template <class T>
struct Problem {
  ProblemSizes size;
  Scoring scoring;
  AttentionForm form = AttentionForm::quadratic;
  Placed<T> q, k, v, dout;
  std::vector<std::uint8_t> seen;  // [keys, batch]
  View mask;

  Problem(const ProblemSizes& s, const Scoring& phi) : size(s), scoring(phi) {
    const bool packed = s.rows == s.keys && s.d == s.e;
    q = place<T>(s.batch, s.heads, s.rows, s.d, packed ? 3 : 1, 0);
    k = place<T>(s.batch, s.heads, s.keys, s.d, packed ? 3 : 2, 1);
    v = place<T>(s.batch, s.heads, s.keys, s.e, packed ? 3 : 2, packed ? 2 : 0);
    dout = place<T>(s.batch, s.heads, s.rows, s.e, 1, 0);
    draw(q, 1, 1.4), draw(k, 2, 1.4), draw(v, 3, 1), draw(dout, 4, 1);
    for (Index j = 0; j < s.keys; ++j)
      for (Index b = 0; b < s.batch; ++b) seen.push_back(uniform_from(RandomStream{11, 5}.word(static_cast<std::uint64_t>(b * s.keys + j))) < 0.7f);
    mask = {seen.data(), Layout({s.batch, s.keys}, {1, s.batch}, 0), DType::boolean};
  }
  void write(Attention& a, const View& stats) const {
    a.scoring = scoring;
    a.scale = size.scale();
    a.causal = size.causal;
    if (size.masked) a.key_mask = mask;
    a.dropout = size.dropout;
    a.stream = {3, 0x123456789abcull};
    a.stats = stats;
    a.form = form;
  }
  bool visible(Index b, Index i, Index j) const {
    return !(size.causal && j > i + size.keys - size.rows) && !(size.masked && !seen[static_cast<std::size_t>(j * size.batch + b)]);
  }
};

template <class T>
struct Results {
  Placed<T> out, dq, dk, dv;
  std::vector<std::conditional_t<sizeof(T) == 2, float, T>> lse;
  std::vector<double> stats;

  explicit Results(const ProblemSizes& s) {
    const bool packed = s.rows == s.keys && s.d == s.e;
    out = place<T>(s.batch, s.heads, s.rows, s.e, 1, 0);
    dq = place<T>(s.batch, s.heads, s.rows, s.d, packed ? 3 : 1, 0);
    dk = place<T>(s.batch, s.heads, s.keys, s.d, packed ? 3 : 1, 0);
    dv = place<T>(s.batch, s.heads, s.keys, s.e, packed ? 3 : 1, packed ? 2 : 0);
  }
};

/// Forward and backward through the backend's verbs.
template <class T>
Results<T> by_kernels(const Problem<T>& p, bool measured) {
  cpu::CpuBackend backend;
  const ProblemSizes& s = p.size;
  Results<T> r(s);
  const View lse = contiguous_view(r.lse, {s.batch, s.heads, s.rows});
  const View stats = contiguous_view(r.stats, {s.batch, s.heads, attention_stats});
  AttentionForward f;
  p.write(f, measured ? stats : View());
  f.q = p.q.view, f.k = p.k.view, f.v = p.v.view, f.out = r.out.view;
  if (p.scoring.kind == Scoring::Kind::softmax) f.row_lse = lse;
  REQUIRE(backend.attention(f));
  AttentionBackward g;
  p.write(g, measured ? stats : View());
  g.q = p.q.view, g.k = p.k.view, g.v = p.v.view, g.out = r.out.view, g.dout = p.dout.view, g.row_lse = lse;
  g.dq = r.dq.view, g.dk = r.dk.view, g.dv = r.dv.view;
  REQUIRE(backend.attention_backward(g));
  return r;
}

/// The largest |got - wanted| over the largest |wanted|; infinite where a NaN turns up.
template <class T, class U>
double error(const Placed<T>& got, const Placed<U>& wanted) {
  const Shape& s = wanted.view.shape();
  double worst = 0, size = 1e-30;
  for (Index b = 0; b < s[0]; ++b)
    for (Index h = 0; h < s[1]; ++h)
      for (Index i = 0; i < s[2]; ++i)
        for (Index c = 0; c < s[3]; ++c) {
          const auto g = static_cast<double>(got.at(b, h, i, c)), w = static_cast<double>(wanted.at(b, h, i, c));
          worst = test::worse(worst, std::abs(g - w));
          size = std::max(size, std::abs(w));
        }
  return worst / size;
}

}  // namespace norma::test
