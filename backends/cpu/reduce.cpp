// Reductions on the CPU. The axes are split into kept and reduced ones; each output's terms are cut into chunks of a fixed size, whose
// partial results are combined in order: the bits depend on the shape and the strides alone. Up to `short_row` terms are taken one after
// the other, as in columns of any length. Sums of floats are kept in double, of integers in i64.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "backends/common/convert.h"
#include "backends/common/loops.h"
#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

constexpr Index grain = 16384;       // terms of a chunk, and of a task that does many outputs
constexpr Index column_block = 128;  // outputs side by side
constexpr Index column_rows = 512;   // rows of a chunk of columns
constexpr Index short_row = 32;      // terms of outputs that are made side by side, wherever they lie

/// What x and out look like along the kept axes (x_kept and out_kept walk together) and x along the reduced ones.
struct Split {
  Layout x_kept, out_kept;
  View reduced;
  Index outputs, terms;

  Split(const View& x, const View& out) : outputs(out.numel()) {
    Shape kept = x.shape(), rest = x.shape();
    for (int axis = 0; axis < x.layout.rank(); ++axis) (out.shape()[axis] == x.shape()[axis] ? rest : kept).set(axis, 1);
    x_kept = Layout(kept, x.layout.strides, 0);
    out_kept = Layout(kept, out.layout.strides, 0);
    std::array<Layout*, 2> both{&x_kept, &out_kept};
    coalesce(both);
    Layout along(rest, x.layout.strides, 0);
    std::array<Layout*, 1> one{&along};
    coalesce(one);
    reduced = View{x.data, along, x.dtype};
    terms = rest.numel();
  }
  /// Element offsets of output i in x and in out.
  std::array<Index, 2> place(Index i) const {
    std::array<Index, 2> at{};
    for (int axis = x_kept.rank() - 1; axis >= 0; --axis) {
      const Index size = x_kept.shape[axis], k = i % size;
      i /= size;
      at[0] += k * x_kept.strides[axis], at[1] += k * out_kept.strides[axis];
    }
    return at;
  }
  /// Reading along the kept axis is dense and along the reduced ones is not.
  bool by_columns() const {
    const int r = reduced.layout.rank(), k = x_kept.rank();
    return k > 0 && x_kept.strides[k - 1] == 1 && x_kept.shape[k - 1] >= 4 && r > 0 &&
           std::abs(reduced.layout.strides[r - 1]) != 1;
  }
};

/// body(count, wide) over rows of n <= column_block elements, widened in groups.
template <class Body>
void widened(Index rows, Index n, const bf16* x, Index row, Body&& body) {
  constexpr Index group = 16;
  float wide[group * column_block];
  for (Index i = 0; i < rows; i += group) {
    const Index count = std::min(group, rows - i);
    widen_rows(count, n, x + i * row, row, wide);
    body(count, wide);
  }
}

/// body(count, wide) over a row of any length.
template <class Body>
void widened(Index n, const bf16* x, Body&& body) {
  float wide[column_block];
  for (Index i = 0; i < n; i += column_block) {
    const Index count = std::min(column_block, n - i);
    widen_rows(1, count, x + i, count, wide);
    body(count, wide);
  }
}

/// A reduction: its accumulator, the value of no terms, one more run of terms, columns of them, and two results into one.
template <class T>
struct Sum {
  using A = Accumulator<T>;
  static constexpr bool narrow = std::is_same_v<T, bf16>, columns = std::is_floating_point_v<T> || narrow;
  static A start(const T*) { return 0; }
  static void join(A& a, A b) { a = Binary<BinaryOp::add>{}(a, b); }
  static void add(A& a, Index n, const T* x, Index step) {
    if constexpr (std::is_floating_point_v<T>) {
      if (step == 1) {
        a += NORMA_KERNELS(reduce_kernels).of<T>().sum(n, x);
        return;
      }
    }
    if constexpr (narrow) {
      if (step == 1)
        return widened(n, x, [&](Index count, const float* wide) { a += NORMA_KERNELS(reduce_kernels).f32.sum(count, wide); });
    }
    for (Index i = 0; i < n; ++i) a = Binary<BinaryOp::add>{}(a, convert<A>(x[i * step]));
  }
  static void add_rows(A* a, Index rows, Index n, const T* x, Index row) {
    if constexpr (narrow) {
      widened(rows, n, x, row, [&](Index count, const float* wide) {
        NORMA_KERNELS(reduce_kernels).f32.add_rows(count, n, wide, n, a);
      });
    } else if constexpr (columns) {
      NORMA_KERNELS(reduce_kernels).of<T>().add_rows(rows, n, x, row, a);
    } else {
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < n; ++j) join(a[j], convert<A>(x[i * row + j]));
    }
  }
};

