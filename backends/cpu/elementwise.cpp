// Element-wise verbs on the CPU: strided loops in pieces of a fixed size; dense rows of floats go to the vector kernels directly,
// other floats through a small buffer, so that the bits do not depend on the strides; integers run as plain loops.
#include <algorithm>
#include <type_traits>

#include "backends/common/convert.h"
#include "backends/common/loops.h"
#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

constexpr Index block = 512;  // elements of a buffer

template <class T>
constexpr bool is_float = std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bf16>;
template <class T>
using Computed = std::conditional_t<std::is_same_v<T, bf16>, float, T>;

template <std::size_t N, class Inner>
void run(const StridedLoop<N>& loop, Inner&& inner) {
  parallel_for(loop.size(), task_elements, [&](Index begin, Index end) { loop.run(begin, end, inner); });
}

template <class T>
const T* as(const std::byte* p) {
  return reinterpret_cast<const T*>(p);
}
template <class T>
T* as(std::byte* p) {
  return reinterpret_cast<T*>(p);
}

/// An input row as the kernels take it: step 0 or 1, in the compute type. Other rows are gathered into a buffer.
template <class T>
class Input {
 public:
  using C = Computed<T>;
  Input(const std::byte* row, Index step) : row_(as<T>(row)), step_(step), direct_(std::is_same_v<T, C> && (step == 0 || step == 1)) {}
  const C* at(Index begin, Index count) {
    if constexpr (std::is_same_v<T, C>) {
      if (direct_) return row_ + begin * step_;
    }
    if constexpr (std::is_same_v<T, bf16>) {
      if (step_ == 1) return widen_rows(1, count, row_ + begin, count, buffer_), buffer_;
    }
    for (Index i = 0; i < count; ++i) buffer_[i] = convert<C>(row_[(begin + i) * step_]);
    return buffer_;
  }
  Index step() const { return direct_ ? step_ : 1; }
  bool direct() const { return direct_; }

 private:
  const T* row_;
  Index step_;
  bool direct_;
  C buffer_[block];
};

/// Where a kernel writes: the row itself, or a buffer that `done` scatters.
template <class T>
class Output {
 public:
  using C = Computed<T>;
  Output(std::byte* row, Index step) : row_(as<T>(row)), step_(step), direct_(std::is_same_v<T, C> && step == 1) {}
  C* at(Index begin) {
    if constexpr (std::is_same_v<T, C>) {
      if (direct_) return row_ + begin;
    }
    return buffer_;
  }
  void done(Index begin, Index count) {
    if (direct_) return;
    if constexpr (std::is_same_v<T, bf16>) {
      if (step_ == 1) return narrow_rows(1, count, buffer_, row_ + begin, count);
    }
    for (Index i = 0; i < count; ++i) row_[(begin + i) * step_] = convert<T>(buffer_[i]);
  }
  bool direct() const { return direct_; }

 private:
  T* row_;
  Index step_;
  bool direct_;
  C buffer_[block];
};

/// An operand of short rows, many at a time as one long row: dense, in the compute type. Rows that lie otherwise are copied; one that stands for
/// all of them is copied once.
template <class T>
class ShortRows {
 public:
  using C = Computed<T>;
  ShortRows(Index length, Index step, Index apart) : length_(length), step_(step), apart_(apart) {}
  /// Rows [begin, begin + count), block elements at most, of those whose first one begins at `first`.
  const C* at(const std::byte* first, Index begin, Index count) {
    const T* from = as<T>(first) + begin * apart_;
    if (step_ == 1 && apart_ == length_) return dense(from, count * length_);
    if (apart_ == 0 && from == held_ && count <= held_rows_) return buffer_;
    C* to = buffer_;
    for (const T* row = from; to < buffer_ + count * length_; row += apart_, to += length_) {
      if (step_ == 0)
        std::fill_n(to, length_, convert<C>(*row));
      else
        for (Index i = 0; i < length_; ++i) to[i] = convert<C>(row[i * step_]);
    }
    held_ = from, held_rows_ = count;
    return buffer_;
  }

