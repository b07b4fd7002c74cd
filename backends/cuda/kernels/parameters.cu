// The sum of squares of all gradients in two stages of fixed order, and AdamW of all parameters in one pass.
#include "backends/cuda/kernels/parameters.h"

#include "backends/cuda/kernels/block.h"

namespace norma::cuda {
namespace {

constexpr unsigned threads = 256;

/// The table's row that `piece` is of; [begin, end) of its elements.
template <class Row, int rows>
NORMA_DEVICE int row_of(const Table<Row, rows>& table, std::uint32_t piece, std::int64_t& begin, std::int64_t& end) {
  int low = 0, high = table.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (table.row[middle].first_piece <= piece ? low : high) = middle;
  }
  begin = std::int64_t{piece - table.row[low].first_piece} * piece_elements;
  end = begin + piece_elements < table.row[low].n ? begin + piece_elements : table.row[low].n;
  return low;
}

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

NORMA_KERNEL void rounding_kernel(const RoundingTable table) {
  constexpr int width = 4;
  std::int64_t begin, end;
  const RoundingRow& row = table.row[row_of(table, block_id().x, begin, end)];
  bf16* to = static_cast<bf16*>(row.to);
  const bool aligned = reinterpret_cast<std::uintptr_t>(row.from) % (width * sizeof(float)) == 0 && reinterpret_cast<std::uintptr_t>(to) % (width * sizeof(bf16)) == 0;
  const std::int64_t packed = aligned ? begin + (end - begin) / width * width : begin;
  for (std::int64_t i = begin + width * thread_id(); i < packed; i += width * threads) {
    const auto x = load_pack<width>(row.from + i);
    Pack<bf16, width> y;
    NORMA_UNROLL
    for (int k = 0; k < width; ++k) y.v[k] = bf16(x.v[k]);
    store_pack(to + i, y);
  }
  for (std::int64_t i = packed + thread_id(); i < end; i += threads) to[i] = bf16(row.from[i]);
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

  constexpr int width = 16 / sizeof(T);
  const std::int64_t packed = row.aligned ? begin + (end - begin) / width * width : begin;
  for (std::int64_t i = begin + width * thread_id(); i < packed; i += width * threads) {
    const auto g = load_pack<width>(gradient + i);
    auto mean = load_pack<width>(m + i), square = load_pack<width>(v + i), x = load_pack<width>(value + i);
    NORMA_UNROLL
    for (int k = 0; k < width; ++k) update(g.v[k], mean.v[k], square.v[k], x.v[k]);
    store_pack(m + i, mean);
    store_pack(v + i, square);
    store_pack(value + i, x);
  }
  for (std::int64_t i = packed + thread_id(); i < end; i += threads) update(gradient[i], m[i], v[i], value[i]);
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

void round_parameters(void* stream, const RoundingTable& table) { launch(stream, {table.pieces}, threads, 0, rounding_kernel, table); }

void adamw_update(void* stream, const AdamWTable& table, DType dtype, const AdamWRule& rule) {
  if (dtype == DType::f64) return launch(stream, {table.pieces}, threads, 0, adamw_kernel<double>, table, rule);
  launch(stream, {table.pieces}, threads, 0, adamw_kernel<float>, table, rule);
}

}  // namespace norma::cuda
