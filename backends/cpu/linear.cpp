// The products of the CPU backend: matmul over batches of strided views, linear layers and their gradients.
#include <algorithm>
#include <array>

#include "backends/common/convert.h"
#include "backends/common/rows.h"
#include "backends/cpu/bf16_rows.h"
#include "backends/cpu/column_sums.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/gemm.h"
#include "backends/cpu/linear_bf16.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {
namespace {

struct BatchAxis {
  Index size;
  Index a, b, out;  // strides
};

/// A batch of products: C[i] = A[i] B[i], sizes and strides in elements.
struct Batch {
  Index m, n, k, count = 1;
  Index a_row, a_col, b_row, b_col, out_row, out_col;
  int rank = 0;
  std::array<BatchAxis, max_rank> axes{};  // the outermost first

  Batch(const View& a, const View& b, const View& out) {
    m = a.shape()[-2], k = a.shape()[-1], n = b.shape()[-1];
    a_row = a.layout.stride(-2), a_col = a.layout.stride(-1);
    b_row = b.layout.stride(-2), b_col = b.layout.stride(-1);
    out_row = out.layout.stride(-2), out_col = out.layout.stride(-1);
    for (int i = 0; i + 2 < out.shape().rank(); ++i) {
      const Index size = out.shape()[i];
      count *= size;
      if (size != 1) axes[rank++] = {size, a.layout.stride(i), b.layout.stride(i), out.layout.stride(i)};
    }
  }

  /// Where product `i` starts: the sum over the batch axes of index * stride.
  template <Index BatchAxis::*stride>
  Index offset(Index i) const {
    Index at = 0;
    for (int x = rank; x-- > 0; i /= axes[x].size) at += i % axes[x].size * (axes[x].*stride);
    return at;
  }

  /// C^T = B^T A^T.
  void transpose() {
    std::swap(m, n);
    std::swap(a_row, b_col);
    std::swap(a_col, b_row);
    std::swap(out_row, out_col);
    for (BatchAxis& x : axes) std::swap(x.a, x.b);
  }

  /// Results [m, n] lie one after the other.
  void write_densely() {
    out_row = n, out_col = 1;
    Index step = m * n;
    for (int x = rank; x-- > 0; step *= axes[x].size) axes[x].out = step;
  }

  /// A batch that shares B is one taller product where the rows of A and C follow on: [B, T, C] x [C, N].
  void collapse() {
    while (rank > 0) {
      const BatchAxis& last = axes[rank - 1];
      if (last.b != 0 || (m != 1 && (last.a != m * a_row || last.out != m * out_row))) return;
      if (m == 1) a_row = last.a, out_row = last.out;
      m *= last.size;
      count /= last.size;
      --rank;
    }
  }
};

/// Dense copies of A or B as T, [distinct, rows, columns]: a batch axis of stride 0 is not repeated.
template <class T, Index BatchAxis::*stride>
T* widen(const bf16* from, Batch& batch, Index rows, Index columns, Index& row, Index& col, Slot slot) {
  Batch distinct = batch;
  distinct.count = 1;
  for (int x = 0; x < distinct.rank; ++x) {
    if (distinct.axes[x].*stride == 0) distinct.axes[x].size = 1;
    distinct.count *= distinct.axes[x].size;
  }
  T* wide = scratch<T>(slot, std::max<Index>(1, distinct.count * rows * columns));
  parallel_for(distinct.count * rows, std::max<Index>(1, task_elements / std::max<Index>(1, columns)),
               [&](Index begin, Index end) {
                 for (Index i = begin; i < end; ++i) {
                   const bf16* line = from + distinct.offset<stride>(i / rows) + i % rows * row;
                   if (col == 1)
                     widen_rows(1, columns, line, columns, wide + i * columns);
                   else
                     for (Index j = 0; j < columns; ++j) wide[i * columns + j] = static_cast<T>(line[j * col]);
                 }
               });
  row = columns, col = 1;
  Index step = rows * columns;
  for (int x = batch.rank; x-- > 0;) {
    if (batch.axes[x].*stride == 0) continue;
    batch.axes[x].*stride = step;
    step *= batch.axes[x].size;
  }
  return wide;
}

/// Copies dense results [count, m, n] to where they belong.
template <class From, class To>
void put(const From* from, const Batch& batch, To* to) {
  parallel_for(batch.count * batch.m, std::max<Index>(1, task_elements / batch.n), [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      To* line = to + batch.offset<&BatchAxis::out>(i / batch.m) + i % batch.m * batch.out_row;
      if constexpr (std::is_same_v<From, float> && std::is_same_v<To, bf16>) {
        if (batch.out_col == 1) {
          narrow_rows(1, batch.n, from + i * batch.n, line, batch.n);
          continue;
        }
      }
      for (Index j = 0; j < batch.n; ++j) line[j * batch.out_col] = convert<To>(from[i * batch.n + j]);
    }
  });
}

