#include "backends/cuda/blaslt_cuda.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <string_view>
#include <tuple>

namespace norma::cuda {
namespace {

/// The functions of the library that are used; all are there, or `opened` is false.
struct Library {
#define NORMA_CUBLASLT(X)                                                                                                          \
  X(cublasLtCreate) X(cublasLtDestroy) X(cublasLtMatmul) X(cublasLtMatmulAlgoGetHeuristic) X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy) X(cublasLtMatmulDescSetAttribute) X(cublasLtMatrixLayoutCreate) X(cublasLtMatrixLayoutDestroy)      \
  X(cublasLtMatmulPreferenceCreate) X(cublasLtMatmulPreferenceDestroy) X(cublasLtMatmulPreferenceSetAttribute)                     \
  X(cublasLtMatmulAlgoConfigGetAttribute) X(cublasLtGetVersion) X(cublasLtGetStatusString) X(cublasLtGetStatusName)
#define NORMA_MEMBER(name) decltype(&name) name##_ = nullptr;
  NORMA_CUBLASLT(NORMA_MEMBER)
  bool opened = false;

  Library() {
    const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen((std::string(NORMA_CUBLAS_FOLDER "/") + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    opened = true;
#define NORMA_OPEN(name) opened = open(library, #name, name##_) && opened;
    NORMA_CUBLASLT(NORMA_OPEN)
  }
  template <class F>
  static bool open(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    return function != nullptr;
  }
};
const Library& library() {
  static const Library* opened = new Library;  // stays until the program ends
  return *opened;
}

void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail("cuda: {}: {} ({})", what, library().cublasLtGetStatusString_(status), library().cublasLtGetStatusName_(status));
}

cudaDataType_t type_of(DType dtype) { return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// How well a pointer is aligned, as far as the library asks.
std::uint32_t alignment(const void* p) {
  std::uint32_t bytes = 256;
  while (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) bytes /= 2;
  return bytes;
}

/// A number in an algorithm's configuration; `missing` where the library does not tell it.
std::int32_t configured(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, std::int32_t missing) {
  std::int32_t value = 0;
  std::size_t written = 0;
  const cublasStatus_t status = library().cublasLtMatmulAlgoConfigGetAttribute_(&algorithm, attribute, &value, sizeof(value), &written);
  return status == CUBLAS_STATUS_SUCCESS ? value : missing;
}

/// One kind of product: descriptors and the algorithm, found once.
struct Plan {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, addend = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool found = false;

  Plan() = default;
  Plan(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {left, right, addend, out})
      if (layout) library().cublasLtMatrixLayoutDestroy_(layout);
    if (product) library().cublasLtMatmulDescDestroy_(product);
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) const {
    check(library().cublasLtMatmulDescSetAttribute_(product, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  }
  void point(const Gemm& g) const {
    if (g.row_sums || g.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.row_sums ? static_cast<const void*>(g.row_sums) : g.bias);
  }
};

using Key = std::tuple<DType, DType, Index, Index, Index, Index, Index, Index, Index, bool, bool, int, std::uint32_t, std::uint32_t, std::uint32_t,
                       std::uint32_t, std::uint32_t>;

Key key_of(const Gemm& g) {
  const void* vector = g.row_sums ? g.row_sums : g.bias;
  return {g.dtype, g.out_dtype, g.m, g.n, g.k, g.a.pitch, g.b.pitch, g.c_pitch, g.addend_pitch, g.a.transposed, g.b.transposed,
          (g.bias ? 1 : 0) + (g.addend ? 2 : 0) + (g.row_sums ? 4 : 0), alignment(g.a.data), alignment(g.b.data), alignment(g.c),
          alignment(g.addend), alignment(vector)};
}

class CuBlasLt : public LtBlas {
 public:
  CuBlasLt(Runtime& runtime, void* workspace, std::size_t workspace_bytes, bool gradients, bool verbose)
      : runtime_(runtime), workspace_(workspace), workspace_bytes_(workspace_bytes), gradients_(gradients), verbose_(verbose) {
    runtime_.stream();  // makes its device the current one
    check(library().cublasLtCreate_(&handle_), "cublasLtCreate");
    if (verbose_) fmt::print(stderr, "cuda: cuBLASLt {}\n", library().cublasLtGetVersion_());
  }
  ~CuBlasLt() override {
    plans_.clear();
    library().cublasLtDestroy_(handle_);
  }

  bool multiply(const Gemm& g) override {
    if (g.batch != 1 || g.dtype == DType::f64 || (g.row_sums && !gradients_)) return false;
    // The search is not told how a bias is aligned, and is reported to name kernels that read it 16 bytes at a time and fault.
    if (alignment(g.bias) < 16 || alignment(g.row_sums) < 16) return false;
    auto* stream = static_cast<cudaStream_t>(runtime_.stream());
    auto& slot = plans_[key_of(g)];
    if (!slot) slot = make_plan(g);
    const Plan& plan = *slot;
    if (!plan.found) return false;
    plan.point(g);
    const float one = 1, beta = g.addend ? 1 : 0;
    const cublasStatus_t status =
        library().cublasLtMatmul_(handle_, plan.product, &one, g.b.data, plan.left, g.a.data, plan.right, &beta, g.addend ? g.addend : g.c, plan.addend,
                                  g.c, plan.out, &plan.algorithm, workspace_, workspace_bytes_, stream);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {  // before anything is launched, whatever was named
      slot->found = false;
      if (verbose_) tell(g, fmt::format("refused: {}", library().cublasLtGetStatusName_(status)));
      return false;
    }
    check(status, "cublasLtMatmul");
    return true;
  }

 private:
  /// Row-major C = A B is column-major C^T = B^T A^T, so that A and B change places, and what is said of C's columns holds for the rows
  /// of C^T: the bias has one element for each of them, as the library wants it, and the sums over k of its second operand are those of
  /// the rows of A.
  std::unique_ptr<Plan> make_plan(const Gemm& g) {
    auto plan = std::make_unique<Plan>();
    check(library().cublasLtMatmulDescCreate_(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const auto operation = [](const Gemm::Operand& x) { return x.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    plan->set(CUBLASLT_MATMUL_DESC_TRANSA, operation(g.b));
    plan->set(CUBLASLT_MATMUL_DESC_TRANSB, operation(g.a));
    if (g.bias || g.row_sums) {
      plan->set(CUBLASLT_MATMUL_DESC_EPILOGUE, g.row_sums ? CUBLASLT_EPILOGUE_BGRADB : CUBLASLT_EPILOGUE_BIAS);
      plan->set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<std::int32_t>(type_of(g.out_dtype)));
      plan->point(g);  // the search asks whether it is there
    }
    const auto layout = [](DType dtype, Index rows, Index columns, Index pitch) {
      cublasLtMatrixLayout_t made = nullptr;
      check(library().cublasLtMatrixLayoutCreate_(&made, type_of(dtype), static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns), pitch),
            "cublasLtMatrixLayoutCreate");
      return made;
    };
    // As stored, by columns: B's n (or, transposed, k) is what runs fastest.
    plan->left = g.b.transposed ? layout(g.dtype, g.k, g.n, g.b.pitch) : layout(g.dtype, g.n, g.k, g.b.pitch);
    plan->right = g.a.transposed ? layout(g.dtype, g.m, g.k, g.a.pitch) : layout(g.dtype, g.k, g.m, g.a.pitch);
    plan->out = layout(g.out_dtype, g.n, g.m, g.c_pitch);
    plan->addend = layout(g.out_dtype, g.n, g.m, g.addend ? g.addend_pitch : g.c_pitch);

    cublasLtMatmulPreference_t wish = nullptr;
    check(library().cublasLtMatmulPreferenceCreate_(&wish), "cublasLtMatmulPreferenceCreate");
    const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, void (*)(cublasLtMatmulPreference_t)> owner(
        wish, [](cublasLtMatmulPreference_t p) { library().cublasLtMatmulPreferenceDestroy_(p); });
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(library().cublasLtMatmulPreferenceSetAttribute_(wish, attribute, &value, sizeof(value)), "cublasLtMatmulPreferenceSetAttribute");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes_);
    // Parts of a sum over k meet in f32 and in one order. Where k is no multiple of 64 it is not cut: on Hopper 12.8 and 13.1 are reported to leave
    // out its last terms then, from k = 11,528 on and without an error.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<std::uint32_t>(g.k % 64 ? CUBLASLT_REDUCTION_SCHEME_NONE : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(g.b.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(g.a.data));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(g.addend ? g.addend : g.c));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(g.c));
    constexpr int most_results = 8;
    cublasLtMatmulHeuristicResult_t results[most_results] = {};
    int count = 0;
    const cublasStatus_t status = library().cublasLtMatmulAlgoGetHeuristic_(handle_, plan->product, plan->left, plan->right, plan->addend, plan->out,
                                                                            wish, most_results, results, &count);
    // What it does not cover it says so; other trouble may pass, and is not kept.
    if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) check(status, "cublasLtMatmulAlgoGetHeuristic");
    if (status != CUBLAS_STATUS_SUCCESS) count = 0;
    if (verbose_ && count == 0) tell(g, "there is no algorithm");
    for (int i = 0; i < count && !plan->found; ++i) {
      plan->found = results[i].state == CUBLAS_STATUS_SUCCESS && !leaves_idle(g, results[i]);
      plan->algorithm = results[i].algo;
      if (verbose_)
        tell(g, fmt::format("algorithm {}, tile {}, split in {}, {:.2f} waves: {}", configured(results[i].algo, CUBLASLT_ALGO_CONFIG_ID, -1),
                            configured(results[i].algo, CUBLASLT_ALGO_CONFIG_TILE_ID, -1), splits(results[i]), results[i].wavesCount,
                            plan->found ? "taken" : "passed over"));
    }
    return plan;
  }

  static std::int32_t splits(const cublasLtMatmulHeuristicResult_t& result) { return configured(result.algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, 1); }

  /// Whether a small product of a long sum, as a gradient of a weight is, would be computed by few blocks while the rest of the device has nothing
  /// to do: then cuBLAS's own product, which may cut the sum, and a kernel that sums the rows are expected to be faster.
  static bool leaves_idle(const Gemm& g, const cublasLtMatmulHeuristicResult_t& result) {
    return g.row_sums && g.k >= 2048 && result.wavesCount < 0.5f && splits(result) == 1;
  }

  static void tell(const Gemm& g, std::string_view what) {
    fmt::print(stderr, "cuda: cuBLASLt, {} to {}, {} x {}, sum of {}{}{}{}: {}\n", name(g.dtype), name(g.out_dtype), g.m, g.n, g.k, g.bias ? ", bias" : "",
               g.addend ? ", addend" : "", g.row_sums ? ", sums of rows" : "", what);
  }

  Runtime& runtime_;
  void* workspace_;
  std::size_t workspace_bytes_;
  bool gradients_;  // sums the gradients of biases too
  bool verbose_;    // tells on stderr what is chosen
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace

std::unique_ptr<LtBlas> make_lt_blas(Runtime& runtime, void* workspace, std::size_t workspace_bytes) {
  const char* set = std::getenv("NORMA_CUDA_LT");
  const std::string_view word = set ? set : "all";
  if (word != "all" && word != "forward" && word != "off" && word != "verbose")
    fail("NORMA_CUDA_LT: \"{}\" is unknown; there are all, forward, off, verbose (all, and tells which algorithms are taken)", word);
  if (word == "off" || !library().opened) return nullptr;
  return std::make_unique<CuBlasLt>(runtime, workspace, workspace_bytes, word != "forward", word == "verbose");
}

}  // namespace norma::cuda
