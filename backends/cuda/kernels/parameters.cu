// The sum of squares of all gradients in two stages of fixed order and what they are scaled by, AdamW and moving averages of all parameters in
// one pass.
#include "backends/cuda/kernels/parameters.h"

#include "backends/common/average.h"
#include "backends/cuda/kernels/block.h"

namespace norma::cuda {
namespace {

constexpr unsigned threads = 256;

/// f(integral_constant of 1 or width, i) for the block's elements [begin, end), `width` neighbours at a time where they are aligned to it.
template <int width, class F>
NORMA_DEVICE void each_pack(std::int64_t begin, std::int64_t end, bool aligned, F&& f) {
  const std::int64_t packed = aligned ? begin + (end - begin) / width * width : begin;
  for (std::int64_t i = begin + width * thread_id(); i < packed; i += width * threads) f(std::integral_constant<int, width>{}, i);
  for (std::int64_t i = packed + thread_id(); i < end; i += threads) f(std::integral_constant<int, 1>{}, i);
}
NORMA_DEVICE bool aligned_to(const void* p, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

template <class T>
NORMA_KERNEL void squares_kernel(const SquaresTable table, double* partial) {
  std::int64_t begin, end;
  const T* x = static_cast<const T*>(table.row[row_of(table, block_id().x, begin, end)].x);
  double sum = 0;
  for (std::int64_t i = begin + thread_id(); i < end; i += threads) {
    const double value = convert<double>(x[i]);
    sum = std::fma(value, value, sum);
  }
  sum = join_block(sum, reinterpret_cast<double*>(shared_memory()), Plus{});
  if (thread_id() == 0) partial[block_id().x] = sum;
}

NORMA_KERNEL void join_kernel(const double* partial, std::int64_t count, double* out) {
  double sum = 0;
  for (std::int64_t i = thread_id(); i < count; i += threads) sum += partial[i];
  sum = join_block(sum, reinterpret_cast<double*>(shared_memory()), Plus{});
  if (thread_id() == 0) *out = sum;
}

template <class L>
NORMA_KERNEL void scale_kernel(const double* squares, const L* loss, double clip, double* scale) {
  if (thread_id() != 0) return;
  const double norm = std::sqrt(*squares), cut = clip > 0 ? Binary<BinaryOp::min>{}(clip / norm, 1.0) : 1.0;
  *scale = cut + 0.0 * (norm + convert<double>(*loss));
}

NORMA_KERNEL void rounding_kernel(const PairTable table) {
  constexpr int width = 4;
  std::int64_t begin, end;
  const PairRow& row = table.row[row_of(table, block_id().x, begin, end)];
  const float* from = static_cast<const float*>(row.from);
  bf16* to = static_cast<bf16*>(row.to);
  each_pack<width>(begin, end, aligned_to(from, width * sizeof(float)) && aligned_to(to, width * sizeof(bf16)), [&](auto count, std::int64_t i) {
    constexpr int n = decltype(count)::value;
    const auto x = load_pack<n>(from + i);
    Pack<bf16, n> y;
    NORMA_UNROLL
    for (int k = 0; k < n; ++k) y.v[k] = bf16(x.v[k]);
    store_pack(to + i, y);
  });
}

template <class T>
NORMA_KERNEL void average_kernel(const PairTable table, double decay) {
  constexpr int width = 16 / sizeof(T);
  std::int64_t begin, end;
  const PairRow& row = table.row[row_of(table, block_id().x, begin, end)];
  const T* value = static_cast<const T*>(row.from);
  T* average = static_cast<T*>(row.to);
  const T rest = convert<T>(1 - decay);
  each_pack<width>(begin, end, aligned_to(value, 16) && aligned_to(average, 16), [&](auto count, std::int64_t i) {
    constexpr int n = decltype(count)::value;
    const auto x = load_pack<n>(value + i);
    auto mean = load_pack<n>(average + i);
    NORMA_UNROLL
    for (int k = 0; k < n; ++k) mean.v[k] = averaged(mean.v[k], x.v[k], rest);
    store_pack(average + i, mean);
  });
}

template <class T>
NORMA_KERNEL void adamw_kernel(const AdamWTable table, AdamWRule rule) {
  const double scale = *rule.gradient_scale;
  if (!std::isfinite(scale)) return;
  std::int64_t begin, end;
  const AdamWRow& row = table.row[row_of(table, block_id().x, begin, end)];
  T *value = static_cast<T*>(row.value), *m = static_cast<T*>(row.m), *v = static_cast<T*>(row.v);
  const T* gradient = static_cast<const T*>(row.gradient);
  const T g_scale = static_cast<T>(scale), keep = static_cast<T>(1 - rule.rates[0] * row.decay);
  const T step = static_cast<T>(rule.rates[0] / rule.rates[1]), root = static_cast<T>(std::sqrt(rule.rates[2]));
  const T beta1 = static_cast<T>(rule.beta1), rest1 = static_cast<T>(1 - rule.beta1);
  const T beta2 = static_cast<T>(rule.beta2), rest2 = static_cast<T>(1 - rule.beta2), eps = static_cast<T>(rule.eps);
  const auto update = [&](T raw, T& mean, T& square, T& x) {
    const T g = raw * g_scale;
    mean = mean * beta1 + g * rest1;
    square = square * beta2 + g * g * rest2;
    x = x * keep - mean / (std::sqrt(square) / root + eps) * step;
  };

  each_pack<16 / sizeof(T)>(begin, end, row.aligned, [&](auto count, std::int64_t i) {
    constexpr int n = decltype(count)::value;
    const auto g = load_pack<n>(gradient + i);
    auto mean = load_pack<n>(m + i), square = load_pack<n>(v + i), x = load_pack<n>(value + i);
    NORMA_UNROLL
    for (int k = 0; k < n; ++k) update(g.v[k], mean.v[k], square.v[k], x.v[k]);
    store_pack(m + i, mean);
    store_pack(v + i, square);
    store_pack(value + i, x);
  });
}

}  // namespace

void sum_squares(void* stream, const SquaresTable& table, DType dtype, double* partial) {
  visit_dtype(dtype, [&](auto tag) {
    launch(stream, {table.pieces}, threads, threads * sizeof(double), squares_kernel<typename decltype(tag)::type>, table, partial);
  });
}

void join_squares(void* stream, const double* partial, std::int64_t count, double* out) {
  launch(stream, {1}, threads, threads * sizeof(double), join_kernel, partial, count, out);
}

void scale_gradients(void* stream, const double* squares, const void* loss, DType loss_dtype, double clip, double* scale) {
  if (loss_dtype == DType::f64) return launch(stream, {1}, warp_size, 0, scale_kernel<double>, squares, static_cast<const double*>(loss), clip, scale);
  launch(stream, {1}, warp_size, 0, scale_kernel<float>, squares, static_cast<const float*>(loss), clip, scale);
}

void step_averages(void* stream, const PairTable& table, DType dtype, double decay) {
  if (dtype == DType::f64) return launch(stream, {table.pieces}, threads, 0, average_kernel<double>, table, decay);
  if (dtype == DType::bf16) return launch(stream, {table.pieces}, threads, 0, average_kernel<bf16>, table, decay);
  launch(stream, {table.pieces}, threads, 0, average_kernel<float>, table, decay);
}

void round_parameters(void* stream, const PairTable& table) { launch(stream, {table.pieces}, threads, 0, rounding_kernel, table); }

void adamw_update(void* stream, const AdamWTable& table, DType dtype, const AdamWRule& rule) {
  if (dtype == DType::f64) return launch(stream, {table.pieces}, threads, 0, adamw_kernel<double>, table, rule);
  launch(stream, {table.pieces}, threads, 0, adamw_kernel<float>, table, rule);
}

}  // namespace norma::cuda
