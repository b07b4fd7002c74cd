// How element-wise kernels walk: a block takes a tile of 4 elements a thread; dense operands move 4 neighbours by one access,
// strided ones neighbours by neighbouring threads. For .cu files.
#pragma once

#include "backends/cuda/device.h"
#include "backends/cuda/kernels/elementwise.h"

namespace norma::cuda {

constexpr unsigned element_threads = 256, unit = 4;

inline Extent element_grid(std::uint32_t size) {
  return {static_cast<unsigned>((std::uint64_t{size} + unit * element_threads - 1) / (unit * element_threads))};
}

/// The up to 4 elements of one thread.
template <int N>
struct Cursor {
  const Elements<N>& e;
  std::uint32_t first, step;
  unsigned count = 0;
  std::int64_t at[unit][N] = {};

  NORMA_DEVICE explicit Cursor(const Elements<N>& elements) : e(elements) {
    const std::uint32_t tile = block_id().x * (unit * element_threads);
    step = e.dense ? 1 : element_threads;
    first = tile + thread_id() * (e.dense ? unit : 1);
    NORMA_UNROLL
    for (unsigned k = 0; k < unit; ++k) {
      const std::uint32_t i = first + k * step;
      if (i >= e.loop.size) break;
      ++count;
      if (e.dense) {
        for (int operand = 0; operand < N; ++operand) at[k][operand] = i;
      } else {
        e.loop.offsets(i, at[k]);
      }
    }
  }
  template <class T>
  NORMA_DEVICE void load(int operand, T (&x)[unit]) const {
    const T* from = static_cast<const T*>(e.data[operand]);
    if (e.dense && count == unit) {
      const Pack<T, unit> pack = load_pack<unit>(from + first);
      NORMA_UNROLL
      for (unsigned k = 0; k < unit; ++k) x[k] = pack.v[k];
    } else {
      NORMA_UNROLL
      for (unsigned k = 0; k < unit; ++k) x[k] = k < count ? from[at[k][operand]] : T{};
    }
  }
  template <class T>
  NORMA_DEVICE void store(int operand, const T (&x)[unit]) const {
    T* to = static_cast<T*>(e.data[operand]);
    if (e.dense && count == unit) {
      Pack<T, unit> pack;
      NORMA_UNROLL
      for (unsigned k = 0; k < unit; ++k) pack.v[k] = x[k];
      store_pack(to + first, pack);
    } else {
      NORMA_UNROLL
      for (unsigned k = 0; k < unit; ++k)
        if (k < count) to[at[k][operand]] = x[k];
    }
  }
};

}  // namespace norma::cuda
