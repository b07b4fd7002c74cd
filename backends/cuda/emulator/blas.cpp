// Matrix products without a device: plain loops.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "backends/cuda/emulator/emulator.h"
#include "backends/cuda/runtime.h"

namespace norma::cuda {
namespace {

template <class Sum, class T>
Sum element(const Gemm::Operand& x, Index batch, Index row, Index column) {
  const Index at = batch * x.batch_stride + (x.transposed ? row + column * x.pitch : row * x.pitch + column);
  return static_cast<Sum>(static_cast<const T*>(x.data)[at]);
}

/// Sums in f32, as the device's, one after the other: of a thousand terms farther from the exact sum than its are.
template <class T, class Out>
void multiply_all(const Gemm& g) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const auto value = [](const void* data, Index at) { return static_cast<Sum>(static_cast<const Out*>(data)[at]); };
  std::vector<Sum> row(static_cast<std::size_t>(g.n));
  for (Index batch = 0; batch < g.batch; ++batch)
    for (Index i = 0; i < g.m; ++i) {
      row.assign(row.size(), 0);
      for (Index k = 0; k < g.k; ++k) {
        const Sum x = element<Sum, T>(g.a, batch, i, k);
        for (Index j = 0; j < g.n; ++j) row[static_cast<std::size_t>(j)] += x * element<Sum, T>(g.b, batch, k, j);
      }
      if (g.bias)
        for (Index j = 0; j < g.n; ++j) row[static_cast<std::size_t>(j)] += value(g.bias, j);
      if (g.addend)
        for (Index j = 0; j < g.n; ++j) row[static_cast<std::size_t>(j)] += value(g.addend, i * g.addend_pitch + j);
      if (g.row_sums) {
        Sum sum = 0;
        for (Index k = 0; k < g.k; ++k) sum += element<Sum, T>(g.a, batch, i, k);
        static_cast<Out*>(g.row_sums)[i] = static_cast<Out>(sum);
      }
      Out* to = static_cast<Out*>(g.c) + batch * g.c_batch_stride + i * g.c_pitch;
      for (Index j = 0; j < g.n; ++j) to[j] = static_cast<Out>(row[static_cast<std::size_t>(j)]);
    }
}

class EmulatedBlas : public Blas {
 public:
  explicit EmulatedBlas(Runtime& runtime) : runtime_(runtime) {}
  void multiply(const Gemm& gemm) override {
    check(gemm.a, gemm.m, gemm.k, "a");
    check(gemm.b, gemm.k, gemm.n, "b");
    if (gemm.c_pitch < gemm.n) fail("emulator: gemm: rows of {} elements of c overlap at pitch {}", gemm.n, gemm.c_pitch);
    if (gemm.batch > Gemm::most_batch) fail("emulator: gemm: {} products; a call takes {}", gemm.batch, Gemm::most_batch);
    if ((gemm.addend && gemm.addend == gemm.c) || (gemm.bias && gemm.row_sums)) fail("emulator: gemm: an addend in place, or a bias with sums of rows");
    emulator::enqueue(runtime_.stream(), [gemm] {
      if (gemm.dtype == DType::f32) return multiply_all<float, float>(gemm);
      if (gemm.dtype == DType::f64) return multiply_all<double, double>(gemm);
      if (gemm.out_dtype == DType::f32) return multiply_all<bf16, float>(gemm);
      multiply_all<bf16, bf16>(gemm);
    });
  }

  /// Covers what cuBLASLt does as a rule: addresses and pitches that are multiples of 16 bytes.
  bool multiply_with(const Gemm& g) override {
    if (g.batch != 1 || g.dtype == DType::f64) return false;
    const auto fits = [](const void* data, Index pitch, DType dtype) {
      return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && static_cast<std::size_t>(pitch) * size_of(dtype) % 16 == 0;
    };
    if (!fits(g.a.data, g.a.pitch, g.dtype) || !fits(g.b.data, g.b.pitch, g.dtype) || !fits(g.c, g.c_pitch, g.out_dtype)) return false;
    if (!fits(g.addend, g.addend_pitch, g.out_dtype) || !fits(g.bias, 0, g.out_dtype) || !fits(g.row_sums, 0, g.out_dtype)) return false;
    multiply(g);
    return true;
  }

 private:
  /// What cuBLAS demands of leading dimensions.
  static void check(const Gemm::Operand& x, Index rows, Index columns, const char* name) {
    if (x.pitch < std::max<Index>(1, x.transposed ? rows : columns))
      fail("emulator: gemm: {} [{}, {}] {} has pitch {}", name, rows, columns, x.transposed ? "transposed" : "", x.pitch);
  }
  Runtime& runtime_;
};

}  // namespace

std::unique_ptr<Blas> make_blas(Runtime& runtime) { return std::make_unique<EmulatedBlas>(runtime); }

}  // namespace norma::cuda
