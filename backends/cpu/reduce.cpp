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
constexpr Index short_row = 32;      // terms of outputs that are made side by side, wherever they lie; positions: place_rows

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

/// A reduction: its accumulator, the value of no terms, one more run of terms (the first has number `at`), columns of them, and two results
/// into one.
template <class T>
struct Sum {
  using A = Accumulator<T>;
  static constexpr Index short_terms = short_row;
  static A start(const T*) { return 0; }
  static void join(A& a, A b) { a = Binary<BinaryOp::add>{}(a, b); }
  static void add(A& a, Index n, const T* x, Index step, Index /*at*/) {
    if (step == 1) {
      if constexpr (std::is_same_v<T, bf16>)
        widened(n, x, [&](Index count, const float* wide) { a += NORMA_KERNELS(reduce_kernels).f32.sum(count, wide); });
      else
        join(a, NORMA_KERNELS(reduce_kernels).of<T>().sum(n, x));
      return;
    }
    for (Index i = 0; i < n; ++i) join(a, convert<A>(x[i * step]));
  }
  static void add_rows(A* a, Index rows, Index n, const T* x, Index row, Index /*at*/) {
    if constexpr (std::is_same_v<T, bf16>)
      widened(rows, n, x, row, [&](Index count, const float* wide) { NORMA_KERNELS(reduce_kernels).f32.add_rows(count, n, wide, n, a); });
    else
      NORMA_KERNELS(reduce_kernels).of<T>().add_rows(rows, n, x, row, a);
  }
};

template <ReduceOp op, class T>
struct Extreme {
  using A = Compute<T, true>;
  static constexpr Index short_terms = short_row;
  static A start(const T* first) { return first ? convert<A>(*first) : A{}; }
  static void join(A& a, A b) {
    if (replaces<op>(b, a)) a = b;
  }
  static auto row_of(const auto& table) { return op == ReduceOp::max ? table.max : table.min; }
  static auto rows_of(const auto& table) { return op == ReduceOp::max ? table.max_rows : table.min_rows; }
  static void add(A& a, Index n, const T* x, Index step, Index /*at*/) {
    if (step == 1 && n > 0) {
      const auto kernel = row_of(NORMA_KERNELS(reduce_kernels).of<A>());
      if constexpr (std::is_same_v<T, bf16>)
        widened(n, x, [&](Index count, const float* wide) { join(a, kernel(count, wide)); });
      else
        join(a, kernel(n, x));
      return;
    }
    for (Index i = 0; i < n; ++i) join(a, convert<A>(x[i * step]));
  }
  static void add_rows(A* a, Index rows, Index n, const T* x, Index row, Index /*at*/) {
    const auto kernel = rows_of(NORMA_KERNELS(reduce_kernels).of<A>());
    if constexpr (std::is_same_v<T, bf16>)
      widened(rows, n, x, row, [&](Index count, const float* wide) { kernel(count, n, wide, n, a); });
    else
      kernel(rows, n, x, row, a);
  }
};

/// The extreme value and the number of the term that has it first.
template <ReduceOp op, class T>
struct Position {
  using Best = Extreme<op == ReduceOp::argmax ? ReduceOp::max : ReduceOp::min, T>;
  using Value = typename Best::A;
  struct A {
    Value value;
    Index at;
  };
  static constexpr Index short_terms = place_rows;
  static A start(const T* first) { return {Best::start(first), 0}; }
  static void join(A& a, const A& b) {
    if (replaces<op>(b.value, a.value)) a = b;
  }
  static void add(A& a, Index n, const T* x, Index step, Index at) {
    constexpr Index piece = 256;  // of a dense row: only one that wins is searched
    Value best = a.value;
    Index place = a.at;
    if (step != 1 || n < place_rows) {
      for (Index i = 0; i < n; ++i) {
        const Value v = convert<Value>(x[i * step]);
        if (replaces<op>(v, best)) best = v, place = at + i;
      }
    } else {
      for (Index i = 0; i < n; i += piece) {
        Value v = Best::start(x + i);
        Best::add(v, std::min(piece, n - i), x + i, 1, at + i);
        if (!replaces<op>(v, best)) continue;
        best = v, place = at + i;
        for (const T* p = x + i; !same(convert<Value>(*p), best); ++p) ++place;
      }
    }
    a = {best, place};
  }
  static bool same(Value a, Value b) { return a == b || (a != a && b != b); }
  static void add_rows(A* a, Index rows, Index n, const T* x, Index row, Index at) {
    const auto& table = NORMA_KERNELS(column_kernels).of<Value>();
    const auto kernel = op == ReduceOp::argmax ? table.max : table.min;
    Value best[column_block];
    RowPlace<Value> place[column_block];
    const auto take = [&](Index count, const Value* from, Index from_row) {
      kernel(count, n, from, from_row, best, place);
      for (Index j = 0; j < n; ++j) join(a[j], {best[j], at + static_cast<Index>(place[j])});
      at += count;
    };
    if constexpr (std::is_same_v<T, bf16>)
      widened(rows, n, x, row, [&](Index count, const float* wide) { take(count, wide, n); });
    else
      for (Index i = 0; i < rows; i += place_rows) take(std::min(place_rows, rows - i), x + i * row, row);
  }
};

