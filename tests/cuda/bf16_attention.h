// bf16 attention by the kernels themselves, on the emulator: random heads of any sizes through two passes, so that one
// form's bits can be compared with another's.
#pragma once

#include <catch2/catch.hpp>
#include <cmath>
#include <memory>
#include <vector>

#include "backends/cuda/device.h"
#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/runtime.h"
#include "core/backend.h"
#include "core/random.h"

using namespace norma;
using namespace norma::cuda;

namespace {

inline Runtime& runtime() {
  static const std::unique_ptr<Runtime> one = make_runtime(0);
  return *one;
}

inline float number(std::uint64_t stream, std::uint64_t i) {
  return static_cast<float>(2 * uniform_from(RandomStream{7, stream}.word(i)) - 1);
}

struct Case {
  std::int32_t batches, heads, rows, keys, d, e;
  bool causal, masked, drop, measured;
};

struct Results {
  std::vector<std::vector<std::uint16_t>> bits;  // out, dq, dk, dv
  std::vector<float> lse;
  std::vector<double> stats, gradient_stats;
};

/// [B, H, rows, width], dense, 16-byte aligned, uniform in [-1, 1).
struct HeadValues {
  std::vector<bf16> values;
  HeadTensor tensor;
  HeadValues(const Case& c, std::int32_t rows, std::int32_t width, std::uint64_t stream)
      : values(static_cast<std::size_t>(c.batches) * static_cast<std::size_t>(c.heads) *
                   static_cast<std::size_t>(rows) * static_cast<std::size_t>(width) +
               8) {
    const std::size_t start = (16 - reinterpret_cast<std::uintptr_t>(values.data()) % 16) % 16 / sizeof(bf16);
    for (std::size_t i = 0; i + 8 < values.size(); ++i) values[start + i] = bf16(number(stream, i));
    tensor = {values.data() + start, std::int64_t{c.heads} * rows * width, std::int64_t{rows} * width, width};
  }
};

/// The kernels of a pass, and of how many rows a block's partial statistics are.
struct Kernels {
  void (*start)(void*, const AttentionProblem&);
  std::int32_t block_rows;
};
constexpr Kernels streaming_forward{attention_forward_bf16, forward_block_rows};
constexpr Kernels streaming_backward{attention_backward_bf16, backward_block_rows_bf16};

/// Both passes.
inline Results run(const Case& c, AttentionProblem p, const Kernels& forward, const Kernels& backward) {
  p.batches = c.batches, p.heads = c.heads, p.rows = c.rows, p.keys = c.keys, p.d = c.d, p.e = c.e;
  p.scale = 1 / std::sqrt(static_cast<float>(c.d)), p.causal = c.causal;
  const HeadValues q(c, c.rows, c.d, 1), k(c, c.keys, c.d, 2), v(c, c.keys, c.e, 3), out(c, c.rows, c.e, 4);
  const HeadValues dout(c, c.rows, c.e, 8), dq(c, c.rows, c.d, 9), dk(c, c.keys, c.d, 9), dv(c, c.keys, c.e, 9);
  p.q = q.tensor, p.k = k.tensor, p.v = v.tensor, p.out = out.tensor;
  p.dout = dout.tensor, p.dq = dq.tensor, p.dk = dk.tensor, p.dv = dv.tensor;
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(c.batches * c.keys));
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = number(5, i) < 0.4f;
  if (c.masked) p.key_mask = mask.data(), p.mask_batch = c.keys, p.mask_key = 1;
  if (c.drop) p.drop = true, p.drop_below = std::uint64_t{1} << 30, p.keep_scale = 4.0f / 3, p.stream = {9, 2};
  const auto heads = static_cast<std::size_t>(c.batches * c.heads), rows = heads * static_cast<std::size_t>(c.rows);
  Results all;
  all.lse.resize(rows);
  p.lse = all.lse.data(), p.lse_batch = std::int64_t{c.heads} * c.rows, p.lse_head = c.rows, p.lse_row = 1;
  std::vector<float> state(2 * rows);
  p.row_delta = state.data(), p.row_factor = state.data() + rows;
  const auto pass = [&](const Kernels& kernels, bool gradients, std::vector<double>& stats) {
    const std::int32_t blocks = (c.rows + kernels.block_rows - 1) / kernels.block_rows;
    std::vector<double> partial(heads * static_cast<std::size_t>(blocks * attention_stats));
    stats.resize(heads * attention_stats);
    if (c.measured) p.partial_stats = partial.data(), p.stats = stats.data();
    kernels.start(runtime().stream(), p);
    if (c.measured) merge_attention_stats(runtime().stream(), p, blocks, gradients);
    runtime().synchronize();
  };
  pass(forward, false, all.stats);
  pass(backward, true, all.gradient_stats);
  for (const HeadValues* x : {&out, &dq, &dk, &dv}) {
    all.bits.emplace_back();
    for (const bf16& value : x->values) all.bits.back().push_back(value.bits);
  }
  return all;
}

inline AttentionProblem softmax() { return {}; }
inline AttentionProblem cubic() {
  AttentionProblem p;
  p.phi = Phi::monomial, p.degree = 3, p.factor = 0.1f, p.row_scale = RowScale::inverse_sqrt_visible;
  return p;
}
inline AttentionProblem normalised() {
  AttentionProblem p;
  p.phi = Phi::polynomial, p.degree = 2, p.coefficient[0] = 0.1f, p.coefficient[2] = 1, p.normalize = true;
  return p;
}

/// NaN where NaN is wanted; `tolerance` is relative.
inline void check_statistics(const std::vector<double>& x, const std::vector<double>& y, double tolerance) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    INFO("statistic " << i % attention_stats);
    if (std::isnan(y[i]))
      CHECK(std::isnan(x[i]));
    else
      CHECK((x[i] == y[i] || x[i] == Approx(y[i]).epsilon(tolerance)));
  }
}

}  // namespace
