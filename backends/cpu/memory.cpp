// The CPU backend's memory: a caching pool. A block that is released waits in the free list of its size class and is
// handed out again first, so that a steady training step asks the system for nothing.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <vector>

#include "backends/common/red_zone.h"
#include "backends/common/size_class.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/isa.h"
#include "core/host_limits.h"

namespace norma::cpu {
namespace {

constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::size_t own_mapping = std::size_t{8}
                                    << 20;  // blocks from here on are mapped alone: multiples of a huge page
constexpr std::size_t chunk_bytes = std::size_t{32} << 20;  // smaller ones are cut from chunks of this size

}  // namespace

class Pool {
 public:
  Pool() : free_(class_count) {}
  Pool(const Pool&) = delete;
  ~Pool() {
    for (const Chunk& chunk : chunks_) unmap(chunk.start, chunk_bytes);
    for (std::size_t i = 0; i < class_count; ++i)
      for (std::byte* block : free_[i])
        if (class_bytes_[i] >= own_mapping) unmap(block, class_bytes_[i]);
  }

  void* allocate(std::size_t bytes) {
    if (bytes > largest_block - red_zone) fail_out_of_host_memory(bytes);
    const std::lock_guard lock(mutex_);
    const SizeClass c = size_class(bytes + red_zone);
    class_bytes_[c.index] = c.bytes;
    auto& list = free_[c.index];
    if (list.empty()) make_room(list, blocks_[c.index] + 1);
    std::byte* block = nullptr;
    if (!list.empty()) {
      block = list.back();
      list.pop_back();
    } else {
      block = c.bytes >= own_mapping ? map(c.bytes, bytes) : cut(c.bytes);
      ++blocks_[c.index];
    }
    open_block(block, bytes, c.bytes);
    use_.in_use += bytes;
    use_.peak = std::max(use_.peak, use_.in_use);
    return block;
  }

  /// Destructors call it: it asks for no memory, since allocate() made room in the list.
  void release(void* block, std::size_t bytes) noexcept {
    if (!block) return;
    const std::lock_guard lock(mutex_);
    const SizeClass c = size_class(bytes + red_zone);
    close_block(block, c.bytes);
    free_[c.index].push_back(static_cast<std::byte*>(block));
    use_.in_use -= bytes;
  }

  MemoryUse use() const {
    const std::lock_guard lock(mutex_);
    return use_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    use_.peak = use_.in_use;
  }

 private:
  struct Chunk {
    std::byte* start;
    std::size_t used;  // cut so far, from the start
    bool holds(const std::byte* p) const { return p >= start && p < start + chunk_bytes; }
  };

  /// Room for so many, a doubling each time.
  template <class T>
  static void make_room(std::vector<T>& list, std::size_t count) {
    if (list.capacity() < count) list.reserve(std::max(count, 2 * list.capacity()));
  }

  /// A new mapping, 2 MiB-aligned, in huge pages where the system has them; `need` is for the message.
  std::byte* map(std::size_t bytes, std::size_t need) {
    for (int attempt = 0; attempt < 2; ++attempt) {
      const bool promised = bytes <= checked_reservation || bytes <= available_host_memory();
      void* start = promised
                        ? ::mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                        : MAP_FAILED;
      if (start == MAP_FAILED) {
        trim();
        continue;
      }
      const auto address = reinterpret_cast<std::uintptr_t>(start);
      const std::size_t head = (huge_page - address % huge_page) % huge_page, tail = huge_page - head;
      auto* block = static_cast<std::byte*>(start) + head;
      if (head) ::munmap(start, head);
      if (tail) ::munmap(block + bytes, tail);
      ::madvise(block, bytes, MADV_HUGEPAGE);  // only a hint: no matter whether it is taken
      use_.reserved += bytes;
      ++use_.system_requests;
      return block;
    }
    fail_out_of_host_memory(need);
  }

  /// The next piece of the newest chunk. What is left of a chunk when a piece does not fit stays untouched.
  std::byte* cut(std::size_t bytes) {
    if (chunks_.empty() || chunks_.back().used + bytes > chunk_bytes) {
      make_room(chunks_, chunks_.size() + 1);
      chunks_.push_back({map(chunk_bytes, chunk_bytes + huge_page), 0});
      close_block(chunks_.back().start, chunk_bytes);
    }
    std::byte* block = chunks_.back().start + chunks_.back().used;
    chunks_.back().used += bytes;
    return block;
  }

  void unmap(std::byte* start, std::size_t bytes) {
    forget_block(start, bytes);
    ::munmap(start, bytes);
    use_.reserved -= bytes;
  }

  /// Gives free memory back to the system: the mappings of large free blocks, and chunks of which every piece is free.
  void trim() {
    for (std::size_t i = 0; i < class_count; ++i) {
      if (class_bytes_[i] < own_mapping) continue;
      for (std::byte* block : free_[i]) unmap(block, class_bytes_[i]);
      blocks_[i] -= free_[i].size();
      free_[i].clear();
    }
    std::erase_if(chunks_, [&](const Chunk& chunk) {
      const auto inside = [&](const std::byte* block) { return chunk.holds(block); };
      std::size_t idle = 0;
      for (std::size_t i = 0; i < class_count; ++i)
        idle += class_bytes_[i] * static_cast<std::size_t>(std::count_if(free_[i].begin(), free_[i].end(), inside));
      if (idle != chunk.used) return false;
      for (std::size_t i = 0; i < class_count; ++i) blocks_[i] -= std::erase_if(free_[i], inside);
      unmap(chunk.start, chunk_bytes);
      return true;
    });
  }

  mutable std::mutex mutex_;
  std::vector<std::vector<std::byte*>> free_;  // per class, last in first out, with room for all its blocks
  std::size_t blocks_[class_count] = {};       // of the class, free or handed out
  std::size_t class_bytes_[class_count] = {};  // 0 until the class is used
  std::vector<Chunk> chunks_;
  MemoryUse use_;
};

CpuBackend::CpuBackend() : pool_(std::make_unique<Pool>()) {}
CpuBackend::~CpuBackend() = default;

void* CpuBackend::allocate(std::size_t bytes) { return pool_->allocate(bytes); }
void CpuBackend::release(void* block, std::size_t bytes) { pool_->release(block, bytes); }
void CpuBackend::upload(void* device, const void* host, std::size_t bytes) {
  if (bytes) std::memcpy(device, host, bytes);
}
void CpuBackend::download(void* host, const void* device, std::size_t bytes) {
  if (bytes) std::memcpy(host, device, bytes);
}
MemoryUse CpuBackend::memory() const { return pool_->use(); }
void CpuBackend::reset_peak() { pool_->reset_peak(); }
std::string_view CpuBackend::instructions() const { return cpu::name(isa()); }

}  // namespace norma::cpu

void norma::register_cpu() {
  register_backend(Device::Kind::cpu, [](int) -> std::unique_ptr<Backend> { return std::make_unique<cpu::CpuBackend>(); });
}
