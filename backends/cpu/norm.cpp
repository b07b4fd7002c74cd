// Softmax, layer norm and cross-entropy over the last axis: blocks of rows through the kernels of kernels/norm.cpp and kernels/bf16/. Declines (returns
// false) for operands whose rows are not dense or not evenly spaced. Softmax of bf16 is in norm_bf16.cpp.
#include <algorithm>

#include "backends/common/rows.h"
#include "backends/common/views.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/norm_bf16.h"
#include "backends/cpu/norm_rows.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

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

/// The same for activations: f(TypeTag<what is computed in>{}, TypeTag<what they are stored as>{}); bf16 as its bits.
template <class F>
bool visit_activations(DType dtype, F&& f) {
  if (dtype == DType::bf16) return f(TypeTag<float>{}, TypeTag<std::uint16_t>{}), true;
  return visit_wide(dtype, [&](auto tag) { f(tag, tag); });
}

}  // namespace

bool CpuBackend::softmax(const View& x, const View& y, bool log) {
  const auto from = dense_columns(x), to = dense_columns(y);
  if (!from || !to || y.dtype != x.dtype) return false;
  if (x.dtype == DType::bf16) return softmax_bf16(x, *from, y, *to, log), true;
  return visit_wide(x.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(from->rows, rows_per_task(from->columns), [&](Index begin, Index end) {
      NORMA_KERNELS(norm_kernels)
          .of<T>()
          .softmax(end - begin, from->columns, x.as<T>() + begin * from->row, from->row, y.as<T>() + begin * to->row,
                   to->row, log);
    });
  });
}

bool CpuBackend::softmax_backward(const View& y, const View& dy, const View& dx, bool log) {
  const auto value = dense_columns(y), from = dense_columns(dy), to = dense_columns(dx);
  if (!value || !from || !to || !all_are(y.dtype, dy, dx)) return false;
  if (y.dtype == DType::bf16) return softmax_backward_bf16(y, *value, dy, *from, dx, *to, log), true;
  return visit_wide(y.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    parallel_for(value->rows, rows_per_task(value->columns), [&](Index begin, Index end) {
      NORMA_KERNELS(norm_kernels)
          .of<T>()
          .softmax_backward(end - begin, value->columns, y.as<T>() + begin * value->row, value->row,
                            dy.as<T>() + begin * from->row, from->row, dx.as<T>() + begin * to->row, to->row, log);
    });
  });
}

bool CpuBackend::layer_norm(const LayerNormForward& args) {
  const auto from = dense_columns(args.x), to = dense_columns(args.y);
  const DType weights = wide_of(args.x.dtype);
  if (!from || !to || !all_are(args.x.dtype, args.y) || !all_are(weights, args.weight, args.bias, args.mean, args.rstd) ||
      !all_dense(args.weight, args.bias, args.mean, args.rstd))
    return false;
  return visit_activations(args.x.dtype, [&](auto computed, auto stored) {
    using T = typename decltype(computed)::type;
    using Stored = typename decltype(stored)::type;
    parallel_for(from->rows, rows_per_task(from->columns), [&](Index begin, Index end) {
      NormRows<T, Stored> part{};
      part.rows = end - begin, part.n = from->columns;
      part.x = args.x.as<Stored>() + begin * from->row, part.x_row = from->row;
      part.y = args.y.as<Stored>() + begin * to->row, part.y_row = to->row;
      part.weight = args.weight.as<T>(), part.bias = args.bias.as<T>();
      part.mean = args.mean ? args.mean.as<T>() + begin : nullptr;
      part.rstd = args.rstd ? args.rstd.as<T>() + begin : nullptr;
      part.eps = args.eps, part.rms = args.rms;
      NORMA_BF16_KERNELS(layer_norm_kernels).of<T, Stored>().forward(part);
    });
  });
}

