// Small kernels around attention: the statistics of a head from those of its blocks, and prefix counts of the key mask.
#include "backends/cuda/kernels/attention_phi.h"

namespace norma::cuda {
namespace {

static_assert(attention_stats <= static_cast<int>(warp_size), "a warp merges the statistics of a head, a thread each");

NORMA_KERNEL void merge_kernel(AttentionProblem p, std::int32_t blocks, bool gradients) {
  const int s = static_cast<int>(thread_id());
  if (s >= attention_stats) return;
  const auto stat = static_cast<AttentionStat>(s);
  const bool gradient = stat == AttentionStat::grad_a2 || stat == AttentionStat::grad_s2;
  if (gradients && !gradient) return;
  const double* partial = p.partial_stats + std::int64_t{block_id().x} * blocks * attention_stats;
  double x = partial[s];
  for (std::int32_t i = 1; i < blocks; ++i) x = merged(stat, x, partial[i * attention_stats + s]);
  if (!gradients && gradient) x = 0;
  if (stat == AttentionStat::entropy && !p.normalize && p.phi != Phi::softmax) x = static_cast<double>(NAN);
  p.stats[std::int64_t{block_id().x} * attention_stats + s] = x;
}

constexpr unsigned count_threads = 256, count_warps = count_threads / warp_size;

/// A block counts the keys of one example, as many at a time as it has threads.
NORMA_KERNEL void count_kernel(AttentionProblem p, std::int32_t* seen_before) {
  const unsigned lane = thread_id() % warp_size, warp = thread_id() / warp_size;
  const std::uint8_t* mask = p.key_mask + block_id().x * p.mask_batch;
  std::int32_t* to = seen_before + std::int64_t{block_id().x} * (p.keys + 1);
  std::int32_t* warps = reinterpret_cast<std::int32_t*>(shared_memory());  // what each has seen
  if (thread_id() == 0) to[0] = 0;
  std::int32_t before = 0;
  for (std::int32_t first = 0; first < p.keys; first += static_cast<std::int32_t>(count_threads)) {
    const std::int32_t j = first + static_cast<std::int32_t>(thread_id());
    const unsigned seen = ballot(j < p.keys && mask[j * p.mask_key] != 0);
    if (lane == 0) warps[warp] = static_cast<std::int32_t>(count_bits(seen));
    block_barrier();
    std::int32_t count = before + static_cast<std::int32_t>(count_bits(seen << (warp_size - 1 - lane)));  // with the thread's own
    for (unsigned w = 0; w < count_warps; ++w) {
      if (w < warp) count += warps[w];
      before += warps[w];
    }
    if (j < p.keys) to[j + 1] = count;
    block_barrier();
  }
}

}  // namespace

void merge_attention_stats(void* stream, const AttentionProblem& p, std::int32_t blocks, bool gradients) {
  launch(stream, {static_cast<unsigned>(p.batches * p.heads)}, warp_size, 0, merge_kernel, p, blocks, gradients);
}

void count_visible_keys(void* stream, const AttentionProblem& p, std::int32_t* seen_before) {
  launch(stream, {static_cast<unsigned>(p.batches)}, count_threads, count_warps * sizeof(std::int32_t), count_kernel, p, seen_before);
}

}  // namespace norma::cuda