template <ReduceOp op, class T>
struct Extreme {
  using A = Compute<T, true>;
  static constexpr bool narrow = std::is_same_v<T, bf16>, columns = std::is_floating_point_v<T> || narrow;
  static A start(const T* first) { return first ? convert<A>(*first) : A{}; }
  static void join(A& a, A b) {
    if (replaces<op>(b, a)) a = b;
  }
  static auto row_of(const auto& table) { return op == ReduceOp::max ? table.max : table.min; }
  static auto rows_of(const auto& table) { return op == ReduceOp::max ? table.max_rows : table.min_rows; }
  static void add(A& a, Index n, const T* x, Index step) {
    if constexpr (std::is_floating_point_v<T>) {
      if (step == 1 && n > 0) return join(a, row_of(NORMA_KERNELS(reduce_kernels).of<T>())(n, x));
    }
    if constexpr (narrow) {
      const auto kernel = row_of(NORMA_KERNELS(reduce_kernels).f32);
      if (step == 1) return widened(n, x, [&](Index count, const float* wide) { join(a, kernel(count, wide)); });
    }
    for (Index i = 0; i < n; ++i) join(a, convert<A>(x[i * step]));
  }
  static void add_rows(A* a, Index rows, Index n, const T* x, Index row) {
    if constexpr (narrow) {
      const auto kernel = rows_of(NORMA_KERNELS(reduce_kernels).f32);
      widened(rows, n, x, row, [&](Index count, const float* wide) { kernel(count, n, wide, n, a); });
    } else if constexpr (columns) {
      rows_of(NORMA_KERNELS(reduce_kernels).of<T>())(rows, n, x, row, a);
    } else {
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < n; ++j) join(a[j], convert<A>(x[i * row + j]));
    }
  }
};

/// Writes n results as elements of `out` that lie `step` apart; the dtype is looked at here, so that the loops exist once and not once per
/// dtype.
template <class A>
void put(const View& out, Index at, Index step, Index n, const A* values) {
  visit_dtype(out.dtype, [&](auto tag) {
    using Out = typename decltype(tag)::type;
    Out* to = out.as<Out>() + at;
    for (Index i = 0; i < n; ++i) to[i * step] = convert<Out>(values[i]);
  });
}

/// Each output by itself: runs along the reduced axes.
template <class R, class T>
void reduce_rows(const Split& s, const View& out) {
  using A = typename R::A;
  const StridedLoop loop(s.reduced);
  const T* x = s.reduced.template as<T>();
  const auto part = [&](Index output, Index begin, Index end) {
    const T* base = x + s.place(output)[0];
    A a = R::start(s.terms ? base : nullptr);
    loop.run_at({reinterpret_cast<std::byte*>(const_cast<T*>(base))}, begin, end,
                [&](Index n, const auto& row, const auto& step) {
                  R::add(a, n, reinterpret_cast<const T*>(row[0]), step[0]);
                });
    return a;
  };
  const Index chunks = std::max<Index>(1, (s.terms + grain - 1) / grain);
  if (chunks == 1) {
    return parallel_for(s.outputs, std::max<Index>(1, grain / std::max<Index>(1, s.terms)), [&](Index begin, Index end) {
      for (Index o = begin; o < end; ++o) {
        const A a = part(o, 0, s.terms);
        put(out, s.place(o)[1], 1, 1, &a);
      }
    });
  }
  A* partial = scratch<A>(Slot::reduce_partial, s.outputs * chunks);
  parallel_tasks(s.outputs * chunks, [&](Index task) {
    const Index o = task / chunks, chunk = task % chunks;
    partial[task] = part(o, chunk * grain, std::min(s.terms, (chunk + 1) * grain));
  });
  for (Index o = 0; o < s.outputs; ++o) {
    A a = partial[o * chunks];
    for (Index chunk = 1; chunk < chunks; ++chunk) R::join(a, partial[o * chunks + chunk]);
    put(out, s.place(o)[1], 1, 1, &a);
  }
}

