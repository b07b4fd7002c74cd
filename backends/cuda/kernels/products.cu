#include "backends/cuda/kernels/products.h"

#include <algorithm>

#include "backends/cuda/kernels/gelu.h"

namespace norma::cuda {
namespace {

/// v neighbouring columns of one row a thread.
template <class T, class B, int v>
NORMA_KERNEL void epilogue_kernel(Epilogue e, Divider columns) {
  using C = Compute<T, false>;
  const std::uint32_t i = block_id().x * block_threads() + thread_id();
  const std::uint32_t row = columns.divide(i), j = (i - row * columns.divisor) * v;
  if (row >= e.rows) return;
  T* y = static_cast<T*>(e.y) + row * e.y_row + j;
  Pack<T, v> x = load_pack<v>(y), out;
  C value[v];
  NORMA_UNROLL
  for (int k = 0; k < v; ++k) {
    value[k] = convert<C>(x.v[k]);
    if (e.bias) value[k] += convert<C>(static_cast<const B*>(e.bias)[j + static_cast<unsigned>(k)]);
  }
  if (e.pre) {
    NORMA_UNROLL
    for (int k = 0; k < v; ++k) out.v[k] = convert<T>(value[k]);
    store_pack(static_cast<T*>(e.pre) + row * e.pre_row + j, out);
  }
  if (e.gelu) {
    NORMA_UNROLL
    for (int k = 0; k < v; ++k) value[k] = gelu_of<T>(value[k]);
  }
  if (e.residual) {
    x = load_pack<v>(static_cast<const T*>(e.residual) + row * e.residual_row + j);
    NORMA_UNROLL
    for (int k = 0; k < v; ++k) value[k] += convert<C>(x.v[k]);
  }
  NORMA_UNROLL
  for (int k = 0; k < v; ++k) out.v[k] = convert<T>(value[k]);
  store_pack(y, out);
}

template <class T, class B>
void run_epilogue(void* stream, const Epilogue& e) {
  constexpr std::size_t v = sizeof(T) == 2 ? 8 : 16 / sizeof(T);
  const auto fits = [&](const void* p, std::int64_t row) {
    return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && row % static_cast<std::int64_t>(v) == 0;
  };
  const bool packs = e.n % static_cast<std::int64_t>(v) == 0 && fits(e.y, e.y_row) && fits(e.residual, e.residual_row) &&
                     fits(e.pre, e.pre_row);
  const std::int64_t columns = packs ? e.n / static_cast<std::int64_t>(v) : e.n;
  const std::int64_t step = std::max<std::int64_t>(1, (std::int64_t{1} << 30) / columns);  // rows of one launch
  for (std::int64_t first = 0; first < e.rows; first += step) {
    Epilogue part = e;
    part.rows = std::min(step, e.rows - first);
    part.y = static_cast<T*>(e.y) + first * e.y_row;
    if (e.pre) part.pre = static_cast<T*>(e.pre) + first * e.pre_row;
    if (e.residual) part.residual = static_cast<const T*>(e.residual) + first * e.residual_row;
    const Extent grid{static_cast<unsigned>((part.rows * columns + 255) / 256)};
    const Divider by(static_cast<std::uint32_t>(columns));
    launch(stream, grid, 256, 0, packs ? epilogue_kernel<T, B, static_cast<int>(v)> : epilogue_kernel<T, B, 1>, part, by);
  }
}

template <class T>
NORMA_KERNEL void integer_kernel(IntegerProduct p) {
  const std::uint32_t i = block_id().x * block_threads() + thread_id();
  if (i >= p.out.size) return;
  std::int64_t at[3];
  p.out.offsets(i, at);
  const T *a = static_cast<const T*>(p.a) + at[0], *b = static_cast<const T*>(p.b) + at[1];
  std::uint64_t sum = 0;
  for (std::int64_t k = 0; k < p.k; ++k)
    sum += static_cast<std::uint64_t>(convert<std::int64_t>(a[k * p.a_step])) *
           static_cast<std::uint64_t>(convert<std::int64_t>(b[k * p.b_step]));
  static_cast<T*>(p.c)[at[2]] = convert<T>(static_cast<std::int64_t>(sum));
}

}  // namespace

void finish_linear(void* stream, const Epilogue& e) {
  if (e.dtype == DType::f32) return run_epilogue<float, float>(stream, e);
  if (e.dtype == DType::f64) return run_epilogue<double, double>(stream, e);
  if (e.bias_dtype == DType::f32) return run_epilogue<bf16, float>(stream, e);
  run_epilogue<bf16, bf16>(stream, e);
}

void multiply_integers(void* stream, const IntegerProduct& p) {
  const Extent grid{(p.out.size + 127) / 128};
  if (p.dtype == DType::i64) return launch(stream, grid, 128, 0, integer_kernel<std::int64_t>, p);
  if (p.dtype == DType::i32) return launch(stream, grid, 128, 0, integer_kernel<std::int32_t>, p);
  if (p.dtype == DType::u8) return launch(stream, grid, 128, 0, integer_kernel<std::uint8_t>, p);
  launch(stream, grid, 128, 0, integer_kernel<bool>, p);
}

}  // namespace norma::cuda