 private:
  const C* dense(const T* from, Index count) {
    if constexpr (std::is_same_v<T, C>)
      return from;
    else
      return widen_rows(1, count, from, count, buffer_), buffer_;
  }

  Index length_, step_, apart_, held_rows_ = 0;
  const T* held_ = nullptr;
  C buffer_[block];
};

/// part(begin, count) over n elements: all at once where nothing goes through a buffer.
template <class Part>
void in_blocks(Index n, bool direct, Part&& part) {
  const Index most = direct ? n : block;
  for (Index i = 0; i < n; i += most) part(i, std::min(most, n - i));
}

template <class T>
void unary_floats(UnaryOp op, const View& x, const View& out, double parameter) {
  const auto kernel = NORMA_KERNELS(elementwise_kernels).of<Computed<T>>().unary;
  run(StridedLoop(x, out), [&](Index n, const auto& row, const auto& step) {
    Input<T> in(row[0], step[0]);
    Output<T> to(row[1], step[1]);
    const bool direct = in.direct() && in.step() == 1 && to.direct();
    in_blocks(n, direct, [&](Index i, Index count) {
      const Computed<T>* from = in.at(i, count);
      Computed<T>* result = to.at(i);
      if (in.step() == 0) {  // one value for the whole row
        std::fill_n(result, count, *from);
        from = result;
      }
      kernel(op, count, from, result, parameter);
      to.done(i, count);
    });
  });
}

/// Arithmetic (Out = T) and comparisons (Out = bool).
template <class T, class Out>
void binary_floats(BinaryOp op, const View& a, const View& b, const View& out) {
  using C = Computed<T>;
  const ElementwiseTable<C>& table = NORMA_KERNELS(elementwise_kernels).of<C>();
  const auto compute = [&](Index count, const C* x, Index x_step, const C* y, Index y_step, auto* to) {
    if constexpr (std::is_same_v<Out, bool>) {
      static_assert(sizeof(bool) == 1);
      table.compare(op, count, x, x_step, y, y_step, reinterpret_cast<std::uint8_t*>(to));
    } else {
      table.binary(op, count, x, x_step, y, y_step, to);
    }
  };
  const StridedLoop loop(a, b, out);
  const Index length = loop.length(), together = length > 0 ? block / length : 0;
  const auto step = loop.steps(), apart = loop.apart();
  const auto as_it_lies = [&](std::size_t i) { return step[i] == 1 && apart[i] == length; };
  const bool copies = (apart[0] != 0 && !as_it_lies(0)) || (apart[1] != 0 && !as_it_lies(1));
  if (as_it_lies(2) && together > 1 && (!copies || length <= 32))  // a call for each row would cost more than its elements
    return parallel_for(loop.rows(), std::max<Index>(1, task_elements / length), [&](Index begin, Index end) {
      ShortRows<T> left(length, step[0], apart[0]), right(length, step[1], apart[1]);
      loop.run_rows(begin, end, [&](Index rows, const auto& first) {
        for (Index r = 0; r < rows; r += together) {
          const Index n = std::min(together, rows - r);
          const C *x = left.at(first[0], r, n), *y = right.at(first[1], r, n);
          Output<Out> to(first[2] + r * length * static_cast<Index>(sizeof(Out)), 1);
          compute(n * length, x, 1, y, 1, to.at(0));
          to.done(0, n * length);
        }
      });
    });
  run(loop, [&](Index n, const auto& row, const auto&) {
    Input<T> left(row[0], step[0]), right(row[1], step[1]);
    Output<Out> to(row[2], step[2]);
    in_blocks(n, left.direct() && right.direct() && to.direct(), [&](Index i, Index count) {
      const C *x = left.at(i, count), *y = right.at(i, count);
      compute(count, x, left.step(), y, right.step(), to.at(i));
      to.done(i, count);
    });
  });
}

}  // namespace

