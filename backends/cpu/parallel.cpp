#include "backends/cpu/parallel.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/info.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>
#ifdef NORMA_THREAD_SANITIZER
#include <sanitizer/tsan_interface.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <latch>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "backends/common/red_zone.h"
#include "core/error.h"
#include "core/host_limits.h"

namespace norma::cpu {
namespace {

struct Pool {
  std::unique_ptr<tbb::global_control> control;
  int count = 0;
  void set(int n) {
    // More threads than cores is allowed (tests run 8 on 2): both the arenas and the global limit must say so.
    control = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism, static_cast<size_t>(n));
    count = n;
  }
};

Pool& pool() {
  static Pool* instance = [] {  // never destroyed: threads may outlive static destructors
    auto* p = new Pool;
    const double allowed = std::ceil(host_limits().cpus.value_or(INT_MAX));  // a container's share; more threads would be stopped in turn
    p->set(static_cast<int>(std::clamp(allowed, 1.0, static_cast<double>(std::max(1, tbb::info::default_concurrency())))));
    return p;
  }();
  return *instance;
}

/// Threads of this process, those that are just ending too; 0 where the system does not tell.
nlink_t threads_alive() {
  struct stat task {};
  return ::stat("/proc/self/task", &task) == 0 ? task.st_nlink : 0;
}

/// Starts so many threads at once, like those of oneTBB, and ends them.
void try_threads(int count) {
  const nlink_t before = threads_alive();
  std::vector<pthread_t> started;
  started.reserve(static_cast<std::size_t>(count));
  std::latch end(1);
  pthread_attr_t like_theirs;
  pthread_attr_init(&like_theirs);
  pthread_attr_setstacksize(&like_theirs, tbb::global_control::active_value(tbb::global_control::thread_stack_size));
  int error = 0;
  while (!error && static_cast<int>(started.size()) < count) {
    pthread_t one;
    error = pthread_create(
        &one, &like_theirs, [](void* until) -> void* { return static_cast<std::latch*>(until)->wait(), nullptr; }, &end);
    if (!error) started.push_back(one);
  }
  pthread_attr_destroy(&like_theirs);
  end.count_down();
  for (const pthread_t one : started) pthread_join(one, nullptr);
  if (error)
    fail("cannot start a pool of {} threads ({}): the limit of processes (ulimit -u, a container's pids limit) or of memory (ulimit -v) is reached; "
         "--threads N with fewer needs less",
         pool().count, std::strerror(error));
  // The system counts a thread for a moment longer than it can be waited for.
  for (int i = 0; i < 1000 && threads_alive() > before; ++i) std::this_thread::sleep_for(std::chrono::microseconds(50));
}

/// Throws where the system would not give the pool its threads: oneTBB starts them when there is a first task, and ends the process where it
/// cannot.
void check_pool() {
  static std::atomic<int> enough_for = 1;
  const int count = pool().count;
  if (enough_for.load(std::memory_order_acquire) >= count) return;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  if (enough_for >= count) return;
  try_threads(count - enough_for);
  enough_for = count;
}

/// Where the loops of a thread run. Each thread that computes has one of its own: while it waits for a loop it helps with that loop alone. A task
/// of another thread's would write over scratch memory that it holds meanwhile.
tbb::task_arena& arena() {
  thread_local std::unique_ptr<tbb::task_arena> mine;
  thread_local int size = 0;
  if (size != pool().count) mine = std::make_unique<tbb::task_arena>(pool().count), size = pool().count;
  return *mine;
}

/// Whether this thread is in a task of a loop. What is a loop in there is part of the task, for the same reason.
thread_local bool in_task = false;
struct InTask {
  const bool before = std::exchange(in_task, true);
  InTask() = default;
  InTask(const InTask&) = delete;
  ~InTask() { in_task = before; }
};

constexpr std::size_t huge_page = std::size_t{2} << 20;  // where pages are small, those of packed operands fill the table of translations

#ifdef NORMA_THREAD_SANITIZER
void release(char& mark) { __tsan_release(&mark); }
void acquire(char& mark) { __tsan_acquire(&mark); }
#else
void release(char&) {}
void acquire(char&) {}
#endif

/// Tells ThreadSanitizer, for which oneTBB is not compiled, what a loop over tasks orders: each begins after what its caller has done, and
/// the caller goes on after all have ended. Tasks have no order among themselves, so that it sees where two touch the same memory.
class LoopOrder {
 public:
  LoopOrder() { release(begun_); }
  ~LoopOrder() { acquire(ended_); }
  class Task {
   public:
    explicit Task(LoopOrder& loop) : loop_(loop) { acquire(loop_.begun_); }
    ~Task() { release(loop_.ended_); }

   private:
    LoopOrder& loop_;
  };

 private:
  char begun_ = 0, ended_ = 0;
};

TaskWatcher& watcher() {
  static TaskWatcher instance;
  return instance;
}

/// With the watcher taken away meanwhile: a loop within a task is part of that task.
void run_watched(std::int64_t count, void (*body)(void*, std::int64_t), void* context) {
  using Clock = std::chrono::steady_clock;
  TaskWatcher mine = std::exchange(watcher(), {});
  std::vector<double> seconds(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    const Clock::time_point start = Clock::now();
    body(context, i);
    seconds[static_cast<std::size_t>(i)] = std::chrono::duration<double>(Clock::now() - start).count();
  }
  mine(seconds);
  watcher() = std::move(mine);
}

struct Scratch {
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;
    void drop() {
      forget_block(data, bytes);
      std::free(data);
      data = nullptr, bytes = 0;
    }
  };
  std::array<Block, static_cast<std::size_t>(Slot::count)> blocks{};
  ~Scratch() {
    for (Block& b : blocks) b.drop();
  }
};

}  // namespace

void set_threads(int count) {
  if (count < 1 || count > most_threads) fail("threads: {} must be in 1..{}", count, most_threads);
  if (count != pool().count) pool().set(count);
}

int threads() { return pool().count; }

void watch_tasks(TaskWatcher to) { watcher() = std::move(to); }

void detail::run_tasks(std::int64_t count, void (*body)(void*, std::int64_t), void* context) {
  if (count <= 0) return;
  if (watcher()) return run_watched(count, body, context);
  if (in_task || threads() == 1) {
    for (std::int64_t i = 0; i < count; ++i) body(context, i);
    return;
  }
  check_pool();
  LoopOrder order;
  arena().execute([&] {
    tbb::parallel_for(
        tbb::blocked_range<std::int64_t>(0, count, 1),
        [&](const auto& range) {
          const LoopOrder::Task task(order);
          const InTask inside;
          for (std::int64_t i = range.begin(); i != range.end(); ++i) body(context, i);
        },
        tbb::simple_partitioner{});
  });
}

void* scratch(Slot slot, std::size_t bytes) {
  thread_local Scratch mine;
  Scratch::Block& block = mine.blocks[static_cast<std::size_t>(slot)];
  if (block.bytes < bytes + red_zone) {
    block.drop();
    const std::size_t need = bytes + red_zone, unit = need < huge_page / 2 ? 4096 : huge_page, rounded = (need + unit - 1) / unit * unit;
    block.data = std::aligned_alloc(unit, rounded);
    if (unit == huge_page && block.data) ::madvise(block.data, rounded, MADV_HUGEPAGE);  // only a hint
    if (!block.data) fail_out_of_host_memory(rounded);
    block.bytes = rounded;
  }
  open_block(block.data, bytes, block.bytes);
  return block.data;
}

}  // namespace norma::cpu
