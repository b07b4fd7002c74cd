// Dropout of attention weights, drawn again in the backward pass.
#pragma once

#include "backends/cpu/kernels/attention_rows.h"
#include "backends/cpu/kernels/philox.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// keep[j] for j < count: keep_scale, or 0 where the draw of element `index` + j says so; keep has room for 16 more.
template <class T>
void draw_keep(const AttentionHead<T>& h, std::uint64_t index, Int count, T* keep, std::uint32_t* words) {
  const Int skip = static_cast<Int>(index % 4);
  philox_words(h.seed, h.stream, index / 4, (count + skip + 3) / 4, words);
  const T scale = static_cast<T>(h.keep_scale);
  for (Int j = 0; j < count; ++j) keep[j] = words[skip + j] >= h.drop_below ? scale : T{0};
  for (Int j = count; j < round_up(count, lanes<T>); ++j) keep[j] = 0;
}

template <class T>
NORMA_INLINE void multiply_by(const T* keep, Int count, T* x) {
  for (Int j = 0; j < count; j += lanes<T>) store(x + j, load(x + j) * load(keep + j));
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
