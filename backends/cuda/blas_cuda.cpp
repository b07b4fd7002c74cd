// Blas on a device: cuBLAS. Row-major C = A B is column-major C^T = B^T A^T, so A and B change places. The library is opened when
// the first device is, so that a program built with CUDA starts as fast as one without, and on machines that have no cuBLAS.
#include <cublas_v2.h>
#include <dlfcn.h>

#include <mutex>

#include "backends/cuda/blaslt_cuda.h"
#include "backends/cuda/runtime.h"

namespace norma::cuda {
namespace {

// A graph captured from the handle's stream must not meet memory that cuBLAS frees, so the workspace is the backend's own: 32 MiB is
// what NVIDIA advises for Hopper.
constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

/// The functions of the library that are used.
struct Library {
#define NORMA_CUBLAS(X)                                                                                                     \
  X(cublasCreate) X(cublasDestroy) X(cublasSetStream) X(cublasSetWorkspace) X(cublasSetMathMode)                            \
  X(cublasGemmStridedBatchedEx_64) X(cublasGetStatusString) X(cublasGetStatusName)
#define NORMA_TEXT_OF(name) #name
#define NORMA_TEXT(name) NORMA_TEXT_OF(name)  // cublas_v2.h renames some
#define NORMA_MEMBER(name) decltype(&name) name##_ = nullptr;
  NORMA_CUBLAS(NORMA_MEMBER)

  Library() {
    const std::string name = fmt::format("libcublas.so.{}", CUBLAS_VER_MAJOR);
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen((std::string(NORMA_CUBLAS_FOLDER "/") + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("cuda: {} cannot be opened: {}; put its folder into LD_LIBRARY_PATH", name, dlerror());
#define NORMA_OPEN(name) name##_ = reinterpret_cast<decltype(&name)>(symbol(library, NORMA_TEXT(name)));
    NORMA_CUBLAS(NORMA_OPEN)
  }
  static void* symbol(void* library, const char* name) {
    void* found = dlsym(library, name);
    if (!found) fail("cuda: cuBLAS has no {}; install that of toolkit {}.{}", name, CUBLAS_VER_MAJOR, CUBLAS_VER_MINOR);
    return found;
  }
};
const Library& library() {
  static const Library* opened = new Library;  // stays until the program ends
  return *opened;
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuda: {}: {} ({})", what, library().cublasGetStatusString_(status), library().cublasGetStatusName_(status));
}

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::f64 ? CUDA_R_64F : dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

class CuBlas : public Blas {
 public:
  explicit CuBlas(Runtime& runtime) : runtime_(runtime), stream_(static_cast<cudaStream_t>(runtime.stream())) {
    cublasHandle_t handle = nullptr;
    check(library().cublasCreate_(&handle), "cublasCreate");
    handle_.reset(handle);
    check(library().cublasSetStream_(handle, stream_), "cublasSetStream");
    workspace_.reset(runtime_.allocate(workspace_bytes));
    if (!workspace_) fail("out of memory: no room for the workspace of cuBLAS ({})", runtime_.text());
    check(library().cublasSetWorkspace_(handle, workspace_.get(), workspace_bytes), "cublasSetWorkspace");
    // No TF32, and parts of a sum over k meet in f32 whatever is stored in the end.
    const auto mode = static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    check(library().cublasSetMathMode_(handle, mode), "cublasSetMathMode");
    lt_ = make_lt_blas(runtime_, workspace_.get(), workspace_bytes);
  }

  void multiply(const Gemm& g) override {
    const std::lock_guard lock(mutex_);
    // Split-K kernels of cuBLAS 12.8 and 13.1 are reported to leave out the last k % 64 terms of long sums on Hopper, without an error, whatever is
    // stored; blaslt_cuda.cpp forbids them there, which this interface cannot. So the end of such a sum is a product by itself.
    const Index rest = g.k >= 4096 ? g.k % 64 : 0;
    if (rest == 0) return multiply(g, false);
    // Stored rounded, the end would be rounded twice. One product cuBLASLt can do whole; of several, or where it declines, the end comes first: it
    // is small beside the sum, and so is what rounding it costs.
    if (g.out_dtype == DType::bf16 && lt_ && lt_->multiply(g)) return;
    Gemm end = g, part = g;
    end.k = rest, part.k = g.k - rest;
    const auto behind = [&](Gemm::Operand& x, bool rows_run_over_k) {
      const Index skipped = part.k * (rows_run_over_k ? x.pitch : 1);
      x.data = static_cast<const char*>(x.data) + skipped * static_cast<Index>(size_of(g.dtype));
    };
    behind(end.a, g.a.transposed);
    behind(end.b, !g.b.transposed);
    multiply(end, false);
    multiply(part, true);
  }

  bool multiply_with(const Gemm& g) override {
    const std::lock_guard lock(mutex_);
    return lt_ && lt_->multiply(g);
  }

 private:
  void multiply(const Gemm& g, bool add) {  // to what is there, or in its place
    runtime_.stream();  // makes its device the current one
    const bool wide = g.dtype == DType::f64;
    const float one = 1, beta = add ? 1 : 0;
    const double one_wide = 1, beta_wide = beta;
    const auto operation = [](const Gemm::Operand& x) { return x.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    check(library().cublasGemmStridedBatchedEx_64_(
              handle_.get(), operation(g.b), operation(g.a), g.n, g.m, g.k, wide ? static_cast<const void*>(&one_wide) : &one, g.b.data,
              type_of(g.dtype), g.b.pitch, g.b.batch_stride, g.a.data, type_of(g.dtype), g.a.pitch, g.a.batch_stride,
              wide ? static_cast<const void*>(&beta_wide) : &beta, g.c, type_of(g.out_dtype), g.c_pitch, g.c_batch_stride, g.batch,
              wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmStridedBatchedEx");
  }

  struct Destroy {
    void operator()(cublasHandle_t handle) const { library().cublasDestroy_(handle); }
  };
  struct Free {
    Runtime* runtime;
    void operator()(void* block) const { runtime->free(block); }
  };

  Runtime& runtime_;
  std::mutex mutex_;  // of the handle, the workspace and the plans: one thread at a time multiplies
  cudaStream_t stream_;
  // They go in the reverse of this order, also where the constructor throws.
  std::unique_ptr<void, Free> workspace_{nullptr, Free{&runtime_}};
  std::unique_ptr<cublasContext, Destroy> handle_;
  std::unique_ptr<LtBlas> lt_;  // null where there is no cuBLASLt: then products and what follows them are kernels of their own
};

}  // namespace

std::unique_ptr<Blas> make_blas(Runtime& runtime) { return std::make_unique<CuBlas>(runtime); }

}  // namespace norma::cuda