/// Blocks of outputs that lie side by side in x, each over chunks of rows.
template <class R, class T>
void reduce_columns(const Split& s, const View& out) {
  using A = typename R::A;
  const StridedLoop loop(s.reduced);
  const T* x = s.reduced.template as<T>();
  const int last = s.x_kept.rank() - 1;
  const Index width = s.x_kept.shape[last], block = std::min(width, column_block), blocks = (width + block - 1) / block;
  const Index groups = s.outputs / width * blocks, chunks = (s.terms + column_rows - 1) / column_rows;
  A* partial = scratch<A>(Slot::reduce_partial, groups * chunks * block);
  const auto first_output = [&](Index group) { return group / blocks * width + group % blocks * block; };
  const auto count = [&](Index group) { return std::min(block, width - group % blocks * block); };
  parallel_tasks(groups * chunks, [&](Index task) {
    const Index group = task / chunks, chunk = task % chunks, n = count(group);
    const T* base = x + s.place(first_output(group))[0];
    A* mine = partial + task * block;
    bool fresh = true;
    loop.run_at({reinterpret_cast<std::byte*>(const_cast<T*>(base))}, chunk * column_rows,
                std::min(s.terms, (chunk + 1) * column_rows), [&](Index rows, const auto& row, const auto& step) {
                  const T* from = reinterpret_cast<const T*>(row[0]);
                  if (fresh)
                    for (Index j = 0; j < n; ++j) mine[j] = R::start(from + j);
                  fresh = false;
                  R::add_rows(mine, rows, n, from, step[0]);
                });
  });
  const Index out_step = s.out_kept.strides[last];
  parallel_for(groups, std::max<Index>(1, grain / (chunks * block)), [&](Index begin, Index end) {
    for (Index group = begin; group < end; ++group) {
      A* total = partial + group * chunks * block;
      const Index n = count(group);
      for (Index chunk = 1; chunk < chunks; ++chunk)
        for (Index j = 0; j < n; ++j) R::join(total[j], total[chunk * block + j]);
      const Index to = s.place(first_output(group))[1];
      put(out, to, out_step, n, total);
    }
  });
}

/// Blocks of outputs of few terms each: the terms of a block are copied so that its first ones lie side by side, then its second ones, and
/// so on, and are taken in this order.
template <class R, class T>
void reduce_short_rows(const Split& s, const View& out) {
  using A = typename R::A;
  const StridedLoop outputs(View{s.reduced.data, s.x_kept, s.reduced.dtype}, View{out.data, s.out_kept, out.dtype});
  std::array<Index, short_row> term{};  // elements from an output's first term
  Index count = 0;
  StridedLoop(s.reduced).run([&](Index n, const auto& row, const auto& step) {
    const Index first = reinterpret_cast<const T*>(row[0]) - s.reduced.template as<T>();
    for (Index i = 0; i < n; ++i) term[static_cast<std::size_t>(count++)] = first + i * step[0];
  });
  const auto block = [&](Index begin, Index end) {
    const Index n = end - begin;
    T terms[short_row * column_block];
    A results[column_block];
    Index at = 0;
    outputs.run(begin, end, [&](Index m, const auto& row, const auto& step) {
      for (Index t = 0; t < count; ++t) {
        const T* from = reinterpret_cast<const T*>(row[0]) + term[static_cast<std::size_t>(t)];
        T* to = terms + t * n + at;
        for (Index i = 0; i < m; ++i) to[i] = from[i * step[0]];
      }
      at += m;
    });
    for (Index i = 0; i < n; ++i) results[i] = R::start(terms + i);
    R::add_rows(results, count, n, terms, n);
    at = 0;
    outputs.run(begin, end, [&](Index m, const auto& row, const auto& step) {
      put(View{row[1], {}, out.dtype}, 0, step[1], m, results + at);
      at += m;
    });
  };
  const Index blocks = (s.outputs + column_block - 1) / column_block;
  parallel_for(blocks, std::max<Index>(1, grain / (s.terms * column_block)), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) block(i * column_block, std::min(s.outputs, (i + 1) * column_block));
  });
}

