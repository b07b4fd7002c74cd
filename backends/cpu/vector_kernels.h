// The raw-pointer kernels under elementwise.cpp, copy.cpp, reduce.cpp, norm.cpp, random.cpp and parameters.cpp, one table per
// instruction set. Included by files that are compiled once per instruction set, so it holds plain data only.
#pragma once

#include <cstdint>
#include <type_traits>

#include "backends/cpu/isa.h"
#include "core/op_list.h"

namespace norma::cpu {

template <class T>
struct ElementwiseTable {
  /// out[i] = op(x[i]); x may be out.
  void (*unary)(UnaryOp op, std::int64_t n, const T* x, T* out, double parameter);
  /// out[i] = op(a[i a_step], b[i b_step]) for the arithmetic ops; steps are 0 or 1; a or b may be out.
  void (*binary)(BinaryOp op, std::int64_t n, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step, T* out);
  /// The same for the comparisons: out[i] is 0 or 1.
  void (*compare)(BinaryOp op, std::int64_t n, const T* a, std::int64_t a_step, const T* b, std::int64_t b_step,
                  std::uint8_t* out);
  /// dx[i] = dy[i] op'(x[i]), `kept` as in Backend::unary_backward. False: there is none for the op, whatever n is.
  bool (*unary_backward)(UnaryOp op, std::int64_t n, const T* kept, const T* dy, T* dx);
};

/// out[i] = condition[i] ? a[i a_step] : b[i b_step]; steps are 0 or 1. Elements count by their size alone.
struct WhereTable {
  template <class Bits>
  using Where = void (*)(std::int64_t n, const std::uint8_t* condition, const Bits* a, std::int64_t a_step, const Bits* b,
                         std::int64_t b_step, Bits* out);
  Where<std::uint8_t> where8;
  Where<std::uint16_t> where16;
  Where<std::uint32_t> where32;
  Where<std::uint64_t> where64;
  template <class Bits>
  Where<Bits> of() const {
    if constexpr (sizeof(Bits) == 1)
      return where8;
    else if constexpr (sizeof(Bits) == 2)
      return where16;
    else if constexpr (sizeof(Bits) == 4)
      return where32;
    else
      return where64;
  }
};

/// Casts of rows of n elements, the floats dense, or of n elements; and transposes of elements by their size alone:
/// out[c out_row + r] = in[r in_row + c].
struct CopyTable {
  void (*f32_to_bf16)(std::int64_t rows, std::int64_t n, const float* in, std::uint16_t* out, std::int64_t out_row);
  void (*bf16_to_f32)(std::int64_t rows, std::int64_t n, const std::uint16_t* in, std::int64_t in_row, float* out);
  void (*u8_to_f32)(std::int64_t n, const std::uint8_t* in, float* out);
  void (*f32_to_f64)(std::int64_t n, const float* in, double* out);
  void (*f64_to_f32)(std::int64_t n, const double* in, float* out);
  template <class Word>
  using Transpose = void (*)(std::int64_t rows, std::int64_t columns, const Word* in, std::int64_t in_row, Word* out, std::int64_t out_row);
  Transpose<std::uint32_t> transpose32;
  Transpose<std::uint64_t> transpose64;
  Transpose<std::uint8_t> transpose8;
  Transpose<std::uint16_t> transpose16;
};

/// Sums of floats are kept in double, in a few lanes whose number depends on the instruction set alone; those of integers wrap around.
template <class T>
using Total = std::conditional_t<std::is_integral_v<T>, std::int64_t, double>;
template <class T>
struct ReduceTable {
  Total<T> (*sum)(std::int64_t n, const T* x);
  double (*sum_of_squares)(std::int64_t n, const T* x);  // floats only
  T (*max)(std::int64_t n, const T* x);  // n > 0; a NaN wins
  T (*min)(std::int64_t n, const T* x);
  /// sums[j] += x[i row + j] for i < rows, j < n, in the order of i.
  void (*add_rows)(std::int64_t rows, std::int64_t n, const T* x, std::int64_t row, Total<T>* sums);
  /// best[j] = max(best[j], x[i row + j]); a NaN wins.
  void (*max_rows)(std::int64_t rows, std::int64_t n, const T* x, std::int64_t row, T* best);
  void (*min_rows)(std::int64_t rows, std::int64_t n, const T* x, std::int64_t row, T* best);
};

/// The number of a row among at most `place_rows`, as wide as T.
template <class T>
using RowPlace = std::conditional_t<sizeof(T) == 1, std::uint8_t, std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>>;
constexpr std::int64_t place_rows = 128;
template <class T>
struct ColumnTable {
  /// best[j] = the largest x[i row + j] for 0 < rows <= place_rows, place[j] = the first i that has it; a NaN wins.
  void (*max)(std::int64_t rows, std::int64_t n, const T* x, std::int64_t row, T* best, RowPlace<T>* place);
  void (*min)(std::int64_t rows, std::int64_t n, const T* x, std::int64_t row, T* best, RowPlace<T>* place);
  /// out[i out_row + j] = sums[j] += x[i row + j].
  void (*running_sums)(std::int64_t rows, std::int64_t n, const T* x, std::int64_t row, Total<T>* sums, T* out, std::int64_t out_row);
};

/// Rows of n elements; row i of an operand starts at its pointer + i * its row step. Stored is what activations are: T, or bf16
/// where T is float.
template <class T, class Stored>
struct NormRows {
  std::int64_t rows, n;
  const Stored *x, *dy, *add;  // add: null, or added to dx
  Stored *y, *dx;
  std::int64_t x_row, dy_row, add_row, y_row, dx_row;
  const T *weight, *bias;  // null: 1, 0
  T *mean, *rstd;          // [rows], dense; read by the backward pass
  double eps;
  bool rms;
  T *dweight, *dbias;  // [n]: this block's sums are added; null: not wanted
};

/// logits, dlogits and probabilities may be bf16, as its bits; all else is T.
template <class T, class Stored = T>
struct CrossEntropyRows {
  std::int64_t rows, n;
  const Stored* logits;
  std::int64_t logits_row;
  const std::int64_t* classes;  // or
  const Stored* targets;        // probabilities [rows, n]
  std::int64_t targets_row;
  double label_smoothing;
  T* sums;  // [rows, 2], dense, as CrossEntropy::sums; forward: null where not wanted
  T* loss;  // [rows], dense
  Stored* dlogits;
  std::int64_t dlogits_row;
  T scale;
};

template <class T>
struct NormTable {
  void (*softmax)(std::int64_t rows, std::int64_t n, const T* x, std::int64_t x_row, T* y, std::int64_t y_row, bool log);
  void (*softmax_backward)(std::int64_t rows, std::int64_t n, const T* y, std::int64_t y_row, const T* dy,
                           std::int64_t dy_row, T* dx, std::int64_t dx_row, bool log);
};

template <class T, class Stored = T>
struct LayerNormTable {
  void (*forward)(const NormRows<T, Stored>& args);
  void (*backward)(const NormRows<T, Stored>& args);
};
template <class T, class Stored = T>
struct CrossEntropyTable {
  void (*forward)(const CrossEntropyRows<T, Stored>& args);
  void (*backward)(const CrossEntropyRows<T, Stored>& args);
};

/// p = decayed p - step_size m / (sqrt(v) / root_correction + eps), as torch.optim.AdamW computes it.
template <class T>
struct AdamWArgs {
  std::int64_t n;
  T* p;
  const T* g;
  T *m, *v;
  double beta1, beta2, eps;
  double keep;             // 1 - lr * decay
  double step_size;        // lr / (1 - beta1^step)
  double root_correction;  // sqrt(1 - beta2^step)
  double gradient_scale;
};

template <class T>
struct ParametersTable {
  void (*adamw)(const AdamWArgs<T>& args);
};

struct RandomTable {
  /// The four words of each of `count` blocks of a stream from `first` on (core/random.h); out has room for random_slack more words.
  void (*words)(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::int64_t count, std::uint32_t* out);
  /// out[i] = 0 where words[i] < below, else scale.
  void (*keep)(std::int64_t n, const std::uint32_t* words, std::uint32_t below, float scale, float* out);
};
constexpr std::int64_t random_slack = 64;

template <template <class> class Table>
struct ForFloats {
  Table<float> f32;
  Table<double> f64;
  template <class T>
  const Table<T>& of() const {
    if constexpr (sizeof(T) == 4) {
      return f32;
    } else {
      return f64;
    }
  }
};
template <template <class> class Table>
struct ForNumbers : ForFloats<Table> {
  Table<std::uint8_t> u8;
  Table<std::int32_t> i32;
  Table<std::int64_t> i64;
  template <class T>
  const Table<T>& of() const {
    if constexpr (std::is_floating_point_v<T>)
      return ForFloats<Table>::template of<T>();
    else if constexpr (sizeof(T) == 1)
      return u8;
    else if constexpr (sizeof(T) == 4)
      return i32;
    else
      return i64;
  }
};
/// Of what is computed in T and stored as T, or as bf16.
template <template <class, class> class Table>
struct ForActivations {
  Table<float, float> f32;
  Table<double, double> f64;
  Table<float, std::uint16_t> bf16;
  template <class T, class Stored>
  const Table<T, Stored>& of() const {
    if constexpr (sizeof(Stored) == 2)
      return bf16;
    else if constexpr (sizeof(T) == 4)
      return f32;
    else
      return f64;
  }
};
using ElementwiseKernels = ForFloats<ElementwiseTable>;
using ReduceKernels = ForNumbers<ReduceTable>;
using ColumnKernels = ForNumbers<ColumnTable>;
using NormKernels = ForFloats<NormTable>;
using ParametersKernels = ForFloats<ParametersTable>;
using LayerNormKernels = ForActivations<LayerNormTable>;
using CrossEntropyKernels = ForActivations<CrossEntropyTable>;
NORMA_DECLARE_KERNELS(ElementwiseKernels, elementwise_kernels)
NORMA_DECLARE_KERNELS(WhereTable, where_kernels)
NORMA_DECLARE_KERNELS(CopyTable, copy_kernels)
NORMA_DECLARE_KERNELS(ReduceKernels, reduce_kernels)
NORMA_DECLARE_KERNELS(ColumnKernels, column_kernels)
NORMA_DECLARE_KERNELS(NormKernels, norm_kernels)
NORMA_DECLARE_KERNELS(ParametersKernels, parameters_kernels)
NORMA_DECLARE_BF16_KERNELS(LayerNormKernels, layer_norm_kernels)
NORMA_DECLARE_BF16_KERNELS(CrossEntropyKernels, cross_entropy_kernels)
NORMA_DECLARE_KERNELS(RandomTable, random_kernels)

}  // namespace norma::cpu
