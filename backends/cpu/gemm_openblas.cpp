// Matrix products by OpenBLAS: the portable provider and the second opinion in tests and benchmarks. The library runs
// with one thread; gemm.cpp calls it on blocks that the sizes alone decide. The only file that names cblas.
//
// A library built for one thread (Debian's libopenblas0-serial) hands out its packing buffers without a lock: two calls
// at once give wrong numbers. Its calls therefore queue up; the threaded builds run side by side.
#include <cblas.h>

#include <algorithm>
#include <limits>
#include <mutex>

#include "backends/cpu/gemm_blas.h"

namespace norma::cpu {
namespace {

struct Operand {
  CBLAS_TRANSPOSE transpose = CblasNoTrans;
  blasint ld = 0;  // 0: not expressible
};

/// How the library sees a [rows, columns] operand: row-major with a leading dimension, or the transpose of such a one.
template <class T>
Operand operand(Matrix<const T> x, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t largest = std::numeric_limits<blasint>::max();
  const auto fits = [](std::int64_t ld, std::int64_t width) {
    return ld >= std::max<std::int64_t>(1, width) && ld <= largest;
  };
  if (x.col == 1 && rows == 1) return {CblasNoTrans, static_cast<blasint>(std::max<std::int64_t>(1, columns))};
  if (x.row == 1 && columns == 1) return {CblasTrans, static_cast<blasint>(std::max<std::int64_t>(1, rows))};
  if (x.col == 1 && fits(x.row, columns)) return {CblasNoTrans, static_cast<blasint>(x.row)};
  if (x.row == 1 && fits(x.col, rows)) return {CblasTrans, static_cast<blasint>(x.col)};
  return {};
}

void call(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, blasint m, blasint n, blasint k, const float* a, blasint lda,
          const float* b, blasint ldb, bool accumulate, float* c, blasint ldc) {
  cblas_sgemm(CblasRowMajor, ta, tb, m, n, k, 1, a, lda, b, ldb, accumulate ? 1 : 0, c, ldc);
}
void call(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, blasint m, blasint n, blasint k, const double* a, blasint lda,
          const double* b, blasint ldb, bool accumulate, double* c, blasint ldc) {
  cblas_dgemm(CblasRowMajor, ta, tb, m, n, k, 1, a, lda, b, ldb, accumulate ? 1 : 0, c, ldc);
}

}  // namespace

template <class T>
bool blas_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<const T> a, Matrix<const T> b, T* c,
                  std::int64_t ldc, bool accumulate) {
  constexpr std::int64_t largest = std::numeric_limits<blasint>::max();
  if (m < 1 || n < 1 || k < 1 || std::max({m, n, k, ldc}) > largest || ldc < n) return false;
  const Operand left = operand(a, m, k), right = operand(b, k, n);
  if (!left.ld || !right.ld) return false;
  static const bool reentrant = (openblas_set_num_threads(1), !blas_library().one_at_a_time);
  static std::mutex one_at_a_time;
  const auto lock = reentrant ? std::unique_lock<std::mutex>() : std::unique_lock<std::mutex>(one_at_a_time);
  call(left.transpose, right.transpose, static_cast<blasint>(m), static_cast<blasint>(n), static_cast<blasint>(k),
       a.data, left.ld, b.data, right.ld, accumulate, c, static_cast<blasint>(ldc));
  return true;
}

BlasLibrary blas_library() { return {openblas_get_corename(), openblas_get_parallel() == OPENBLAS_SEQUENTIAL}; }

template bool blas_product(std::int64_t, std::int64_t, std::int64_t, Matrix<const float>, Matrix<const float>, float*,
                           std::int64_t, bool);
template bool blas_product(std::int64_t, std::int64_t, std::int64_t, Matrix<const double>, Matrix<const double>,
                           double*, std::int64_t, bool);

}  // namespace norma::cpu
