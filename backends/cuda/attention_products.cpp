#include "backends/cuda/attention_products.h"

#include <cstdlib>

#include "backends/cuda/runtime.h"
#include "core/error.h"

namespace norma::cuda {
namespace {

AttentionProducts named(std::string_view word) {
  if (word == "mma") return AttentionProducts::mma;
  if (word == "wgmma") return AttentionProducts::wgmma;
  fail("NORMA_CUDA_ATTENTION: unknown products \"{}\"; there are mma, wgmma", word);
}

AttentionProducts& active() {
  static AttentionProducts chosen = [] {
    const char* word = std::getenv("NORMA_CUDA_ATTENTION");
    return word && *word ? named(word) : AttentionProducts::mma;
  }();
  return chosen;
}

}  // namespace

AttentionProducts attention_products(const Runtime& runtime) {
  const int capability = runtime.compute_capability();
  if (active() == AttentionProducts::wgmma && capability != 90)
    fail("NORMA_CUDA_ATTENTION: wgmma needs compute capability 9.0, and {} has {}.{}", runtime.text(), capability / 10,
         capability % 10);
  return active();
}
void set_attention_products(std::string_view word) { active() = named(word); }

}  // namespace norma::cuda
