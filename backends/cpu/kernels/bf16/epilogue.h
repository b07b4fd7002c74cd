// From whole sums in f32 to activations in bf16.
#pragma once

#include "backends/cpu/kernels/bf16/forms.h"
#include "backends/cpu/kernels/vmath.h"

namespace norma::cpu::NORMA_ISA {
namespace {

/// R rows of V vectors, side by side; n < width elements of one vector where not `whole`.
template <int R, int V, bool whole>
NORMA_INLINE void finish_group(int n, const float* sums, int64_t ld_sums, Bf16Bits* c, int64_t ldc, const Bf16Epilogue& e,
                               int64_t offset, const float* bias) {
  constexpr int count = R * V;
  const auto at = [](int64_t ld, int i) { return i / V * ld + i % V * width; };
  const auto get = [n](const auto* p) { return whole ? load(p) : load_n(p, n); };
  const auto put = [n](Bf16Bits* p, F v) { whole ? store(p, v) : store_n(p, v, n); };
  F x[count];
  if (whole) {  // what the next panel's epilogue reads and writes of these rows
    for (int r = 0; r < R; ++r)
      for (int j = V * width; j < 2 * V * width; j += 32) {
        __builtin_prefetch(c + r * ldc + j);
        if (e.gelu_pre) __builtin_prefetch(e.gelu_pre + offset + r * e.ld + j);
        if (e.residual) __builtin_prefetch(e.residual + offset + r * e.ld + j);
      }
  }
  each<count>([&](int i) { x[i] = load(sums + at(ld_sums, i)); });
  if (bias) each<count>([&](int i) { x[i] += get(bias + i % V * width); });
  if (e.pre) {  // for the backward pass
    if constexpr (whole && V % 2 == 0)
      each<count / 2>([&](int i) { stream(e.pre + offset + at(e.ld, 2 * i), round_side_by_side(x[2 * i], x[2 * i + 1])); });
    else
      each<count>([&](int i) { put(e.pre + offset + at(e.ld, i), x[i]); });
  }
  if (e.gelu) gelu<gelu_terms_for_bf16>(x);
  if (e.gelu_pre) {
    F slope[count];
    each<count>([&](int i) { slope[i] = get(e.gelu_pre + offset + at(e.ld, i)); });
    gelu_grad<gelu_terms_for_bf16>(slope);
    each<count>([&](int i) { x[i] *= slope[i]; });
  }
  if (e.residual) each<count>([&](int i) { x[i] += get(e.residual + offset + at(e.ld, i)); });
  if constexpr (whole && V % 2 == 0)
    each<count / 2>([&](int i) { store_words(c + at(ldc, 2 * i), round_side_by_side(x[2 * i], x[2 * i + 1])); });
  else
    each<count>([&](int i) { put(c + at(ldc, i), x[i]); });
}

/// Rows [begin, end) of a strip; `vectors` are those of a panel.
template <int vectors>
NORMA_INLINE void finish_rows(const Bf16Strip& s, int64_t begin, int64_t end) {
  const Bf16Epilogue& e = s.epilogue;
  int64_t i = begin;
  constexpr int rows = vectors > 3 ? 1 : 2;  // side by side: as many as leave registers for a GELU
  if (s.n == vectors * width)
    for (; i + rows <= end; i += rows)
      finish_group<rows, vectors, true>(0, s.sums + i * s.ld_sums, s.ld_sums, s.c + i * s.ldc, s.ldc, e, i * e.ld, e.bias);
  for (; i < end; ++i) {
    for (int64_t j = 0; j < s.n; j += width) {
      const float* bias = e.bias ? e.bias + j : nullptr;
      const float* sums = s.sums + i * s.ld_sums + j;
      Bf16Bits* c = s.c + i * s.ldc + j;
      if (j + width <= s.n)
        finish_group<1, 1, true>(0, sums, 0, c, 0, e, i * e.ld + j, bias);
      else
        finish_group<1, 1, false>(static_cast<int>(s.n - j), sums, 0, c, 0, e, i * e.ld + j, bias);
    }
  }
}

template <int vectors>
void finish(const Bf16Strip& s) {
  finish_rows<vectors>(s, 0, s.m);
}

}  // namespace
}  // namespace norma::cpu::NORMA_ISA
