// Convolution with one kernel a channel: a thread an output, in the backward pass a thread a pixel, which looks up the outputs that read it. The
// gradient of a kernel is summed by a block over a part of its channel's outputs, some elements of the kernel at once, and then over the parts in
// order: nothing is added by atomics.
#include "backends/cuda/kernels/depthwise.h"

#include "backends/cuda/device.h"

namespace norma::cuda {
namespace {

constexpr unsigned threads = 128, warps = threads / warp_size;
constexpr unsigned taps_at_once = 9;  // a kernel of 3 x 3 in one pass over the outputs

template <class T>
NORMA_DEVICE const T* row_of(const void* data, const std::int64_t (&stride)[4], std::int64_t image, std::int64_t channel, std::int64_t row) {
  return static_cast<const T*>(data) + image * stride[0] + channel * stride[1] + row * stride[2];
}
template <class T>
NORMA_DEVICE T& element_of(void* data, const std::int64_t (&stride)[4], const PlanePlace& p) {
  return static_cast<T*>(data)[p.image * stride[0] + p.channel * stride[1] + p.row * stride[2] + p.column * stride[3]];
}

template <class T>
NORMA_KERNEL void depthwise_kernel(Depthwise d, Planes outputs, std::uint32_t count) {
  using C = Compute<T, false>;
  const std::uint32_t i = block_id().x * threads + thread_id();
  if (i >= count) return;
  const PlanePlace p = outputs.at(i);
  const std::int32_t y0 = d.rows.position(p.row), x0 = d.columns.position(p.column);
  const auto rows = d.rows.inside(y0), columns = d.columns.inside(x0);
  const C* weight = static_cast<const C*>(d.weight) + p.channel * d.weight_stride[0];
  C sum = d.bias ? static_cast<const C*>(d.bias)[p.channel * d.bias_stride] : C{0};
  for (std::int32_t a = rows.begin; a < rows.end; ++a) {
    const T* x = row_of<T>(d.x, d.x_stride, p.image, p.channel, y0 + a);
    for (std::int32_t b = columns.begin; b < columns.end; ++b)
      sum = std::fma(weight[(std::int64_t{a} * d.columns.kernel + b) * d.weight_stride[1]], convert<C>(x[(x0 + b) * d.x_stride[3]]), sum);
  }
  element_of<T>(d.y, d.y_stride, p) = convert<T>(sum);
}

template <class T>
NORMA_KERNEL void depthwise_gradient_kernel(Depthwise d, Planes pixels, std::uint32_t count) {
  using C = Compute<T, false>;
  const std::uint32_t i = block_id().x * threads + thread_id();
  if (i >= count) return;
  const PlanePlace p = pixels.at(i);
  const auto rows = d.rows.readers(p.row), columns = d.columns.readers(p.column);
  const C* weight = static_cast<const C*>(d.weight) + p.channel * d.weight_stride[0];
  C sum = 0;
  for (std::int32_t y = rows.begin; y < rows.end; ++y) {
    const T* dy = row_of<T>(d.y, d.y_stride, p.image, p.channel, y);
    const std::int64_t a = static_cast<std::int32_t>(p.row) - d.rows.position(static_cast<std::uint32_t>(y));
    for (std::int32_t x = columns.begin; x < columns.end; ++x) {
      const std::int32_t b = static_cast<std::int32_t>(p.column) - d.columns.position(static_cast<std::uint32_t>(x));
      sum = std::fma(weight[(a * d.columns.kernel + b) * d.weight_stride[1]], convert<C>(dy[x * d.y_stride[3]]), sum);
    }
  }
  element_of<T>(d.x, d.x_stride, p) = convert<T>(sum);
}

/// Block channel * parts + part writes partial[part, channel, :].
template <class T>
NORMA_KERNEL void depthwise_part_kernel(Depthwise d, Planes outputs, std::uint32_t count, std::uint32_t parts, Compute<T, false>* partial) {
  using C = Compute<T, false>;
  const unsigned t = thread_id(), warp = t / warp_size;
  const std::uint32_t channel = block_id().x / parts, part = block_id().x - channel * parts;
  const std::uint32_t first = part * depthwise_part, end = count - first < depthwise_part ? count : first + depthwise_part;
  const std::int64_t taps = std::int64_t{d.rows.kernel} * d.columns.kernel;
  C* space = reinterpret_cast<C*>(shared_memory());  // [warps, taps_at_once]
  C* to = partial + (std::int64_t{part} * d.channels + channel) * taps;
  for (std::int64_t tap = 0; tap < taps; tap += taps_at_once) {
    std::int64_t a[taps_at_once], b[taps_at_once];
    C sum[taps_at_once] = {};
    NORMA_UNROLL
    for (unsigned k = 0; k < taps_at_once; ++k) a[k] = (tap + k) / d.columns.kernel, b[k] = (tap + k) % d.columns.kernel;
    for (std::uint32_t i = first + t; i < end; i += threads) {
      PlanePlace p = outputs.at(i);
      p.channel = channel;
      const C dy = convert<C>(element_of<T>(d.y, d.y_stride, p));
      const std::int64_t y0 = d.rows.position(p.row), x0 = d.columns.position(p.column);
      NORMA_UNROLL
      for (unsigned k = 0; k < taps_at_once; ++k) {
        const std::int64_t y = y0 + a[k], x = x0 + b[k];
        if (tap + k < taps && y >= 0 && y < d.rows.size && x >= 0 && x < d.columns.size)
          sum[k] = std::fma(dy, convert<C>(row_of<T>(d.x, d.x_stride, p.image, channel, y)[x * d.x_stride[3]]), sum[k]);
      }
    }
    NORMA_UNROLL
    for (unsigned k = 0; k < taps_at_once; ++k) {
      sum[k] = reduce_lanes<warp_size>(sum[k], Plus{});
      if (t % warp_size == 0) space[warp * taps_at_once + k] = sum[k];
    }
    block_barrier();
    if (t < taps_at_once && tap + t < taps) {
      C all = 0;
      for (unsigned w = 0; w < warps; ++w) all += space[w * taps_at_once + t];
      to[tap + t] = all;
    }
    block_barrier();
  }
}

template <class C>
NORMA_KERNEL void depthwise_join_kernel(Depthwise d, const C* partial, std::uint32_t parts, std::uint32_t taps, C* dweight) {
  const std::uint32_t i = block_id().x * threads + thread_id(), all = d.channels * taps;
  if (i >= all) return;
  double sum = 0;
  for (std::uint32_t part = 0; part < parts; ++part) sum += static_cast<double>(partial[std::int64_t{part} * all + i]);
  dweight[i / taps * d.weight_stride[0] + i % taps * d.weight_stride[1]] = static_cast<C>(sum);
}

Extent grid_for(std::uint32_t count) { return {(count + threads - 1) / threads}; }

Planes planes(std::uint32_t channels, std::int32_t rows, std::int32_t columns) {
  return {Divider(channels), Divider(static_cast<std::uint32_t>(rows)), Divider(static_cast<std::uint32_t>(columns))};
}

/// f(T{}) of a floating dtype.
template <class F>
void visit_floating(DType dtype, F&& f) {
  if (dtype == DType::bf16) return f(bf16{});
  if (dtype == DType::f32) return f(float{});
  f(double{});
}

}  // namespace

void depthwise_outputs(void* stream, const Depthwise& d) {
  const auto count = d.images * d.channels * static_cast<std::uint32_t>(d.rows.outputs) * static_cast<std::uint32_t>(d.columns.outputs);
  visit_floating(d.dtype, [&](auto element) {
    launch(stream, grid_for(count), threads, 0, depthwise_kernel<decltype(element)>, d, planes(d.channels, d.rows.outputs, d.columns.outputs), count);
  });
}

void depthwise_gradient(void* stream, const Depthwise& d) {
  const auto count = d.images * d.channels * static_cast<std::uint32_t>(d.rows.size) * static_cast<std::uint32_t>(d.columns.size);
  visit_floating(d.dtype, [&](auto element) {
    launch(stream, grid_for(count), threads, 0, depthwise_gradient_kernel<decltype(element)>, d, planes(d.channels, d.rows.size, d.columns.size), count);
  });
}

void depthwise_weight_gradient(void* stream, const Depthwise& d, void* partial, void* dweight) {
  const auto count = d.images * static_cast<std::uint32_t>(d.rows.outputs) * static_cast<std::uint32_t>(d.columns.outputs);  // of a channel
  const std::uint32_t parts = depthwise_parts(count), taps = static_cast<std::uint32_t>(d.rows.kernel) * static_cast<std::uint32_t>(d.columns.kernel);
  visit_floating(d.dtype, [&](auto element) {
    using T = decltype(element);
    using C = Compute<T, false>;
    launch(stream, {d.channels * parts}, threads, warps * taps_at_once * sizeof(C), depthwise_part_kernel<T>, d,
           planes(1, d.rows.outputs, d.columns.outputs), count, parts, static_cast<C*>(partial));
    launch(stream, grid_for(d.channels * taps), threads, 0, depthwise_join_kernel<C>, d, static_cast<const C*>(partial), parts, taps, static_cast<C*>(dweight));
  });
}

}  // namespace norma::cuda
