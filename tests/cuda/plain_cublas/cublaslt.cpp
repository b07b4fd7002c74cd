// cuBLASLt without a device, for the tests: the functions that blaslt_cuda.cpp opens, by plain loops. Attributes have the sizes that the header
// says; algorithms are found where the matrices' addresses and leading dimensions are multiples of 16 bytes, and hold for what was asked alone. How a
// bias is aligned the search does not ask, and the product fails. The first algorithm does not cut the sum, and keeps a tenth of the device busy; the
// second, where it may, cuts it, and then leaves out what plain cuBLAS does. Sums of 136 terms are found algorithms for and then refused.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>

#include "tests/cuda/plain_cublas/products.h"

using namespace norma::plain_cublas;

namespace {

struct Desc {
  cublasComputeType_t compute;
  cudaDataType scale;
  std::int32_t transa = CUBLAS_OP_N, transb = CUBLAS_OP_N, bias_type = -1;
  std::uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
};
struct Matrix {
  cudaDataType type;
  std::uint64_t rows, columns;
  std::int64_t ld;
  bool operator==(const Matrix&) const = default;
};
struct Wish {
  std::uint64_t workspace = 0;
  std::uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK, alignment[4] = {256, 256, 256, 256};
};
/// What an algorithm was found for; its place is cublasLtMatmulAlgo_t.
struct Found {
  std::uint32_t magic, epilogue, alignment[4];
  std::uint32_t bias_alignment;
  std::uint32_t m, n, k;
  std::int32_t splits;
};
constexpr std::uint32_t magic = 0x11ad;
static_assert(sizeof(Found) <= sizeof(cublasLtMatmulAlgo_t));

template <class T>
cublasStatus_t put(T& to, const void* value, std::size_t bytes) {
  if (bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
Desc& of(cublasLtMatmulDesc_t x) { return *reinterpret_cast<Desc*>(x); }
Matrix& of(cublasLtMatrixLayout_t x) { return *reinterpret_cast<Matrix*>(x); }
Wish& of(cublasLtMatmulPreference_t x) { return *reinterpret_cast<Wish*>(x); }
std::int64_t bytes_of(cudaDataType type) { return type == CUDA_R_16BF ? 2 : 4; }

/// Whether the description is one that the header allows; m, n, k of it.
bool fits(const Desc& p, const Matrix& a, const Matrix& b, const Matrix& c, const Matrix& d, Found& found) {
  const bool na = p.transa == CUBLAS_OP_N, nb = p.transb == CUBLAS_OP_N;
  const std::uint64_t m = na ? a.rows : a.columns, k = na ? a.columns : a.rows, n = nb ? b.columns : b.rows;
  for (const Matrix* x : {&a, &b, &c, &d})
    if (x->ld < static_cast<std::int64_t>(x->rows)) return false;
  if ((nb ? b.rows : b.columns) != k || d.rows != m || d.columns != n || c.rows != m || c.columns != n || c.type != d.type) return false;
  if (p.compute != CUBLAS_COMPUTE_32F || p.scale != CUDA_R_32F || a.type != b.type) return false;
  found.m = static_cast<std::uint32_t>(m), found.n = static_cast<std::uint32_t>(n), found.k = static_cast<std::uint32_t>(k);
  found.epilogue = p.epilogue, found.magic = magic;
  return true;
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = reinterpret_cast<cublasLtHandle_t>(new int);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete reinterpret_cast<int*>(handle);
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasLtGetStatusString(cublasStatus_t) { return "a status of the plain cuBLASLt"; }
const char* cublasLtGetStatusName(cublasStatus_t status) { return name_of(status); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t compute, cudaDataType_t scale) {
  *desc = reinterpret_cast<cublasLtMatmulDesc_t>(new Desc{compute, scale});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete &of(desc);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void* value, size_t bytes) {
  Desc& d = of(desc);
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return put(d.transa, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return put(d.transb, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return put(d.epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return put(d.bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return put(d.bias_type, value, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(new Matrix{type, rows, columns, ld});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete &of(layout);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* wish) {
  *wish = reinterpret_cast<cublasLtMatmulPreference_t>(new Wish);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t wish) {
  delete &of(wish);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t wish, cublasLtMatmulPreferenceAttributes_t attribute, const void* value, size_t bytes) {
  Wish& w = of(wish);
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return put(w.workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return put(w.schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return put(w.alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return put(w.alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return put(w.alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return put(w.alignment[3], value, bytes);
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t wish, int most, cublasLtMatmulHeuristicResult_t results[], int* count) {
  *count = 0;
  const Alone alone;
  if (!alone) return CUBLAS_STATUS_INTERNAL_ERROR;
  if (most < 1) return CUBLAS_STATUS_INVALID_VALUE;
  const Desc& p = of(desc);
  Found found{};
  if (!fits(p, of(a), of(b), of(c), of(d), found)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool narrow = of(a).type == CUDA_R_16BF && (of(d).type == CUDA_R_16BF || of(d).type == CUDA_R_32F);
  if (!narrow && !(of(a).type == CUDA_R_32F && of(d).type == CUDA_R_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
  const bool beside = p.epilogue == CUBLASLT_EPILOGUE_BIAS || p.epilogue == CUBLASLT_EPILOGUE_BGRADB;
  if (!beside && p.epilogue != CUBLASLT_EPILOGUE_DEFAULT) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (beside && (!p.bias || (p.bias_type != -1 && p.bias_type != of(d).type))) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (of(wish).workspace < (std::uint64_t{4} << 20) || of(wish).workspace > (std::uint64_t{1} << 31)) return CUBLAS_STATUS_INVALID_VALUE;
  const cublasLtMatrixLayout_t all[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    found.alignment[i] = of(wish).alignment[i];
    if (found.alignment[i] < 16 || of(all[i]).ld * bytes_of(of(all[i]).type) % 16 != 0) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  found.bias_alignment = beside ? 16 : 1;
  for (const std::int32_t splits : {1, 4}) {
    if (*count == most || (splits > 1 && !(of(wish).schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE))) break;
    found.splits = splits;
    cublasLtMatmulHeuristicResult_t& result = results[(*count)++] = {};
    std::memcpy(&result.algo, &found, sizeof found);
    result.workspaceSize = of(wish).workspace;
    result.wavesCount = 0.1f * static_cast<float>(splits);
  }
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algo, cublasLtMatmulAlgoConfigAttributes_t attribute, void* value, size_t bytes,
                                                    size_t* written) {
  Found found{};
  std::memcpy(&found, algo, sizeof found);
  *written = sizeof(std::int32_t);
  if (found.magic != magic || bytes != *written) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID:
    case CUBLASLT_ALGO_CONFIG_TILE_ID: return std::memset(value, 0, bytes), CUBLAS_STATUS_SUCCESS;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM: return std::memcpy(value, &found.splits, bytes), CUBLAS_STATUS_SUCCESS;
    default: return CUBLAS_STATUS_INVALID_VALUE;
  }
}
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
  const Alone alone;
  if (!alone) return CUBLAS_STATUS_INTERNAL_ERROR;
  const Desc p = of(desc);
  Found found{}, now{};
  std::memcpy(&found, algo, sizeof found);
  if (!stream || found.magic != magic || !fits(p, of(a_layout), of(b_layout), of(c_layout), of(d_layout), now)) return CUBLAS_STATUS_INVALID_VALUE;
  if (found.m != now.m || found.n != now.n || found.k != now.k || found.epilogue != now.epilogue) return CUBLAS_STATUS_INVALID_VALUE;
  if (now.k == 136) return CUBLAS_STATUS_NOT_SUPPORTED;
  const void* all[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (!aligned(all[i], found.alignment[i])) return CUBLAS_STATUS_EXECUTION_FAILED;
  if (!aligned(p.bias, found.bias_alignment) || !aligned(workspace, 256) || workspace_bytes < (std::size_t{4} << 20)) return CUBLAS_STATUS_EXECUTION_FAILED;
  const auto columns = [](const void* data, cublasLtMatrixLayout_t layout) { return Columns{data, of(layout).type, of(layout).ld}; };
  const Columns x = columns(a, a_layout), y = columns(b, b_layout), z = columns(c, c_layout), to = columns(d, d_layout);
  const Columns bias{p.bias, to.type, 0};  // packed: element i is row i
  const double one = *static_cast<const float*>(alpha), other = *static_cast<const float*>(beta);
  const auto m = std::int64_t{now.m}, n = std::int64_t{now.n}, k = std::int64_t{now.k};
  const std::int64_t summed = found.splits > 1 && k >= 4096 ? k - k % 64 : k;
  norma::cuda::emulator::enqueue(stream, [=] {
    if (p.epilogue == CUBLASLT_EPILOGUE_BGRADB)
      for (std::int64_t j = 0; j < n; ++j) {
        float sum = 0;
        for (std::int64_t l = 0; l < k; ++l) sum += static_cast<float>(element(y, p.transb != CUBLAS_OP_N, l, j));
        bias.set(j, 0, sum);
      }
    multiply<float>(m, n, summed, one, x, p.transa != CUBLAS_OP_N, y, p.transb != CUBLAS_OP_N, to, [=](std::int64_t i, std::int64_t j) {
      return (p.epilogue == CUBLASLT_EPILOGUE_BIAS ? bias.at(i, 0) : 0.0) + (other != 0 ? other * z.at(i, j) : 0.0);
    });
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
