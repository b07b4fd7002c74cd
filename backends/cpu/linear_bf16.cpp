#include "backends/cpu/linear_bf16.h"

#include "backends/common/views.h"
#include "backends/cpu/column_sums.h"
#include "backends/cpu/gemm_bf16.h"

namespace norma::cpu {
namespace {

Bf16Bits* bits(const View& x) { return reinterpret_cast<Bf16Bits*>(x.as<bf16>()); }

}  // namespace

bool linear_bf16(const LinearForward& args) {
  if (gemm_provider() == GemmProvider::openblas) return false;  // the composition runs, in f32
  if (!all_dense_rows(DType::bf16, args.x, args.y, args.residual, args.pre) || !all_dense_rows(DType::f32, args.weight, args.bias)) return false;
  const MatrixRows x = *as_rows(args.x), w = *as_rows(args.weight), y = *as_rows(args.y);
  Bf16Epilogue e;
  e.ld = y.row;
  for (const View* other : {&args.residual, &args.pre}) {  // they share one leading dimension
    if (!*other) continue;
    e.ld = as_rows(*other)->row;
    if (args.residual && args.pre && e.ld != as_rows(args.residual)->row) return false;
  }
  e.bias = args.bias.as<float>(), e.gelu = args.gelu, e.pre = bits(args.pre), e.residual = bits(args.residual);
  gemm_bf16(x.rows, w.rows, x.columns, {bits(args.x), x.row, 1}, {args.weight.as<float>(), 1, w.row}, bits(args.y), y.row, e);
  return true;
}

bool linear_backward_bf16(const LinearBackward& args) {
  const View x = args.dweight ? args.x : View(), weight = args.dx ? args.weight : View(), pre = args.dx ? args.gelu_pre : View();
  if (gemm_provider() == GemmProvider::openblas) return false;  // the composition runs, in f32
  if (!all_dense_rows(DType::bf16, args.dy, x, pre, args.dx) || !all_dense_rows(DType::f32, weight, args.dweight, args.dbias)) return false;
  const MatrixRows dy = *as_rows(args.dy);
  if (args.dx) {
    const MatrixRows w = *as_rows(weight), dx = *as_rows(args.dx);
    Bf16Epilogue e;
    if (pre) e.gelu_pre = bits(pre), e.ld = as_rows(pre)->row;
    gemm_bf16(dy.rows, w.columns, dy.columns, {bits(args.dy), dy.row, 1}, {weight.as<float>(), w.row, 1}, bits(args.dx), dx.row, e);
  }
  float* sums = args.dbias.as<float>();
  if (args.dweight && args.dweight.numel() > 0) {
    const MatrixRows in = *as_rows(x), dw = *as_rows(args.dweight);
    gemm_bf16_long(dy.columns, in.columns, dy.rows, {bits(args.dy), 1, dy.row}, {bits(x), in.row, 1}, args.x_is_pre_gelu, args.dweight.as<float>(),
                   dw.row, sums);
  } else if (sums) {
    sum_rows(args.dy.as<bf16>(), dy, sums);
  }
  return true;
}

}  // namespace norma::cpu
