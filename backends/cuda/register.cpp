// Makes the CUDA backend known to the registry of core/. The device itself is opened on first use.
#include "backends/cuda/register.h"

#include "backends/cuda/cuda_backend.h"

namespace norma {

void register_cuda() {
  register_backend(Device::Kind::cuda,
                   [](int index) -> std::unique_ptr<Backend> { return std::make_unique<cuda::CudaBackend>(index); });
}

}  // namespace norma
