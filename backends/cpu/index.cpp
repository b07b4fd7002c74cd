// Indexing on the CPU. Work is split over disjoint outputs only, and every output adds its terms in index order, so
// that the bits do not depend on threads. Sums of bf16 are kept in float and rounded once.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "backends/common/convert.h"
#include "backends/common/loops.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/cut_product.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

/// Element offset of the row-major position `n` among the axes [first, last) of `shape`.
Index offset_of(Index n, const Shape& shape, const Layout& layout, int first, int last) {
  Index offset = 0;
  for (int axis = last - 1; axis >= first; --axis) {
    offset += n % shape[axis] * layout.stride(axis);
    n /= shape[axis];
  }
  return offset;
}

Index count(const Shape& shape, int first, int last) {
  Index n = 1;
  for (int axis = first; axis < last; ++axis) n *= shape[axis];
  return n;
}

/// The axes after `axis`, as a view of its own.
View tail(const View& view, int axis) {
  View part{view.data, {}, view.dtype};
  for (int i = axis + 1; i < view.layout.rank(); ++i) {
    part.layout.strides[static_cast<std::size_t>(part.layout.rank())] = view.layout.stride(i);
    part.layout.shape.append(view.shape()[i]);
  }
  return part;
}

template <class T>
std::byte* bytes(T* p) {
  return reinterpret_cast<std::byte*>(p);
}

/// body(line, first, stop) over `lines` of n entries, each of which is a row of `size` elements, in parallel.
template <class Body>
void each_run(Index lines, Index n, Index size, Body&& body) {
  parallel_for(lines * n, std::max<Index>(1, task_elements / size), [&](Index begin, Index end) {
    for (Index i = begin; i < end;) {
      const Index first = i % n, stop = std::min(n, first + end - i);
      body(i / n, first, stop);
      i += stop - first;
    }
  });
}

/// Rows of the same geometry, from one operand to another. Most are one run of elements; run_at() costs more than a short run.
template <class From, class To>
class RowLoop {
 public:
  RowLoop(const View& from, const View& to) : loop_(from, to) {}
  Index size() const { return loop_.size(); }
  /// each(to, from) for the elements [begin, end) of a row.
  template <class Each>
  void run(const From* from, To* to, Index begin, Index end, Each&& each) const {
    const auto inner = [&](Index n, const From* a, Index a_step, To* b, Index b_step) {
      for (Index i = 0; i < n; ++i) each(b[i * b_step], a[i * a_step]);
    };
    const auto [from_step, to_step] = loop_.steps();
    if (loop_.length() == size())
      return inner(end - begin, from + begin * from_step, from_step, to + begin * to_step, to_step);
    loop_.run_at({bytes(const_cast<From*>(from)), bytes(to)}, begin, end, [&](Index n, const auto& p, const auto& step) {
      inner(n, reinterpret_cast<const From*>(p[0]), step[0], reinterpret_cast<To*>(p[1]), step[1]);
    });
  }
  /// to += from for the elements [begin, end) of a row.
  void add(const From* from, To* to, Index begin, Index end) const {
    if constexpr (std::is_same_v<From, To> && std::is_floating_point_v<To>) {
      if (loop_.dense() && end - begin >= 8)
        return NORMA_KERNELS(elementwise_kernels).of<To>().binary(BinaryOp::add, end - begin, to + begin, 1, from + begin, 1, to + begin);
    }
    run(from, to, begin, end, [](To& b, From a) { b = Binary<BinaryOp::add>{}(b, convert<To>(a)); });
  }
  /// Rows from from(i), for i < n, to rows that lie `step` apart.
  template <class Place>
  void copies(Index n, Place&& from, To* to, Index step) const {
    if (size() == 1) {
      for (Index i = 0; i < n; ++i) to[i * step] = *from(i);
    } else if (loop_.dense() && size() > 8) {
      for (Index i = 0; i < n; ++i) std::memcpy(to + i * step, from(i), static_cast<std::size_t>(size()) * sizeof(To));
    } else {
      for (Index i = 0; i < n; ++i) run(from(i), to + i * step, 0, size(), [](To& b, const From& a) { b = a; });
    }
  }

 private:
  StridedLoop<2> loop_;
};