void CpuBackend::fill(double value, const View& out) {
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T element = convert<T>(value);
    run(StridedLoop(out), [&](Index n, const auto& row, const auto& step) {
      T* to = as<T>(row[0]);
      if (step[0] == 1) {
        std::fill_n(to, n, element);
      } else {
        for (Index i = 0; i < n; ++i) to[i * step[0]] = element;
      }
    });
  });
}

void CpuBackend::unary(UnaryOp op, const View& x, const View& out, double parameter) {
  visit_dtype(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (is_float<T>) {
      unary_floats<T>(op, x, out, parameter);
    } else {
      with_unary(op, [&](auto f) {
        run(StridedLoop(x, out), [&](Index n, const auto& row, const auto& step) {
          const T* in = as<T>(row[0]);
          T* to = as<T>(row[1]);
          for (Index i = 0; i < n; ++i) to[i * step[1]] = apply_unary(f, in[i * step[0]], parameter);
        });
      });
    }
  });
}

void CpuBackend::binary(BinaryOp op, const View& a, const View& b, const View& out) {
  visit_dtype(a.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (is_float<T>) {
      if (is_comparison(op)) return binary_floats<T, bool>(op, a, b, out);
      binary_floats<T, T>(op, a, b, out);
    } else {
      with_binary(op, [&](auto f) {
        using Out = std::conditional_t<std::is_same_v<decltype(f(0.0, 0.0)), bool>, bool, T>;
        run(StridedLoop(a, b, out), [&](Index n, const auto& row, const auto& step) {
          const T *left = as<T>(row[0]), *right = as<T>(row[1]);
          Out* to = as<Out>(row[2]);
          for (Index i = 0; i < n; ++i)
            to[i * step[2]] = apply_binary<Out>(f, left[i * step[0]], right[i * step[1]]);
        });
      });
    }
  });
}

void CpuBackend::where(const View& condition, const View& a, const View& b, const View& out) {
  const auto choose = [&](auto element) {
    using Bits = decltype(element);
    const auto kernel = NORMA_KERNELS(where_kernels).template of<Bits>();
    run(StridedLoop(condition, a, b, out), [&](Index n, const auto& row, const auto& step) {
      const Bits *left = as<Bits>(row[1]), *right = as<Bits>(row[2]);
      Bits* to = as<Bits>(row[3]);
      const auto simple = [](Index s) { return s == 0 || s == 1; };
      if (step[0] == 1 && simple(step[1]) && simple(step[2]) && step[3] == 1)
        return kernel(n, as<std::uint8_t>(row[0]), left, step[1], right, step[2], to);
      const bool* choice = as<bool>(row[0]);
      for (Index i = 0; i < n; ++i)
        to[i * step[3]] = choice[i * step[0]] ? left[i * step[1]] : right[i * step[2]];
    });
  };
  switch (size_of(out.dtype)) {
    case 1:
      return choose(std::uint8_t{});
    case 2:
      return choose(std::uint16_t{});
    case 4:
      return choose(std::uint32_t{});
    default:
      return choose(std::uint64_t{});
  }
}

bool CpuBackend::unary_backward(UnaryOp op, const View& kept, const View& dy, const View& dx) {
  if (!is_floating(kept.dtype) || kept.dtype != dy.dtype || kept.dtype != dx.dtype) return false;
  const StridedLoop loop(kept, dy, dx);
  for (Index step : loop.steps())
    if (step != 1 && loop.length() > 1) return false;
  return visit_dtype(kept.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (is_float<T>) {
      const auto kernel = NORMA_KERNELS(elementwise_kernels).of<Computed<T>>().unary_backward;
      if (!kernel(op, 0, nullptr, nullptr, nullptr)) return false;
      run(loop, [&](Index n, const auto& row, const auto&) {
        Input<T> in(row[0], 1), gradient(row[1], 1);
        Output<T> to(row[2], 1);
        in_blocks(n, to.direct(), [&](Index i, Index count) {
          kernel(op, count, in.at(i, count), gradient.at(i, count), to.at(i));
          to.done(i, count);
        });
      });
    }
    return true;
  });
}

}  // namespace norma::cpu
