// What the self-check for aarch64 has in place of oneTBB and OpenBLAS, which are not cross-installed: a pool of one thread and a
// library that declines. Results are the same bits with any number of threads, so one is as good.
#include <cstdlib>
#include <map>
#include <memory>

#include "backends/cpu/gemm_blas.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {

void set_threads(int) {}
int threads() { return 1; }

void detail::run_tasks(std::int64_t count, void (*body)(void*, std::int64_t), void* context) {
  for (std::int64_t i = 0; i < count; ++i) body(context, i);
}

void* scratch(Slot slot, std::size_t bytes) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  static std::map<Slot, std::pair<std::unique_ptr<void, Free>, std::size_t>> slots;
  auto& [block, size] = slots[slot];
  if (size < bytes || !block) {
    size = (bytes / 64 + 1) * 64;
    block.reset(std::aligned_alloc(64, size));
  }
  return block.get();
}

template <class T>
bool blas_product(std::int64_t, std::int64_t, std::int64_t, Matrix<const T>, Matrix<const T>, T*, std::int64_t, bool) {
  return false;
}
template bool blas_product<float>(std::int64_t, std::int64_t, std::int64_t, Matrix<const float>, Matrix<const float>, float*, std::int64_t,
                                  bool);
template bool blas_product<double>(std::int64_t, std::int64_t, std::int64_t, Matrix<const double>, Matrix<const double>, double*, std::int64_t,
                                   bool);

}  // namespace norma::cpu