bool CpuBackend::layer_norm_backward(const LayerNormBackward& args) {
  const DType weights = wide_of(args.x.dtype);
  const auto from = dense_columns(args.x), gradient = dense_columns(args.dy), to = args.dx ? dense_columns(args.dx) : MatrixRows{};
  const auto add = args.add ? dense_columns(args.add) : MatrixRows{};
  if (!from || !gradient || !to || !add || !args.rstd || (!args.rms && !args.mean) ||
      !all_are(args.x.dtype, args.dy, args.dx, args.add) || !all_are(weights, args.weight, args.mean, args.rstd, args.dweight, args.dbias) ||
      !all_dense(args.weight, args.mean, args.rstd, args.dweight, args.dbias))
    return false;
  return visit_activations(args.x.dtype, [&](auto computed, auto stored) {
    using T = typename decltype(computed)::type;
    using Stored = typename decltype(stored)::type;
    NormRows<T, Stored> all{};
    all.n = from->columns;
    all.x = args.x.as<Stored>(), all.x_row = from->row;
    all.dy = args.dy.as<Stored>(), all.dy_row = gradient->row;
    all.add = args.add.as<Stored>(), all.add_row = add->row;
    all.dx = args.dx.as<Stored>(), all.dx_row = to->row;
    all.weight = args.weight.as<T>();
    all.mean = args.mean.as<T>(), all.rstd = args.rstd.as<T>();
    all.rms = args.rms;
    sum_over_blocks<T>(args, from->rows, from->columns, [&](Index first, Index count, T* dweight, T* dbias) {
      NormRows<T, Stored> part = all;
      part.rows = count;
      part.x += first * part.x_row, part.dy += first * part.dy_row;
      if (part.add) part.add += first * part.add_row;
      if (part.dx) part.dx += first * part.dx_row;
      if (part.mean) part.mean += first;
      part.rstd += first;
      part.dweight = dweight, part.dbias = dbias;
      NORMA_BF16_KERNELS(layer_norm_kernels).of<T, Stored>().backward(part);
    });
  });
}

namespace {

/// Rows [begin, end) of both passes of cross-entropy; nothing where the operands are not dense rows of the dtypes they should have.
struct LossRows {
  std::optional<MatrixRows> logits, targets;
  bool soft;
  LossRows(const View& z, const View& t) : logits(dense_columns(z)), soft(t.dtype != DType::i64) {
    targets = soft ? dense_columns(t) : t.layout.contiguous() ? std::optional(MatrixRows{}) : std::nullopt;
    if (!is_floating(z.dtype) || (soft && t.dtype != z.dtype) || (logits && logits->columns == 0)) logits.reset();
  }
  explicit operator bool() const { return logits && targets; }
  template <class T, class Stored, class Args>
  CrossEntropyRows<T, Stored> part(const Args& args, Index begin, Index end) const {
    CrossEntropyRows<T, Stored> p{};
    p.rows = end - begin, p.n = logits->columns;
    p.logits = args.logits.template as<Stored>() + begin * logits->row, p.logits_row = logits->row;
    p.classes = soft ? nullptr : args.targets.template as<Index>() + begin;
    p.targets = soft ? args.targets.template as<Stored>() + begin * targets->row : nullptr, p.targets_row = targets->row;
    p.label_smoothing = args.label_smoothing;
    return p;
  }
};

}  // namespace

bool CpuBackend::cross_entropy(const CrossEntropy& args) {
  const LossRows rows(args.logits, args.targets);
  if (!rows || !all_are(wide_of(args.logits.dtype), args.loss, args.sums) || !all_dense(args.loss, args.sums)) return false;
  return visit_activations(args.logits.dtype, [&](auto computed, auto stored) {
    using T = typename decltype(computed)::type;
    using Stored = typename decltype(stored)::type;
    parallel_for(rows.logits->rows, rows_per_task(rows.logits->columns), [&](Index begin, Index end) {
      auto part = rows.part<T, Stored>(args, begin, end);
      part.loss = args.loss.as<T>() + begin;
      part.sums = args.sums ? args.sums.as<T>() + 2 * begin : nullptr;
      NORMA_BF16_KERNELS(cross_entropy_kernels).of<T, Stored>().forward(part);
    });
  });
}

bool CpuBackend::cross_entropy_backward(const CrossEntropyBackward& args) {
  const LossRows rows(args.logits, args.targets);
  const auto to = dense_columns(args.dlogits);
  if (!rows || !to || !all_are(args.logits.dtype, args.dlogits) || !all_are(wide_of(args.logits.dtype), args.sums, args.scale) ||
      !all_dense(args.sums))
    return false;
  return visit_activations(args.logits.dtype, [&](auto computed, auto stored) {
    using T = typename decltype(computed)::type;
    using Stored = typename decltype(stored)::type;
    parallel_for(rows.logits->rows, rows_per_task(rows.logits->columns), [&](Index begin, Index end) {
      auto part = rows.part<T, Stored>(args, begin, end);
      part.sums = args.sums.as<T>() + 2 * begin, part.scale = *args.scale.as<T>();
      part.dlogits = args.dlogits.as<Stored>() + begin * to->row, part.dlogits_row = to->row;
      NORMA_BF16_KERNELS(cross_entropy_kernels).of<T, Stored>().backward(part);
    });
  });
}

}  // namespace norma::cpu
