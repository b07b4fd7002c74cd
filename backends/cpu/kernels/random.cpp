// Random draws, from Philox words to what dropout multiplies by.
#include "backends/cpu/kernels/philox.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu::NORMA_ISA {
namespace {

void words(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, std::int64_t count, std::uint32_t* out) {
  philox_words(seed, stream, first, count, out);
}

void keep(std::int64_t n, const std::uint32_t* words, std::uint32_t below, float scale, float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = words[i] >= below ? scale : 0.0f;
}

}  // namespace

const RandomTable random_kernels = {words, keep};

}  // namespace norma::cpu::NORMA_ISA
