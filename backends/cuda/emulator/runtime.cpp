// The machine without a device: host memory, a stream that does its work at once or keeps it for a graph, products by plain loops. Copies
// beside that stream happen as late as they may: when the work, or the host, waits for an event that stands behind them.
#include "backends/cuda/runtime.h"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <type_traits>
#include <vector>

#include "backends/cuda/emulator/emulator.h"

namespace norma::cuda {
namespace {

using Work = std::vector<std::function<void()>>;

struct EmulatedStream {
  bool captured = false;
  Work recorded;
};

class EmulatedGraph : public Backend::Graph {
 public:
  explicit EmulatedGraph(Work work) : work_(std::move(work)) {}
  void replay() override {
    for (const auto& part : work_) part();
  }

 private:
  Work work_;
};

/// How many copies of Lane::copies stand before the point; 0 in Lane::work, where all is done at once.
struct EmulatedEvent : Runtime::Event {
  std::size_t copies = 0;
};

class EmulatedRuntime : public Runtime {
 public:
  void* stream() override { return &stream_; }
  unsigned multiprocessors() const override { return 4; }
  unsigned grid_y() const override { return emulator::card().grid_y; }
  std::size_t block_shared_bytes() const override { return emulator::card().block_shared; }
  int compute_capability() const override { return emulator::card().compute_capability; }
  void* allocate(std::size_t bytes) override {
    const std::size_t rounded = (bytes + 63) / 64 * 64;
    if (exact_blocks()) return std::malloc(std::max<std::size_t>(bytes, 1));
    void* block = bytes > (std::size_t{1} << 34) ? nullptr : std::aligned_alloc(64, std::max<std::size_t>(rounded, 64));
    if (block) std::memset(block, 0xff, bytes);  // NaN: what no kernel wrote shows
    return block;
  }
  void free(void* block) override { std::free(block); }
  std::size_t free_bytes() override { return std::size_t{1} << 34; }
  std::string text() const override { return "cuda:0 (emulated)"; }
  bool exact_blocks() const override {
#if defined(__SANITIZE_ADDRESS__)
    return true;
#else
    return false;
#endif
  }
  void* allocate_pinned(std::size_t bytes) override { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); }
  void free_pinned(void* block) override { std::free(block); }
  void copy_to_device(void* device, const void* pinned, std::size_t bytes) override { std::memcpy(device, pinned, bytes); }
  void copy_to_host(void* pinned, const void* device, std::size_t bytes) override { std::memcpy(pinned, device, bytes); }
  void synchronize() override {}
  void send_to_device(void* device, const void* pinned, std::size_t bytes) override {
    const std::lock_guard lock(mutex_);
    pending_.push_back({device, pinned, bytes});
    ++sent_;
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<EmulatedEvent>(); }
  void record(Event& event, Lane lane) override {
    const std::lock_guard lock(mutex_);
    static_cast<EmulatedEvent&>(event).copies = lane == Lane::copies ? sent_ : 0;
  }
  void order(Lane lane, Event& event) override {
    if (lane == Lane::work) wait(event);
  }
  void wait(Event& event) override {
    const std::lock_guard lock(mutex_);
    for (; sent_ - pending_.size() < static_cast<EmulatedEvent&>(event).copies; pending_.pop_front())
      std::memcpy(pending_.front().to, pending_.front().from, pending_.front().bytes);
  }
  void begin_capture() override {
    if (emulator::card().capture == emulator::Card::Capture::fails_to_begin) fail("emulator: the capture does not begin");
    stream_.captured = true;
  }
  std::unique_ptr<Backend::Graph> end_capture() override {
    if (!stream_.captured) fail("emulator: the end of a capture that has not begun");
    stream_.captured = false;
    auto work = std::exchange(stream_.recorded, {});
    if (emulator::card().capture == emulator::Card::Capture::fails_to_end) fail("emulator: the capture does not end in a graph");
    return std::make_unique<EmulatedGraph>(std::move(work));
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    std::size_t bytes;
  };
  EmulatedStream stream_;
  std::mutex mutex_;
  std::deque<Copy> pending_;
  std::size_t sent_ = 0;
};

template <class Sum, class T>
Sum element(const Gemm::Operand& x, Index batch, Index row, Index column) {
  const Index at = batch * x.batch_stride + (x.transposed ? row + column * x.pitch : row * x.pitch + column);
  return static_cast<Sum>(static_cast<const T*>(x.data)[at]);
}

/// Sums in f32, as the device's, one after the other: of a thousand terms farther from the exact sum than its are.
template <class T, class Out>
void multiply_all(const Gemm& g) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const auto value = [](const void* data, Index at) { return static_cast<Sum>(static_cast<const Out*>(data)[at]); };
  std::vector<Sum> row(static_cast<std::size_t>(g.n));
  for (Index batch = 0; batch < g.batch; ++batch)
    for (Index i = 0; i < g.m; ++i) {
      row.assign(row.size(), 0);
      for (Index k = 0; k < g.k; ++k) {
        const Sum x = element<Sum, T>(g.a, batch, i, k);
        for (Index j = 0; j < g.n; ++j) row[static_cast<std::size_t>(j)] += x * element<Sum, T>(g.b, batch, k, j);
      }
      if (g.bias)
        for (Index j = 0; j < g.n; ++j) row[static_cast<std::size_t>(j)] += value(g.bias, j);
      if (g.addend)
        for (Index j = 0; j < g.n; ++j) row[static_cast<std::size_t>(j)] += value(g.addend, i * g.addend_pitch + j);
      if (g.row_sums) {
        Sum sum = 0;
        for (Index k = 0; k < g.k; ++k) sum += element<Sum, T>(g.a, batch, i, k);
        static_cast<Out*>(g.row_sums)[i] = static_cast<Out>(sum);
      }
      Out* to = static_cast<Out*>(g.c) + batch * g.c_batch_stride + i * g.c_pitch;
      for (Index j = 0; j < g.n; ++j) to[j] = static_cast<Out>(row[static_cast<std::size_t>(j)]);
    }
}

