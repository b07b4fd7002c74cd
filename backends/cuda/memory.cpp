// The backend's memory, its copies through pinned buffers, and graphs.
#include <algorithm>
#include <cstring>

#include "backends/cuda/cuda_backend.h"

namespace norma::cuda {
namespace {

constexpr std::size_t staging_bytes = std::size_t{4} << 20, small_staging_bytes = std::size_t{64} << 10;

/// A graph and the arena its blocks come from.
class PooledGraph : public Backend::Graph {
 public:
  PooledGraph(std::unique_ptr<Backend::Graph> graph, const CudaBackend& backend, Pool& pool, int arena)
      : graph_(std::move(graph)), backend_(backend), pool_(pool), arena_(arena) {}
  ~PooledGraph() override {
    graph_.reset();
    pool_.dissolve_arena(arena_);
  }
  void replay() override {
    backend_.refuse_beside_capture();
    graph_->replay();
  }
  std::vector<std::string> launches() const override { return graph_->launches(); }

 private:
  std::unique_ptr<Backend::Graph> graph_;
  const CudaBackend& backend_;
  Pool& pool_;
  int arena_;
};

}  // namespace

CudaBackend::CudaBackend(int index) : runtime_(make_runtime(index)), pool_(*runtime_), blas_(make_blas(*runtime_)) {
  for (Staging& s : staging_.slots) s = {runtime_->allocate_pinned(staging_bytes), runtime_->make_event()};
  for (Staging& s : small_staging_.slots) s = {runtime_->allocate_pinned(small_staging_bytes), runtime_->make_event()};
}

CudaBackend::~CudaBackend() {
  for (Staging& s : staging_.slots) runtime_->free_pinned(s.buffer);
  for (Staging& s : small_staging_.slots) runtime_->free_pinned(s.buffer);
}

void* CudaBackend::allocate(std::size_t bytes) {
  refuse_beside_capture();  // it would be one of the graph's blocks
  return pool_.allocate(bytes);
}
void CudaBackend::release(void* block, std::size_t bytes) { pool_.release(block, bytes); }
MemoryUse CudaBackend::memory() const { return pool_.use(); }
void CudaBackend::reset_peak() { pool_.reset_peak(); }

void CudaBackend::refuse_beside_capture() const {
  const std::thread::id thread = capturing_;
  if (thread != std::thread::id{} && thread != std::this_thread::get_id())
    fail("capture: another thread captures a step ({}), and until it has, no other one may use the device", runtime_->text());
}
void CudaBackend::refuse_in_capture(const char* what) const {
  refuse_beside_capture();
  if (capturing_.load() != std::thread::id{})
    fail("capture: {} waits for the device, which a captured step cannot; leave it out of the step", what);
}

/// Piece by piece through two pinned buffers: one is filled while the other is on its way. What is small, a step's labels and rates, has
/// more of them, so that the host does not wait for work of the device that stands before an earlier one's copy.
void CudaBackend::upload(void* device, const void* host, std::size_t bytes) {
  refuse_in_capture("upload");
  const std::lock_guard lock(staging_mutex_);
  for (std::size_t at = 0; at < bytes; at += staging_bytes) {
    const std::size_t n = std::min(staging_bytes, bytes - at);
    Staging& s = n <= small_staging_bytes ? small_staging_.next() : staging_.next();
    runtime_->wait(*s.sent);
    std::memcpy(s.buffer, static_cast<const char*>(host) + at, n);
    runtime_->copy_to_device(static_cast<char*>(device) + at, s.buffer, n);
    runtime_->record(*s.sent, Runtime::Lane::work);
  }
}

void CudaBackend::download(void* host, const void* device, std::size_t bytes) {
  refuse_in_capture("download");
  const std::lock_guard lock(staging_mutex_);
  for (std::size_t at = 0; at < bytes; at += staging_bytes) {
    const std::size_t n = std::min(staging_bytes, bytes - at);
    void* buffer = staging_.slots[0].buffer;
    runtime_->copy_to_host(buffer, static_cast<const char*>(device) + at, n);
    runtime_->synchronize();
    std::memcpy(static_cast<char*>(host) + at, buffer, n);
  }
}

void CudaBackend::synchronize() {
  refuse_in_capture("synchronize");
  runtime_->synchronize();
}

std::unique_ptr<Backend::Graph> CudaBackend::capture(const std::function<void()>& step) {
  refuse_in_capture("capture");
  pool_.trim();  // a graph needs blocks of its own, and meanwhile nothing can be given back
  for (std::thread::id none; !capturing_.compare_exchange_strong(none, std::this_thread::get_id()); none = {}) refuse_beside_capture();
  struct Capturing {
    std::atomic<std::thread::id>& thread;
    ~Capturing() { thread = std::thread::id{}; }
  } const capturing{capturing_};
  const int arena = pool_.open_arena();
  bool recording = false;
  const auto end = [&] {
    pool_.close_arena();
    return std::exchange(recording, false) ? runtime_->end_capture() : nullptr;
  };
  try {
    runtime_->begin_capture();
    recording = true;
    step();
    return std::make_unique<PooledGraph>(end(), *this, pool_, arena);
  } catch (...) {
    try {
      end();
    } catch (const Error&) {  // what broke the step says more
    }
    pool_.dissolve_arena(arena);
    throw;
  }
}

}  // namespace norma::cuda

void norma::register_cuda() {
  register_backend(Device::Kind::cuda, [](int index) -> std::unique_ptr<Backend> { return std::make_unique<cuda::CudaBackend>(index); });
}
