// Blas on a device: cuBLAS. Row-major C = A B is column-major C^T = B^T A^T, so A and B change places.
#include <cublas_v2.h>

#include "backends/cuda/runtime.h"

namespace norma::cuda {
namespace {

// A graph captured from the handle's stream must not meet memory that cuBLAS frees, so the workspace is the backend's own: 32 MiB is
// what NVIDIA advises for Hopper.
constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuda: {}: {} ({})", what, cublasGetStatusString(status), cublasGetStatusName(status));
}

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::f64 ? CUDA_R_64F : dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

class CuBlas : public Blas {
 public:
  explicit CuBlas(Runtime& runtime) : runtime_(runtime), stream_(static_cast<cudaStream_t>(runtime.stream())) {
    check(cublasCreate(&handle_), "cublasCreate");
    check(cublasSetStream(handle_, stream_), "cublasSetStream");
    workspace_ = runtime_.allocate(workspace_bytes);
    if (!workspace_) fail("out of memory: no room for the workspace of cuBLAS ({})", runtime_.text());
    check(cublasSetWorkspace(handle_, workspace_, workspace_bytes), "cublasSetWorkspace");
    check(cublasSetMathMode(handle_, CUBLAS_DEFAULT_MATH), "cublasSetMathMode");  // no TF32
  }
  ~CuBlas() override {
    cublasDestroy(handle_);
    runtime_.free(workspace_);
  }

  void multiply(const Gemm& g) override {
    runtime_.stream();  // makes its device the current one
    const bool wide = g.dtype == DType::f64;
    const float one = 1, zero = 0;
    const double one_wide = 1, zero_wide = 0;
    const auto operation = [](const Gemm::Operand& x) { return x.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    check(cublasGemmStridedBatchedEx_64(
              handle_, operation(g.b), operation(g.a), g.n, g.m, g.k, wide ? static_cast<const void*>(&one_wide) : &one, g.b.data,
              type_of(g.dtype), g.b.pitch, g.b.batch_stride, g.a.data, type_of(g.dtype), g.a.pitch, g.a.batch_stride,
              wide ? static_cast<const void*>(&zero_wide) : &zero, g.c, type_of(g.out_dtype), g.c_pitch, g.c_batch_stride, g.batch,
              wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmStridedBatchedEx");
  }

 private:
  Runtime& runtime_;
  cudaStream_t stream_;
  cublasHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
};

}  // namespace

std::unique_ptr<Blas> make_blas(Runtime& runtime) { return std::make_unique<CuBlas>(runtime); }

}  // namespace norma::cuda