/// Writes n results as elements of `out` that lie `step` apart; the dtype is looked at here, so that the loops exist once and not once per
/// dtype.
template <class A>
void put(const View& out, Index at, Index step, Index n, const A* values) {
  if constexpr (requires { values->at; }) {
    for (Index i = 0; i < n; ++i) out.as<Index>()[at + i * step] = values[i].at;
  } else {
    visit_dtype(out.dtype, [&](auto tag) {
      using Out = typename decltype(tag)::type;
      Out* to = out.as<Out>() + at;
      for (Index i = 0; i < n; ++i) to[i * step] = convert<Out>(values[i]);
    });
  }
}

/// Each output by itself: runs along the reduced axes.
template <class R, class T>
void reduce_rows(const Split& s, const View& out) {
  using A = typename R::A;
  const StridedLoop loop(s.reduced);
  const T* x = s.reduced.template as<T>();
  const bool one_run = loop.length() == loop.size();  // run_at() costs more than a short run
  const auto part = [&](const T* base, Index begin, Index end) {
    A a = R::start(s.terms ? base : nullptr);
    if (one_run && begin < end) {
      R::add(a, end - begin, base + begin * loop.steps()[0], loop.steps()[0], begin);
      return a;
    }
    loop.run_at({reinterpret_cast<std::byte*>(const_cast<T*>(base))}, begin, end,
                [&](Index n, const auto& row, const auto& step) {
                  R::add(a, n, reinterpret_cast<const T*>(row[0]), step[0], begin);
                  begin += n;
                });
    return a;
  };
  const Index chunks = std::max<Index>(1, s.terms / grain + (s.terms % grain != 0));
  if (chunks == 1) {
    return parallel_for(s.outputs, std::max<Index>(1, grain / std::max<Index>(1, s.terms)), [&](Index begin, Index end) {
      for (Index o = begin; o < end; ++o) {
        const auto [from, to] = s.place(o);
        const A a = part(x + from, 0, s.terms);
        put(out, to, 1, 1, &a);
      }
    });
  }
  A* partial = scratch<A>(Slot::reduce_partial, s.outputs * chunks);
  parallel_tasks(s.outputs * chunks, [&](Index task) {
    const Index o = task / chunks, chunk = task % chunks;
    partial[task] = part(x + s.place(o)[0], chunk * grain, std::min(s.terms, (chunk + 1) * grain));
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
    for (Index j = 0; j < n; ++j) mine[j] = R::start(base + j);
    Index at = chunk * column_rows;
    loop.run_at({reinterpret_cast<std::byte*>(const_cast<T*>(base))}, at, std::min(s.terms, at + column_rows),
                [&](Index rows, const auto& row, const auto& step) {
                  R::add_rows(mine, rows, n, reinterpret_cast<const T*>(row[0]), step[0], at);
                  at += rows;
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
  std::array<Index, R::short_terms> term{};  // elements from an output's first term
  Index count = 0;
  StridedLoop(s.reduced).run([&](Index n, const auto& row, const auto& step) {
    const Index first = reinterpret_cast<const T*>(row[0]) - s.reduced.template as<T>();
    for (Index i = 0; i < n; ++i) term[static_cast<std::size_t>(count++)] = first + i * step[0];
  });
  const auto block = [&](Index begin, Index end) {
    const Index n = end - begin;
    T terms[R::short_terms * column_block];
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
    R::add_rows(results, count, n, terms, n, 0);
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
  const bool columns = s.terms > 0 && s.by_columns();
  // Columns of some terms, if they are many, are better read where they lie; the order of a sum is the same.
  const bool wide = columns && s.terms >= 8 && s.x_kept.shape[s.x_kept.rank() - 1] >= column_block;
  if (s.terms > 0 && s.terms <= R::short_terms && !wide) return reduce_short_rows<R, T>(s, out);
  if (columns) return reduce_columns<R, T>(s, out);
  reduce_rows<R, T>(s, out);
}

}  // namespace

void CpuBackend::reduce(ReduceOp op, const View& x, const View& out) {
  visit_dtype(x.dtype, [&](auto tag) {
    using Element = typename decltype(tag)::type;
    using T = std::conditional_t<std::is_same_v<Element, bool>, std::uint8_t, Element>;
    switch (op) {
      case ReduceOp::sum:
        return reduce_with<Sum<T>, T>(x, out);
      case ReduceOp::max:
        return reduce_with<Extreme<ReduceOp::max, T>, T>(x, out);
      case ReduceOp::min:
        return reduce_with<Extreme<ReduceOp::min, T>, T>(x, out);
      case ReduceOp::argmax:
        return reduce_with<Position<ReduceOp::argmax, T>, T>(x, out);
      case ReduceOp::argmin:
        return reduce_with<Position<ReduceOp::argmin, T>, T>(x, out);
      case ReduceOp::count:
        return;
    }
  });
}

namespace {

template <class T>
void running_sums(Index n, Index from, Index to, const T* in, T* out) {
  Accumulator<T> sum = 0;
  for (Index j = 0; j < n; ++j) {
    sum = Binary<BinaryOp::add>{}(sum, convert<Accumulator<T>>(in[j * from]));
    out[j * to] = convert<T>(sum);
  }
}

constexpr Index line_block = 512;  // lines side by side: from one row to the next is a step that the processor does not foresee

/// Lines that lie side by side, row by row.
template <class T>
void running_sums_of_lines(Index lines, Index n, Index from, Index to, const T* in, T* out) {
  for (Index first = 0; first < lines; first += line_block) {
    const Index count = std::min(line_block, lines - first);
    Accumulator<T> sums[line_block] = {};
    if constexpr (std::is_same_v<T, bf16>) {
      float terms[line_block], wide[line_block];
      for (Index j = 0; j < n; ++j) {
        widen_rows(1, count, in + first + j * from, count, terms);
        NORMA_KERNELS(column_kernels).f32.running_sums(1, count, terms, count, sums, wide, count);
        narrow_rows(1, count, wide, out + first + j * to, count);
      }
    } else {
      NORMA_KERNELS(column_kernels).of<T>().running_sums(n, count, in + first, from, sums, out + first, to);
    }
  }
}

}  // namespace

void CpuBackend::cumsum(const View& x, int axis, const View& out) {
  const Index n = x.shape()[axis], from = x.layout.strides[axis], to = out.layout.strides[axis];
  View starts = x, targets = out;  // the first element of each line
  starts.layout.shape.set(axis, std::min<Index>(n, 1));
  targets.layout.shape.set(axis, std::min<Index>(n, 1));
  visit_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const StridedLoop lines(starts, targets);
    const bool side_by_side = !std::is_same_v<T, bool> && lines.steps() == std::array<Index, 2>{1, 1} && std::abs(from) != 1;
    // Of lines side by side a task has no fewer than memory hands out at once, and more where there are many.
    const Index least = side_by_side ? std::clamp<Index>(lines.size() / 16, 16, line_block) : 1;
    parallel_for(lines.size(), std::max<Index>(least, grain / std::max<Index>(1, n)), [&](Index begin, Index end) {
      lines.run(begin, end, [&](Index count, const auto& row, const auto& step) {
        const T* in = reinterpret_cast<const T*>(row[0]);
        T* sums = reinterpret_cast<T*>(row[1]);
        if constexpr (!std::is_same_v<T, bool>) {
          if (side_by_side) return running_sums_of_lines(count, n, from, to, in, sums);
        }
        for (Index line = 0; line < count; ++line) running_sums(n, from, to, in + line * step[0], sums + line * step[1]);
      });
    });
  });
}

}  // namespace norma::cpu
