// The one thread pool (oneTBB) of the CPU backend. The only file that names TBB is parallel.cpp.
//
// Work is cut by the problem alone, never by the number of threads, so that results have the same bits with 1 or 8.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <type_traits>

namespace norma::cpu {

constexpr int most_threads = 1024;
void set_threads(int count);  // throws Error outside 1..most_threads; default: all cores this process may use, or a container's share of them
int threads();

/// Gets the seconds that each task of a loop has taken.
using TaskWatcher = std::function<void(std::span<const double>)>;
/// While there is a watcher (an empty one: none), loops are cut as for threads(), and their tasks run one after the other on the thread that calls them.
/// For benchmarks, which deal them out to more cores than the machine has; not while other threads compute.
void watch_tasks(TaskWatcher watcher);

namespace detail {
void run_tasks(std::int64_t count, void (*body)(void*, std::int64_t), void* context);
}

/// body(i) for i in [0, count), in any order, on any thread. Bodies write disjoint memory.
template <class Body>
void parallel_tasks(std::int64_t count, Body&& body) {
  if (count == 1) return body(std::int64_t{0});
  detail::run_tasks(
      count, [](void* f, std::int64_t i) { (*static_cast<std::remove_reference_t<Body>*>(f))(i); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

/// Elements of a task that does little with each: some microseconds of element-wise work.
constexpr std::int64_t task_elements = 16384;

/// body(begin, end) over [0, size) in pieces of `grain`; small work runs here, without the pool.
template <class Body>
void parallel_for(std::int64_t size, std::int64_t grain, Body&& body) {
  const std::int64_t pieces = (size + grain - 1) / grain;
  parallel_tasks(pieces, [&](std::int64_t i) { body(i * grain, std::min(size, (i + 1) * grain)); });
}

/// Whose a block of scratch memory is. Users that never run inside one another share a number, which saves memory. Of a product and an MLP, the first
/// two belong to the caller while its tasks run, the others to each task.
enum class Slot : int {
  product_shared_b = 0, product_partial, product_a, product_b, product_panel = 10,  // gemm.cpp, gemm_bf16.cpp
  mlp_weights = 0, mlp_sums, mlp_work, mlp_columns,                                  // mlp_rows.h
  batch_offsets = 4, wide_a, wide_b, wide_out, column_sums,                          // linear.cpp, linear_bf16.cpp: around products
  norm_sums = 8, norm_wide = 9,                                                      // norm_rows.h; norm_bf16.cpp, in its tasks
  reduce_partial = 9,                                                                // reduce.cpp
  attention_work = 8, attention_stat_parts, attention_wide, attention_dq_parts,      // attention.cpp
  linear_weights = 10, linear_key_counts, linear_states, linear_mirror, linear_work, linear_wide,  // attention_linear.cpp
  index_order = 12, index_sums,                                                      // index.cpp
  window_plane = 14,                                                                 // window.cpp, depthwise.cpp
  conv_lines = 0, conv_packed, conv_sums, conv_dy,                                    // convolution.cpp
  count = 16
};

/// Scratch memory of this thread, 64-byte aligned, at least `bytes`, contents undefined.
/// Kept for the life of the thread: a steady step asks the system for nothing. From 1 MiB on in huge pages where the system has them: in small
/// ones packed operands need more translations than a core keeps, which cost products and attention 5 to 20 % of their speed.
void* scratch(Slot slot, std::size_t bytes);
template <class T>
T* scratch(Slot slot, std::int64_t count) {
  return static_cast<T*>(scratch(slot, static_cast<std::size_t>(count) * sizeof(T)));
}

}  // namespace norma::cpu
