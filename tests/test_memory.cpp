// The CPU backend's caching pool, and what both host backends say when memory is out.
#include <atomic>
#include <catch2/catch.hpp>
#include <cstring>
#include <thread>
#include <vector>

#include "backends/common/red_zone.h"
#include "backends/cpu/cpu_backend.h"
#include "backends/cpu/parallel.h"
#include "core/host_limits.h"
#include "tests/refused_memory.h"

using namespace norma;
using Catch::Contains;
using Catch::StartsWith;

namespace {
constexpr std::size_t mib = std::size_t{1} << 20;
bool aligned(const void* p, std::size_t to) { return reinterpret_cast<std::uintptr_t>(p) % to == 0; }
}  // namespace

TEST_CASE("blocks are aligned, writable and do not overlap", "[memory]") {
  cpu::CpuBackend b;
  const std::size_t sizes[] = {0, 1, 63, 64, 65, 4096, 4097, 5000, 100000, mib, 3 * mib, 8 * mib, 9 * mib + 1};
  std::vector<unsigned char*> blocks;
  for (int round = 0; round < 2; ++round)
    for (std::size_t i = 0; i < std::size(sizes); ++i) {
      auto* p = static_cast<unsigned char*>(b.allocate(sizes[i]));
      REQUIRE(aligned(p, 64));
      if (sizes[i] >= 8 * mib) REQUIRE(aligned(p, 2 * mib));
      std::memset(p, static_cast<int>(blocks.size()), sizes[i]);
      blocks.push_back(p);
    }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const std::size_t size = sizes[i % std::size(sizes)];
    if (size == 0) continue;
    CHECK(blocks[i][0] == i);
    CHECK(blocks[i][size - 1] == i);
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) b.release(blocks[i], sizes[i % std::size(sizes)]);
  CHECK(b.memory().in_use == 0);
}

TEST_CASE("a released block is handed out again without asking the system", "[memory]") {
  cpu::CpuBackend b;
  const auto step = [&] {
    std::vector<std::pair<void*, std::size_t>> held;
    for (std::size_t size = 16; size < 40 * mib; size = size * 5 / 3) held.emplace_back(b.allocate(size), size);
    for (auto [p, size] : held) b.release(p, size);
  };
  step();
  const auto requests = b.memory().system_requests;
  const auto reserved = b.memory().reserved;
  CHECK(requests > 0);
  for (int i = 0; i < 10; ++i) step();
  CHECK(b.memory().system_requests == requests);
  CHECK(b.memory().reserved == reserved);

  void* first = b.allocate(1000);
  b.release(first, 1000);
  CHECK(b.allocate(1010) == first);  // the same class, last in first out
  b.release(first, 1010);
}

#ifdef NORMA_RED_ZONES
TEST_CASE("AddressSanitizer knows the ends of blocks, and which are free", "[memory]") {
  const auto closed = [](const void* block, std::size_t at) { return __asan_address_is_poisoned(static_cast<const std::byte*>(block) + at) != 0; };
  cpu::CpuBackend b;
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{20}, std::size_t{64}, 9 * mib}) {
    void* p = b.allocate(bytes);
    CHECK(closed(p, bytes));
    if (bytes) CHECK_FALSE(closed(p, bytes - 1));
    b.release(p, bytes);
    CHECK(closed(p, 0));
    const void* again = b.allocate(bytes);
    if (bytes) CHECK(static_cast<const unsigned char*>(again)[bytes - 1] == 0xff);  // nothing of what was there
    b.release(p, bytes);
  }
  for (const std::size_t bytes : {std::size_t{3000}, std::size_t{100}, std::size_t{200}}) {
    const void* s = cpu::scratch(cpu::Slot::product_a, bytes);
    CHECK_FALSE(closed(s, bytes - 1));
    CHECK(closed(s, bytes));
  }
}
#endif