template <class R, class T>
void reduce_with(const View& x, const View& out) {
  const Split s(x, out);
  if (s.outputs == 0) return;
  const bool columns = R::columns && s.terms > 0 && s.by_columns();
  // Columns of some terms, if they are many, are better read where they lie; the order of a sum is the same. Integers have plain loops.
  const bool wide = columns && s.terms >= 8 && s.x_kept.shape[s.x_kept.rank() - 1] >= column_block;
  if (s.terms > 0 && s.terms <= (R::columns ? short_row : 8) && !wide) return reduce_short_rows<R, T>(s, out);
  if (columns) return reduce_columns<R, T>(s, out);
  reduce_rows<R, T>(s, out);
}

template <ReduceOp op, class T>
void arg_extreme(const View& x, const View& out) {
  const Split s(x, out);
  const Index step = s.reduced.layout.rank() ? s.reduced.layout.strides[0] : 0;
  parallel_for(s.outputs, std::max<Index>(1, grain / std::max<Index>(1, s.terms)), [&](Index begin, Index end) {
    for (Index o = begin; o < end; ++o) {
      const auto at = s.place(o);
      const T* p = x.as<T>() + at[0];
      using C = Compute<T, true>;
      Index position = 0;
      C best = s.terms ? convert<C>(p[0]) : C{};
      for (Index i = 1; i < s.terms; ++i) {
        const C candidate = convert<C>(p[i * step]);
        if (replaces<op>(candidate, best)) best = candidate, position = i;
      }
      out.as<Index>()[at[1]] = position;
    }
  });
}

}  // namespace

void CpuBackend::reduce(ReduceOp op, const View& x, const View& out) {
  visit_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    switch (op) {
      case ReduceOp::sum:
        return reduce_with<Sum<T>, T>(x, out);
      case ReduceOp::max:
        return reduce_with<Extreme<ReduceOp::max, T>, T>(x, out);
      case ReduceOp::min:
        return reduce_with<Extreme<ReduceOp::min, T>, T>(x, out);
      case ReduceOp::argmax:
        return arg_extreme<ReduceOp::argmax, T>(x, out);
      case ReduceOp::argmin:
        return arg_extreme<ReduceOp::argmin, T>(x, out);
      case ReduceOp::count:
        return;
    }
  });
}

void CpuBackend::cumsum(const View& x, int axis, const View& out) {
  const Index n = x.shape()[axis], from = x.layout.strides[axis], to = out.layout.strides[axis];
  View starts = x, targets = out;  // the first element of each line
  starts.layout.shape.set(axis, std::min<Index>(n, 1));
  targets.layout.shape.set(axis, std::min<Index>(n, 1));
  visit_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const StridedLoop lines(starts, targets);
    parallel_for(lines.size(), std::max<Index>(1, grain / std::max<Index>(1, n)), [&](Index begin, Index end) {
      lines.run(begin, end, [&](Index count, const auto& row, const auto& step) {
        for (Index line = 0; line < count; ++line) {
          const T* in = reinterpret_cast<const T*>(row[0]) + line * step[0];
          T* sums = reinterpret_cast<T*>(row[1]) + line * step[1];
          Accumulator<T> sum = 0;
          for (Index j = 0; j < n; ++j) {
            sum = Binary<BinaryOp::add>{}(sum, convert<Accumulator<T>>(in[j * from]));
            sums[j * to] = convert<T>(sum);
          }
        }
      });
    });
  });
}

}  // namespace norma::cpu