/// How gather and scatter_add walk: lines of `index` along `axis`, whose every entry stands for a row of the axes from `last` on, along which
/// the index does not move; or, without rows, for one element.
struct Lines {
  int last;
  Index n;      // entries of a line
  Shape shape;  // of the lines' starts

  Lines(const View& index, int axis, bool rows) : last(index.layout.rank()), n(index.shape()[axis]), shape(index.shape()) {
    while (rows && last > axis + 1 && (index.layout.stride(last - 1) == 0 || shape[last - 1] == 1)) --last;
    shape.set(axis, 1);
    for (int i = last; i < shape.rank(); ++i) shape.set(i, 1);
  }
  Index count() const { return shape.numel(); }
  template <class T>
  T* start(Index line, const View& v) const {
    return v.as<T>() + offset_of(line, shape, v.layout, 0, last);
  }
};

}  // namespace

void CpuBackend::gather(const View& x, int axis, const View& index, const View& out) {
  if (out.numel() == 0) return;
  const Index xs = x.layout.stride(axis), is = index.layout.stride(axis), os = out.layout.stride(axis);
  const Lines lines(index, axis, true);
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowLoop<T, T> row(tail(x, lines.last - 1), tail(out, lines.last - 1));
    each_run(lines.count(), lines.n, row.size(), [&](Index line, Index first, Index stop) {
      const T* from = lines.start<const T>(line, x);
      const Index* at = lines.start<const Index>(line, index);
      row.copies(stop - first, [&](Index j) { return from + at[(first + j) * is] * xs; }, lines.start<T>(line, out) + first * os, os);
    });
  });
}

void CpuBackend::scatter_add(const View& x, int axis, const View& index, const View& out) {
  if (x.numel() == 0) return;
  const Index xs = x.layout.stride(axis), is = index.layout.stride(axis), os = out.layout.stride(axis);
  const Index targets = out.shape()[axis];
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Compute<T, true>;
    const Lines lines(index, axis, std::is_same_v<T, A>);
    const RowLoop<T, T> row(tail(x, lines.last - 1), tail(out, lines.last - 1));
    // Two entries of a line may have one target, so that a task has a part of every row of a line.
    const Index n = lines.n, most = lines.count() < 64 ? std::max<Index>(1, row.size() / 16) : 1;
    const Index width = ceil_div(row.size(), std::clamp<Index>(n * row.size() / task_elements, 1, most));
    const Index parts = ceil_div(row.size(), width);
    parallel_for(lines.count() * parts, std::max<Index>(1, task_elements / (n * width)), [&](Index begin, Index end) {
      for (Index i = begin; i < end; ++i) {
        const Index line = i / parts, c0 = i % parts * width, c1 = std::min(row.size(), c0 + width);
        const T* from = lines.start<const T>(line, x);
        const Index* at = lines.start<const Index>(line, index);
        T* to = lines.start<T>(line, out);
        if constexpr (std::is_same_v<T, A>) {
          for (Index j = 0; j < n; ++j) row.add(from + j * xs, to + at[j * is] * os, c0, c1);
        } else {
          A* sums = scratch<A>(Slot::index_sums, targets);
          for (Index t = 0; t < targets; ++t) sums[t] = convert<A>(to[t * os]);
          for (Index j = 0; j < n; ++j) sums[at[j * is]] += convert<A>(from[j * xs]);
          for (Index t = 0; t < targets; ++t) to[t * os] = convert<T>(sums[t]);
        }
      }
    });
  });
}

void CpuBackend::index_select(const View& x, int axis, const View& index, const View& out) {
  if (out.numel() == 0) return;
  const Index xs = x.layout.stride(axis), is = index.layout.stride(0), os = out.layout.stride(axis);
  const Index* at = index.as<const Index>();
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const RowLoop<T, T> row(tail(x, axis), tail(out, axis));
    each_run(count(out.shape(), 0, axis), out.shape()[axis], row.size(), [&](Index lead, Index first, Index stop) {
      const T* from = x.as<T>() + offset_of(lead, out.shape(), x.layout, 0, axis);
      T* to = out.as<T>() + offset_of(lead, out.shape(), out.layout, 0, axis);
      row.copies(stop - first, [&](Index j) { return from + at[(first + j) * is] * xs; }, to + first * os, os);
    });
  });
}

