// Random draws on the CPU: whole Philox blocks in parallel; the numbers are those of backends/common/draws.h.
#include <algorithm>

#include "backends/common/convert.h"
#include "backends/common/draws.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"

namespace norma::cpu {
namespace {

constexpr Index grain = 4096;  // blocks of four elements per task

/// four(words, values) turns each block into four elements.
template <class T, class Four>
void draw(RandomStream stream, T* out, Index size, Four&& four) {
  parallel_for((size + 3) / 4, grain, [&](Index begin, Index end) {
    for (Index block = begin; block < end; ++block) {
      T values[4];
      four(stream.block(static_cast<std::uint64_t>(block)), values);
      std::copy_n(values, std::min<Index>(4, size - 4 * block), out + 4 * block);
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
        return draw(stream, data, size, [](const Philox& words, T* values) {
          for (int i = 0; i < 4; ++i) values[i] = convert<T>(uniform_from(words[static_cast<std::size_t>(i)]));
        });
      case RandomKind::normal:
        return draw(stream, data, size, [](const Philox& words, T* values) {
          double x[4];
          normal_pair(words[0], words[1], x[0], x[1]);
          normal_pair(words[2], words[3], x[2], x[3]);
          for (int i = 0; i < 4; ++i) values[i] = convert<T>(x[i]);
        });
      case RandomKind::keep:
        const std::uint64_t threshold = drop_threshold(p);
        const T scale = convert<T>(keep_scale(p)), zero = convert<T>(0);
        return draw(stream, data, size, [=](const Philox& words, T* values) {
          for (int i = 0; i < 4; ++i) values[i] = keeps(words[static_cast<std::size_t>(i)], threshold) ? scale : zero;
        });
    }
  });
}

}  // namespace norma::cpu
