// Softmax, layer norm and cross-entropy over the last axis: blocks of rows through the kernels of kernels/norm.cpp. Declines (returns
// false) for bf16 and for operands whose rows are not dense or not evenly spaced.
#include <algorithm>
#include <array>

#include "backends/common/rows.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

constexpr Index grain = 16384;   // elements of a task
constexpr Index max_blocks = 64;  // of rows, each with its own sums for dweight and dbias
constexpr int sums_slot = 8;     // of scratch()

Index rows_per_task(Index n) { return std::max<Index>(1, grain / std::max<Index>(1, n)); }

bool is(DType dtype, std::initializer_list<const View*> views) {
  for (const View* v : views)
    if (v && v->dtype != dtype) return false;
  return true;
}
bool dense(std::initializer_list<const View*> views) {
  for (const View* v : views)
    if (v && !v->layout.contiguous()) return false;
  return true;
}
template <class T>
T* data(const View* v) {
  return v ? v->as<T>() : nullptr;
}

/// f(TypeTag<float or double>{}); false for other dtypes.
template <class F>
bool visit_wide(DType dtype, F&& f) {
  if (dtype == DType::f32) {
    f(TypeTag<float>{});
  } else if (dtype == DType::f64) {
    f(TypeTag<double>{});
  } else {
    return false;
  }
  return true;
}

/// dweight and dbias are summed by block, a number of blocks that depends on the sizes alone, then over the blocks in order.
template <class T>
void norm_backward(const LayerNormBackward& args, NormRows<T> all, Index row_count) {
  const NormTable<T>& table = NORMA_KERNELS(norm_kernels).of<T>();
  const Index n = all.n, wanted = (args.dweight ? 1 : 0) + (args.dbias ? 1 : 0);
  const Index block = wanted ? std::max(rows_per_task(n), (row_count + max_blocks - 1) / max_blocks) : rows_per_task(n);
  const Index blocks = (row_count + block - 1) / block;
  T* sums = wanted ? scratch<T>(sums_slot, blocks * wanted * n) : nullptr;
  parallel_tasks(blocks, [&](Index i) {
    NormRows<T> part = all;
    const Index first = i * block;
    part.rows = std::min(block, row_count - first);
    part.x += first * part.x_row, part.dy += first * part.dy_row;
    if (part.dx) part.dx += first * part.dx_row;
    if (part.mean) part.mean += first;
    part.rstd += first;
    T* mine = sums + i * wanted * n;
    std::fill_n(mine, wanted * n, T(0));
    if (args.dweight) part.dweight = mine;
    if (args.dbias) part.dbias = mine + (wanted - 1) * n;
    table.layer_norm_backward(part);
  });
  const auto combine = [&](const View* out, Index offset) {
    if (!out) return;
    std::array<double, 256> total;
    for (Index j = 0; j < n; j += 256) {
      const Index width = std::min<Index>(256, n - j);
      total.fill(0);
      NORMA_KERNELS(reduce_kernels).of<T>().add_rows(blocks, width, sums + offset + j, wanted * n, total.data());
      for (Index k = 0; k < width; ++k) out->as<T>()[j + k] = static_cast<T>(total[static_cast<std::size_t>(k)]);
    }
  };
  combine(args.dweight, 0);
  combine(args.dbias, (wanted - 1) * n);
}

}  // namespace

bool CpuBackend::softmax(const View& x, const View& y, bool log) {
  const auto from = dense_rows_of(x), to = dense_rows_of(y);
  if (!from || !to || y.dtype != x.dtype) return false;
  return visit_wide(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(from->count, rows_per_task(from->n), [&](Index begin, Index end) {
      NORMA_KERNELS(norm_kernels)
          .of<T>()
          .softmax(end - begin, from->n, x.as<T>() + begin * from->step, from->step, y.as<T>() + begin * to->step,
                   to->step, log);
    });
  });
}

