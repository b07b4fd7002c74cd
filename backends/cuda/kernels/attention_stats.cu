// Small kernels around attention: the statistics of a head from those of its blocks, and prefix counts of the key mask.
#include "backends/cuda/kernels/attention_phi.h"

namespace norma::cuda {
namespace {

NORMA_KERNEL void merge_kernel(AttentionProblem p, std::int32_t blocks, bool gradients) {
  const int s = static_cast<int>(thread_id());
  if (s >= attention_stats) return;
  const bool gradient = s == static_cast<int>(AttentionStat::grad_a2) || s == static_cast<int>(AttentionStat::grad_s2);
  if (gradients && !gradient) return;
  const double* partial = p.partial_stats + std::int64_t{block_id().x} * blocks * attention_stats;
  double x = partial[s];
  for (std::int32_t i = 1; i < blocks; ++i) x = merge_stat(s, x, partial[i * attention_stats + s]);
  if (!gradients && gradient) x = 0;
  if (s == static_cast<int>(AttentionStat::entropy) && !p.normalize && p.phi != Phi::softmax) x = static_cast<double>(NAN);
  p.stats[std::int64_t{block_id().x} * attention_stats + s] = x;
}

NORMA_KERNEL void count_kernel(AttentionProblem p, std::int32_t* seen_before) {
  const std::int32_t b = static_cast<std::int32_t>(block_id().x * block_threads() + thread_id());
  if (b >= p.batches) return;
  std::int32_t* to = seen_before + std::int64_t{b} * (p.keys + 1);
  std::int32_t count = 0;
  to[0] = 0;
  for (std::int32_t j = 0; j < p.keys; ++j) {
    count += p.key_mask[b * p.mask_batch + j * p.mask_key] != 0;
    to[j + 1] = count;
  }
}

}  // namespace

void merge_attention_stats(void* stream, const AttentionProblem& p, std::int32_t blocks, bool gradients) {
  launch(stream, {static_cast<unsigned>(p.batches * p.heads)}, warp_size, 0, merge_kernel, p, blocks, gradients);
}

void count_visible_keys(void* stream, const AttentionProblem& p, std::int32_t* seen_before) {
  launch(stream, {static_cast<unsigned>((p.batches + 31) / 32)}, 32, 0, count_kernel, p, seen_before);
}

}  // namespace norma::cuda
