// Strided loops over one to four operands of the same shape, for element-wise work: axes are merged and ordered once,
// then any range of elements runs as a few long inner loops. The order of elements is the loop's own, not row-major.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "core/tensor.h"

namespace norma {

template <std::size_t N>
class StridedLoop {
 public:
  using Pointers = std::array<std::byte*, N>;
  using Steps = std::array<Index, N>;

  template <class... Views>
  requires(sizeof...(Views) == N) explicit StridedLoop(const Views&... views)
      : layouts_{views.layout...},
        element_bytes_{static_cast<Index>(size_of(views.dtype))...},
        bases_{static_cast<std::byte*>(views.data)...} {
    std::array<Layout*, N> pointers;
    for (std::size_t i = 0; i < N; ++i) pointers[i] = &layouts_[i];
    shape_ = coalesce(pointers);
    size_ = shape_.numel();
    length_ = shape_.rank() ? shape_[-1] : 1;
    for (std::size_t i = 0; i < N; ++i) {
      steps_[i] = shape_.rank() ? layouts_[i].stride(-1) : 0;
      bases_[i] += layouts_[i].offset * element_bytes_[i];
    }
  }

  Index size() const { return size_; }      // elements in all
  Index length() const { return length_; }  // elements of one inner loop
  /// Elements from one to the next in the inner loop, per operand.
  const Steps& steps() const { return steps_; }
  /// The inner loops cover everything without gaps, in every operand.
  bool dense() const {
    return length_ == size_ && std::all_of(steps_.begin(), steps_.end(), [](Index s) { return s == 1; });
  }

  /// inner(n, pointers, steps) over the elements [begin, end) of the loop's order. Pointers are to the first element of
  /// each operand, steps count elements (0: the same element again). Disjoint ranges may run on different threads.
  template <class Inner>
  void run(Index begin, Index end, Inner&& inner) const {
    run_at(bases_, begin, end, inner);
  }
  template <class Inner>
  void run(Inner&& inner) const {
    run_at(bases_, 0, size_, inner);
  }

  Index rows() const { return length_ ? size_ / length_ : 0; }  // how many inner loops there are
  /// Elements from the first one of an inner loop to that of the next, per operand, while an axis lasts.
  Steps apart() const {
    Steps out{};
    for (std::size_t i = 0; i < N && shape_.rank() > 1; ++i) out[i] = layouts_[i].stride(-2);
    return out;
  }
  /// rows(n, pointers) over the inner loops [begin, end): n of them at a time, which are apart() elements from one another. Pointers are to the
  /// first element of the first one.
  template <class Rows>
  void run_rows(Index begin, Index end, Rows&& rows) const {
    const int axis = std::max(shape_.rank() - 2, 0);
    const Index together = shape_.rank() > 1 ? shape_[axis] : 1;
    const Steps step = apart();
    for (Index at = begin; at < end;) {
      const Index first = at % together, n = std::min(together - first, end - at);
      Pointers start = bases_;
      for (std::size_t i = 0; i < N; ++i) start[i] += first * step[i] * element_bytes_[i];
      Index rest = at / together;
      for (int outer = axis - 1; outer >= 0; --outer) {
        for (std::size_t i = 0; i < N; ++i) start[i] += rest % shape_[outer] * layouts_[i].stride(outer) * element_bytes_[i];
        rest /= shape_[outer];
      }
      rows(n, start);
      at += n;
    }
  }

  /// The same geometry at other data.
  template <class Inner>
  void run_at(const Pointers& bases, Index begin, Index end, Inner&& inner) const {
    if (begin >= end) return;
    const int outer = std::max(shape_.rank() - 1, 0);
    std::array<Index, max_rank> index{};
    Index rest = begin / length_, column = begin % length_;
    for (int axis = outer - 1; axis >= 0; --axis) {
      index[axis] = rest % shape_[axis];
      rest /= shape_[axis];
    }
    Pointers row = bases;
    for (std::size_t i = 0; i < N; ++i)
      for (int axis = 0; axis < outer; ++axis) row[i] += index[axis] * layouts_[i].stride(axis) * element_bytes_[i];
    for (Index at = begin; at < end;) {
      const Index n = std::min(length_ - column, end - at);
      Pointers start = row;
      for (std::size_t i = 0; i < N; ++i) start[i] += column * steps_[i] * element_bytes_[i];
      inner(n, start, steps_);
      at += n;
      column = 0;
      for (int axis = outer - 1; axis >= 0; --axis) {
        const bool wraps = ++index[axis] == shape_[axis];
        const Index move = wraps ? 1 - shape_[axis] : 1;
        for (std::size_t i = 0; i < N; ++i) row[i] += move * layouts_[i].stride(axis) * element_bytes_[i];
        if (!wraps) break;
        index[axis] = 0;
      }
    }
  }

 private:
  std::array<Layout, N> layouts_;
  std::array<Index, N> element_bytes_;
  Pointers bases_;
  Steps steps_{};
  Shape shape_;
  Index size_ = 0, length_ = 1;
};

template <class... Views>
StridedLoop(const Views&...) -> StridedLoop<sizeof...(Views)>;

}  // namespace norma