TEST_CASE("memory use is counted in the bytes that were asked for", "[memory]") {
  cpu::CpuBackend b;
  void* p = b.allocate(1000);
  void* q = b.allocate(500);
  CHECK(b.memory().in_use == 1500);
  b.release(p, 1000);
  CHECK(b.memory().in_use == 500);
  CHECK(b.memory().peak == 1500);
  b.reset_peak();
  CHECK(b.memory().peak == 500);
  b.release(q, 500);
  CHECK(b.memory().reserved >= 1500);
}

TEST_CASE("memory is given back where none can be had", "[memory]") {
  cpu::CpuBackend b;
  std::vector<void*> blocks;
  for (int i = 0; i < 1000; ++i) blocks.push_back(b.allocate(3000));
  for (int i = 0; i < 3; ++i) blocks.push_back(b.allocate(9 * mib));
  {
    const test::RefusedMemory none;
    for (std::size_t i = 0; i < 1000; ++i) b.release(blocks[i], 3000);
    for (std::size_t i = 1000; i < blocks.size(); ++i) b.release(blocks[i], 9 * mib);
  }
  CHECK(b.memory().in_use == 0);
}

TEST_CASE("the pool serves several threads at once", "[memory]") {
  cpu::CpuBackend b;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int id = 0; id < 4; ++id)
    threads.emplace_back([&, id] {
      for (int i = 0; i < 2000; ++i) {
        const std::size_t size = 64 + static_cast<std::size_t>(i % 50) * 100;
        auto* p = static_cast<unsigned char*>(b.allocate(size));
        std::memset(p, id, size);
        for (std::size_t k = 0; k < size; k += 63) wrong += p[k] != id;
        b.release(p, size);
      }
    });
  for (auto& t : threads) t.join();
  CHECK(wrong == 0);
  CHECK(b.memory().in_use == 0);
}

TEST_CASE("a request beyond the machine's memory is refused with the need and what is free", "[memory]") {
  for (const auto kind : {Device::Kind::cpu, Device::Kind::reference}) {
    Backend& b = backend({kind, 0});
    const MemoryUse before = b.memory();
    CHECK_THROWS_WITH(b.allocate(std::size_t{1} << 47),
                      StartsWith("out of memory: need 128 TiB, ") && Contains(" free") && Catch::EndsWith(" (host); a smaller batch, image or model needs less"));
    CHECK(b.memory().in_use == before.in_use);
    CHECK(b.memory().reserved <= before.reserved);
  }
  cpu::CpuBackend b;
  CHECK_THROWS_WITH(b.allocate(~std::size_t{0} - 100), StartsWith("out of memory: need 16 EiB"));
  CHECK_THROWS_WITH(empty({Index{1} << 45}), StartsWith("out of memory: need 128 TiB"));
}

TEST_CASE("before giving up the pool returns what it caches", "[memory]") {
  cpu::CpuBackend b;
  void* large = b.allocate(64 * mib);
  void* small = b.allocate(100);
  b.release(large, 64 * mib);
  b.release(small, 100);
  CHECK(b.memory().reserved >= 64 * mib);
  CHECK_THROWS_WITH(b.allocate(std::size_t{1} << 47), Contains("out of memory"));
  CHECK(b.memory().reserved == 0);

  void* held = b.allocate(100);  // its chunk stays, and so does its content
  std::memset(held, 7, 100);
  void* free_neighbour = b.allocate(200);
  b.release(free_neighbour, 200);
  CHECK_THROWS_WITH(b.allocate(std::size_t{1} << 47), Contains("out of memory"));
  CHECK(b.memory().reserved > 0);
  CHECK(static_cast<unsigned char*>(held)[99] == 7);
  CHECK(b.allocate(200) == free_neighbour);
  b.release(free_neighbour, 200);
  b.release(held, 100);
}

TEST_CASE("sizes in words", "[memory]") {
  CHECK(human_bytes(0) == "0 B");
  CHECK(human_bytes(1023) == "1023 B");
  CHECK(human_bytes(1024) == "1 KiB");
  CHECK(human_bytes(1.5 * 1024) == "1.5 KiB");
  CHECK(human_bytes(21.3 * 1024 * 1024 * 1024) == "21.3 GiB");
  CHECK(human_bytes(0x1p47) == "128 TiB");
}
