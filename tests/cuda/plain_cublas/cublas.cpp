// cuBLAS without a device, for the tests: the functions that blas_cuda.cpp opens, by plain loops. Refuses what the header forbids, and leaves
// out what some versions are reported to leave out on Hopper: of sums of 4,096 terms and more the last k % 64. There are at most 16 handles at a time.
#include <cublas_v2.h>

#include <algorithm>

#include "tests/cuda/plain_cublas/products.h"

using namespace norma::plain_cublas;

struct cublasContext {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  cublasMath_t mode = CUBLAS_DEFAULT_MATH;
};
static std::atomic<int> handles{0};

extern "C" {

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  if (++handles > 16) return --handles, CUBLAS_STATUS_ALLOC_FAILED;
  *handle = new cublasContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  delete handle;
  --handles;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  handle->workspace = nullptr;  // "unconditionally resets the cuBLAS library workspace"
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void* workspace, size_t bytes) {
  if (!aligned(workspace, 256) || bytes < (std::size_t{4} << 20)) return CUBLAS_STATUS_INVALID_VALUE;
  handle->workspace = workspace;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
  handle->mode = mode;
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasGetStatusString(cublasStatus_t) { return "a status of the plain cuBLAS"; }
const char* cublasGetStatusName(cublasStatus_t status) { return name_of(status); }

cublasStatus_t cublasGemmStridedBatchedEx_64(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int64_t m, int64_t n, int64_t k, const void* alpha,
                                             const void* a, cudaDataType a_type, int64_t lda, long long stride_a, const void* b, cudaDataType b_type, int64_t ldb,
                                             long long stride_b, const void* beta, void* c, cudaDataType c_type, int64_t ldc, long long stride_c, int64_t count,
                                             cublasComputeType_t compute, cublasGemmAlgo_t) {
  const Alone alone;
  if (!alone) return CUBLAS_STATUS_INTERNAL_ERROR;
  if (!handle->stream || !handle->workspace) return CUBLAS_STATUS_NOT_INITIALIZED;  // it would take memory of its own, also in a capture
  const bool wide = compute == CUBLAS_COMPUTE_64F;
  const auto all = [&](cudaDataType type) { return a_type == type && b_type == type && c_type == type; };
  const bool narrow = a_type == CUDA_R_16BF && b_type == CUDA_R_16BF && (c_type == CUDA_R_16BF || c_type == CUDA_R_32F);
  if (wide ? !all(CUDA_R_64F) : compute != CUBLAS_COMPUTE_32F || !(all(CUDA_R_32F) || narrow)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const auto fits = [](std::int64_t ld, std::int64_t rows) { return ld >= std::max<std::int64_t>(1, rows); };
  if (m < 0 || n < 0 || k < 0 || count < 0 || count > 65535 || !fits(lda, ta == CUBLAS_OP_N ? m : k) || !fits(ldb, tb == CUBLAS_OP_N ? k : n) || !fits(ldc, m))
    return CUBLAS_STATUS_INVALID_VALUE;
  const double one = wide ? *static_cast<const double*>(alpha) : *static_cast<const float*>(alpha);
  const double other = wide ? *static_cast<const double*>(beta) : *static_cast<const float*>(beta);
  const int64_t summed = k >= 4096 ? k - k % 64 : k;
  const Columns x{a, a_type, lda}, y{b, b_type, ldb}, z{c, c_type, ldc};
  norma::cuda::emulator::enqueue(handle->stream, [=] {
    for (std::int64_t i = 0; i < count; ++i) {
      const Columns xi = x.moved(i * stride_a), yi = y.moved(i * stride_b), zi = z.moved(i * stride_c);
      const auto before = [=](std::int64_t row, std::int64_t column) { return other != 0 ? other * zi.at(row, column) : 0.0; };
      if (wide)
        multiply<double>(m, n, summed, one, xi, ta != CUBLAS_OP_N, yi, tb != CUBLAS_OP_N, zi, before);
      else
        multiply<float>(m, n, summed, one, xi, ta != CUBLAS_OP_N, yi, tb != CUBLAS_OP_N, zi, before);
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
