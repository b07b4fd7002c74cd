// Explicit calls, because a linker drops static initialisers of unused library members.
#include "backends/register_all.h"

#include "backends/cpu/cpu_backend.h"
#if defined(NORMA_HAS_CUDA)
#include "backends/cuda/cuda_backend.h"
#endif
#include "backends/reference/reference.h"

namespace norma {

void register_backends() {
  register_reference();
  register_cpu();
#if defined(NORMA_HAS_CUDA)
  register_cuda();
#endif
}

}  // namespace norma
