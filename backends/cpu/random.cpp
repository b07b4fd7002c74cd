// Random draws on the CPU: whole Philox blocks in parallel; the numbers are those of backends/common/draws.h.
#include <algorithm>

#include "backends/common/convert.h"
#include "backends/common/draws.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "backends/cpu/vector_kernels.h"

namespace norma::cpu {
namespace {

/// make(n, words, out) turns n words, of which n rounded up to whole blocks are there, into n elements.
template <class T, class Make>
void draw(RandomStream stream, T* out, Index size, Make&& make) {
  constexpr Index piece = 512, grain = 8 * piece;  // blocks of four elements: in the first-level cache, and of a task
  parallel_for((size + 3) / 4, grain, [&](Index begin, Index end) {
    std::uint32_t words[4 * piece + random_slack];
    for (Index block = begin; block < end; block += piece) {
      const Index count = std::min(piece, end - block);
      NORMA_KERNELS(random_kernels).words(stream.seed, stream.stream, static_cast<std::uint64_t>(block), count, words);
      make(std::min<Index>(4 * count, size - 4 * block), words, out + 4 * block);
    }
  });
}

}  // namespace

void CpuBackend::random(RandomKind kind, RandomStream stream, double p, const View& out) {
  visit_dtype(out.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    T* data = out.as<T>();
    const Index size = out.numel();
    switch (kind) {
      case RandomKind::uniform:
        return draw(stream, data, size, [](Index n, const std::uint32_t* words, T* values) {
          for (Index i = 0; i < n; ++i) values[i] = convert<T>(uniform_from(words[i]));
        });
      case RandomKind::normal:
        return draw(stream, data, size, [](Index n, const std::uint32_t* words, T* values) {
          for (Index i = 0; i < n; i += 2) {
            double pair[2];
            normal_pair(words[i], words[i + 1], pair[0], pair[1]);
            for (Index j = i; j < std::min(n, i + 2); ++j) values[j] = convert<T>(pair[j - i]);
          }
        });
      case RandomKind::keep:
        const std::uint64_t threshold = drop_threshold(p);
        const T scale = convert<T>(keep_scale(p)), zero = convert<T>(0);
        return draw(stream, data, size, [=](Index n, const std::uint32_t* words, T* values) {
          if constexpr (std::is_same_v<T, float>)
            if (threshold <= 0xffffffffu)
              return NORMA_KERNELS(random_kernels).keep(n, words, static_cast<std::uint32_t>(threshold), scale, values);
          for (Index i = 0; i < n; ++i) values[i] = keeps(words[i], threshold) ? scale : zero;
        });
    }
  });
}

}  // namespace norma::cpu