bool CpuBackend::softmax_backward(const View& y, const View& dy, const View& dx, bool log) {
  const auto value = dense_rows_of(y), from = dense_rows_of(dy), to = dense_rows_of(dx);
  if (!value || !from || !to || !is(y.dtype, {&dy, &dx})) return false;
  return visit_wide(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(value->count, rows_per_task(value->n), [&](Index begin, Index end) {
      NORMA_KERNELS(norm_kernels)
          .of<T>()
          .softmax_backward(end - begin, value->n, y.as<T>() + begin * value->step, value->step,
                            dy.as<T>() + begin * from->step, from->step, dx.as<T>() + begin * to->step, to->step, log);
    });
  });
}

bool CpuBackend::layer_norm(const LayerNorm& args) {
  const auto from = dense_rows_of(args.x), to = dense_rows_of(args.y);
  if (!from || !to || !is(args.x.dtype, {&args.y, args.weight, args.bias, args.mean, args.rstd}) ||
      !dense({args.weight, args.bias, args.mean, args.rstd}))
    return false;
  return visit_wide(args.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(from->count, rows_per_task(from->n), [&](Index begin, Index end) {
      NormRows<T> part{};
      part.rows = end - begin, part.n = from->n;
      part.x = args.x.as<T>() + begin * from->step, part.x_row = from->step;
      part.y = args.y.as<T>() + begin * to->step, part.y_row = to->step;
      part.weight = data<T>(args.weight), part.bias = data<T>(args.bias);
      part.mean = args.mean ? args.mean->as<T>() + begin : nullptr;
      part.rstd = args.rstd ? args.rstd->as<T>() + begin : nullptr;
      part.eps = args.eps, part.rms = args.rms;
      NORMA_KERNELS(norm_kernels).of<T>().layer_norm(part);
    });
  });
}

bool CpuBackend::layer_norm_backward(const LayerNormBackward& args) {
  const View* dx = args.dx.data ? &args.dx : nullptr;
  const auto from = dense_rows_of(args.x), gradient = dense_rows_of(args.dy), to = dx ? dense_rows_of(*dx) : DenseRows{};
  if (!from || !gradient || !to || !args.rstd || (!args.rms && !args.mean) ||
      !is(args.x.dtype, {&args.dy, dx, args.weight, args.mean, args.rstd, args.dweight, args.dbias}) ||
      !dense({args.weight, args.mean, args.rstd, args.dweight, args.dbias}))
    return false;
  return visit_wide(args.x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    NormRows<T> all{};
    all.n = from->n;
    all.x = args.x.as<T>(), all.x_row = from->step;
    all.dy = args.dy.as<T>(), all.dy_row = gradient->step;
    all.dx = data<T>(dx), all.dx_row = to->step;
    all.weight = data<T>(args.weight);
    all.mean = data<T>(args.mean), all.rstd = data<T>(args.rstd);
    all.rms = args.rms;
    norm_backward(args, all, from->count);
  });
}

bool CpuBackend::cross_entropy(const CrossEntropy& args) {
  const auto from = dense_rows_of(args.logits), to = args.dlogits ? dense_rows_of(*args.dlogits) : DenseRows{};
  const bool soft = args.targets.dtype != DType::i64;
  const auto target = soft ? dense_rows_of(args.targets) : DenseRows{};
  if (!from || !to || !target || from->n == 0 || !is(args.logits.dtype, {args.dlogits, &args.loss}) ||
      (soft && args.targets.dtype != args.logits.dtype) || !args.loss.layout.contiguous() ||
      (!soft && !args.targets.layout.contiguous()))
    return false;
  return visit_wide(args.logits.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(from->count, rows_per_task(from->n), [&](Index begin, Index end) {
      CrossEntropyRows<T> part{};
      part.rows = end - begin, part.n = from->n;
      part.logits = args.logits.as<T>() + begin * from->step, part.logits_row = from->step;
      part.dlogits = args.dlogits ? args.dlogits->as<T>() + begin * to->step : nullptr, part.dlogits_row = to->step;
      part.classes = soft ? nullptr : args.targets.as<Index>() + begin;
      part.targets = soft ? args.targets.as<T>() + begin * target->step : nullptr, part.targets_row = target->step;
      part.loss = args.loss.as<T>() + begin, part.loss_step = 1;
      part.label_smoothing = args.label_smoothing;
      NORMA_KERNELS(norm_kernels).of<T>().cross_entropy(part);
    });
  });
}

}  // namespace norma::cpu
