// Makes the CPU backend known to the registry of core/.
#include "backends/cpu/register.h"

#include "backends/cpu/cpu_backend.h"

namespace norma {

void register_cpu() {
  register_backend(Device::Kind::cpu,
                   [](int) -> std::unique_ptr<Backend> { return std::make_unique<cpu::CpuBackend>(); });
}

}  // namespace norma
