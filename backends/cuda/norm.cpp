// Softmax, layer norm, cross-entropy over the last axis. Declines operands whose rows are not dense or not evenly
// spaced. bf16 elements go with f32 weights and statistics.
#include "backends/cuda/kernels/norm.h"

#include <optional>

#include "backends/common/rows.h"
#include "backends/common/views.h"
#include "backends/cuda/cuda_backend.h"

namespace norma::cuda {

bool CudaBackend::softmax(const View& x, const View& y, bool log) {
  const auto from = dense_columns(x), to = dense_columns(y);
  if (!from || !to || !is_floating(x.dtype) || y.dtype != x.dtype) return false;
  if (x.numel() == 0) return true;
  SoftmaxRows r;
  r.rows = from->rows, r.n = from->columns, r.dtype = x.dtype, r.log = log;
  r.x = x.data, r.x_row = from->row, r.out = y.data, r.out_row = to->row;
  softmax_rows(stream(), r);
  return true;
}

bool CudaBackend::softmax_backward(const View& y, const View& dy, const View& dx, bool log) {
  const auto value = dense_columns(y), from = dense_columns(dy), to = dense_columns(dx);
  if (!value || !from || !to || !is_floating(y.dtype) || !all_are(y.dtype, dy, dx)) return false;
  if (y.numel() == 0) return true;
  SoftmaxRows r;
  r.rows = value->rows, r.n = value->columns, r.dtype = y.dtype, r.log = log;
  r.x = y.data, r.x_row = value->row, r.dy = dy.data, r.dy_row = from->row, r.out = dx.data, r.out_row = to->row;
  softmax_backward_rows(stream(), r);
  return true;
}

bool CudaBackend::layer_norm(const LayerNormForward& args) {
  const auto from = dense_columns(args.x), to = dense_columns(args.y);
  const DType weights = wide_of(args.x.dtype);
  if (!from || !to || !is_floating(args.x.dtype) || args.y.dtype != args.x.dtype || args.x.numel() == 0 ||
      !all_are(weights, args.weight, args.bias, args.mean, args.rstd) || !all_dense(args.weight, args.bias, args.mean, args.rstd))
    return false;
  NormRows r;
  r.rows = from->rows, r.n = from->columns, r.dtype = args.x.dtype, r.eps = args.eps, r.rms = args.rms;
  r.x = args.x.data, r.x_row = from->row, r.y = args.y.data, r.y_row = to->row;
  r.weight = args.weight.data, r.bias = args.bias.data, r.mean = args.mean.data, r.rstd = args.rstd.data;
  layer_norm_rows(stream(), r);
  return true;
}

bool CudaBackend::layer_norm_backward(const LayerNormBackward& args) {
  const auto from = dense_columns(args.x), gradient = dense_columns(args.dy), to = args.dx ? dense_columns(args.dx) : MatrixRows{};
  const auto add = args.add ? dense_columns(args.add) : MatrixRows{};
  const DType weights = wide_of(args.x.dtype);
  if (!from || !gradient || !to || !add || !args.rstd || (!args.rms && !args.mean) || !is_floating(args.x.dtype) || args.x.numel() == 0 ||
      !all_are(args.x.dtype, args.dy, args.dx, args.add) || !all_are(weights, args.weight, args.mean, args.rstd, args.dweight, args.dbias, args.sums) ||
      !all_dense(args.weight, args.mean, args.rstd, args.dweight, args.dbias, args.sums))
    return false;
  NormRows r;
  r.rows = from->rows, r.n = from->columns, r.dtype = args.x.dtype, r.rms = args.rms;
  r.x = args.x.data, r.x_row = from->row, r.dy = args.dy.data, r.dy_row = gradient->row;
  r.add = args.add.data, r.add_row = add->row;
  r.y = args.dx.data, r.y_row = to->row;
  r.weight = args.weight.data, r.mean = args.mean.data, r.rstd = args.rstd.data;
  r.partial = args.sums.data;
  const bool at_once = !args.sums && (args.dweight || args.dbias);
  const Shape parts{norm_blocks(r.rows), 2, r.n};
  const Scratch partial = scratch<char>(at_once ? parts.numel() * static_cast<Index>(size_of(weights)) : 0);
  if (at_once) r.partial = partial.as<void>();
  layer_norm_backward_rows(stream(), r);
  if (!at_once) return true;
  const NormSums sums{{r.partial, Layout(parts), weights}, args.dweight, args.dbias};
  join_norm_sums({&sums, 1});
  return true;
}

Index CudaBackend::norm_sum_parts(Index rows) const { return norm_blocks(rows); }

void CudaBackend::join_norm_sums(std::span<const NormSums> all) {
  JoinTable table;
  DType dtype = DType::f32;  // of the table's rows
  const auto run = [&] {
    if (table.pieces > 0) join_norm_rows(stream(), table, dtype);
    table = {};
  };
  for (const NormSums& one : all) {
    if (one.sums.dtype != dtype || table.count == JoinTable::capacity) run();
    dtype = one.sums.dtype;
    table.add({one.sums.data, one.dweight.data, one.dbias.data, one.sums.shape()[2], one.sums.shape()[0]});
  }
  run();
}

namespace {

/// What both passes of cross-entropy read; nothing where the operands are not dense rows of the dtypes they should have.
template <class Args>
std::optional<CrossEntropyRows> loss_rows(const Args& args) {
  const DType dtype = args.logits.dtype;
  const bool soft = args.targets.dtype != DType::i64;
  const auto from = dense_columns(args.logits), target = soft ? dense_columns(args.targets) : MatrixRows{};
  if (!from || !target || from->columns == 0 || !is_floating(dtype) || (soft && args.targets.dtype != dtype) ||
      (!soft && !args.targets.layout.contiguous()))
    return std::nullopt;
  CrossEntropyRows r;
  r.rows = from->rows, r.n = from->columns, r.dtype = dtype, r.soft = soft, r.label_smoothing = args.label_smoothing;
  r.logits = args.logits.data, r.logits_row = from->row, r.targets = args.targets.data, r.targets_row = target->row;
  return r;
}

}  // namespace

bool CudaBackend::cross_entropy(const CrossEntropy& args) {
  auto rows = loss_rows(args);
  if (!rows || !all_are(wide_of(rows->dtype), args.loss, args.sums) || !all_dense(args.loss, args.sums)) return false;
  rows->loss = args.loss.data, rows->sums = args.sums.data;
  cross_entropy_rows(stream(), *rows);
  return true;
}

bool CudaBackend::cross_entropy_backward(const CrossEntropyBackward& args) {
  auto rows = loss_rows(args);
  const auto to = dense_columns(args.dlogits);
  if (!rows || !to || args.dlogits.dtype != rows->dtype || !all_are(wide_of(rows->dtype), args.sums, args.scale) || !all_dense(args.sums))
    return false;
  rows->sums = args.sums.data, rows->scale = args.scale.data, rows->dlogits = args.dlogits.data, rows->dlogits_row = to->row;
  cross_entropy_backward_rows(stream(), *rows);
  return true;
}

}  // namespace norma::cuda
