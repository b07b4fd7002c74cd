// Indexing on the CPU. Work is split over disjoint outputs only, and every output adds its terms in index order, so
// that the bits do not depend on threads. Sums of bf16 are kept in float and rounded once.
#include <algorithm>
#include <cstring>
#include <utility>

#include "backends/common/convert.h"
#include "backends/common/loops.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"

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

/// For each line of `index` along `axis`: f(line start in x, in index, in out), in parallel.
template <class T, class F>
void each_line(const View& x, int axis, const View& index, const View& out, F&& f) {
  if (index.numel() == 0) return;
  const Shape lines = index.shape().with(axis, 1);
  const int rank = lines.rank();
  parallel_for(lines.numel(), std::max<Index>(1, task_elements / index.shape()[axis]), [&](Index begin, Index end) {
    for (Index n = begin; n < end; ++n)
      f(x.as<T>() + offset_of(n, lines, x.layout, 0, rank),
        index.as<const Index>() + offset_of(n, lines, index.layout, 0, rank),
        out.as<T>() + offset_of(n, lines, out.layout, 0, rank));
  });
}

}  // namespace

void CpuBackend::gather(const View& x, int axis, const View& index, const View& out) {
  const Index n = index.shape()[axis], xs = x.layout.stride(axis), is = index.layout.stride(axis),
              os = out.layout.stride(axis);
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    each_line<T>(x, axis, index, out, [&](const T* from, const Index* at, T* to) {
      for (Index j = 0; j < n; ++j) to[j * os] = from[at[j * is] * xs];
    });
  });
}

void CpuBackend::scatter_add(const View& x, int axis, const View& index, const View& out) {
  const Index n = index.shape()[axis], xs = x.layout.stride(axis), is = index.layout.stride(axis),
              os = out.layout.stride(axis);
  const Index targets = out.shape()[axis];
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Compute<T, true>;
    each_line<T>(x, axis, index, out, [&](const T* from, const Index* at, T* to) {
      if constexpr (std::is_same_v<T, A>) {
        for (Index j = 0; j < n; ++j) to[at[j * is] * os] = Binary<BinaryOp::add>{}(to[at[j * is] * os], from[j * xs]);
      } else {
        A* sums = scratch<A>(Slot::index_sums, targets);
        for (Index t = 0; t < targets; ++t) sums[t] = convert<A>(to[t * os]);
        for (Index j = 0; j < n; ++j) sums[at[j * is]] += convert<A>(from[j * xs]);
        for (Index t = 0; t < targets; ++t) to[t * os] = convert<T>(sums[t]);
      }
    });
  });
}

void CpuBackend::index_select(const View& x, int axis, const View& index, const View& out) {
  if (out.numel() == 0) return;
  const Index n = out.shape()[axis], before = count(out.shape(), 0, axis);
  const View from = tail(x, axis), to = tail(out, axis);
  const StridedLoop inner(from, to);
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(before * n, std::max<Index>(1, task_elements / inner.size()), [&](Index begin, Index end) {
      for (Index row = begin; row < end; ++row) {
        const Index lead = row / n, j = row % n, target = index.as<const Index>()[j * index.layout.stride(0)];
        T* source = x.as<T>() + offset_of(lead, out.shape(), x.layout, 0, axis) + target * x.layout.stride(axis);
        T* place = out.as<T>() + offset_of(lead, out.shape(), out.layout, 0, axis) + j * out.layout.stride(axis);
        if (inner.dense()) {
          std::memcpy(place, source, static_cast<std::size_t>(inner.size()) * sizeof(T));
          continue;
        }
        inner.run_at({bytes(source), bytes(place)}, 0, inner.size(), [](Index m, const auto& p, const auto& step) {
          const T* a = reinterpret_cast<const T*>(p[0]);
          T* b = reinterpret_cast<T*>(p[1]);
          for (Index i = 0; i < m; ++i) b[i * step[1]] = a[i * step[0]];
        });
      }
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
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = Compute<T, true>;
    // The loop runs over (term, sum): the sums are out's row itself, or a dense row of wider numbers in scratch.
    View sums{nullptr, Layout(row.shape()), dtype_of<T>()};
    if constexpr (std::is_same_v<T, A>)
      sums.layout = row.layout;
    else
      sums.dtype = DType::f32;
    const StridedLoop inner(terms, sums), edge(row, sums);
    parallel_for(before * targets, std::max<Index>(1, task_elements / inner.size()), [&](Index begin, Index end) {
      for (Index r = begin; r < end; ++r) {
        const Index lead = r / targets, t = r % targets;
        if (first[t] == first[t + 1]) continue;
        T* place = out.as<T>() + offset_of(lead, out.shape(), out.layout, 0, axis) + t * out.layout.stride(axis);
        T* lead_x = x.as<T>() + offset_of(lead, out.shape(), x.layout, 0, axis);
        A* to = nullptr;
        if constexpr (std::is_same_v<T, A>) {
          to = place;
        } else {
          to = scratch<A>(Slot::index_sums, inner.size());
          edge.run_at({bytes(place), bytes(to)}, 0, edge.size(), [](Index m, const auto& p, const auto& step) {
            for (Index i = 0; i < m; ++i)
              reinterpret_cast<A*>(p[1])[i * step[1]] = convert<A>(reinterpret_cast<const T*>(p[0])[i * step[0]]);
          });
        }
        for (Index k = first[t]; k < first[t + 1]; ++k) {
          T* term = lead_x + sorted[k] * x.layout.stride(axis);
          inner.run_at({bytes(term), bytes(to)}, 0, inner.size(), [](Index m, const auto& p, const auto& step) {
            const T* a = reinterpret_cast<const T*>(p[0]);
            A* b = reinterpret_cast<A*>(p[1]);
            for (Index i = 0; i < m; ++i)
              b[i * step[1]] = Binary<BinaryOp::add>{}(b[i * step[1]], convert<A>(a[i * step[0]]));
          });
        }
        if constexpr (!std::is_same_v<T, A>) {
          edge.run_at({bytes(place), bytes(to)}, 0, edge.size(), [](Index m, const auto& p, const auto& step) {
            for (Index i = 0; i < m; ++i)
              reinterpret_cast<T*>(p[0])[i * step[0]] = convert<T>(reinterpret_cast<const A*>(p[1])[i * step[1]]);
          });
        }
      }
    });
  });
}

Index CpuBackend::check_index(const View& index, Index limit) {
  const Index size = index.numel();
  const bool dense = index.layout.contiguous();
  const int rank = index.layout.rank();
  for (Index n = 0; n < size; ++n) {
    const Index value = index.as<const Index>()[dense ? n : offset_of(n, index.shape(), index.layout, 0, rank)];
    if (value < 0 || value >= limit) return n;
  }
  return -1;
}

}  // namespace norma::cpu
