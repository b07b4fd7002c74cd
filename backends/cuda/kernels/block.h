// What a block computes together, through shared memory. For .cu files.
#pragma once

#include "backends/cuda/device.h"

namespace norma::cuda {

/// join over the block's threads by one tree; thread 0 receives it. `space` holds one A a thread. Ends with a barrier.
template <class A, class Join>
NORMA_DEVICE A join_block(A mine, A* space, Join join) {
  const unsigned t = thread_id();
  space[t] = mine;
  block_barrier();
  for (unsigned half = block_threads() / 2; half > 0; half /= 2) {
    if (t < half) space[t] = join(space[t], space[t + half]);
    block_barrier();
  }
  const A all = space[0];
  block_barrier();
  return all;
}

}  // namespace norma::cuda
