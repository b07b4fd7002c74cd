// Device memory in caching pools. All work runs on one stream, so a released block may be handed out again at once: what used it
// stands before in the stream. A graph's blocks come from an arena of its own, which lives as long as the graph, because every
// replay writes to them again.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "backends/common/size_class.h"
#include "backends/cuda/runtime.h"

namespace norma::cuda {

class Pool {
 public:
  explicit Pool(Runtime& runtime) : runtime_(runtime) {}
  ~Pool();
  Pool(const Pool&) = delete;

  void* allocate(std::size_t bytes);  // throws Error when memory is out
  void release(void* block, std::size_t bytes);
  MemoryUse use() const;
  void reset_peak();

  /// Until close_arena, new blocks come from a new arena; its number.
  int open_arena();
  void close_arena();
  /// The graph of this arena is gone: its blocks serve everyone.
  void dissolve_arena(int arena);
  /// Waits for the device, and gives large free blocks that belong to no graph back to the system.
  void trim();

 private:
  struct Owned {
    int arena;         // 0: everyone's
    bool whole;        // obtained from the system alone, not cut from a chunk
    std::size_t bytes;
  };
  using FreeLists = std::vector<std::vector<std::byte*>>;

  std::byte* pooled(std::size_t bytes);
  std::byte* obtain(std::size_t bytes, std::size_t need);
  std::byte* cut(std::size_t bytes, std::size_t need);
  void trim_locked();

  Runtime& runtime_;
  mutable std::mutex mutex_;
  std::map<int, FreeLists> free_;             // by arena
  std::map<std::byte*, Owned> blocks_;        // every block ever cut, in use or not
  std::vector<std::byte*> chunks_;
  std::size_t chunk_used_ = 0;                // of the newest chunk
  int arena_ = 0, arenas_ = 0;
  MemoryUse use_;
};

}  // namespace norma::cuda
