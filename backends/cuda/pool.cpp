#include "backends/cuda/pool.h"

#include "core/host_limits.h"

namespace norma::cuda {
namespace {

constexpr std::size_t own_block = std::size_t{8} << 20;     // from here on a block is asked of the system alone
constexpr std::size_t chunk_bytes = std::size_t{32} << 20;  // smaller ones are cut from chunks of this size
constexpr std::size_t cut_multiple = 256;                   // what vector loads and matrix libraries like

}  // namespace

Pool::~Pool() {
  for (std::byte* chunk : chunks_) runtime_.free(chunk);
  for (const auto& [block, owned] : blocks_)
    if (owned.whole) runtime_.free(block);
}

void* Pool::allocate(std::size_t bytes) {
  if (bytes > largest_block) fail("out of memory: need {} ({})", human_bytes(static_cast<double>(bytes)), runtime_.text());
  const std::lock_guard lock(mutex_);
  void* block = runtime_.exact_blocks() && arena_ == 0 ? obtain(bytes, bytes) : pooled(bytes);
  use_.in_use += bytes;  // where nothing was thrown
  use_.peak = std::max(use_.peak, use_.in_use);
  runtime_.hand_out(block, bytes);
  return block;
}

std::byte* Pool::pooled(std::size_t bytes) {
  const SizeClass c = size_class(bytes);
  FreeLists& lists = free_[arena_];
  lists.resize(class_count);
  auto& list = lists[c.index];
  std::byte* block;
  if (!list.empty()) {
    block = list.back();
    list.pop_back();
  } else {
    const bool whole = c.bytes >= own_block;
    block = whole ? obtain(c.bytes, bytes) : cut(c.bytes, bytes);
    blocks_[block] = {arena_, whole, c.bytes};
  }
  return block;
}

void Pool::release(void* block, std::size_t bytes) {
  if (!block) return;
  const std::lock_guard lock(mutex_);
  use_.in_use -= bytes;
  auto* start = static_cast<std::byte*>(block);
  const auto at = blocks_.find(start);
  if (at == blocks_.end()) {  // exact_blocks
    use_.reserved -= bytes;
    return runtime_.free(block);
  }
  FreeLists& lists = free_[at->second.arena];
  lists.resize(class_count);
  lists[size_class(bytes).index].push_back(start);
}

MemoryUse Pool::use() const {
  const std::lock_guard lock(mutex_);
  return use_;
}

void Pool::reset_peak() {
  const std::lock_guard lock(mutex_);
  use_.peak = use_.in_use;
}

int Pool::open_arena() {
  const std::lock_guard lock(mutex_);
  return arena_ = ++arenas_;
}

void Pool::close_arena() {
  const std::lock_guard lock(mutex_);
  arena_ = 0;
}

void Pool::dissolve_arena(int arena) {
  const std::lock_guard lock(mutex_);
  for (auto& [block, owned] : blocks_)
    if (owned.arena == arena) owned.arena = 0;
  FreeLists& lists = free_[0];
  lists.resize(class_count);
  for (std::size_t i = 0; i < free_[arena].size(); ++i)
    lists[i].insert(lists[i].end(), free_[arena][i].begin(), free_[arena][i].end());
  free_.erase(arena);
}

std::byte* Pool::obtain(std::size_t bytes, std::size_t need) {
  void* block = runtime_.allocate(bytes);
  if (!block && arena_ == 0) {  // a captured stream cannot be waited for, so nothing can be given back meanwhile
    trim_locked();
    block = runtime_.allocate(bytes);
  }
  if (!block)
    fail("out of memory: need {}, {} free, {} held ({}); use a smaller batch", human_bytes(static_cast<double>(need)),
         human_bytes(static_cast<double>(runtime_.free_bytes())), human_bytes(static_cast<double>(use_.reserved)), runtime_.text());
  use_.reserved += bytes;
  ++use_.system_requests;
  return static_cast<std::byte*>(block);
}

/// The next piece of the newest chunk. What is left of a chunk when a piece does not fit stays untouched.
std::byte* Pool::cut(std::size_t bytes, std::size_t need) {
  const std::size_t step = (bytes + cut_multiple - 1) / cut_multiple * cut_multiple;
  if (chunks_.empty() || chunk_used_ + step > chunk_bytes) {
    chunks_.push_back(obtain(chunk_bytes, need));
    chunk_used_ = 0;
  }
  std::byte* block = chunks_.back() + chunk_used_;
  chunk_used_ += step;
  return block;
}

void Pool::trim() {
  const std::lock_guard lock(mutex_);
  trim_locked();
}
void Pool::trim_locked() {
  runtime_.synchronize();
  for (auto& list : free_[0])
    std::erase_if(list, [&](std::byte* block) {
      const auto at = blocks_.find(block);
      if (!at->second.whole) return false;
      runtime_.free(block);
      use_.reserved -= at->second.bytes;
      blocks_.erase(at);
      return true;
    });
}

}  // namespace norma::cuda
