#include "core/backend.h"

#include <map>
#include <mutex>

namespace norma {
namespace {

#define NORMA_NAME(word, ...) #word,
constexpr std::string_view unary_names[] = {NORMA_UNARY_OPS(NORMA_NAME)};
constexpr std::string_view binary_names[] = {NORMA_BINARY_OPS(NORMA_NAME)};
constexpr std::string_view reduce_names[] = {NORMA_REDUCE_OPS(NORMA_NAME)};
constexpr std::string_view stat_names[] = {NORMA_ATTENTION_STATS(NORMA_NAME)};
#undef NORMA_NAME

struct Registry {
  std::mutex mutex;
  std::map<Device::Kind, BackendFactory> factories;
  std::map<std::pair<Device::Kind, int>, std::unique_ptr<Backend>> made;
};
Registry& registry() {  // never destroyed: tensors may outlive static destructors
  static Registry* r = new Registry;
  return *r;
}

}  // namespace

std::string_view name(UnaryOp op) { return unary_names[static_cast<int>(op)]; }
std::string_view name(BinaryOp op) { return binary_names[static_cast<int>(op)]; }
std::string_view name(ReduceOp op) { return reduce_names[static_cast<int>(op)]; }
std::string_view name(AttentionStat s) { return stat_names[static_cast<int>(s)]; }

void register_backend(Device::Kind kind, BackendFactory factory) {
  std::lock_guard lock(registry().mutex);
  registry().factories[kind] = factory;
}

Backend& backend(Device device) {
  thread_local Device last;
  thread_local Backend* cached = nullptr;
  if (cached && last == device) return *cached;
  check(device);
  Registry& r = registry();
  std::lock_guard lock(r.mutex);
  auto& slot = r.made[{device.kind, device.index}];
  if (!slot) {
    auto factory = r.factories.find(device.kind);
    if (factory == r.factories.end()) {
      if (r.factories.empty()) fail("device {}: no backend is known yet; call register_backends() first (backends/register_all.h)", name(device));
      std::string there;
      for (auto& [kind, f] : r.factories) there += (there.empty() ? "" : ", ") + name(Device{kind, 0});
      fail("device {}: this build has no such backend; it has: {}{}", name(device), there,
           device.kind == Device::Kind::cuda ? "; one with a CUDA toolkit has it: docs/gpu.md" : "");
    }
    slot = factory->second(device.index);
  }
  last = device;
  cached = slot.get();
  return *slot;
}

double sum_of_squares(const Tensor& x) {
  const Tensor out = empty({}, {DType::f64, x.device()});
  const View view = x.view();
  backend(x.device()).sum_of_squares({&view, 1}, out.view());
  return out.item();
}

Storage::Storage(Device device, std::size_t bytes)
    : device_(device), bytes_(bytes), data_(norma::backend(device).allocate(bytes)) {}
Storage::~Storage() { norma::backend(device_).release(data_, bytes_); }

}  // namespace norma
