// A kernel whose threads exchange numbers through shared memory in four ways, with all the barriers it needs or without one of them, which the
// argument names. Under the preset tsan the tests `cuda_race_...` expect ThreadSanitizer to name the race, though the numbers come out right or
// none looks at them: what backends/cuda/emulator/order.h tells it must not hide races.
#include <cstdio>
#include <cstring>
#include <memory>

#include "backends/cuda/device.h"
#include "backends/cuda/runtime.h"

using namespace norma::cuda;

namespace {

constexpr unsigned threads = 64;
enum Missing : int { nothing, after_writes, of_the_warp, after_reads, before_a_copy };

void kernel(const float* in, float* out, int missing) {
  float* space = reinterpret_cast<float*>(shared_memory());
  const unsigned t = thread_id(), neighbour = t ^ 1;
  float sum = exchange_xor(in[4 * t], 1);  // a shuffle orders nothing

  space[t] = in[4 * t];
  if (missing == of_the_warp)
    ballot(true);
  else
    warp_barrier();
  sum += space[neighbour];
  if (missing != after_reads) block_barrier();

  space[t] = in[4 * t + 1];  // read in rising order: a barrier that is missing here gives the same numbers on the emulator
  if (missing == after_writes)
    exchange_xor(0, 1);
  else
    block_barrier();
  sum += space[missing == after_writes ? neighbour : threads - 1 - t];

  if (missing != before_a_copy) block_barrier();
  copy_async(space + 4 * t, in + 4 * t, true);
  commit_copies();
  wait_copies<0>();
  block_barrier();
  out[t] = sum + space[4 * (threads - 1 - t)];
}

}  // namespace

int main(int count, char** words) {
  const char* names[] = {"nothing", "after_writes", "of_the_warp", "after_reads", "before_a_copy"};
  const auto runtime = make_runtime(0);
  alignas(16) static float in[4 * threads], out[threads];
  for (unsigned i = 0; i < 4 * threads; ++i) in[i] = static_cast<float>(i % 7);
  const auto run = [&](int missing) {
    launch(runtime->stream(), {3}, threads, 4 * threads * sizeof(float), kernel, in, out, missing);
    runtime->synchronize();  // work is done as late as it may
  };
  run(nothing);
  std::puts("no race so far");
  std::fflush(stdout);
  for (int i = 1; i < 5; ++i)
    if (count > 1 && std::strcmp(words[1], names[i]) == 0) run(i);
}
