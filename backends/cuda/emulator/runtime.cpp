// The machine without a device: host memory and streams whose work happens as late as it may: when the host waits for it, or for work that
// stands behind it. What a kernel or a copy reads must be there until then, and a host that does not wait reads what was there before.
#include "backends/cuda/runtime.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <vector>

#include "backends/cuda/emulator/emulator.h"
#include "backends/cuda/kernel_name.h"

namespace norma::cuda {
namespace {

using Lane = Runtime::Lane;
/// What a graph does, one thing after the other.
struct Part {
  enum class Kind { kernel, product, checker } kind;  // checker: what no device does
  const void* kernel;
  std::function<void()> work;
};
using Work = std::vector<Part>;

/// A place in a lane: so much stands before it.
struct Point {
  Lane lane = Lane::work;
  std::size_t count = 0;
};

/// Device memory. The host cannot touch it: it is there while work is done, so that a program that forgets a copy ends at once.
class Memory {
 public:
  ~Memory() {
    for (const auto& [block, bytes] : blocks_) munmap(block, bytes);
  }
  void* allocate(std::size_t bytes) {
    const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + page - 1) / page * page;
    char* room = static_cast<char*>(mmap(nullptr, rounded + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (room == MAP_FAILED) return nullptr;
    const std::size_t before = (page - reinterpret_cast<std::uintptr_t>(room) % page) % page;
    if (before > 0) munmap(room, before);
    if (before < page) munmap(room + before + rounded, page - before);
    room += before;
    madvise(room, rounded, MADV_HUGEPAGE);
    const std::lock_guard lock(mutex_);
    blocks_[room] = rounded;
    if (open_ == 0) mprotect(room, rounded, PROT_NONE);
    return room;
  }
  void free(void* block) {
    const std::lock_guard lock(mutex_);
    const auto at = blocks_.find(block);
    munmap(block, at->second);
    blocks_.erase(at);
  }
  void open() {
    const std::lock_guard lock(mutex_);
    if (open_++ == 0) allow(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::lock_guard lock(mutex_);
    if (--open_ == 0) allow(PROT_NONE);
  }

 private:
  static constexpr std::size_t page = std::size_t{2} << 20;  // few of them, so that they are soon allowed and refused
  void allow(int access) {
    for (const auto& [block, bytes] : blocks_) mprotect(block, bytes, access);
  }
  std::mutex mutex_;
  std::map<void*, std::size_t> blocks_;
  int open_ = 0;
};

/// Both lanes. Any thread may add to them and wait; one at a time does their work.
class Lanes {
 public:
  void add(Lane lane, std::function<void()> work) { add(lane, Item{std::move(work), {}}); }
  void add_wait(Lane lane, Point point) { add(lane, Item{{}, point}); }
  Point end(Lane lane) {
    const std::lock_guard lock(mutex_);
    return {lane, of(lane).done + of(lane).items.size()};
  }
  bool has_done(Point point) {
    const std::lock_guard lock(mutex_);
    return of(point.lane).done >= point.count;
  }
  /// Does what stands before the point, and what that waits for.
  void finish(Point point) {
    const std::lock_guard lock(mutex_);
    Queue& queue = of(point.lane);
    while (queue.done < point.count) {
      const Item item = std::move(queue.items.front());
      queue.items.pop_front();
      ++queue.done;
      try {
        if (item.work) {
          item.work();
        } else {
          finish(item.point);
        }
      } catch (...) {  // nothing behind it makes sense
        queue.done += queue.items.size();
        queue.items.clear();
        throw;
      }
    }
  }

 private:
  struct Item {
    std::function<void()> work;  // none: waits for the point
    Point point;
  };
  struct Queue {
    std::deque<Item> items;
    std::size_t done = 0;
  };
  void add(Lane lane, Item item) {
    const std::lock_guard lock(mutex_);
    of(lane).items.push_back(std::move(item));
  }
  Queue& of(Lane lane) { return lane == Lane::work ? work_ : copies_; }
  std::recursive_mutex mutex_;
  Queue work_, copies_;
};

struct EmulatedStream {
  Lanes lanes;
  bool captured = false;
  Work recorded;

  void add(Part part) {
    if (captured) {
      recorded.push_back(std::move(part));
    } else {
      lanes.add(Lane::work, std::move(part.work));
    }
  }
};

class EmulatedGraph : public Backend::Graph {
 public:
  EmulatedGraph(EmulatedStream& stream, Work work) : stream_(stream), work_(std::move(work)) {}
  void replay() override {
    for (const Part& part : work_) stream_.lanes.add(Lane::work, part.work);
  }
  std::vector<std::string> launches() const override {
    std::vector<std::string> names;
    for (const Part& part : work_)
      if (part.kind != Part::Kind::checker) names.push_back(part.kernel ? kernel_name(emulator::symbol_of(part.kernel).c_str()) : "product");
    return names;
  }

 private:
  EmulatedStream& stream_;
  Work work_;
};

struct EmulatedEvent : Runtime::Event {
  Point point;
};

class EmulatedRuntime : public Runtime {
 public:
  void* stream() override { return &stream_; }
  unsigned grid_y() const override { return emulator::card().grid_y; }
  std::size_t block_shared_bytes() const override { return emulator::card().block_shared; }
  int compute_capability() const override { return emulator::card().compute_capability; }
  void* allocate(std::size_t bytes) override {
    if (bytes > (std::size_t{1} << 34)) return nullptr;
    return exact_blocks() ? std::malloc(std::max<std::size_t>(bytes, 1)) : memory_.allocate(bytes);
  }
  void free(void* block) override {
    if (exact_blocks()) {
      if (!stream_.captured) synchronize();
      return std::free(block);
    }
    refuse_in_capture("memory is given back");
    synchronize();
    memory_.free(block);
  }
  /// In order with the work, also of a graph each time: what is not written before it is read is NaN.
  void hand_out(void* block, std::size_t bytes) override {
    stream_.add({Part::Kind::checker, nullptr, [=] { std::memset(block, 0xff, bytes); }});
  }
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
  void copy_to_device(void* device, const void* pinned, std::size_t bytes) override { copy("a copy to the device", Lane::work, device, pinned, bytes); }
  void copy_to_host(void* pinned, const void* device, std::size_t bytes) override { copy("a copy to the host", Lane::work, pinned, device, bytes); }
  void synchronize() override {
    refuse_in_capture("the host waits");
    finish(stream_.lanes.end(Lane::work));
  }
  void send_to_device(void* device, const void* pinned, std::size_t bytes) override { copy("", Lane::copies, device, pinned, bytes); }
  std::unique_ptr<Event> make_event() override { return std::make_unique<EmulatedEvent>(); }
  void record(Event& event, Lane lane) override {
    if (lane == Lane::work) refuse_in_capture("an event is recorded");
    point_of(event) = stream_.lanes.end(lane);
  }
  void order(Lane lane, Event& event) override {
    if (lane == Lane::work) refuse_in_capture("an event is waited for");
    if (const Point point = point_of(event); point.count > 0) stream_.lanes.add_wait(lane, point);
  }
  void wait(Event& event) override { finish(point_of(event)); }
  void begin_capture() override {
    if (emulator::card().capture == emulator::Card::Capture::fails_to_begin) fail("emulator: the capture does not begin");
    stream_.captured = true;
  }
  std::unique_ptr<Backend::Graph> end_capture() override {
    if (!stream_.captured) fail("emulator: the end of a capture that has not begun");
    stream_.captured = false;
    auto work = std::exchange(stream_.recorded, {});
    if (emulator::card().capture == emulator::Card::Capture::fails_to_end) fail("emulator: the capture does not end in a graph");
    return std::make_unique<EmulatedGraph>(stream_, std::move(work));
  }

 private:
  void copy(const char* what, Lane lane, void* to, const void* from, std::size_t bytes) {
    if (lane == Lane::work) refuse_in_capture(what);
    stream_.lanes.add(lane, [=] { std::memcpy(to, from, bytes); });
  }
  void finish(Point point) {
    if (stream_.lanes.has_done(point)) return;
    memory_.open();
    struct Close {
      Memory& memory;
      ~Close() { memory.close(); }
    } const close{memory_};
    stream_.lanes.finish(point);
  }
  void refuse_in_capture(const char* what) const {
    if (stream_.captured) fail("emulator: {} while the stream is captured", what);
  }
  static Point& point_of(Event& event) { return static_cast<EmulatedEvent&>(event).point; }

  Memory memory_;
  EmulatedStream stream_;
};

}  // namespace

namespace emulator {
void enqueue(void* stream, std::function<void()> work) {
  static_cast<EmulatedStream*>(stream)->add({Part::Kind::product, nullptr, std::move(work)});
}
void enqueue_kernel(void* stream, const void* kernel, std::function<void()> work) {
  static_cast<EmulatedStream*>(stream)->add({Part::Kind::kernel, kernel, std::move(work)});
}
}  // namespace emulator

std::unique_ptr<Runtime> make_runtime(int index) {
  if (index != 0) fail("device cuda:{}: the emulator has one device, cuda:0", index);
  return std::make_unique<EmulatedRuntime>();
}

}  // namespace norma::cuda
