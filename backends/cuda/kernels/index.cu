// Verbs that move elements. What adds up is added by the thread that owns the target, in the order of the index: no atomic sums,
// the same bits every time.
#include "backends/cuda/kernels/index.h"

#include <algorithm>

#include "backends/cuda/kernels/elements.h"

namespace norma::cuda {
namespace {

constexpr std::int64_t run_limit = std::int64_t{1} << 30;  // of windows in a launch
constexpr unsigned row_group = 8;  // rows of `out` that a block of index_add owns

template <class T>
NORMA_KERNEL void gather_kernel(Elements<3> e, std::int64_t axis_stride) {
  const Cursor<3> c(e);
  std::int64_t index[unit];
  T y[unit];
  c.load(1, index);
  NORMA_UNROLL
  for (unsigned k = 0; k < unit; ++k)
    y[k] = k < c.count ? static_cast<const T*>(e.data[0])[c.at[k][0] + index[k] * axis_stride] : T{};
  c.store(2, y);
}

template <class T>
NORMA_KERNEL void scatter_add_kernel(ScatterAdd s) {
  const std::uint32_t i = block_id().x * block_threads() + thread_id();
  if (i >= s.out.loop.size) return;
  std::int64_t at[4];
  s.out.loop.offsets(i, at);
  const auto* index = static_cast<const std::int64_t*>(s.out.data[0]) + at[0];
  const T* x = static_cast<const T*>(s.out.data[1]) + at[1];
  T& out = static_cast<T*>(s.out.data[2])[at[2]];
  const std::int64_t position = reinterpret_cast<std::intptr_t>(s.out.data[3]) + at[3];
  Accumulator<T> sum = convert<Accumulator<T>>(out);
  for (std::int64_t j = 0; j < s.n; ++j)
    if (index[j * s.index_stride] == position) sum += convert<Accumulator<T>>(x[j * s.x_stride]);
  out = convert<T>(sum);
}

constexpr unsigned listing_threads = 128, looked_at_once = 8;  // index_add: threads of a block, indices of each that are looked at together
constexpr unsigned list_size = listing_threads * looked_at_once, added_at_once = 8;
struct Listing {
  std::int64_t position[list_size];  // of the hits, in order
  std::int32_t row[list_size];
  unsigned counts[looked_at_once][listing_threads / warp_size];
};

/// The block lists, in order, the indices that name its rows; then each thread adds them in one column of every listing_threads. The list is
/// made once where it holds all hits, as with a large vocabulary, most of whose blocks find next to none; a list that is full is added and made
/// anew, and then again for the next columns.
template <class T>
NORMA_KERNEL void index_add_kernel(IndexAdd s, std::uint32_t block_lines) {
  using A = Accumulator<T>;
  constexpr unsigned threads = listing_threads, warps = threads / warp_size;
  auto& listing = *reinterpret_cast<Listing*>(shared_memory());
  const unsigned t = thread_id(), warp = t / warp_size;
  const std::int64_t first_row = std::int64_t{block_id().x} * row_group;
  const std::uint32_t first_line = block_id().y * block_lines;
  const std::uint32_t last_line = first_line + block_lines < s.lines.size ? first_line + block_lines : s.lines.size;
  unsigned listed = 0;
  bool complete = false;  // all hits are listed
  for (std::uint32_t lines = first_line; lines < last_line; lines += threads) {
    const std::uint32_t line = lines + t;
    const bool mine = line < last_line;
    std::int64_t at[2] = {0, 0};
    if (mine) s.lines.offsets(line, at);
    const T* x = static_cast<const T*>(s.x) + at[0];
    A sum[row_group] = {};
    const auto include = [&](A v, unsigned i) {
      NORMA_UNROLL
      for (unsigned r = 0; r < row_group; ++r) sum[r] += static_cast<unsigned>(listing.row[i]) == r ? v : A{0};
    };
    const auto add_listed = [&] {
      if (!mine) return;
      unsigned i = 0;
      for (; i + added_at_once <= listed; i += added_at_once) {  // no branch between them: their loads are under way together
        A some[added_at_once];
        NORMA_UNROLL
        for (unsigned k = 0; k < added_at_once; ++k) some[k] = convert<A>(x[listing.position[i + k] * s.x_stride]);
        NORMA_UNROLL
        for (unsigned k = 0; k < added_at_once; ++k) include(some[k], i + k);
      }
      NORMA_ROLLED
      for (; i < listed; ++i) include(convert<A>(x[listing.position[i] * s.x_stride]), i);
    };
    const bool known = complete;
    if (!known) listed = 0, complete = true;
    for (std::int64_t start = 0; start < s.n && !known; start += list_size) {
      std::int64_t target[looked_at_once];
      unsigned bits[looked_at_once];
      NORMA_UNROLL
      for (unsigned k = 0; k < looked_at_once; ++k) {
        const std::int64_t j = start + k * threads + t;
        target[k] = j < s.n ? s.index[j * s.index_stride] - first_row : -1;
      }
      NORMA_UNROLL
      for (unsigned k = 0; k < looked_at_once; ++k) {
        bits[k] = ballot(target[k] >= 0 && target[k] < row_group);
        if (t % warp_size == 0) listing.counts[k][warp] = count_bits(bits[k]);
      }
      block_barrier();
      unsigned total = 0, before[looked_at_once];
      NORMA_UNROLL
      for (unsigned k = 0; k < looked_at_once; ++k)
        for (unsigned w = 0; w < warps; ++w) {
          if (w == warp) before[k] = total + count_bits(bits[k] & ((1u << t % warp_size) - 1u));
          total += listing.counts[k][w];
        }
      if (listed + total > list_size) {  // for the whole block
        add_listed();
        listed = 0, complete = false;
        block_barrier();  // the list has been read
      }
      NORMA_UNROLL
      for (unsigned k = 0; k < looked_at_once; ++k)
        if (bits[k] >> t % warp_size & 1u)
          listing.position[listed + before[k]] = start + k * threads + t, listing.row[listed + before[k]] = static_cast<std::int32_t>(target[k]);
      listed += total;
      block_barrier();  // the list is written, the counts have been read
    }
    add_listed();
    if (!complete) block_barrier();  // before it is made anew
    if (!mine) continue;
    T* out = static_cast<T*>(s.out) + at[1];
    NORMA_UNROLL
    for (unsigned r = 0; r < row_group; ++r)
      if (first_row + r < s.rows) {
        T& to = out[(first_row + r) * s.out_stride];
        to = convert<T>(convert<A>(to) + sum[r]);
      }
  }
}

NORMA_KERNEL void check_kernel(Loop<1> loop, const std::int64_t* index, std::int64_t limit, unsigned long long* first) {
  const std::uint32_t i = block_id().x * block_threads() + thread_id();
  if (i >= loop.size) return;
  const std::int64_t value = index[loop.offset(i)];
  if (value < 0 || value >= limit) atomic_min(first, i);  // the smallest, whatever the order
}

/// A thread a place of a window.
template <class T>
NORMA_KERNEL void unfold_kernel(Windows w, Run<6> run) {
  const std::uint32_t i = block_id().x * block_threads() + thread_id();
  if (i >= run.count) return;
  std::uint32_t at[6];  // image, channel, row and column of the kernel, row and column of the outputs
  run.at(i, at);
  const std::int32_t y = w.rows.position(at[4]) + static_cast<std::int32_t>(at[2]), x = w.columns.position(at[5]) + static_cast<std::int32_t>(at[3]);
  const bool inside = y >= 0 && y < w.rows.size && x >= 0 && x < w.columns.size;
  const T* image = static_cast<const T*>(w.image) + at[0] * w.image_stride[0] + at[1] * w.image_stride[1];
  const std::int64_t row = (std::int64_t{at[1]} * w.rows.kernel + at[2]) * w.columns.kernel + at[3], place = std::int64_t{at[4]} * w.columns.outputs + at[5];
  static_cast<T*>(w.window)[at[0] * w.window_stride[0] + row * w.window_stride[1] + place * w.window_stride[2]] =
      inside ? image[y * w.image_stride[2] + x * w.image_stride[3]] : convert<T>(0);
}

/// A thread a pixel, which adds the windows that read it, the kernel's elements in their order.
template <class T>
NORMA_KERNEL void fold_kernel(Windows w, Run<4> run) {
  const std::uint32_t i = block_id().x * block_threads() + thread_id();
  if (i >= run.count) return;
  std::uint32_t at[4];
  run.at(i, at);
  const auto rows = w.rows.readers(at[2]), columns = w.columns.readers(at[3]);
  const T* window = static_cast<const T*>(w.window) + at[0] * w.window_stride[0];
  Accumulator<T> sum = 0;
  for (std::int32_t oy = rows.end; oy-- > rows.begin;)  // of outputs in falling order
    for (std::int32_t ox = columns.end; ox-- > columns.begin;) {
      const std::int32_t p = static_cast<std::int32_t>(at[2]) - w.rows.position(static_cast<std::uint32_t>(oy));
      const std::int32_t q = static_cast<std::int32_t>(at[3]) - w.columns.position(static_cast<std::uint32_t>(ox));
      const std::int64_t row = (std::int64_t{at[1]} * w.rows.kernel + p) * w.columns.kernel + q, place = std::int64_t{oy} * w.columns.outputs + ox;
      sum += convert<Accumulator<T>>(window[row * w.window_stride[1] + place * w.window_stride[2]]);
    }
  static_cast<T*>(w.image)[at[0] * w.image_stride[0] + at[1] * w.image_stride[1] + at[2] * w.image_stride[2] + at[3] * w.image_stride[3]] = convert<T>(sum);
}

/// Columns of a block that has one of `groups` groups of rows: all where the groups alone make blocks enough, since each block looks through
/// the whole index.
std::uint32_t index_add_lines(std::int64_t groups, std::uint32_t lines) {
  constexpr std::int64_t enough = 1024;
  const std::int64_t pieces = (std::int64_t{lines} + listing_threads - 1) / listing_threads, blocks = std::min(pieces, (enough + groups - 1) / groups);
  return static_cast<std::uint32_t>((pieces + blocks - 1) / blocks) * listing_threads;
}

Extent threads_for(std::int64_t count) { return {static_cast<unsigned>((count + 127) / 128)}; }

}  // namespace

void gather_elements(void* stream, const Elements<3>& e, std::size_t element_bytes, std::int64_t axis_stride) {
  const Extent grid = element_grid(e.loop.size);
  if (element_bytes == 8) return launch(stream, grid, element_threads, 0, gather_kernel<std::uint64_t>, e, axis_stride);
  if (element_bytes == 4) return launch(stream, grid, element_threads, 0, gather_kernel<std::uint32_t>, e, axis_stride);
  if (element_bytes == 2) return launch(stream, grid, element_threads, 0, gather_kernel<std::uint16_t>, e, axis_stride);
  launch(stream, grid, element_threads, 0, gather_kernel<std::uint8_t>, e, axis_stride);
}

void scatter_add_elements(void* stream, const ScatterAdd& s) {
  visit_dtype(s.dtype, [&](auto tag) {
    launch(stream, threads_for(s.out.loop.size), 128, 0, scatter_add_kernel<typename decltype(tag)::type>, s);
  });
}

void index_add_rows(void* stream, const IndexAdd& s) {
  const std::int64_t groups = (s.rows + row_group - 1) / row_group;
  const std::uint32_t lines = index_add_lines(groups, s.lines.size);
  const Extent grid{static_cast<unsigned>(groups), (s.lines.size + lines - 1) / lines};
  visit_dtype(s.dtype, [&](auto tag) {
    launch(stream, grid, listing_threads, sizeof(Listing), index_add_kernel<typename decltype(tag)::type>, s, lines);
  });
}

void check_indices(void* stream, const Loop<1>& loop, const std::int64_t* index, std::int64_t limit, unsigned long long* first) {
  launch(stream, threads_for(loop.size), 128, 0, check_kernel, loop, index, limit, first);
}

void unfold_windows(void* stream, const Windows& w) {
  const std::array<std::int64_t, 6> sizes{w.images, w.channels, w.rows.kernel, w.columns.kernel, w.rows.outputs, w.columns.outputs};
  visit_dtype(w.dtype, [&](auto tag) {
    each_run(sizes, run_limit, [&](const Run<6>& run) { launch(stream, threads_for(run.count), 128, 0, unfold_kernel<typename decltype(tag)::type>, w, run); });
  });
}

void fold_windows(void* stream, const Windows& w) {
  const std::array<std::int64_t, 4> sizes{w.images, w.channels, w.rows.size, w.columns.size};
  visit_dtype(w.dtype, [&](auto tag) {
    each_run(sizes, run_limit, [&](const Run<4>& run) { launch(stream, threads_for(run.count), 128, 0, fold_kernel<typename decltype(tag)::type>, w, run); });
  });
}

}  // namespace norma::cuda