class EmulatedBlas : public Blas {
 public:
  explicit EmulatedBlas(Runtime& runtime) : runtime_(runtime) {}
  void multiply(const Gemm& gemm) override {
    check(gemm.a, gemm.m, gemm.k, "a");
    check(gemm.b, gemm.k, gemm.n, "b");
    if (gemm.c_pitch < gemm.n) fail("emulator: gemm: rows of {} elements of c overlap at pitch {}", gemm.n, gemm.c_pitch);
    if ((gemm.addend && gemm.addend == gemm.c) || (gemm.bias && gemm.row_sums)) fail("emulator: gemm: an addend in place, or a bias with sums of rows");
    emulator::enqueue(runtime_.stream(), [gemm] {
      if (gemm.dtype == DType::f32) return multiply_all<float, float>(gemm);
      if (gemm.dtype == DType::f64) return multiply_all<double, double>(gemm);
      if (gemm.out_dtype == DType::f32) return multiply_all<bf16, float>(gemm);
      multiply_all<bf16, bf16>(gemm);
    });
  }

  /// Covers what cuBLASLt does as a rule: addresses and pitches that are multiples of 16 bytes.
  bool multiply_with(const Gemm& g) override {
    if (g.batch != 1 || g.dtype == DType::f64) return false;
    const auto fits = [](const void* data, Index pitch, DType dtype) {
      return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && static_cast<std::size_t>(pitch) * size_of(dtype) % 16 == 0;
    };
    if (!fits(g.a.data, g.a.pitch, g.dtype) || !fits(g.b.data, g.b.pitch, g.dtype) || !fits(g.c, g.c_pitch, g.out_dtype)) return false;
    if (!fits(g.addend, g.addend_pitch, g.out_dtype) || !fits(g.bias, 0, g.out_dtype) || !fits(g.row_sums, 0, g.out_dtype)) return false;
    multiply(g);
    return true;
  }

 private:
  /// What cuBLAS demands of leading dimensions.
  static void check(const Gemm::Operand& x, Index rows, Index columns, const char* name) {
    if (x.pitch < std::max<Index>(1, x.transposed ? rows : columns))
      fail("emulator: gemm: {} [{}, {}] {} has pitch {}", name, rows, columns, x.transposed ? "transposed" : "", x.pitch);
  }
  Runtime& runtime_;
};

}  // namespace

namespace emulator {
void enqueue(void* stream, std::function<void()> work) {
  auto& s = *static_cast<EmulatedStream*>(stream);
  if (s.captured) {
    s.recorded.push_back(std::move(work));
  } else {
    work();
  }
}
}  // namespace emulator

std::unique_ptr<Runtime> make_runtime(int index) {
  if (index != 0) fail("device cuda:{}: the emulator has one device, cuda:0", index);
  return std::make_unique<EmulatedRuntime>();
}
std::unique_ptr<Blas> make_blas(Runtime& runtime) { return std::make_unique<EmulatedBlas>(runtime); }

}  // namespace norma::cuda