// The positions of `index` are first sorted by target, keeping their order (a counting sort): the terms of each output
// row then follow one another, and rows are independent.
void CpuBackend::index_add(const View& x, int axis, const View& index, const View& out) {
  if (x.numel() == 0) return;
  const Index n = x.shape()[axis], targets = out.shape()[axis], before = count(out.shape(), 0, axis);
  Index* first = scratch<Index>(Slot::index_order, targets + 1 + n);  // of each target, among the sorted positions
  Index* sorted = first + targets + 1;
  const auto target_of = [&](Index j) { return index.as<const Index>()[j * index.layout.stride(0)]; };
  std::fill_n(first, targets + 1, 0);
  for (Index j = 0; j < n; ++j) ++first[target_of(j)];
  for (Index t = 0, sum = 0; t <= targets; ++t) first[t] = std::exchange(sum, sum + first[t]);
  for (Index j = 0; j < n; ++j) sorted[first[target_of(j)]++] = j;
  for (Index t = targets; t > 0; --t) first[t] = first[t - 1];
  first[0] = 0;

  const View terms = tail(x, axis), row = tail(out, axis);
  const Index xs = x.layout.stride(axis), os = out.layout.stride(axis);
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Compute<T, true>;
    // The loop runs over (term, sum): the sums are out's row itself, or a dense row of wider numbers in scratch.
    View sums{nullptr, Layout(row.shape()), dtype_of<T>()};
    if constexpr (std::is_same_v<T, A>)
      sums.layout = row.layout;
    else
      sums.dtype = DType::f32;
    const RowLoop<T, A> into(terms, sums), widen(row, sums);
    const RowLoop<A, T> narrow(sums, row);
    const Index size = into.size();
    const auto sum_into = [&](T* place, const Index* j, const Index* end, const T* from) {
      if (size == 1) {
        A sum = convert<A>(*place);
        for (; j < end; ++j) sum = Binary<BinaryOp::add>{}(sum, convert<A>(from[*j * xs]));
        *place = convert<T>(sum);
        return;
      }
      const auto add_all = [&](A* to) {
        for (; j < end; ++j) into.add(from + *j * xs, to, 0, size);
      };
      if constexpr (std::is_same_v<T, A>) {
        add_all(place);
      } else {
        A* to = scratch<A>(Slot::index_sums, size);
        widen.run(place, to, 0, size, [](A& b, T a) { b = convert<A>(a); });
        add_all(to);
        narrow.run(to, place, 0, size, [](T& b, A a) { b = convert<T>(a); });
      }
    };
    each_run(before, targets, size, [&](Index lead, Index begin, Index end) {
      T* place = out.as<T>() + offset_of(lead, out.shape(), out.layout, 0, axis);
      const T* from = x.as<T>() + offset_of(lead, out.shape(), x.layout, 0, axis);
      for (Index t = begin; t < end; ++t)
        if (first[t] < first[t + 1]) sum_into(place + t * os, sorted + first[t], sorted + first[t + 1], from);
    });
  });
}

Index CpuBackend::check_index(const View& index, Index limit) {
  const Index size = index.numel();
  if (size == 0) return -1;
  View once = index;  // what an axis of stride 0 repeats
  const int rank = index.layout.rank();
  for (int axis = 0; axis < rank; ++axis)
    if (index.layout.stride(axis) == 0) once.layout.shape.set(axis, 1);
  const auto outside = [limit](Index value) { return value < 0 || value >= limit; };
  const StridedLoop loop(once);
  std::atomic<bool> found = false;
  parallel_for(loop.size(), task_elements, [&](Index begin, Index end) {
    bool any = false;
    loop.run(begin, end, [&](Index n, const auto& row, const auto& step) {
      for (Index i = 0; i < n; ++i) any |= outside(reinterpret_cast<const Index*>(row[0])[i * step[0]]);
    });
    if (any) found = true;
  });
  for (Index n = 0; found && n < size; ++n)
    if (outside(index.as<const Index>()[offset_of(n, index.shape(), index.layout, 0, rank)])) return n;
  return -1;
}

}  // namespace norma::cpu
