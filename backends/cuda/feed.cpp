// Batches on their way to the device while it computes: pinned buffers, a second stream, and two events a slot. `given_back` stands in the
// stream of the work, and the next copy into the slot's device buffer begins after it; `sent` stands behind that copy, and both the work that
// takes the slot and the host that fills it again wait for it.
#include "backends/cuda/cuda_backend.h"

namespace norma::cuda {
namespace {

using Lane = Runtime::Lane;

class PinnedFeed : public Backend::Feed {
 public:
  PinnedFeed(Runtime& runtime, Pool& pool, int slots, std::size_t bytes) : runtime_(runtime), pool_(pool), bytes_(bytes) {
    try {
      for (int i = 0; i < slots; ++i) {
        Slot& slot = slots_.emplace_back();
        slot.sent = runtime.make_event(), slot.given_back = runtime.make_event();
        slot.host = runtime.allocate_pinned(bytes);
        slot.device = pool.allocate(bytes);
        runtime.record(*slot.given_back, Lane::work);  // whose block it was may still be at work on it
      }
    } catch (...) {
      free_all();
      throw;
    }
  }
  ~PinnedFeed() override { free_all(); }
  PinnedFeed(const PinnedFeed&) = delete;

  void* fill(int slot) override {
    Slot& s = at(slot);
    runtime_.wait(*s.sent);
    return s.host;
  }
  void send(int slot) override {
    Slot& s = at(slot);
    runtime_.order(Lane::copies, *s.given_back);
    runtime_.send_to_device(s.device, s.host, bytes_);
    runtime_.record(*s.sent, Lane::copies);
  }
  void* take(int slot) override {
    Slot& s = at(slot);
    runtime_.order(Lane::work, *s.sent);
    return s.device;
  }
  void give_back(int slot) override { runtime_.record(*at(slot).given_back, Lane::work); }

 private:
  struct Slot {
    void *host = nullptr, *device = nullptr;
    std::unique_ptr<Runtime::Event> sent, given_back;
  };
  Slot& at(int slot) { return slots_.at(static_cast<std::size_t>(slot)); }
  /// The device's blocks go back to the pool, so no copy may be under way to them.
  void free_all() {
    for (Slot& s : slots_) {
      try {
        if (s.sent) runtime_.wait(*s.sent);
      } catch (const Error&) {  // the device is lost; whoever uses it next hears of it
      }
      if (s.host) runtime_.free_pinned(s.host);
      pool_.release(s.device, bytes_);
    }
  }

  Runtime& runtime_;
  Pool& pool_;
  std::size_t bytes_;
  std::vector<Slot> slots_;
};

}  // namespace

std::unique_ptr<Backend::Feed> CudaBackend::feed(int slots, std::size_t bytes) {
  refuse_in_capture("feed");
  return std::make_unique<PinnedFeed>(*runtime_, pool_, slots, bytes);
}

}  // namespace norma::cuda