template <class T>
void multiply(const T* a, const T* b, T* out, Batch batch) {
  if (batch.n != 1 && batch.out_col != 1 && (batch.out_row == 1 || batch.m == 1)) {
    batch.transpose();
    std::swap(a, b);
  }
  batch.collapse();
  const bool dense = batch.out_col == 1 || batch.n == 1;
  Batch target = batch;
  T* c = out;
  if (!dense) {
    c = scratch<T>(Slot::wide_out, batch.count * batch.m * batch.n);
    batch.write_densely();
  }
  if (batch.count == 1) {
    gemm<T>(batch.m, batch.n, batch.k, {a, batch.a_row, batch.a_col}, {b, batch.b_row, batch.b_col}, c, batch.out_row);
  } else {
    Index* offsets = scratch<Index>(Slot::batch_offsets, 3 * batch.count);
    for (Index i = 0; i < batch.count; ++i) {
      offsets[i] = batch.offset<&BatchAxis::a>(i);
      offsets[batch.count + i] = batch.offset<&BatchAxis::b>(i);
      offsets[2 * batch.count + i] = batch.offset<&BatchAxis::out>(i);
    }
    gemm_batched<T>(batch.count, offsets, offsets + batch.count, offsets + 2 * batch.count, batch.m, batch.n, batch.k,
                    {a, batch.a_row, batch.a_col}, {b, batch.b_row, batch.b_col}, c, batch.out_row);
  }
  if (!dense) put(c, target, out);
}

/// bfloat16: sums in float, rounded once.
void multiply(const bf16* a, const bf16* b, bf16* out, Batch batch) {
  const Batch target = batch;
  const float* wide_a = widen<float, &BatchAxis::a>(a, batch, batch.m, batch.k, batch.a_row, batch.a_col, Slot::wide_a);
  const float* wide_b = widen<float, &BatchAxis::b>(b, batch, batch.k, batch.n, batch.b_row, batch.b_col, Slot::wide_b);
  float* c = scratch<float>(Slot::wide_out, batch.count * batch.m * batch.n);
  batch.write_densely();
  multiply<float>(wide_a, wide_b, c, batch);
  put(c, target, out);
}

/// Integers: sums in 64 bits, wrapping as unsigned numbers do; bool: whether the sum is not zero.
template <class T>
void multiply_integers(const T* a, const T* b, T* out, const Batch& batch) {
  parallel_for(batch.count * batch.m, std::max<Index>(1, task_elements / std::max<Index>(1, batch.n * batch.k)),
               [&](Index begin, Index end) {
                 for (Index i = begin; i < end; ++i) {
                   const T* left = a + batch.offset<&BatchAxis::a>(i / batch.m) + i % batch.m * batch.a_row;
                   const T* right = b + batch.offset<&BatchAxis::b>(i / batch.m);
                   T* line = out + batch.offset<&BatchAxis::out>(i / batch.m) + i % batch.m * batch.out_row;
                   for (Index j = 0; j < batch.n; ++j) {
                     std::uint64_t sum = 0;
                     for (Index p = 0; p < batch.k; ++p) {
                       sum += static_cast<std::uint64_t>(left[p * batch.a_col]) *
                              static_cast<std::uint64_t>(right[p * batch.b_row + j * batch.b_col]);
                     }
                     line[j * batch.out_col] = static_cast<T>(sum);
                   }
                 }
               });
}

