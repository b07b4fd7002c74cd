// The reference backend's memory, and its registration.
#include "backends/reference/reference.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/host_limits.h"

namespace norma {

void* ReferenceBackend::allocate(std::size_t bytes) {
  if (bytes > checked_reservation && bytes > available_host_memory()) fail_out_of_host_memory(bytes);
  void* block = nullptr;  // of exactly so many bytes: a sanitizer sees what lies behind them
  if (::posix_memalign(&block, 64, std::max<std::size_t>(bytes, 1)) != 0) fail_out_of_host_memory(bytes);
  const std::lock_guard lock(mutex_);
  use_.in_use += bytes;
  use_.reserved += bytes;
  use_.peak = std::max(use_.peak, use_.in_use);
  ++use_.system_requests;
  return block;
}

void ReferenceBackend::release(void* block, std::size_t bytes) {
  std::free(block);
  const std::lock_guard lock(mutex_);
  use_.in_use -= bytes;
  use_.reserved -= bytes;
}

void ReferenceBackend::upload(void* device, const void* host, std::size_t bytes) {
  if (bytes) std::memcpy(device, host, bytes);
}

void ReferenceBackend::download(void* host, const void* device, std::size_t bytes) {
  if (bytes) std::memcpy(host, device, bytes);
}

MemoryUse ReferenceBackend::memory() const {
  const std::lock_guard lock(mutex_);
  return use_;
}

void ReferenceBackend::reset_peak() {
  const std::lock_guard lock(mutex_);
  use_.peak = use_.in_use;
}

void register_reference() {
  register_backend(Device::Kind::reference,
                   [](int) -> std::unique_ptr<Backend> { return std::make_unique<ReferenceBackend>(); });
}

}  // namespace norma
