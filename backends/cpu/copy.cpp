// copy = cast = contiguous: dense rows as blocks of memory, the casts of training as vector loops, and permutations that swap the
// innermost axes as a transpose in tiles.
#include <algorithm>
#include <array>
#include <cstring>

#include "backends/common/convert.h"
#include "backends/common/loops.h"
#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

constexpr Index grain = 32768;                      // elements of a task
constexpr Index tile_rows = 256, tile_columns = 64;  // of a transpose task

/// Elements as words of their size: what a copy without a cast moves.
template <class F>
void visit_words(std::size_t bytes, F&& f) {
  switch (bytes) {
    case 1:
      return f(TypeTag<std::uint8_t>{});
    case 2:
      return f(TypeTag<std::uint16_t>{});
    case 4:
      return f(TypeTag<std::uint32_t>{});
    default:
      return f(TypeTag<std::uint64_t>{});
  }
}

template <class Word>
void transpose_tile(Index rows, Index columns, const Word* in, Index in_row, Word* out, Index out_row) {
  const CopyTable& table = NORMA_KERNELS(copy_kernels);
  if constexpr (sizeof(Word) == 1)
    table.transpose8(rows, columns, in, in_row, out, out_row);
  else if constexpr (sizeof(Word) == 2)
    table.transpose16(rows, columns, in, in_row, out, out_row);
  else if constexpr (sizeof(Word) == 4)
    table.transpose32(rows, columns, in, in_row, out, out_row);
  else
    table.transpose64(rows, columns, in, in_row, out, out_row);
}

/// Where `out` is dense along one axis and `in` along another: tiles of that plane. False where it is not so.
template <class Word>
bool copy_transposed(const View& in, const View& out) {
  Layout from = in.layout, to = out.layout;
  std::array<Layout*, 2> both{&from, &to};
  const Shape shape = coalesce(both);
  const int last = shape.rank() - 1;
  if (last < 1 || to.strides[last] != 1 || from.strides[last] == 1 || from.strides[last] == 0) return false;
  int dense = -1;
  for (int axis = 0; axis < last; ++axis)
    if (from.strides[axis] == 1) dense = axis;
  if (dense < 0 || shape[dense] < 4 || shape[last] < 4 || shape[dense] * shape[last] < 64) return false;

  const Index rows = shape[last], columns = shape[dense];
  const Index across = (columns + tile_columns - 1) / tile_columns, down = (rows + tile_rows - 1) / tile_rows;
  const Index planes = shape.numel() / (rows * columns);
  parallel_tasks(planes * across * down, [&](Index task) {
    const Index row = task % down * tile_rows, column = task / down % across * tile_columns;
    const Word* source = in.as<Word>() + row * from.strides[last] + column;
    Word* target = out.as<Word>() + row + column * to.strides[dense];
    Index plane = task / down / across;
    for (int axis = last - 1; axis >= 0; --axis) {
      if (axis == dense) continue;
      const Index i = plane % shape[axis];
      plane /= shape[axis];
      source += i * from.strides[axis];
      target += i * to.strides[axis];
    }
    transpose_tile(std::min(tile_rows, rows - row), std::min(tile_columns, columns - column), source,
                   from.strides[last], target, to.strides[dense]);
  });
  return true;
}

void copy_words(const View& in, const View& out) {
  visit_words(size_of(out.dtype), [&](auto tag) {
    using Word = typename decltype(tag)::type;
    if (copy_transposed<Word>(in, out)) return;
    const StridedLoop loop(in, out);
    parallel_for(loop.size(), grain, [&](Index begin, Index end) {
      loop.run(begin, end, [](Index n, const auto& row, const auto& step) {
        const Word* from = reinterpret_cast<const Word*>(row[0]);
        Word* to = reinterpret_cast<Word*>(row[1]);
        if (step[0] == 1 && step[1] == 1) {
          std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(Word));
        } else if (step[0] == 0 && step[1] == 1) {
          std::fill_n(to, n, *from);
        } else {
          for (Index i = 0; i < n; ++i) to[i * step[1]] = from[i * step[0]];
        }
      });
    });
  });
}

/// The vector loop for this cast of dense rows; false where there is none.
template <class From, class To>
bool cast_row(Index n, const From* from, To* to) {
  const CopyTable& table = NORMA_KERNELS(copy_kernels);
  if constexpr (std::is_same_v<From, float> && std::is_same_v<To, bf16>) {
    narrow_rows(1, n, from, to, n);
  } else if constexpr (std::is_same_v<From, bf16> && std::is_same_v<To, float>) {
    widen_rows(1, n, from, n, to);
  } else if constexpr (std::is_same_v<From, std::uint8_t> && std::is_same_v<To, float>) {
    table.u8_to_f32(n, from, to);
  } else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, double>) {
    table.f32_to_f64(n, from, to);
  } else if constexpr (std::is_same_v<From, double> && std::is_same_v<To, float>) {
    table.f64_to_f32(n, from, to);
  } else {
    return false;
  }
  return true;
}

}  // namespace

void CpuBackend::copy(const View& in, const View& out) {
  if (in.dtype == out.dtype) return copy_words(in, out);
  const StridedLoop loop(in, out);
  visit_dtype(in.dtype, [&](auto from_tag) {
    visit_dtype(out.dtype, [&](auto to_tag) {
      using From = typename decltype(from_tag)::type;
      using To = typename decltype(to_tag)::type;
      parallel_for(loop.size(), grain, [&](Index begin, Index end) {
        loop.run(begin, end, [](Index n, const auto& row, const auto& step) {
          const From* from = reinterpret_cast<const From*>(row[0]);
          To* to = reinterpret_cast<To*>(row[1]);
          if (step[0] == 1 && step[1] == 1 && cast_row(n, from, to)) return;
          for (Index i = 0; i < n; ++i) to[i * step[1]] = convert<To>(from[i * step[0]]);
        });
      });
    });
  });
}

}  // namespace norma::cpu