template <class T>
Matrix<const T> matrix(const View& x, const MatrixRows& r) {
  return {x.as<T>(), r.row, r.col};
}
template <class T>
Matrix<const T> transposed(const View& x, const MatrixRows& r) {
  return {x.as<T>(), r.col, r.row};
}

template <class T>
bool run_linear(const LinearForward& args) {
  const auto x = as_rows(args.x), w = as_rows(args.weight), y = as_dense_rows(args.y);
  if (!x || !w || !y || !dense_vector(args.bias)) return false;
  Epilogue<T> e;
  e.ld = y->row;
  e.gelu = args.gelu;
  e.bias = args.bias.as<T>(), e.residual = args.residual.as<T>(), e.pre = args.pre.as<T>();
  for (const View* other : {&args.residual, &args.pre}) {  // they share one leading dimension
    if (!*other) continue;
    const auto rows = as_dense_rows(*other);
    if (!rows || (args.residual && args.pre && rows->row != as_dense_rows(args.residual)->row)) return false;
    e.ld = rows->row;
  }
  gemm<T>(x->rows, w->rows, x->columns, matrix<T>(args.x, *x), transposed<T>(args.weight, *w), args.y.as<T>(), y->row,
          false, e);
  return true;
}

template <class T>
bool run_linear_backward(const LinearBackward& args) {
  const auto dy = as_rows(args.dy);
  if (!dy || !dense_vector(args.dbias)) return false;
  std::optional<MatrixRows> x, w, dx, dw, pre;
  if (args.dx) {
    w = as_rows(args.weight), dx = as_dense_rows(args.dx);
    if (args.gelu_pre) pre = as_dense_rows(args.gelu_pre);
    if (!w || !dx || (args.gelu_pre && !pre)) return false;
  }
  if (args.dweight) {
    x = as_rows(args.x), dw = as_dense_rows(args.dweight);
    if (!x || !dw) return false;
  }
  T* sums = args.dbias.as<T>();
  if (args.dx) {
    Epilogue<T> e;
    if (pre) e.gelu_pre = args.gelu_pre.as<T>(), e.ld = pre->row;
    gemm<T>(dy->rows, w->columns, dy->columns, matrix<T>(args.dy, *dy), matrix<T>(args.weight, *w), args.dx.as<T>(),
            dx->row, false, e);
  }
  if (args.dweight && x->columns > 0)
    gemm_with_row_sums<T>(dy->columns, x->columns, dy->rows, transposed<T>(args.dy, *dy), matrix<T>(args.x, *x),
                          args.x_is_pre_gelu, args.dweight.as<T>(), dw->row, sums);
  else if (sums)
    sum_rows(args.dy.as<T>(), *dy, sums);
  return true;
}

}  // namespace

void CpuBackend::matmul(const View& a, const View& b, const View& out) {
  if (out.numel() == 0) return;
  const Batch batch(a, b, out);
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (std::is_integral_v<T>)
      multiply_integers(a.as<T>(), b.as<T>(), out.as<T>(), batch);
    else
      multiply(a.as<T>(), b.as<T>(), out.as<T>(), batch);
  });
}

bool CpuBackend::linear(const LinearForward& args) {
  if (args.y.dtype == DType::bf16) return linear_bf16(args);
  if (args.y.dtype == DType::f32) return run_linear<float>(args);
  return args.y.dtype == DType::f64 && run_linear<double>(args);
}

bool CpuBackend::linear_backward(const LinearBackward& args) {
  if (args.dy.dtype == DType::bf16) return linear_backward_bf16(args);
  if (args.dy.dtype == DType::f32) return run_linear_backward<float>(args);
  return args.dy.dtype == DType::f64 && run_linear_backward<double>(args);
}

}  // namespace norma::cpu
