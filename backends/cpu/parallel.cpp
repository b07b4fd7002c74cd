#include "backends/cpu/parallel.h"

#include <sys/mman.h>

#include <oneapi/tbb/blocked_range.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/info.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <array>
#include <cstdlib>
#include <mutex>

#include "core/error.h"

namespace norma::cpu {
namespace {

struct Pool {
  std::unique_ptr<tbb::global_control> control;
  std::unique_ptr<tbb::task_arena> arena;
  int count = 0;
  void set(int n) {
    // More threads than cores is allowed (tests run 8 on 2): both the arena and the global limit must say so.
    control = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism, static_cast<size_t>(n));
    arena = std::make_unique<tbb::task_arena>(n);
    count = n;
  }
};

Pool& pool() {
  static Pool* instance = [] {  // never destroyed: threads may outlive static destructors
    auto* p = new Pool;
    p->set(std::max(1, tbb::info::default_concurrency()));
    return p;
  }();
  return *instance;
}

constexpr std::size_t huge_page = std::size_t{2} << 20;  // where pages are small, those of packed operands fill the table of translations

struct Scratch {
  std::array<void*, 16> block{};
  std::array<std::size_t, 16> bytes{};
  ~Scratch() {
    for (void* b : block) std::free(b);
  }
};

}  // namespace

void set_threads(int count) {
  if (count < 1) fail("threads: {} is not a number of threads; give 1 or more", count);
  if (count != pool().count) pool().set(count);
}

int threads() { return pool().count; }

void detail::run_tasks(std::int64_t count, void (*body)(void*, std::int64_t), void* context) {
  if (count <= 0) return;
  Pool& p = pool();
  if (p.count == 1) {
    for (std::int64_t i = 0; i < count; ++i) body(context, i);
    return;
  }
  p.arena->execute([&] {
    tbb::parallel_for(
        tbb::blocked_range<std::int64_t>(0, count, 1),
        [&](const auto& range) {
          for (std::int64_t i = range.begin(); i != range.end(); ++i) body(context, i);
        },
        tbb::simple_partitioner{});
  });
}

void* scratch(int slot, std::size_t bytes) {
  thread_local Scratch mine;
  if (mine.bytes[slot] < bytes) {
    std::free(mine.block[slot]);
    const std::size_t unit = bytes < huge_page / 2 ? 4096 : huge_page, rounded = (bytes + unit - 1) / unit * unit;
    mine.block[slot] = std::aligned_alloc(unit, rounded);
    if (unit == huge_page && mine.block[slot]) ::madvise(mine.block[slot], rounded, MADV_HUGEPAGE);  // only a hint
    if (!mine.block[slot]) {
      mine.bytes[slot] = 0;
      fail("out of memory: a CPU kernel needs {} bytes of scratch space", rounded);
    }
    mine.bytes[slot] = rounded;
  }
  return mine.block[slot];
}

}  // namespace norma::cpu
